"""Run with tight resource limits, in processes forked from one with a ready encoder.

    python -m tests.embed.limited FOLDER files|addresses|threads

Prints as JSON how each run ended: the exit code and the error message.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.embed.ended import Held, forked, photographs


def runs(folder: Path, kind: str) -> Iterator[dict[str, object]]:
    """Run with one limit after the other, from far too little to enough."""
    from tests.conftest import tiny_encoder

    from headstrip import EmbedOptions, EmbedSettings
    from headstrip.embed.run import embed_source

    encoder, source = tiny_encoder(), photographs(folder / "photographs", 6)
    held = Held(source)

    def embed(out: Path, workers: int) -> int:
        embed_source(
            encoder,
            source if workers else held,
            out,
            settings=EmbedSettings(batch_size=2, shard_rows=2, threads=1),
            options=EmbedOptions(workers=workers, inference_threads=1),
        )
        return 0

    # In this process, so that no fork has to import anything.
    embed(folder / "first.parquet", 0)
    for number, limit in enumerate(_LIMITS[kind]()):
        out = folder / f"{number}" / "out.npy"
        out.parent.mkdir()

        def run(limit: Callable[[], None] = limit, out: Path = out) -> int:
            limit()
            return embed(out, 1 if kind == "addresses" else 0)

        code, message = forked(run)
        yield {"code": code, "message": message, "left": sorted(os.listdir(out.parent))}


def _files() -> Iterator[Callable[[], None]]:
    used = len(os.listdir("/proc/self/fd"))
    for more in range(-1, 14):
        yield lambda more=more: resource.setrlimit(resource.RLIMIT_NOFILE, (used + more,) * 2)


def _addresses() -> Iterator[Callable[[], None]]:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for more in (0, 1, 32, 128, 512, 1024, 1500, 3000):
        limit = used + (more << 20)
        yield lambda limit=limit: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _sizes() -> Iterator[Callable[[], None]]:
    for size in (0, 100, 1000, 3000, 1 << 20):
        yield lambda size=size: _small(size)


def _small(size: int) -> None:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


_LIMITS = {"files": _files, "addresses": _addresses, "sizes": _sizes}


if __name__ == "__main__":
    print(json.dumps(list(runs(Path(sys.argv[1]), sys.argv[2]))))
