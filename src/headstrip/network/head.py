"""Taking a head off a network, and keeping it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from headstrip.errors import HeadNotFoundError
from headstrip.spec import Law as Law


@dataclass(frozen=True, slots=True)
class Stripped:
    """A network in two parts.

    Attributes:
        backbone: The network without its head; its eval forward maps (N, *input) to (N, dim).
        head: Module that maps (N, dim) to the network's own eval logits, or None.
        paths: Dotted paths of all heads in the network, the one that gives the logits first.
        law: How ``head(backbone(x))`` relates to the untouched network's eval logits: ``exact``
            bit for bit, ``rounding`` within 1e-6 relative, ``declared`` where the logits are no
            function of the embedding, ``headless`` where there are no logits.
        input_shape: Input without the batch axis where constructor options changed it.
    """

    backbone: nn.Module
    head: nn.Module | None
    paths: tuple[str, ...]
    law: Law = "exact"
    input_shape: tuple[int, ...] | None = None


def find(model: nn.Module, path: str, kind: type[nn.Module]) -> nn.Module:
    """Return the submodule at a dotted path.

    Args:
        model: The network.
        path: Dotted path, such as ``classifier.6``.
        kind: What must be there.

    Raises:
        HeadNotFoundError: There is nothing, or something else, at that path.
    """
    try:
        found = model.get_submodule(path)
    except AttributeError:
        raise HeadNotFoundError(
            f"A {type(model).__name__} was expected to have its head at {path!r}, and has nothing "
            f"there. {_advice(model, kind)}"
        ) from None
    if isinstance(found, nn.Identity):
        raise HeadNotFoundError(
            f"The head at {path!r} of this {type(model).__name__} is off already. "
            "Use the network as it is, or build it anew."
        )
    if not isinstance(found, kind):
        raise HeadNotFoundError(
            f"A {type(model).__name__} was expected to have a {kind.__name__} at {path!r}, and has "
            f"a {type(found).__name__}. {_advice(model, kind)}"
        )
    return found


def _advice(model: nn.Module, kind: type[nn.Module]) -> str:
    """Say where a head may be: of the kind wanted, the last is the likeliest."""
    paths = [path for path, module in model.named_modules() if path and isinstance(module, kind)]
    last = f"; its last {kind.__name__} is at {paths[-1]!r}" if paths else ""
    return f"Name the family that the network belongs to, or the path of its head{last}."


def _check_last(model: nn.Module, path: str) -> None:
    """Refuse a layer that others follow in its sequence: it does not give the logits."""
    parent, _, leaf = path.rpartition(".")
    sequence = model.get_submodule(parent)
    if isinstance(sequence, nn.Sequential) and leaf != list(dict(sequence.named_children()))[-1]:
        raise HeadNotFoundError(
            f"Other layers follow the one at {path!r} of this {type(model).__name__}, so it does "
            "not give the logits. Take those off first, or use headstrip.detach on the last one."
        )


def detach(
    model: nn.Module,
    path: str,
    *,
    kind: type[nn.Module] = nn.Linear,
    input_shape: tuple[int, ...] | None = None,
) -> Stripped:
    """Put ``nn.Identity`` in the place of a head, and keep the head. Changes ``model``.

    Args:
        model: The network.
        path: Dotted path of the head, such as ``fc`` or ``classifier.6``.
        kind: What the head must be.
        input_shape: See ``Stripped``.

    Returns:
        The two parts; ``backbone`` is ``model``.

    Raises:
        HeadNotFoundError: The network has no such head, or something follows it. It is unchanged
            then.

    Example:
        >>> from torch import nn
        >>> parts = detach(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), "1")
        >>> parts.head
        Linear(in_features=12, out_features=3, bias=True)
    """
    head = find(model, path, kind)
    _check_last(model, path)
    model.set_submodule(path, nn.Identity())
    return Stripped(model, head, (path,), input_shape=input_shape)
