"""Repeatable runs: seed all there is, say what could not take effect, undo it on request."""

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
    keep_streams,
    seed_streams,
)

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
    """Seed every random number generator and switch to repeatable algorithms, here and now.

    Seeds `random`, numpy's global generator, torch on the CPU and on every CUDA, MPS and XPU
    device; sets PYTHONHASHSEED and CUBLAS_WORKSPACE_CONFIG (a repeatable value that is there
    stays); turns cuDNN's benchmark off and its deterministic mode on. The same seed gives the
    same streams, however often it is called. It does not reach `numpy.random.default_rng()`,
    `os.urandom` and generators made before the call.

    Args:
        seed: 0 <= seed < 2**32, the range of numpy's global generator.
        algorithms: what torch does at an operation that it cannot repeat exactly. "warn", the
            default, names the operation in a warning and goes on: existing training code keeps
            running (the backward pass of adaptive pooling, of VGG for one, has no repeatable
            CUDA form) and does not pass for repeatable in silence. "error" raises there, which
            is right once a run must be exact. "off" allows such operations.

    Returns:
        The report of what was set. As a `with` block it puts every state back on leaving.

    Raises:
        TypeError: the seed is not an integer.
        ValueError: the seed is out of range, or `algorithms` is none of the three.

    Example:
        >>> import random
        >>> with make_deterministic(0):
        ...     first = random.random()
        >>> with make_deterministic(0):
        ...     assert random.random() == first
    """
    if algorithms not in get_args(Algorithms):
        raise ValueError(
            f"algorithms={algorithms!r} is not a known choice. Use 'error', 'warn' or 'off'."
        )
    return Determinism(checked("seed", seed), algorithms)


@dataclass(frozen=True, eq=False)
class Determinism:
    """What `make_deterministic` set, the way back, and what a DataLoader needs.

    The first `with` covers everything since the call; entering again seeds again, and each
    leaving puts back what its entering found. What a library reads once at its start, as
    cuBLAS does the environment, it keeps. A pickled copy carries the report but no way back.

    Attributes:
        seed: the seed.
        algorithms: the choice that was made: "error", "warn" or "off".
        applied: what was set and holds, one readable entry each.
        ineffective: what was set but cannot take effect any more: (what, why).
        absent: the kinds of device that this machine, or this torch, does not have.
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
        """Seed again, unless this is the first entry."""
        if self._entered:
            self.__post_init__()
        vars(self).update(_entered=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Put every state back."""
        self.restore()

    def restore(self) -> None:
        """Put every state back that the call, or the last entry, found; else do nothing.

        CUDA and XPU are not started just to be asked for their state: if they had not started,
        their generators get the CPU's earlier seed, as `torch.manual_seed` gives it to all.
        """
        vars(self).update(_entered=True)
        if self._saved:
            self._saved.pop().close()

    def generator(self) -> torch.Generator:
        """Give a new CPU generator with the seed, for `DataLoader(shuffle=True, generator=...)`.

        Such a loader draws the order and one seed for its workers from it in every epoch, but
        with `persistent_workers=True` that seed only once, so later orders differ; a sampler
        with a generator of its own, `RandomSampler(dataset, generator=...)`, avoids it. Finish
        each epoch: workers fetch ahead, and one left early has taken more of the generator.
        """
        import torch

        return torch.Generator().manual_seed(self.seed)

    def worker_init_fn(self, worker_id: int) -> None:
        """Seed `random`, numpy and torch in a DataLoader's worker, and set its algorithms.

        The streams follow from the seed, the worker and the seed that the loader drew for this
        epoch: repeatable with the same number of workers, yet new in every epoch. They cannot
        make random augmentations equal for different numbers of workers. A stream belongs to a
        worker, and an item takes whatever comes next in it: with 2 workers the second batch
        opens a stream, with 1 it continues one, with 0 it uses the training's own. For that,
        each item needs a stream of its own: see `dataset`.
        """
        import torch
        from torch.utils.data import get_worker_info

        info = get_worker_info()
        seed_streams(self.seed, worker_id, worker_id if info is None else info.seed)
        # Not use_deterministic_algorithms: it imports the compiler, seconds in a spawned worker.
        torch.set_deterministic_debug_mode(_DEBUG_MODES[self.algorithms])

    def dataset(self, dataset: MapStyle[Item]) -> SeededDataset[Item]:
        """Wrap a map-style dataset so that 0, 1, 2 or more workers give the same data.

        Raises:
            TypeError: the dataset is iterable-style: its items have no index to seed by.
        """
        from torch.utils.data import IterableDataset

        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"a {type(dataset).__name__} has no items to ask for by index. "
                "Pass a dataset with __getitem__ and __len__."
            )
        return SeededDataset(dataset, self.seed)

    def __str__(self) -> str:
        """Show the report, an entry a line."""
        lines = [f"deterministic with seed {self.seed}"]
        lines += [f"  set: {entry}" for entry in self.applied]
        lines += [f"  without effect: {what}: {why}" for what, why in self.ineffective]
        lines += [f"  not present: {', '.join(self.absent)}"] if self.absent else []
        return "\n".join(lines)

    def __getstate__(self) -> dict[str, object]:
        """Leave the saved states behind: they belong to this process."""
        return vars(self) | {"_saved": [], "_entered": True}


def _devices() -> dict[str, ModuleType]:
    import torch

    # device_count() rather than is_available(), which can spoil CUDA in forked children.
    modules = {name: getattr(torch, name, None) for name in ("cuda", "mps", "xpu")}
    return {name: module for name, module in modules.items() if module and module.device_count()}


def _capture() -> ExitStack:
    """Note each state that is about to change; closing the result puts them all back."""
    import torch
    from torch._inductor import config as inductor

    saved = ExitStack()
    # Undone last to first, each even if one before it fails: devices, which may, come first.
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
    keep_streams(saved)
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
    for what, why in (_set_hash_seed(seed), _set_cublas(devices.get("cuda"))):
        if why:
            ineffective.append((what, why))
        else:
            applied.append(what)
    absent = tuple(name.upper() for name in ("cuda", "mps", "xpu") if name not in devices)
    return {"applied": tuple(applied), "ineffective": tuple(ineffective), "absent": absent}


def _set_hash_seed(seed: int) -> tuple[str, str]:
    os.environ[_HASH_SEED] = str(seed)
    why = f"hashes are fixed when Python starts; start it with {_HASH_SEED}={seed}"
    return f"{_HASH_SEED}={seed}", "" if _hash_seed_in_force() == str(seed) else why


def _hash_seed_in_force() -> str | None:
    if not sys.flags.hash_randomization:
        return "0"
    # -E and -I pass the variable over, and -R a "0".
    ignored = sys.flags.ignore_environment or _hash_seed_at_start == "0"
    return None if ignored else _hash_seed_at_start


def _read_hash_seed_at_start() -> str | None:
    try:
        block = Path("/proc/self/environ").read_bytes()
    except OSError:  # outside Linux: what stands there as this module is imported
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
    why = f"CUDA had started and may have read it already; set {what} before"
    return what, why if started and _cublas_set_late else ""


_hash_seed_at_start = _read_hash_seed_at_start()
