"""Compare and restore global state (generators, flags, tensors), and block the network."""

from __future__ import annotations

import random
import socket
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn


def generator_states() -> dict[str, Any]:
    """Return the states of the global random number generators, for comparison."""
    numpy: Any = np.random.get_state()
    return {
        "Python's": random.getstate(),
        "NumPy's": (numpy[0], numpy[1].tobytes(), *numpy[2:]),
        "torch's": torch.get_rng_state().numpy().tobytes(),
    }


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


@contextmanager
def generators_restored() -> Iterator[None]:
    """Restore the states of the global generators after the body."""
    python, numpy, own = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(own)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors in a network's state dict. Other tensors are caches."""
    entries = module.state_dict(keep_vars=True)
    return {name: value for name, value in entries.items() if isinstance(value, Tensor)}


def digest(tensor: Tensor) -> int:
    """Return a checksum of a tensor's bytes, which detects accidental changes."""
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return zlib.crc32(values.numpy().data)


class Snapshot:
    """The state of flags, tensors and generators at one moment, to find changes later."""

    def __init__(self, model: nn.Module) -> None:
        """Record the flags and values of a network, and the generators' states."""
        self._flags = [(name, module, module.training) for name, module in model.named_modules()]
        self._tensors = [(name, value, digest(value)) for name, value in tensors_of(model).items()]
        self._generators = generator_states()

    def changes(self, by: str, model: nn.Module | None = None) -> list[str]:
        """Return one phrase for each kind of change since the snapshot.

        Args:
            by: The operation since then: the subject of the phrases, such as ``strip_head``.
            model: The network, if its tensors must still have the same names.
        """
        now = tensors_of(model) if model is not None else {}
        flags = [name or "the network" for name, module, on in self._flags if module.training != on]
        values = [
            name
            for name, tensor, seen in self._tensors
            if (model is not None and name not in now) or digest(now.get(name, tensor)) != seen
        ]
        states = generator_states()
        moved = [name for name, state in self._generators.items() if states[name] != state]
        return [
            *([f"{by} set {some(flags)} to another mode"] if flags else ()),
            *([f"{by} changed the values of {some(values)}"] if values else ()),
            *([f"{by} moved {' and '.join(moved)} random number generator"] if moved else ()),
        ]


def some(values: Iterable[str]) -> str:
    """Quote the first three names, and count the others."""
    names = list(values)
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


@contextmanager
def blocked_network() -> Iterator[list[str]]:
    """Make every network connection of this process fail.

    Yields:
        A list that collects the calls, including those whose failure is ignored.
    """
    calls: list[str] = []

    def refuse(call: str, target: object) -> NoReturn:
        calls.append(f"{call}({target!r})")
        raise ConnectionError(f"{call}({target!r}): no network while backbones are verified")

    def connect(self: socket.socket, address: Any) -> None:
        if self.family == getattr(socket, "AF_UNIX", None):
            # Processes on this machine communicate through Unix sockets.
            return super(socket.socket, self).connect(address)
        refuse("connect", address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        if self.family == getattr(socket, "AF_UNIX", None):
            return super(socket.socket, self).connect_ex(address)
        refuse("connect", address)

    def look_up(host: object, *_: object, **__: object) -> NoReturn:
        refuse("getaddrinfo", host)

    def create(address: object, *_: object, **__: object) -> NoReturn:
        refuse("create_connection", address)

    with (
        mock.patch.object(socket, "getaddrinfo", look_up),
        mock.patch.object(socket, "gethostbyname", look_up),
        mock.patch.object(socket, "create_connection", create),
        mock.patch.object(socket.socket, "connect", connect),
        mock.patch.object(socket.socket, "connect_ex", connect_ex),
    ):
        yield calls
