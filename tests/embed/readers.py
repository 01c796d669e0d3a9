"""Readers for the tests of decoding; worker processes import them by their path."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from headstrip.embed.sources import Item
from headstrip.errors import ImageError


@dataclass(frozen=True)
class FolderReader:
    """Reads files of one folder; some names end or hang the process, or report its state."""

    folder: str

    def read(self, item: Item) -> bytes:
        name = item.path
        if name.startswith("exit"):
            os._exit(3)
        elif name.startswith("leave"):
            sys.exit(5)
        elif name.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif name.startswith("crash"):
            ctypes.string_at(0)
        elif name.startswith("hang"):
            time.sleep(600)
        elif name.startswith("deaf"):
            # Holds the interpreter lock, so that no other thread of the process can run.
            ctypes.PyDLL(None).sleep(600)
        elif name.startswith("print"):
            print("a library's chatter")
            os.write(1, b"and more of it\n")
            name = name.removeprefix("print ")
        elif name.startswith("raise"):
            raise RuntimeError("the disk\nis on fire.")
        elif name.startswith("refuse"):
            raise ImageError("nobody may see it.")
        elif name.startswith("modules"):
            heavy = {"torch", "torchvision", "tests.conftest"} & set(sys.modules)
            raise ImageError(f"{sorted(heavy)} {sys.modules['__main__'].__dict__.get('mark')}")
        return (Path(self.folder) / name).read_bytes()


@dataclass(frozen=True)
class StuckReader:
    """Unpickling it never ends."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return time.sleep, (600,)

    def read(self, item: Item) -> bytes:
        raise AssertionError(item)


@dataclass(frozen=True)
class PickyReader:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return int, ("no number",)

    def read(self, item: Item) -> bytes:
        raise AssertionError(item)
