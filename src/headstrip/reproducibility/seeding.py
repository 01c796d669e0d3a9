"""Repeatable runs: seed every generator, report what has no effect, and undo it on request."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np

from headstrip.reproducibility.seeded_dataset import (
    MapStyle,
    SeededDataset,
    checked,
    restore_streams_later,
    seed_streams,
)
from headstrip.system.arguments import type_of

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

Algorithms = Literal["error", "warn", "off"]
Item = TypeVar("Item")

_HASH_SEED = "PYTHONHASHSEED"
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_CUBLAS_REPEATABLE = (":4096:8", ":16:8")
_DEBUG_MODES = {"off": 0, "warn": 1, "error": 2}
_cublas_set_late = False


def make_deterministic(
    seed: int | np.integer[Any], *, algorithms: Algorithms = "warn"
) -> Determinism:
    """Seed every random number generator, and switch to repeatable algorithms.

    Seeds `random`, numpy's global generator, torch on the CPU and on every CUDA, MPS and XPU
    device; sets PYTHONHASHSEED and CUBLAS_WORKSPACE_CONFIG (a repeatable value that is already
    set stays); turns cuDNN's benchmark off and its deterministic mode on. The same seed always
    gives the same streams. The function cannot seed `numpy.random.default_rng()`, `os.urandom`
    and generators that were created before the call.

    Args:
        seed: 0 <= seed < 2**32, the range of numpy's global generator.
        algorithms: What torch does at an operation that it cannot repeat exactly. "warn", the
            default, warns and continues, so that existing training code runs: the backward pass
            of adaptive pooling, for example in VGG, has no repeatable CUDA version. "error"
            raises an error: use it when a run must be exact. "off" allows such operations.

    Returns:
        A report of the settings. Use it as a `with` block to restore every state at the end.

    Raises:
        TypeError: The seed is not an integer.
        ValueError: The seed is out of range, or `algorithms` is not one of the three values.

    Example:
        >>> import random
        >>> with make_deterministic(0):
        ...     first = random.random()
        >>> with make_deterministic(0):
        ...     assert random.random() == first
    """
    if algorithms not in get_args(Algorithms):
        raise ValueError(
            f"algorithms={algorithms!r} is not a known choice. Pass 'error', 'warn' or 'off'."
        )
    return Determinism(checked("seed", seed), algorithms)


@dataclass(frozen=True, eq=False)
class Determinism:
    """The settings of `make_deterministic`, a way to undo them, and helpers for a DataLoader.

    The first `with` block covers everything since the call. If you enter it again, it seeds again;
    each exit restores the state before its entry. Settings that a library reads only once, as
    cuBLAS reads the environment, cannot be undone. A pickled copy has the report, but cannot
    restore anything.

    Attributes:
        seed: The seed.
        algorithms: "error", "warn" or "off".
        applied: Settings that are in effect, one readable entry each.
        ineffective: Settings that came too late to have an effect, as pairs (what, why).
        absent: Kinds of device that this machine, or this build of torch, does not have.
    """

    seed: int
    algorithms: Algorithms
    applied: tuple[str, ...] = field(init=False, repr=False)
    ineffective: tuple[tuple[str, str], ...] = field(init=False, repr=False)
    absent: tuple[str, ...] = field(init=False, repr=False)
    _saved: list[ExitStack] = field(init=False, repr=False, default_factory=list)
    _entered: bool = field(init=False, repr=False, default=False)

    def __post_init__(self) -> None:
        """Set everything."""
        with _capture() as saved:
            vars(self).update(_seed_everything(self.seed, self.algorithms))
            self._saved.append(saved.pop_all())

    def __enter__(self) -> Self:
        """Seed again, except at the first entry."""
        if self._entered:
            self.__post_init__()
        vars(self).update(_entered=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore every state."""
        self.restore()

    def restore(self) -> None:
        """Restore every state from before the call, or before the last entry.

        A second call does nothing.

        `make_deterministic` does not start CUDA and XPU just to read their state. If they had not
        started, their generators get the CPU's earlier seed, as with `torch.manual_seed`.
        """
        vars(self).update(_entered=True)
        if self._saved:
            self._saved.pop().close()

    def generator(self) -> torch.Generator:
        """Return a new CPU generator with the seed, for `DataLoader(shuffle=True, generator=...)`.

        In every epoch the loader draws the order and one seed for its workers from it. With
        `persistent_workers=True` it draws that seed only once, so later orders differ. To avoid
        this, pass a sampler with a separate generator: `RandomSampler(dataset, generator=...)`.
        Finish each epoch: workers fetch ahead, so an epoch that stops early draws more numbers.
        """
        import torch

        return torch.Generator().manual_seed(self.seed)

    def worker_init_fn(self, worker_id: int) -> None:
        """Seed `random`, numpy and torch in a DataLoader's worker, and set its algorithms.

        The streams depend on the seed, the worker's number and the seed that the loader drew for
        this epoch. They are repeatable with the same number of workers, and new in every epoch.
        With another number of workers, random augmentations differ: a stream belongs to a worker,
        and each item takes the next numbers from it. If your data must not depend on the number of
        workers, use `dataset`, which gives each item its own stream.
        """
        import torch
        from torch.utils.data import get_worker_info

        info = get_worker_info()
        seed_streams(self.seed, worker_id, worker_id if info is None else info.seed)
        # use_deterministic_algorithms imports the compiler, which takes a spawned worker seconds.
        torch.set_deterministic_debug_mode(_DEBUG_MODES[self.algorithms])

    def dataset(self, dataset: MapStyle[Item]) -> SeededDataset[Item]:
        """Wrap a map-style dataset so that the data does not depend on the number of workers.

        Raises:
            TypeError: The dataset is iterable-style, so its items have no index to seed with.
        """
        from torch.utils.data import IterableDataset

        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"The dataset is {type_of(dataset)}, which cannot return items by index. "
                "Pass a dataset with __getitem__ and __len__."
            )
        return SeededDataset(dataset, self.seed)

    def __str__(self) -> str:
        """Return the report with one entry per line."""
        lines = [f"deterministic with seed {self.seed}"]
        lines += [f"  set: {entry}" for entry in self.applied]
        lines += [f"  no effect: {what}: {reason}" for what, reason in self.ineffective]
        lines += [f"  not present: {', '.join(self.absent)}"] if self.absent else []
        return "\n".join(lines)

    def __getstate__(self) -> dict[str, object]:
        """Leave out the saved states, which belong to this process."""
        return vars(self) | {"_saved": [], "_entered": True}


