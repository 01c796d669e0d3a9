"""Feature maps of a network from one forward pass, without a hook on the network itself.

A *view* of a network is a shallow copy of the modules on the way to its levels; it shares all other
modules, and every tensor, with the network. The hooks that record the maps ("taps") are on the
view, so the network's own forward pass does not become slower, and views do not affect each other.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from headstrip.network.levels import Level, LevelProblem, to_map
from headstrip.system.arguments import type_of

Maps = tuple[Tensor, list[Tensor], list[Tensor | None]]
"""The embedding, the maps (N, C, H, W), and the prefix tokens (N, T, C) or None of each map."""

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
_NOT_SHARED = frozenset({"_modules", "_compiled_call_impl", *_HOOKS})
"""Attributes that a copy does not share with its module; it shares the rest."""


class _Seen:
    """The tensors that the taps of one view recorded, separate per thread. A copy is empty."""

    def __init__(self) -> None:
        self._traced: dict[int, Tensor] = {}
        self._local = threading.local()

    @property
    def tensors(self) -> dict[int, Tensor]:
        """The tensors of this thread by the number of their level."""
        # A compiler cannot follow thread-local values, and traces in one thread.
        if torch.compiler.is_compiling():
            return self._traced
        return cast("dict[int, Tensor]", self._local.__dict__)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Seen, ()


class _Tap:
    """A hook that records a tensor. Unlike a closure it can be copied and pickled."""

    def __init__(self, seen: _Seen, number: int) -> None:
        self.seen, self.number = seen, number

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
        found = inputs[0] if output is None else output
        self.seen.tensors[self.number] = found[0] if isinstance(found, tuple) else found


class TappedMaps(nn.Module):
    """A network whose forward pass returns its embedding and its maps.

    It shares the network's tensors, and follows its mode, its hooks and the attributes of its
    modules. It does not get modules that are added to the network later.
    """

    def __init__(self, network: nn.Module, levels: Sequence[Level]) -> None:
        """Make the view.

        Args:
            network: A network that maps (N, C, H, W) to (N, dim).
            levels: Where its maps are.

        Raises:
            LevelProblem: The network has no module at the path of a level, or cannot be copied.
        """
        super().__init__()
        self.levels = tuple(levels)
        self._seen = _Seen()
        self._pairs: list[tuple[nn.Module, nn.Module]] = []
        self.network = self._view(network)

    def forward(self, x: Tensor) -> Maps:
        """Map (N, C, H, W) to the embedding (N, dim), the maps, and their prefix tokens.

        Raises:
            LevelProblem: A level did not run, or its tensor is not laid out as it says.
        """
        for copy, own in self._pairs:
            _follow(copy, own)
        tensors = self._seen.tensors
        tensors.clear()
        embedding: Tensor = self.network(x)
        size = (x.shape[-2], x.shape[-1])
        maps: list[Tensor] = []
        prefixes: list[Tensor | None] = []
        for number, level in enumerate(self.levels):
            if number not in tensors:
                raise LevelProblem(f"did not run its module {level.path!r}")
            if embedding.requires_grad and not torch.compiler.is_compiling():
                self._check_gradient(level, tensors[number].requires_grad)
            found, prefix = to_map(tensors[number], level, size)
            maps.append(found)
            prefixes.append(prefix)
        tensors.clear()
        return embedding, maps, prefixes

    def _check_gradient(self, level: Level, has_gradient: bool) -> None:
        """Refuse a map that lacks its gradient, or whose gradient a backward hook would miss.

        Raises:
            LevelProblem: The map is refused.
        """
        if level.reads:
            return
        module = self.network.get_submodule(level.path)
        hooks = module._backward_hooks if module._is_full_backward_hook else {}
        if has_gradient and (hooks or module._backward_pre_hooks):
            # torch attaches them to a later tensor than the one that the forward hooks see.
            raise LevelProblem(
                f"has a backward hook on its module {level.path!r}, which would not get the "
                "gradient of the map. Put it on the map with map.register_hook, or read the map "
                "under torch.no_grad()"
            )
        if not has_gradient and any(one.requires_grad for one in module.parameters()):
            raise LevelProblem(
                f"computes its module {level.path!r} without gradients, as gradient checkpointing "
                "with use_reentrant=True does; use_reentrant=False has gradients there"
            )

    def _view(self, network: nn.Module) -> nn.Module:
        copies: dict[str, nn.Module] = {}
        for number, level in enumerate(self.levels):
            module = self._copied(network, level.path, copies)
            tap = _Tap(self._seen, number)
            hooks = module._forward_pre_hooks if level.reads else module._forward_hooks
            # torch numbers hooks from 0 in each process, and a pickle may go to another one.
            cast("dict[int, _Tap]", hooks)[-1 - number] = tap
        return self._copied(network, "", copies)

    def _copied(self, network: nn.Module, path: str, copies: dict[str, nn.Module]) -> nn.Module:
        """Return a copy of the module at a path, inside copies of the modules above it."""
        if path in copies:
            return copies[path]
        try:
            own = network.get_submodule(path)
        except AttributeError:
            raise LevelProblem(f"has no module at {path!r}") from None
        if isinstance(own, torch.jit.ScriptModule):
            raise LevelProblem(f"has a scripted module at {path!r}, which cannot be copied")
        copy = copies[path] = own.__class__.__new__(own.__class__)
        copy.__dict__.update(own.__dict__)
        for name in ("_modules", *_HOOKS):
            copy.__dict__[name] = own.__dict__[name].copy()
        # The result of `module.compile()` would run the original module.
        copy.__dict__["_compiled_call_impl"] = None
        if path:
            parent, _, name = path.rpartition(".")
            self._copied(network, parent, copies)._modules[name] = copy
        self._pairs.append((copy, own))
        return copy


class ChosenMaps(nn.Module):
    """Some of the maps that a plugin's own module returns together with the embedding."""

    def __init__(self, module: nn.Module, levels: tuple[int, ...] | None, norm: bool) -> None:
        """Keep the module, and the arguments that it gets."""
        super().__init__()
        self.module, self.levels, self.norm = module, levels, norm

    def forward(self, x: Tensor) -> Maps:
        """Map (N, C, H, W) to the embedding, the chosen maps, and their prefix tokens.

        Raises:
            LevelProblem: The module returns something else.
        """
        found: Maps = self.module(x, self.levels, self.norm)
        if not (isinstance(found, tuple) and len(found) == 3 and len(found[1]) == len(found[2])):
            raise LevelProblem(
                f"returns {type_of(found)} from the module of its maps, instead of the "
                "embedding, a list of maps and a list with the prefix tokens of each"
            )
        return found


def _follow(copy: nn.Module, own: nn.Module) -> None:
    """Give a copy the mode, the hooks and the attributes that the network's module has now."""
    if copy.training != own.training:
        copy.training = own.training
    if torch.compiler.is_compiling():
        # A compiled network keeps the rest as compiled, and a compiler cannot trace the update.
        return
    copy.__dict__.update(
        {name: value for name, value in own.__dict__.items() if name not in _NOT_SHARED}
    )
    for name in _HOOKS:
        hooks, wanted = getattr(copy, name), getattr(own, name)
        taps = {number: hook for number, hook in hooks.items() if isinstance(hook, _Tap)}
        # Taps come last, so that they see the map after all other hooks.
        if list(hooks) != [*wanted, *taps]:
            setattr(copy, name, OrderedDict([*wanted.items(), *taps.items()]))
