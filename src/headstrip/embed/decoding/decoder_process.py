"""One process that decodes, as its parent sees it."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, Any, cast

import numpy as np

from headstrip.embed.decoding.decoder_worker import Order, Outcome, Setup
from headstrip.errors import HeadstripError
from headstrip.system.os_errors import explain

# A module of the user's in the current folder does not stand for Python's own meanwhile, and the
# user's main module is not imported again.
_CODE = (
    "import sys; sys.path[:1] == [''] and sys.path.pop(0); import pickle, signal; "
    "signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from headstrip.embed.decoding.decoder_worker import main; main()"
)
_START = 120.0
_PATIENCE = 5.0


class DecoderProcess:
    """A process that runs ``decoder_worker``.

    One thread sends and receives; another may ``look`` and ``kill``.
    """

    def __init__(self, setup: Setup, counter: np.ndarray) -> None:
        """Start it.

        Args:
            setup: What it is told.
            counter: int64 array whose first two numbers it writes: images begun and ended.

        Raises:
            HeadstripError: It cannot be started.
        """
        self._timeout, self._counter = setup.timeout, counter
        counter[:] = 0
        self._answered = 0
        self._waiting = 0
        self._is_ready = self._is_late = False
        self._seen: tuple[int, int, int] = (0, 0, 0)
        self._since = time.monotonic()
        self._popen = _start(setup)
        # When it has ended already, waiting for its answer says so.
        with contextlib.suppress(OSError):
            self._send([*sys.path])
            self._send(setup)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def is_busy(self) -> bool:
        """Whether it has images that it did not answer for."""
        return self._waiting > 0

    def greet(self) -> None:
        """Wait until it can decode.

        Raises:
            HeadstripError: It cannot make anything of the reader.
            EOFError: It ended.
            OSError: It ended.
        """
        refusal = pickle.load(cast("IO[bytes]", self._popen.stdout))
        if refusal is not None:
            raise HeadstripError(
                f"What reads the images cannot be used in another process ({refusal}). Define it "
                "in a module that can be imported, or decode in this process with workers=0."
            )
        self._is_ready = True

    def order(self, order: Order) -> None:
        """Have it decode images.

        Raises:
            OSError: It ended.
        """
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting += len(order.items)
        self._send(order)

    def answer(self) -> list[Outcome]:
        """Wait for what became of the images of the oldest order.

        Raises:
            EOFError: It ended.
            OSError: It ended.
        """
        outcomes: list[Outcome] = pickle.load(cast("IO[bytes]", self._popen.stdout))
        self._waiting -= len(outcomes)
        self._answered += len(outcomes)
        return outcomes

    def look(self) -> None:
        """Kill it when it has been at one image for longer than the timeout."""
        begun, ended = map(int, self._counter[:2])
        now, seen = time.monotonic(), (begun, ended, self._waiting)
        if seen != self._seen or (self._is_ready and not self._waiting):
            self._seen, self._since = seen, now
        elif now - self._since > (self._timeout if self._is_ready else _START):
            self._is_late = True
            self._popen.kill()

    def kill(self) -> None:
        """Kill it."""
        self._popen.kill()

    def post_mortem(self) -> tuple[str, int | None]:
        """Make sure that it has ended, and tell why.

        Returns:
            Half a sentence about its end, and the number of the image that it was at, counted
            from the first that it did not answer for; None where it was at none.
        """
        code = self._wait(_PATIENCE)
        begun, ended = map(int, self._counter[:2])
        at = begun - 1 - self._answered if begun > ended else None
        if self._is_late:
            return f"it took longer than {self._timeout:g} s to decode.", at
        end = f"signal {-code}" if code < 0 else f"exit status {code}"
        return f"the process that decoded it ended ({end}).", at

    def close(self) -> None:
        """End it, and wait for its end."""
        for pipe in (self._popen.stdin, self._popen.stdout):
            # What it never took cannot be written any more.
            with contextlib.suppress(OSError):
                cast("IO[bytes]", pipe).close()
        self._wait(0 if self._waiting else _PATIENCE)

    def _wait(self, seconds: float) -> int:
        """Wait for its end, and then no longer; return its exit code."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()

    def _send(self, what: Any) -> None:
        pipe = cast("IO[bytes]", self._popen.stdin)
        pipe.write(pickle.dumps(what, pickle.HIGHEST_PROTOCOL))
        pipe.flush()


def _start(setup: Setup) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise HeadstripError(
            "There is no Python interpreter to run other processes with (sys.executable is not "
            "set). Decode in this process with workers=0."
        )
    handles: Sequence[int] = (setup.memory.handle,) if isinstance(setup.memory.handle, int) else ()
    # One core a process.
    own = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=handles,
            # Ctrl-C is for the parent, which ends them.
            start_new_session=os.name == "posix",
            env={**os.environ, **own},
        )
    except OSError as error:
        raise HeadstripError(
            explain(error, "No process can be started to decode images")
            + " With --workers 0 (workers=0) this process decodes them itself."
        ) from error
