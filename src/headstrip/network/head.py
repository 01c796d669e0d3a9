"""Remove the head from a network, and keep it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from headstrip.errors import HeadNotFoundError
from headstrip.spec import Law as Law
from headstrip.system.arguments import shown, type_of


@dataclass(frozen=True, slots=True)
class Stripped:
    """A network in two parts.

    Attributes:
        backbone: The network without its head; its eval forward maps (N, *input) to (N, dim).
        head: Module that maps (N, dim) to the network's eval logits, or None.
        paths: Dotted paths of all heads in the network, the one that gives the logits first.
        law: The head fidelity: how ``head(backbone(x))`` relates to the untouched network's eval
            logits. ``exact``: equal bit for bit. ``rounding``: equal within 1e-6 relative.
            ``declared``: the logits are not a function of the embedding. ``headless``: the
            network has no logits.
        input_shape: Input without the batch axis, if constructor options changed it.

    Example:
        >>> import torchvision
        >>> from headstrip import strip_head
        >>> strip_head(torchvision.models.resnet18(), family="resnet").paths
        ('fc',)
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
        kind: Type that the submodule must have.

    Raises:
        HeadNotFoundError: There is no submodule at that path, or it has another type.
    """
    try:
        found = model.get_submodule(path)
    except AttributeError:
        raise HeadNotFoundError(
            f"This {type(model).__name__} has no module at {path!r}, where its head was expected. "
            f"{_advice(model, kind)}"
        ) from None
    if isinstance(found, nn.Identity):
        raise HeadNotFoundError(
            f"The head at {path!r} of this {type(model).__name__} has already been removed. "
            "Use the network without stripping it, or build it again."
        )
    if not isinstance(found, kind):
        raise HeadNotFoundError(
            f"This {type(model).__name__} has {type_of(found)} at {path!r}, where a "
            f"{kind.__name__} was expected. {_advice(model, kind)}"
        )
    return found


def _advice(model: nn.Module, kind: type[nn.Module]) -> str:
    """Suggest where the head may be: most likely the last module of that type."""
    paths = [path for path, module in model.named_modules() if path and isinstance(module, kind)]
    last = f" (its last {kind.__name__} is at {paths[-1]!r})" if paths else ""
    return f"Pass the family that the network belongs to, or the path of its head{last}."


def _check_last(model: nn.Module, path: str) -> None:
    """Refuse a layer with other layers after it in its sequence: it does not give the logits."""
    parent, _, leaf = path.rpartition(".")
    sequence = model.get_submodule(parent)
    if isinstance(sequence, nn.Sequential) and leaf != list(dict(sequence.named_children()))[-1]:
        raise HeadNotFoundError(
            f"Other layers follow the one at {path!r} of this {type(model).__name__}, so it does "
            "not give the logits. Remove those first, or call headstrip.detach with the last one."
        )


def detach(
    model: nn.Module,
    path: str,
    *,
    kind: type[nn.Module] = nn.Linear,
    input_shape: tuple[int, ...] | None = None,
) -> Stripped:
    """Replace a head by ``nn.Identity``, and keep the head. Changes ``model`` in place.

    Args:
        model: The network.
        path: Dotted path of the head, such as ``fc`` or ``classifier.6``.
        kind: Type that the head must have.
        input_shape: See ``Stripped``.

    Returns:
        The two parts; ``backbone`` is ``model``.

    Raises:
        HeadNotFoundError: The network has no such head, or other layers follow it; or an argument
            has a wrong type. The network is then unchanged.

    Example:
        >>> from torch import nn
        >>> parts = detach(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), "1")
        >>> parts.head
        Linear(in_features=12, out_features=3, bias=True)
    """
    if not isinstance(model, nn.Module):
        raise HeadNotFoundError(
            f"model must be a torch.nn.Module, got {shown(model)}. Pass a network and the path of "
            "its head."
        )
    if not isinstance(path, str) or not path:
        raise HeadNotFoundError(
            f"path must be the dotted path of a layer, got {shown(path)}. Pass one such as 'fc'."
        )
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise HeadNotFoundError(
            f"kind must be a class of layers, got {shown(kind)}. Pass one such as torch.nn.Linear."
        )
    head = find(model, path, kind)
    _check_last(model, path)
    model.set_submodule(path, nn.Identity())
    return Stripped(model, head, (path,), input_shape=input_shape)
