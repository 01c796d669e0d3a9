"""End runs early, in processes forked from one with a ready encoder.

    python -m tests.embed.ended FOLDER [maps-]died|failed|killed|interrupted|measured

Prints as JSON for each run: the exit code, the message, the files left beside the output, and
whether the same call afterwards wrote the file of an uninterrupted run.
"""

from __future__ import annotations

import errno
import functools
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.failing import dying, failing

SHARD, BATCH = 4, 2
KILLS = 25
INTERRUPTIONS = 30
_HANGS = 60.0


def photographs(folder: Path, count: int) -> Path:
    """Write small pictures, every seventh of them bad."""
    from PIL import Image
    from tests.conftest import pixels

    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:05d}.jpg"
        Image.fromarray(pixels(number, 40, 50)).save(path)
        if number % 7 == 3:
            path.write_bytes(path.read_bytes()[:-200])
    return folder


def forked(call: Callable[[], int]) -> tuple[int, str]:
    """Call in a forked process; return its exit code and its error message."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = call()
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode()[:4000])
            if os.environ.get("SHOW"):
                traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as file:
        message = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), message


class Held:
    """Images in memory, so that no failing call is the reading of an image."""

    def __init__(self, folder: Path) -> None:
        """Read the files of a folder."""
        self.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    def describe(self) -> dict[str, Any]:
        """Describe the source."""
        return {"kind": "held"}

    def items(self) -> Iterator[Any]:
        """List the files."""
        from headstrip.embed.sources import Item

        for name, data in self.files.items():
            yield Item(name, len(data), 1)

    def reader(self) -> Held:
        """Return the reader of the files."""
        return self

    def read(self, item: Any) -> bytes:
        """Return the bytes of one image."""
        return self.files[item.path]


class Case:
    """One source and one encoder, and the file that a run with them writes."""

    def __init__(
        self, folder: Path, count: int, *, workers: int, shard: int = SHARD, maps: bool = False
    ) -> None:
        """Write the pictures, and embed them once."""
        import torch
        from tests.conftest import tiny_encoder, tiny_vit

        torch.set_num_threads(1)
        self.encoder = tiny_vit() if maps else tiny_encoder()
        self.dense: dict[str, Any] = {"maps": [0, -1], "tokens": True} if maps else {}
        written = photographs(folder / "photographs", count)
        self.source: Any = written if workers else Held(written)
        self.workers, self.shard = workers, shard
        clean = folder / "clean"
        clean.mkdir()
        # In this process, so that no fork has to import anything.
        self.embed(clean / "out.parquet")
        self.expected = (clean / "out.parquet").read_bytes()

    def embed(self, out: Path) -> int:
        """Run once, as a user does."""
        from headstrip import EmbedOptions, EmbedSettings
        from headstrip.embed.run import embed_source

        embed_source(
            self.encoder,
            self.source,
            out,
            settings=EmbedSettings(
                batch_size=BATCH, shard_rows=self.shard, threads=1, **self.dense
            ),
            options=EmbedOptions(workers=self.workers, inference_threads=1),
        )
        return 0

    def again(self, out: Path) -> dict[str, Any]:
        """Run the same call once more, and report the result."""
        left = sorted(path.name for path in out.parent.iterdir())
        whole = not out.exists() or out.read_bytes() == self.expected
        code, message = forked(lambda: self.embed(out))
        after = sorted(path.name for path in out.parent.iterdir())
        equal = out.exists() and out.read_bytes() == self.expected
        return {
            "left": left,
            "whole": whole,
            "again": code,
            "again_message": message,
            "after": after,
            "equal": equal,
        }


def at_every_call(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """End a run of three shards, or make one of its calls fail, once for each call.

    Calls fail with a full disk and a broken disk in turn. With maps, only every third call fails:
    maps are written in the same way, with more columns.
    """
    has_maps = kind.startswith("maps-")
    case = Case(folder, 10, workers=0, maps=has_maps)
    errors = itertools.cycle([errno.ENOSPC, errno.EIO])
    for at, error in zip(itertools.count(step=3 if has_maps else 1), errors, strict=False):
        place = folder / f"{at}"
        place.mkdir()
        out = place / "out.parquet"

        def run(at: int = at, error: int = error, out: Path = out) -> int:
            faults = dying(at=at) if kind.endswith("died") else failing(at=at, error=error)
            with faults as calls:
                case.embed(out)
            return 0 if not calls.hit else 3

        code, message = forked(run)
        yield {"at": at, "code": code, "message": message, **case.again(out)}
        if code == 0:
            return


def killed(folder: Path, seed: int = 0, *, maps: bool = False) -> Iterator[dict[str, Any]]:
    """Kill a run of 5,000 pictures at random moments, over and over, then let it end."""
    case = Case(folder, 5000, workers=2, shard=256, maps=maps)
    out = folder / "killed" / "out.parquet"
    out.parent.mkdir()
    chance = random.Random(seed)
    for at in range(KILLS):
        pid = os.fork()
        if not pid:
            os._exit(case.embed(out))
        time.sleep(chance.uniform(0.05, 1.5))
        os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        shards = len(list(out.parent.glob("out.parquet.parts/*/[0-9]*.parquet")))
        yield {"at": at, "code": code, "shards": shards}
        if code == 0:
            break
    yield {"at": KILLS, "code": 0, **case.again(out)}


def is_a_worker(thread: threading.Thread) -> bool:
    """Whether a thread is neither the main one nor a timer of these tests."""
    return thread is not threading.main_thread() and not isinstance(thread, threading.Timer)


def interrupt(call: Callable[[], Any], seconds: float) -> tuple[int, str]:
    """Call in a forked process; send it Ctrl-C after a time, and kill it if it hangs."""

    def interrupted() -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        killer = threading.Timer(_HANGS, os.kill, (os.getpid(), signal.SIGKILL))
        killer.daemon = True
        killer.start()
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            call()
        except KeyboardInterrupt:
            # A thread that still runs would write more.
            # A thread that has finished may need a moment to end.
            for _ in range(100):
                if not any(map(is_a_worker, threading.enumerate())):
                    return 130
                time.sleep(0.05)
            return 4
        return 0

    return forked(interrupted)


def interrupted(folder: Path, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Interrupt runs of 300 pictures, each at another moment, and resume each."""
    case = Case(folder, 300, workers=2, shard=64)
    chance = random.Random(seed)
    for at in range(INTERRUPTIONS):
        out = folder / f"{at}" / "out.parquet"
        out.parent.mkdir()
        code, message = interrupt(lambda out=out: case.embed(out), chance.uniform(0.0, 0.4))
        yield {"at": at, "code": code, "message": message, **case.again(out)}


def measured(folder: Path, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Interrupt the measurement of batch sizes."""
    from tests.conftest import tiny_encoder

    from headstrip.embed.calibrate_batches import best_batch

    encoder, chance = tiny_encoder(), random.Random(seed)
    best_batch(encoder, seconds=3)
    for at in range(INTERRUPTIONS):
        code, message = interrupt(
            lambda: [best_batch(encoder, seconds=3) for _ in range(1000)], chance.uniform(0.0, 0.3)
        )
        yield {"at": at, "code": code, "message": message}


def main() -> None:
    """Run the requested kind, and print the results."""
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    kinds = {
        "killed": killed,
        "maps-killed": functools.partial(killed, maps=True),
        "interrupted": interrupted,
        "measured": measured,
    }
    found = kinds[kind](folder) if kind in kinds else at_every_call(folder, kind)
    print(json.dumps(list(found)))


if __name__ == "__main__":
    main()
