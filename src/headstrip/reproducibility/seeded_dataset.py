"""A dataset whose random items depend neither on the worker nor on the order of access."""

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
    # A DataLoader does not require torch's base class, and importing torch is slow.
    _Base = Generic

Item = TypeVar("Item", covariant=True)


class MapStyle(Protocol[Item]):
    """A dataset that returns items by index."""

    def __getitem__(self, index: int, /) -> Item:
        """Return one item."""
        ...


class SeededDataset(_Base[Item]):
    """A map-style dataset whose items depend only on (seed, epoch, index).

    Before each item, this class seeds `random`, numpy's global generator and torch's CPU generator,
    and restores them afterwards. So neither the worker nor earlier items matter, and the training's
    random streams do not change. Each item is computed with one torch thread, as in a worker,
    because a sum over two threads rounds differently. The class does not seed generators that the
    dataset has itself. Attributes are read from and written to the wrapped dataset.
    """

    _dataset: MapStyle[Item]

    def __init__(self, dataset: MapStyle[Item], seed: int) -> None:
        """Wrap a dataset. `Determinism.dataset` calls this with its own seed."""
        import torch

        epoch = torch.zeros((), dtype=torch.int64, device="cpu")
        self.__setstate__({"_dataset": dataset, "_seed": checked("seed", seed), "_epoch": epoch})

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch before you iterate. It reaches persistent workers too.

        Without this call every epoch has the same augmentations.
        """
        self._epoch.fill_(checked("epoch", epoch))
        inner = getattr(self._dataset, "set_epoch", None)
        if callable(inner):
            inner(epoch)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(cast(Sized, self._dataset))

    def __getitem__(self, index: int) -> Item:
        """Return an item, computed with separate random streams."""
        try:
            position = operator.index(index)
        except TypeError:
            raise TypeError(
                f"index {index!r} is not an integer. Pass the position of one item."
            ) from None
        position += len(self) if position < 0 else 0
        with ExitStack() as saved:
            restore_streams_later(saved)
            _use_one_thread(saved)
            seed_streams(self._seed, int(self._epoch), max(position, 0))
            return self._dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return a batch item by item: with the dataset's `__getitems__`, items share a stream."""
        return [self[index] for index in indices]

    def __getattr__(self, name: str) -> Any:
        """Read from the wrapped dataset."""
        # Copying and unpickling read special methods of an object before it has its attributes.
        if name.startswith("__") or name == "_dataset":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: object) -> None:
        """Write to the wrapped dataset."""
        setattr(self._dataset, name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a state, and share its epoch with workers, which a copied tensor does not do."""
        vars(self).update(state)
        self._epoch.share_memory_()


def checked(what: str, value: int | np.integer[Any]) -> int:
    """Return a seed or an epoch as a plain integer.

    Raises:
        TypeError: The value is not an integer.
        ValueError: The value is outside the range of numpy's seeds.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{what} {value!r} is not an integer. Pass one in 0 <= {what} < 2**32.")
    if not 0 <= value < 2**32:
        raise ValueError(f"{what} {value} is out of range. Pass one in 0 <= {what} < 2**32.")
    return int(value)


def restore_streams_later(saved: ExitStack) -> None:
    """Restore the global streams of `random`, numpy and torch when ``saved`` closes."""
    import torch

    saved.callback(torch.set_rng_state, torch.get_rng_state())
    saved.callback(np.random.set_state, np.random.get_state(legacy=False))
    saved.callback(random.setstate, random.getstate())


def _use_one_thread(saved: ExitStack) -> None:
    import torch

    if (threads := torch.get_num_threads()) > 1:
        saved.callback(torch.set_num_threads, threads)
        torch.set_num_threads(1)


def seed_streams(*entropy: int) -> None:
    """Seed the global streams of `random`, numpy and torch's CPU generator from several numbers."""
    import torch

    words = np.random.SeedSequence(entropy).generate_state(8)
    random.seed(words[:2].tobytes())
    np.random.seed(words[2:6])
    # torch.manual_seed would seed the devices as well.
    torch.default_generator.manual_seed(int(words[6]) << 32 | int(words[7]))
