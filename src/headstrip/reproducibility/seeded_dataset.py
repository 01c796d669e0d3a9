"""A dataset whose random items do not depend on who computes them, nor on when."""

from __future__ import annotations

import operator
import random
from collections.abc import Sequence, Sized
from contextlib import ExitStack
from numbers import Integral
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from torch.utils.data import Dataset as _Base
else:
    _Base = Generic  # a DataLoader asks for no base class, and torch is slow to import

Item = TypeVar("Item", covariant=True)


class MapStyle(Protocol[Item]):
    """A dataset whose items are asked for by index."""

    def __getitem__(self, index: int, /) -> Item:
        """Give one item."""
        ...


class SeededDataset(_Base[Item]):
    """A map-style dataset each item of which depends on (seed, epoch, index) alone.

    Around each item `random`, numpy's global generator and torch's CPU generator are seeded,
    and put back after it, so neither the worker nor the items before it matter, nor is the
    training's own stream moved. An item is computed with one torch thread, as in a worker: a
    sum over two threads rounds differently. Generators that the dataset holds itself are its
    own affair. Attributes are read from and written to the wrapped dataset.
    """

    _dataset: MapStyle[Item]

    def __init__(self, dataset: MapStyle[Item], seed: int) -> None:
        """Wrap a dataset; `Determinism.dataset` does so with its own seed."""
        import torch

        epoch = torch.zeros((), dtype=torch.int64, device="cpu")
        self.__setstate__({"_dataset": dataset, "_seed": checked("seed", seed), "_epoch": epoch})

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, before iterating; it reaches persistent workers too.

        Without it every epoch sees the same augmentations.
        """
        self._epoch.fill_(checked("epoch", epoch))
        inner = getattr(self._dataset, "set_epoch", None)
        if callable(inner):
            inner(epoch)

    def __len__(self) -> int:
        """Count the items."""
        return len(cast(Sized, self._dataset))

    def __getitem__(self, index: int) -> Item:
        """Give an item, computed from random streams of its own."""
        try:
            place = operator.index(index)
        except TypeError:
            raise TypeError(
                f"index {index!r} is not an integer. Ask for one item by its position."
            ) from None
        place += len(self) if place < 0 else 0
        with ExitStack() as kept:
            keep_streams(kept)
            _keep_threads(kept)
            seed_streams(self._seed, int(self._epoch), max(place, 0))
            return self._dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Give a batch item by item: the wrapped dataset's own way would share a stream."""
        return [self[index] for index in indices]

    def __getattr__(self, name: str) -> Any:
        """Read from the wrapped dataset."""
        # Copying and unpickling look for special methods, and on an object still empty.
        if name.startswith("__") or name == "_dataset":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: object) -> None:
        """Write to the wrapped dataset."""
        setattr(self._dataset, name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state, and share its epoch with workers: a copied tensor is private."""
        vars(self).update(state)
        self._epoch.share_memory_()


def checked(what: str, value: int | np.integer[Any]) -> int:
    """Return a seed or an epoch as a plain integer.

    Raises:
        TypeError: It is no integer.
        ValueError: It is out of the range of numpy's seeds.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{what} {value!r} is not an integer. Give one in 0 <= {what} < 2**32.")
    if not 0 <= value < 2**32:
        raise ValueError(f"{what} {value} is out of range. Give one in 0 <= {what} < 2**32.")
    return int(value)


def keep_streams(saved: ExitStack) -> None:
    """Have the global streams of `random`, numpy and torch put back when ``saved`` closes."""
    import torch

    saved.callback(torch.set_rng_state, torch.get_rng_state())
    saved.callback(np.random.set_state, np.random.get_state(legacy=False))
    saved.callback(random.setstate, random.getstate())


def _keep_threads(saved: ExitStack) -> None:
    import torch

    if (threads := torch.get_num_threads()) > 1:
        saved.callback(torch.set_num_threads, threads)
        torch.set_num_threads(1)


def seed_streams(*entropy: int) -> None:
    """Seed the global streams of `random`, numpy and torch's CPU from several numbers."""
    import torch

    words = np.random.SeedSequence(entropy).generate_state(8)
    random.seed(words[:2].tobytes())
    np.random.seed(words[2:6])
    # Not torch.manual_seed: it would seed the devices as well.
    torch.default_generator.manual_seed(int(words[6]) << 32 | int(words[7]))
