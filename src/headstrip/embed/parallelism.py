"""The fixed rule: the settings of a run, and what runs at once, where the caller leaves them open.

It depends on the device, the number of cores and the size of the maps alone, so two runs on a
machine give the same bits.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from headstrip.embed.settings import EmbedOptions, EmbedSettings

_SHARD_ROWS = 1024
_SHARD_BYTES = 32 << 20
"""Bytes of maps and tokens in a shard, of which several are in memory."""

_CPU_BATCH, _DEVICE_BATCH = 16, 128
"""Images of a batch on the CPU, and on another device."""


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Resolved settings, and what runs at once. No bit of an embedding depends on the latter.

    Attributes:
        settings: How embeddings are computed and stored; nothing is None or "auto".
        inference_threads: Batches that are in the network at once.
        workers: Processes that decode.
        slots: Batches that are being decoded or wait for the network.
    """

    settings: EmbedSettings
    inference_threads: int
    workers: int

    @property
    def batch_size(self) -> int:
        """Images of a batch."""
        return int(self.settings.batch_size or 1)

    @property
    def threads(self) -> int:
        """CPU threads for each batch."""
        return int(self.settings.threads or 1)

    @property
    def slots(self) -> int:
        """Each inference thread works on one batch and has one ready; workers decode the others."""
        return 2 * self.inference_threads + max(1, self.workers // 2)


def choose_parallelism(
    settings: EmbedSettings,
    options: EmbedOptions | None = None,
    *,
    device: str = "cpu",
    usable_cores: int | None = None,
    tensor_bytes: int = 0,
) -> Parallelism:
    """Apply the fixed rule to everything that is None.

    On the CPU one batch of 16 per core goes through the network, each in its own thread: threads
    that share a batch wait for each other after each layer.

    Args:
        settings: Settings that the caller, or the file that is resumed, has chosen.
        options: Options of the run; those of ``EmbedOptions()`` if None.
        device: Type of the device that the network is on.
        usable_cores: Cores to use, None for all that this process may use.
        tensor_bytes: Bytes of one image's maps and tokens, which make shards smaller.
    """
    options, count = options or EmbedOptions(), usable_cores or cores()
    on_device = device != "cpu"
    threads = settings.threads or (count if on_device else 1)
    batch_size = settings.batch_size or (_DEVICE_BATCH if on_device else _CPU_BATCH)
    # Whole batches, so that an image has the same place in its batch as without maps.
    batches = min(_SHARD_ROWS, _SHARD_BYTES // (tensor_bytes or 1)) // batch_size
    fixed = EmbedSettings(
        engine="torch",
        precision="fp32",
        batch_size=batch_size,
        threads=threads,
        channels_last=True,
        decode_mode="exact",
        dtype="float32",
        maps_dtype="float16",
        shard_rows=max(1, batches) * batch_size if tensor_bytes else _SHARD_ROWS,
    )
    inference_threads = options.inference_threads or (1 if on_device else max(1, count // threads))
    workers = count if options.workers is None else options.workers
    return Parallelism(settings.over(fixed), inference_threads, workers)


def cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
