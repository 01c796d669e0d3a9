"""How this machine carries out a plan, and what of it is chosen where nobody said."""

from __future__ import annotations

import os
from dataclasses import dataclass

from headstrip.embed.plan import Settings

_SHARD_ROWS = 1024
CPU_BATCH, _DEVICE_BATCH = 16, 128
"""Images of a batch on the processor, and on another device."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What runs at once; no bit of an embedding depends on it, but on its settings.

    Attributes:
        settings: How embeddings are computed and kept, nothing left open.
        lanes: Batches that are in the network at once.
        workers: Processes that decode.
        slots: Batches that are being decoded or wait for the network.
    """

    settings: Settings
    lanes: int
    workers: int
    slots: int


def lay_out(settings: Settings, *, lanes: int | None, workers: int | None, device: str) -> Layout:
    """Choose what nobody said.

    On the processor one batch a core goes through the network, each in a thread of its own: threads
    that share a batch wait for each other after each layer.

    Args:
        settings: What was said, or chosen before.
        lanes: Batches in the network at once, None for as many as there are cores to run them.
        workers: Processes that decode, 0 for none, None for one a core.
        device: Where the network is.
    """
    count = cores()
    on_device = device != "cpu"
    threads = settings.threads or (count if on_device else 1)
    chosen = settings.over(Settings(
        engine="torch", precision="fp32", batch_size=_DEVICE_BATCH if on_device else CPU_BATCH,
        threads=threads, channels_last=True, route="exact", dtype="float32",
        shard_rows=_SHARD_ROWS,
    ))  # fmt: skip
    if lanes is None:
        lanes = 1 if on_device else max(1, count // threads)
    workers = count if workers is None else workers
    return Layout(chosen, lanes, workers, slots_for(lanes, workers))


def slots_for(lanes: int, workers: int) -> int:
    """Return how many batches wait at most: one a lane is in it, one is ready, some are decoded."""
    return 2 * lanes + max(1, workers // 2)


def cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
