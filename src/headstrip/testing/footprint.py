"""The parts of a network in comparable form, to prove that a call does not change it."""

from __future__ import annotations

from torch import nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)

Footprint = dict[str, tuple[object, ...]]


def footprint(network: nn.Module) -> Footprint:
    """Return modules, attributes, hooks, modes and tensors of a network, without copying them.

    Two footprints are equal only if each tensor is the same object, and nothing wrote into it.

    Example:
        >>> from torch import nn
        >>> layer = nn.Linear(2, 2)
        >>> before = footprint(layer)
        >>> _ = layer.register_forward_hook(print)
        >>> changes(before, footprint(layer))
        ['the module itself']
    """
    found: Footprint = {}
    for path, module in network.named_modules():
        hooks = [tuple(getattr(module, name)) for name in _HOOKS]
        about = (id(module), type(module), module.training, frozenset(vars(module)), *hooks)
        found[f"the module {path!r}" if path else "the module itself"] = about
    tensors = (*network.named_parameters(), *network.named_buffers())
    for path, tensor in tensors:
        about = (id(tensor), tensor.data_ptr(), tensor._version, tensor.requires_grad)
        found[f"the tensor {path!r}"] = about
    return found


def changes(before: Footprint, after: Footprint) -> list[str]:
    """Return the names of the parts that differ, in the order of the network."""
    every = {**before, **after}
    return [name for name in every if before.get(name) != after.get(name)]
