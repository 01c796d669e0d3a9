"""Whether the head that was taken off a network is the one that gives its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from headstrip.network.head import Stripped
from headstrip.network.meta_ops import without_memory
from headstrip.network.width import (
    BATCH,
    HeadError,
    Run,
    restore,
    run_on_meta,
    run_once,
    snapshot,
    width_of,
)

Shape = tuple[int, ...]


def width_of_stripped(
    stripped: Stripped,
    input_shape: Shape,
    untouched: Callable[[], Shape | None],
    watch: AbstractContextManager[Any] | None = None,
) -> int:
    """Return the width of a stripped network's embedding, and look at where its head was.

    Nothing of the network changes, and where possible it runs without memory.

    Args:
        stripped: Its parts.
        input_shape: Its input without the batch axis.
        untouched: Returns the shape of the untouched network's logits for a batch of two, None
            where it is not known. It is called only where the network itself does not show that
            its head was its last layer.
        watch: A mode of torch's that the network runs in, such as a ``PatchWatch``.

    Raises:
        ProbeError: The backbone gives no embedding, or fails.
        HeadError: The head does not give the network's logits.
    """
    head = stripped.head
    if head is None or any(map(is_lazy, head.parameters())):
        run = run_once(stripped.backbone, input_shape, watch=watch)
        return width_of(run.output, input_shape)
    place = _place(stripped)
    run = run_once(stripped.backbone, input_shape, head=head, watched=place, watch=watch)
    width = width_of(run.output, input_shape)
    _check_logits(run.logits)
    if place is not None and stripped.law == "exact" and next(head.children(), None) is None:
        _check_last(stripped, run)
    else:
        expected = untouched()
        if expected is not None and tuple(run.logits.shape) != expected:
            raise HeadError(
                f"gives the shape {tuple(run.logits.shape)}, and the untouched network gives "
                f"{expected}"
            )
    return width


def logits_without_memory(build: Callable[[], nn.Module], input_shape: Shape) -> Shape | None:
    """Return the shape of an untouched network's logits for a batch of two.

    None where that takes memory: where it cannot be built or run on the meta device.
    """
    try:
        with without_memory():
            network = build()
        output = run_on_meta(network, input_shape).output
    # Whatever it is that a network does with tensors that have no values.
    except Exception:
        return None
    return tuple(output.shape) if isinstance(output, Tensor) else None


def strip_own(
    model: nn.Module, strip: Callable[[], Stripped], input_shapes: Iterable[Shape]
) -> Stripped:
    """Strip a user's own network, and see that its head was the one that gave its logits.

    Args:
        model: The network, which is as it was when this fails.
        strip: Takes its head off.
        input_shapes: Inputs that it may take. Where it runs on none of them without memory, or
            gives no (N, classes), the place of its head is not looked at.

    Raises:
        HeadError: The head does not give the network's logits.
        ProbeError: The network without it gives no embedding.
    """
    known = next(_logits_of(model, input_shapes), None)
    saved = [(module, snapshot(module, own=True)) for module in model.modules()]
    try:
        stripped = strip()
        if known is not None and stripped.head is not None:
            shape, logits = known
            width_of_stripped(stripped, shape, lambda: logits)
    except BaseException:
        for module, taken in saved:
            restore(module, taken)
        raise
    return stripped


def _logits_of(model: nn.Module, input_shapes: Iterable[Shape]) -> Iterator[tuple[Shape, Shape]]:
    for shape in input_shapes:
        try:
            output = run_on_meta(model, shape).output
        # It is another input's network, or one that has to have values.
        except Exception:
            continue
        if isinstance(output, Tensor) and output.ndim == 2 and len(output) == BATCH:
            yield shape, tuple(output.shape)


def _place(stripped: Stripped) -> nn.Module | None:
    """Return the identity in the one place where a head was, None where there is another thing."""
    if len(stripped.paths) != 1:
        return None
    try:
        found = stripped.backbone.get_submodule(stripped.paths[0])
    except AttributeError:
        return None
    return found if type(found) is nn.Identity else None


def _check_logits(logits: Any) -> None:
    if not isinstance(logits, Tensor):
        raise HeadError(f"gives a {type(logits).__name__} and not a tensor of logits")
    if logits.ndim != 2 or logits.shape[0] != BATCH:
        raise HeadError(f"gives the shape {tuple(logits.shape)} and not (N, classes)")


def _check_last(stripped: Stripped, run: Run) -> None:
    """Refuse a place whose output is not the network's own output, or a view of it.

    A single layer gives the untouched logits bit for bit only where nothing computes after it.
    """
    path = stripped.paths[0]
    if not run.passed:
        raise HeadError(f"was at {path!r}, which the network's forward never calls")
    if len(run.passed) > 1:
        raise HeadError(
            f"was at {path!r}, which the network's forward calls {len(run.passed)} times"
        )
    last = {one.untyped_storage()._cdata for one in run.passed if isinstance(one, Tensor)}
    if run.output.untyped_storage()._cdata not in last:
        raise HeadError(
            f"was at {path!r}, and the network's forward computes with what comes from there"
        )
