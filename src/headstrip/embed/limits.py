"""Refuses settings and options that this machine cannot carry out, before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstrip.embed.parallelism import choose_parallelism, cores
from headstrip.embed.settings import EmbedOptions, EmbedSettings
from headstrip.errors import HeadstripError, OptionError
from headstrip.system.memory import address_limit, addresses_used, memory_limit, shown_bytes

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

_ALWAYS_ALLOWED = 256
"""Threads, batches or processes at once that every machine accepts."""

_PER_CORE = 4

_WORKER_BYTES = 64 << 20
"""Memory that a worker process needs at least."""

_THREAD_ADDRESSES, _OTHER_ADDRESSES = 64 << 20, 256 << 20
"""Address space of one thread with its part of the heap, and of everything else together."""


def check_limits(
    encoder: Encoder, settings: EmbedSettings, options: EmbedOptions, *, tensor_bytes: int = 0
) -> None:
    """Refuse settings and options that this machine cannot carry out.

    Args:
        encoder: The encoder; its preprocessing determines the memory of an image.
        settings: The settings; those that are None are not checked.
        options: The options of the run.
        tensor_bytes: Bytes of one image's maps and tokens.

    Raises:
        OptionError: A number is too large for the machine; the message names the option.
    """
    check_threads(settings.threads)
    _check_count("inference_threads", options.inference_threads)
    _check_count("workers", options.workers)
    inference_threads, threads = options.inference_threads or 1, settings.threads or 1
    if inference_threads * threads > _PER_CORE * largest_count():
        raise OptionError(
            f"{_named('inference_threads', inference_threads)} with {_named('threads', threads)} "
            f"each is {inference_threads * threads} threads, and this machine has {cores()} cores. "
            f"Pass smaller numbers, whose product is {_PER_CORE * largest_count()} or less."
        )
    limit = memory_limit()
    if limit is not None:
        _check_memory(encoder, settings, options, limit, tensor_bytes)


def check_threads(threads: int | None) -> None:
    """Refuse more threads per batch than this machine can run.

    Raises:
        OptionError: The number is too large.
    """
    _check_count("threads", threads)


def largest_count() -> int:
    """Return the largest number of threads, batches or processes at once that is accepted."""
    return max(_ALWAYS_ALLOWED, _PER_CORE * cores())


def _check_count(name: str, value: int | None) -> None:
    if value is not None and value > largest_count():
        raise OptionError(
            f"{_named(name, value)} is more than this machine can run: it has {cores()} cores. "
            f"Pass {largest_count()} or less; more than one per core is rarely faster."
        )


def _named(name: str, value: object) -> str:
    """Name a value as the command and as Python take it: ``--batch-size 8 (batch_size=8)``."""
    return f"--{name.replace('_', '-')} {value} ({name}={value})"


def _check_memory(
    encoder: Encoder,
    settings: EmbedSettings,
    options: EmbedOptions,
    limit: int,
    tensor_bytes: int,
) -> None:
    """Refuse numbers whose pixels, processes or rows alone exceed the memory."""
    device = encoder.device.type
    running = choose_parallelism(settings, options, device=device)
    preprocessing = encoder.preprocessing
    assert preprocessing is not None
    height, width = preprocessing.crop
    # A waiting image is uint8. On the CPU, one in the network is float32 too.
    copies = running.slots + (4 * running.inference_threads if device == "cpu" else 0)
    image = height * width * preprocessing.channels * copies
    size, workers, shard = settings.batch_size, options.workers, settings.shard_rows
    _check_bytes(_named("batch_size", size), size, image, limit, "pixels")
    _check_bytes(_named("workers", workers), workers, _WORKER_BYTES, limit, "processes")
    # The rows of the shard that fills up, of the full one that is written, and of its table.
    row = (4 * encoder.output_dim + tensor_bytes) * 3
    # No command has an option for it.
    _check_bytes(f"shard_rows={shard}", shard, row, limit, "rows")


def _check_bytes(named: str, value: int | None, each: int, limit: int, what: str) -> None:
    if value is not None and value * each > limit:
        raise OptionError(
            f"{named} needs at least {shown_bytes(value * each)} of "
            f"memory for the {what} alone, and this process can use {shown_bytes(limit)}. Pass "
            f"less than {max(2, limit // each)}."
        )


def check_addresses(settings: EmbedSettings, options: EmbedOptions) -> None:
    """Refuse to start with so little address space that a library would kill the process.

    Raises:
        HeadstripError: The limit of the address space (``ulimit -v``) is too low.
    """
    limit = address_limit()
    if limit is None:
        return
    count = cores()
    workers = count if options.workers is None else options.workers
    # pyarrow starts a thread per core and eight more, torch one per core, and the decode pool one
    # per worker process.
    threads = (
        2 * count + 8 + (options.inference_threads or count) * (settings.threads or 1) + workers
    )
    needed, left = _OTHER_ADDRESSES + threads * _THREAD_ADDRESSES, limit - addresses_used()
    if left < needed:
        raise HeadstripError(
            f"This process may use {shown_bytes(limit)} of address space (`ulimit -v`), of which "
            f"{shown_bytes(max(0, left))} are left, and embedding needs about "
            f"{shown_bytes(needed)} more. Raise the limit (`ulimit -v unlimited`), or use fewer "
            "--workers (workers=), --inference-threads (inference_threads=) and --threads "
            "(threads=)."
        )
