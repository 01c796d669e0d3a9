"""A worker process as its parent sees it: started, asked, and killed when an image is late."""

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

from headstrip.embed.decoding.worker import DecodeRequest, ImageResult, WorkerSetup
from headstrip.errors import HeadstripError
from headstrip.system.os_errors import explain

# A module in the current folder cannot hide one of Python's own while the worker starts, and
# nothing imports the user's main module again. Ctrl-C is for the parent, which ends the workers.
_CODE = (
    "import sys; sys.path[:1] == [''] and sys.path.pop(0); import pickle, signal; "
    "signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from headstrip.embed.decoding.worker import main; main()"
)
_SECONDS_TO_START = 120.0
_SECONDS_TO_END = 5.0


class WorkerProcess:
    """A process that runs ``worker``.

    One thread sends and receives; another may call ``kill`` and ``kill_if_late``.
    """

    def __init__(self, setup: WorkerSetup, counter: np.ndarray) -> None:
        """Start the process.

        Args:
            setup: What the process gets first.
            counter: int64 array; the process counts the images that it began in the first number
                and those that it finished in the second.

        Raises:
            HeadstripError: The system cannot start it.
        """
        self._timeout, self._counter = setup.timeout, counter
        counter[:] = 0
        self._answered = 0
        self._waiting = 0
        self._is_ready = self._is_late = False
        self._seen: tuple[int, int, int] = (0, 0, 0)
        self._since = time.monotonic()
        self._popen = _start(setup)
        # If the process has ended already, `wait_until_ready` raises the error.
        with contextlib.suppress(OSError):
            self._send([*sys.path])
            self._send(setup)

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._popen.pid

    @property
    def is_idle(self) -> bool:
        """Whether the process is ready and has answered for all images that it got."""
        return self._is_ready and not self._waiting

    def wait_until_ready(self) -> None:
        """Wait until the process can decode.

        Raises:
            HeadstripError: The process cannot use the reader.
            EOFError, OSError: The process has ended.
        """
        refusal = pickle.load(cast("IO[bytes]", self._popen.stdout))
        if refusal is not None:
            raise HeadstripError(
                f"What reads the images cannot be used in another process ({refusal}). Define it "
                "in a module that can be imported, or decode in this process with workers=0."
            )
        self._is_ready = True

    def request(self, request: DecodeRequest) -> None:
        """Send images to decode.

        Raises:
            OSError: The process has ended.
        """
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting += len(request.items)
        self._send(request)

    def receive(self) -> list[ImageResult]:
        """Wait for the results of the oldest request.

        Raises:
            EOFError, OSError: The process has ended.
        """
        results: list[ImageResult] = pickle.load(cast("IO[bytes]", self._popen.stdout))
        self._waiting -= len(results)
        self._answered += len(results)
        return results

    def kill_if_late(self) -> None:
        """Kill the process if one image has taken longer than the timeout."""
        begun, finished = map(int, self._counter[:2])
        now, seen = time.monotonic(), (begun, finished, self._waiting)
        if seen != self._seen or (self._is_ready and not self._waiting):
            self._seen, self._since = seen, now
        elif now - self._since > (self._timeout if self._is_ready else _SECONDS_TO_START):
            self._is_late = True
            self.kill()

    def kill(self) -> None:
        """Kill the process."""
        self._popen.kill()

    def explain_end(self) -> tuple[str, int | None]:
        """End the process if it has not ended, and say why it ended.

        Returns:
            The reason, as the error of an image, and the index of the image that the process
            worked on, counted from the first one it did not answer for; None where there was none.
        """
        code = self._wait(_SECONDS_TO_END)
        begun, finished = map(int, self._counter[:2])
        index = begun - 1 - self._answered if begun > finished else None
        if self._is_late:
            return f"it took longer than {self._timeout:g} s to decode.", index
        end = f"signal {-code}" if code < 0 else f"exit status {code}"
        return f"the process that decoded it ended ({end}).", index

    def close(self) -> None:
        """End the process and wait for its end."""
        for pipe in (self._popen.stdin, self._popen.stdout):
            # The pipe of a dead process fails when Python flushes it.
            with contextlib.suppress(OSError):
                cast("IO[bytes]", pipe).close()
        self._wait(0 if self._waiting else _SECONDS_TO_END)

    def _wait(self, seconds: float) -> int:
        """Wait for the end, kill the process when the time is over, and return the exit code."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._popen.wait()

    def _send(self, message: Any) -> None:
        pipe = cast("IO[bytes]", self._popen.stdin)
        pipe.write(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
        pipe.flush()


def _start(setup: WorkerSetup) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise HeadstripError(
            "Python does not know its own path (sys.executable is not set), so headstrip cannot "
            "start other processes. Decode in this process with workers=0."
        )
    handles: Sequence[int] = (setup.memory.handle,) if isinstance(setup.memory.handle, int) else ()
    one_core = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=handles,
            start_new_session=os.name == "posix",
            env={**os.environ, **one_core},
        )
    except OSError as error:
        raise HeadstripError(
            explain(error, "headstrip cannot start a process to decode images")
            + " Pass --workers 0 (workers=0) to decode in this process."
        ) from error
