"""Check that the head that was removed is the one that gives the network's logits."""

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
from headstrip.system.arguments import type_of

Shape = tuple[int, ...]


def width_of_stripped(
    stripped: Stripped,
    input_shape: Shape,
    untouched: Callable[[], Shape | None],
    watch: AbstractContextManager[Any] | None = None,
) -> int:
    """Return the width of a stripped network's embedding, and check where its head was.

    The network does not change, and it runs on the meta device if possible.

    Args:
        stripped: The two parts of the network.
        input_shape: Input without the batch axis.
        untouched: Returns the shape of the untouched network's logits for a batch of two, None if
            unknown. It is called only if the run does not show that the head was the last layer.
        watch: A torch mode to run the network in, such as a ``PatchWatch``.

    Raises:
        ProbeError: The backbone's output is not an embedding, or the backbone fails.
        HeadError: The head does not give the network's logits.
    """
    head = stripped.head
    if head is None or any(map(is_lazy, head.parameters())):
        run = run_once(stripped.backbone, input_shape, watch=watch)
        return width_of(run.output, input_shape)
    identity = _identity_of_head(stripped)
    run = run_once(stripped.backbone, input_shape, head=head, watched=identity, watch=watch)
    width = width_of(run.output, input_shape)
    _check_logits(run.logits)
    if identity is not None and stripped.law == "exact" and next(head.children(), None) is None:
        _check_last(stripped, run)
    else:
        expected = untouched()
        if expected is not None and tuple(run.logits.shape) != expected:
            raise HeadError(
                f"gives the shape {tuple(run.logits.shape)}, but the untouched network gives "
                f"{expected}"
            )
    return width


def logits_without_memory(build: Callable[[], nn.Module], input_shape: Shape) -> Shape | None:
    """Return the shape of an untouched network's logits for a batch of two.

    The result is None if the network cannot be built or run on the meta device.
    """
    try:
        with without_memory():
            network = build()
        output = run_on_meta(network, input_shape).output
    # A network may do anything with tensors that have no values, so any error is possible.
    except Exception:
        return None
    return tuple(output.shape) if isinstance(output, Tensor) else None


def strip_own(
    model: nn.Module, strip: Callable[[], Stripped], input_shapes: Iterable[Shape]
) -> Stripped:
    """Strip a user's own network, and check that its head was the one that gave its logits.

    Args:
        model: The network. It is unchanged if this fails.
        strip: Removes the head.
        input_shapes: Inputs that the network may take. The check is left out if the network runs on
            none of them on the meta device, or if its output is not (N, classes).

    Raises:
        HeadError: The head does not give the network's logits.
        ProbeError: The output of the network without its head is not an embedding.
    """
    known = next(_logits_of(model, input_shapes), None)
    saved = [(module, snapshot(module, module_state=True)) for module in model.modules()]
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
        # The network takes another input, or does not run without values.
        except Exception:
            continue
        if isinstance(output, Tensor) and output.ndim == 2 and len(output) == BATCH:
            yield shape, tuple(output.shape)


def _identity_of_head(stripped: Stripped) -> nn.Module | None:
    """Return the ``nn.Identity`` that replaced the only head, None if there is no such module."""
    if len(stripped.paths) != 1:
        return None
    try:
        found = stripped.backbone.get_submodule(stripped.paths[0])
    except AttributeError:
        return None
    return found if type(found) is nn.Identity else None


def _check_logits(logits: Any) -> None:
    if not isinstance(logits, Tensor):
        raise HeadError(f"gives {type_of(logits)} instead of a tensor of logits")
    if logits.ndim != 2 or logits.shape[0] != BATCH:
        raise HeadError(f"gives the shape {tuple(logits.shape)} instead of (N, classes)")


def _check_last(stripped: Stripped, run: Run) -> None:
    """Refuse a head if the output of its ``nn.Identity`` is not the network's output or a view.

    A single layer gives the untouched logits bit for bit only if no computation follows it.
    """
    path = stripped.paths[0]
    if not run.passed:
        raise HeadError(f"was at {path!r}, which the network's forward pass never calls")
    if len(run.passed) > 1:
        raise HeadError(
            f"was at {path!r}, which the network's forward pass calls {len(run.passed)} times"
        )
    last = {one.untyped_storage()._cdata for one in run.passed if isinstance(one, Tensor)}
    if run.output.untyped_storage()._cdata not in last:
        raise HeadError(
            f"was at {path!r}, but the network's forward pass computes more with its output"
        )
