"""Run proofs of many architectures in worker processes, each with a time limit."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any

from headstrip.spec import BackboneSpec

OVER = "the time for all proofs was over"


class Worker:
    """A process that answers questions, one line each, with ``answer``."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Store the Python arguments and the environment. The first question starts the process."""
        self._arguments = arguments
        self._env = env
        self._process: subprocess.Popen[str] | None = None

    def ask(self, question: str, seconds: float) -> dict[str, Any] | None:
        """Return the answer, or None if there is none within the time limit."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{question}\n")
        process.stdin.flush()
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.close()
        return None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=self._env,
            )
            assert self._process.stdout is not None
            # Wait for the imports of torch and timm, so that no proof includes them.
            self._process.stdout.readline()
        return self._process


def answer(prove: Callable[[str], Any]) -> None:
    """Read names from stdin, prove each, and print the results. Plugins print to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(prove(line.strip()))), file=answers, flush=True)


def ask_all(
    specs: Iterable[BackboneSpec],
    workers: list[Worker],
    name_of: Callable[[BackboneSpec], str],
    bytes_each: float,
    limits: tuple[float, float, float],
) -> Iterator[tuple[BackboneSpec, dict[str, Any] | str]]:
    """Prove architectures in order, and those that need much memory at the end, one at a time.

    Args:
        specs: The architectures.
        workers: The processes to use.
        name_of: Returns the question for an architecture.
        bytes_each: Peak memory of a proof per parameter.
        limits: Seconds for one proof, GiB for all running proofs, and the latest start time.

    Yields:
        Each architecture, and the answer or the reason why there is none.
    """
    seconds, gib, end = limits
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def one(spec: BackboneSpec) -> tuple[BackboneSpec, dict[str, Any] | str]:
        need = spec.params * bytes_each / 2**30
        if need > gib:
            return spec, f"it needs about {need:.0f} GiB"
        worker = free.get()
        try:
            if time.monotonic() > end:
                return spec, OVER
            found = worker.ask(name_of(spec), seconds)
        finally:
            free.put(worker)
        return spec, found or f"it takes more than {seconds:g} s or too much memory"

    waiting = list(specs)
    light = [spec for spec in waiting if spec.params * bytes_each * len(workers) <= gib * 2**30]
    try:
        with ThreadPoolExecutor(len(workers)) as pool:
            yield from pool.map(one, light)
        yield from map(one, [spec for spec in waiting if spec not in light])
    finally:
        for worker in workers:
            worker.close()
