"""What this machine cannot carry out, refused with the option's name before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstrip.embed.engines.registry import check_engine
from headstrip.embed.parallelism import cores, lay_out
from headstrip.embed.plan import AUTO
from headstrip.errors import HeadstripError, OptionError
from headstrip.system.memory import address_limit, addresses_used, memory_limit, shown_bytes

if TYPE_CHECKING:
    from headstrip.embed.options import Options
    from headstrip.embed.plan import Settings
    from headstrip.encoder.encoder import Encoder

_MANY = 256
"""Threads, batches or processes at once that any machine may be asked for."""

_A_CORE = 4
_WORKER = 64 << 20
"""Bytes of memory that a process which decodes has at least."""

_STACK, _REST = 64 << 20, 256 << 20
"""Bytes of addresses that a thread takes with its part of the heap, and all else together."""


def check_limits(encoder: Encoder, settings: Settings, options: Options) -> None:
    """Refuse settings and options that this machine cannot carry out.

    Args:
        encoder: What embeds; its preprocessing says how large an image is in memory.
        settings: How; what is None is not looked at.
        options: What else the run does.

    Raises:
        OptionError: A number is beyond the machine; the message names the option.
        ValueError: No engine has the name.
    """
    if settings.engine not in (None, AUTO):
        check_engine(str(settings.engine))
    check_threads(settings.threads)
    _check_count("lanes", options.lanes)
    _check_count("workers", options.workers)
    lanes, threads = options.lanes or 1, settings.threads or 1
    if lanes * threads > _A_CORE * most():
        raise OptionError(
            f"--lanes {lanes} (lanes={lanes}) with --threads {threads} (threads={threads}) each is "
            f"{lanes * threads} threads, and this machine has {cores()} cores. Pass smaller "
            f"numbers, whose product is {_A_CORE * most()} or less."
        )
    limit = memory_limit()
    if limit is not None:
        _check_memory(encoder, settings, options, limit)


def check_threads(threads: int | None) -> None:
    """Refuse more threads for a batch than this machine runs.

    Raises:
        OptionError: There are more.
    """
    _check_count("threads", threads)


def most() -> int:
    """Return how many threads, batches or processes at once this machine may be asked for."""
    return max(_MANY, _A_CORE * cores())


def _check_count(name: str, value: int | None) -> None:
    if value is not None and value > most():
        raise OptionError(
            f"--{name} {value} ({name}={value}) is more than this machine runs: it has {cores()} "
            f"cores. Pass {most()} or less; more than one a core seldom gains anything."
        )


def _check_memory(encoder: Encoder, settings: Settings, options: Options, limit: int) -> None:
    """Refuse what needs more memory for pixels, processes or rows alone than there is."""
    layout = lay_out(
        settings, lanes=options.lanes, workers=options.workers, device=encoder.place()[0].type
    )
    preprocessing = encoder.preprocessing
    assert preprocessing is not None
    height, width = preprocessing.crop
    pixels = height * width * preprocessing.channels
    on_device = encoder.place()[0].type != "cpu"
    # A byte a pixel while batches wait, and float32 of those in the network.
    image = pixels * (layout.slots + (0 if on_device else 4 * layout.lanes))
    _check_bytes("batch-size", settings.batch_size, image, limit, "pixels")
    _check_bytes("workers", options.workers, _WORKER, limit, "processes")
    # The rows that are being filled, one shard more that is written, and its table.
    row = 4 * encoder.output_dim * 3
    _check_bytes("shard-rows", settings.shard_rows, row, limit, "rows")


def _check_bytes(option: str, value: int | None, each: int, limit: int, what: str) -> None:
    if value is not None and value * each > limit:
        name = option.replace("-", "_")
        raise OptionError(
            f"--{option} {value} ({name}={value}) needs at least {shown_bytes(value * each)} of "
            f"memory for the {what} alone, and this process can have {shown_bytes(limit)}. Pass "
            f"less than {max(2, limit // each)}."
        )


def check_addresses(settings: Settings, options: Options) -> None:
    """Refuse to begin with so few addresses that a library would end the process.

    Raises:
        HeadstripError: The process may use too few (``ulimit -v``).
    """
    limit = address_limit()
    if limit is None:
        return
    count = cores()
    workers = count if options.workers is None else options.workers
    # pyarrow has a thread a core and eight more, torch one a core, and here one feeds each process.
    threads = 2 * count + 8 + (options.lanes or count) * (settings.threads or 1) + workers
    needed, left = _REST + threads * _STACK, limit - addresses_used()
    if left < needed:
        raise HeadstripError(
            f"This process may use {shown_bytes(limit)} of addresses (`ulimit -v`), of which "
            f"{shown_bytes(max(0, left))} are left, and embedding needs about "
            f"{shown_bytes(needed)} more. Raise the limit (`ulimit -v unlimited`), or use fewer "
            "--workers (workers=), --lanes (lanes=) and --threads (threads=)."
        )