def _devices() -> dict[str, ModuleType]:
    import torch

    # is_available() can break CUDA in forked child processes, so use device_count().
    modules = {name: getattr(torch, name, None) for name in ("cuda", "mps", "xpu")}
    return {name: module for name, module in modules.items() if module and module.device_count()}


def _capture() -> ExitStack:
    """Record each state before it changes. Closing the result restores all of them."""
    import torch
    from torch._inductor import config as inductor

    saved = ExitStack()
    # States are restored last to first, even if one fails. Restoring a device may fail, so
    # devices are registered first and restored last.
    for name, device in _devices().items():
        saved.callback(_device_restorer(name, device))
    for module, flag in (
        (torch.backends.cudnn, "benchmark"),
        (torch.backends.cudnn, "deterministic"),
        (inductor, "deterministic"),
    ):
        if hasattr(module, flag):
            saved.callback(setattr, module, flag, getattr(module, flag))
    saved.callback(
        torch.use_deterministic_algorithms,
        torch.are_deterministic_algorithms_enabled(),
        warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    for variable in (_HASH_SEED, _CUBLAS):
        saved.callback(_set_variable, variable, os.environ.get(variable))
    restore_streams_later(saved)
    return saved


def _device_restorer(name: str, device: ModuleType) -> Callable[[], object]:
    import torch

    if name == "mps":
        return partial(device.set_rng_state, device.get_rng_state())
    if device.is_initialized():
        return partial(device.set_rng_state_all, device.get_rng_state_all())
    return lambda: device.manual_seed_all(torch.initial_seed())


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _seed_everything(seed: int, algorithms: Algorithms) -> dict[str, tuple[object, ...]]:
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    applied = [f"{name}({seed})" for name in ("random.seed", "numpy.random.seed")]
    applied.append(f"torch.manual_seed({seed})")
    devices = _devices()
    for name, device in devices.items():
        seeder = "manual_seed" if name == "mps" else "manual_seed_all"
        getattr(device, seeder)(seed)
        applied.append(f"torch.{name}.{seeder}({seed})")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(algorithms != "off", warn_only=algorithms == "warn")
    applied += ["cudnn.benchmark = False", "cudnn.deterministic = True"]
    applied.append(f"deterministic algorithms: {algorithms}")
    ineffective: list[tuple[str, str]] = []
    for what, reason in (_set_hash_seed(seed), _set_cublas(devices.get("cuda"))):
        if reason:
            ineffective.append((what, reason))
        else:
            applied.append(what)
    absent = tuple(name.upper() for name in ("cuda", "mps", "xpu") if name not in devices)
    return {"applied": tuple(applied), "ineffective": tuple(ineffective), "absent": absent}


def _set_hash_seed(seed: int) -> tuple[str, str]:
    os.environ[_HASH_SEED] = str(seed)
    reason = f"Python fixes hashes when it starts; start it with {_HASH_SEED}={seed}"
    return f"{_HASH_SEED}={seed}", "" if _effective_hash_seed() == str(seed) else reason


def _effective_hash_seed() -> str | None:
    if not sys.flags.hash_randomization:
        return "0"
    # Python ignores the variable with -E and -I, and the value "0" with -R.
    ignored = sys.flags.ignore_environment or _hash_seed_at_start == "0"
    return None if ignored else _hash_seed_at_start


def _read_hash_seed_at_start() -> str | None:
    try:
        block = Path("/proc/self/environ").read_bytes()
    except OSError:
        # Outside Linux, use the value at the time this module is imported.
        return os.environ.get(_HASH_SEED)
    variables = dict(entry.partition("=")[::2] for entry in os.fsdecode(block).split("\0"))
    return variables.get(_HASH_SEED)


def _set_cublas(cuda: ModuleType | None) -> tuple[str, str]:
    global _cublas_set_late
    started = cuda is not None and cuda.is_initialized()
    if os.environ.get(_CUBLAS) not in _CUBLAS_REPEATABLE:
        os.environ[_CUBLAS] = _CUBLAS_REPEATABLE[0]
        _cublas_set_late = started
    what = f"{_CUBLAS}={os.environ[_CUBLAS]}"
    reason = f"CUDA has started and may have read it already; set {what} before it starts"
    return what, reason if started and _cublas_set_late else ""


_hash_seed_at_start = _read_hash_seed_at_start()
