"""Move tensors so that they start at a multiple of 64 bytes, like those that torch allocates.

For other addresses, CPU kernels take another code path and give other bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

ALIGNMENT = 64


def align(content: object) -> int:
    """Move, in place, the tensors that do not start at a multiple of 64 bytes.

    Tensors that share memory still share it, if their distance allows both to be aligned.

    Args:
        content: Tensors in nested dicts, lists, tuples and sets.

    Returns:
        Number of bytes that were moved, counting shared bytes once.
    """
    spans: dict[tuple[int, int], list[_Span]] = {}
    for tensor in tensors_in(content):
        shift = tensor.data_ptr() % ALIGNMENT if _movable(tensor) else 0
        if shift:
            storage = tensor.untyped_storage().data_ptr()
            spans.setdefault((storage, shift), []).append(_Span(tensor))
    return sum(_move(run) for group in spans.values() for run in _runs(group))


def tensors_in(content: object) -> Iterator[Tensor]:
    """Yield each tensor in nested dicts, lists, tuples and sets once."""
    waiting, seen = [content], set[int]()
    while waiting:
        item = waiting.pop()
        if not isinstance(item, (Tensor, dict, list, tuple, set)) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item
        else:
            waiting.extend(item.values() if isinstance(item, dict) else item)


class _Span:
    """A tensor, and the range of bytes of its storage that it uses."""

    def __init__(self, tensor: Tensor) -> None:
        last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        self.tensor = tensor
        self.start = int(tensor.storage_offset()) * tensor.itemsize
        self.end = self.start + int(last + 1) * tensor.itemsize


def _movable(tensor: Tensor) -> bool:
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.numel() > 0
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
    )


def _runs(group: list[_Span]) -> list[list[_Span]]:
    """Divide the spans of one storage and one shift into groups that overlap."""
    runs: list[list[_Span]] = []
    end = -1
    for span in sorted(group, key=lambda span: span.start):
        if span.start < end:
            runs[-1].append(span)
        else:
            runs.append([span])
        end = max(end, span.end)
    return runs


def _move(run: list[_Span]) -> int:
    start, end = run[0].start, max(span.end for span in run)
    source = run[0].tensor.untyped_storage()[start:end]
    copied = torch.empty(end - start, dtype=torch.uint8, device="cpu")
    copied.untyped_storage().copy_(source)
    for span in run:
        tensor = span.tensor
        moved = torch.empty(0, dtype=tensor.dtype, device="cpu")
        offset = (span.start - start) // tensor.itemsize
        tensor.data = moved.set_(copied.untyped_storage(), offset, tensor.shape, tensor.stride())
    return end - start
