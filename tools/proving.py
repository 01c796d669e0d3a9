"""Run proofs of many architectures in worker processes, each with a time limit."""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from headstrip.spec import BackboneSpec
from headstrip.system.atomic import write_atomically

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
        return spec, found or too_slow(seconds)

    waiting = list(specs)
    light = [spec for spec in waiting if spec.params * bytes_each * len(workers) <= gib * 2**30]
    try:
        with ThreadPoolExecutor(len(workers)) as pool:
            yield from pool.map(one, light)
        yield from map(one, [spec for spec in waiting if spec not in light])
    finally:
        for worker in workers:
            worker.close()


def too_slow(seconds: float) -> str:
    """Return why an architecture has no proof if its process was ended."""
    return f"it takes more than {seconds:g} s or too much memory"


@dataclass(frozen=True, slots=True)
class Results:
    """What a tool found.

    Attributes:
        proofs: The proofs, in the order of the page.
        versions: The versions of the libraries that computed them.
        slow: The architectures whose proof did not end in time, and that time in seconds.
    """

    proofs: list[Any]
    versions: str
    slow: dict[str, float]


@dataclass(frozen=True, slots=True)
class ProofTool:
    """A tool that proves architectures one by one, and writes the proofs and a page of them.

    Attributes:
        file: The tool's own file, which its workers run.
        description: What it does, in one sentence.
        kind: The dataclass of a proof, with its ``name`` and its ``problems``.
        prove: Proves an architecture by its name.
        subjects: Returns the architectures in the order of the page.
        line: Returns what the tool prints of a proof, without the outcome.
        page: Returns the page of the results.
        results: Where the proofs are written.
        page_path: Where the page is written.
        bytes_each: Peak memory of a proof per parameter.
        seconds: Time limit for one proof, where the user states none.
        gib: Memory for all proofs together, where the user states none.
    """

    file: str
    description: str
    kind: Callable[..., Any]
    prove: Callable[[str], Any]
    subjects: Callable[[], Iterable[BackboneSpec]]
    line: Callable[[Any], str]
    page: Callable[[Results], str]
    results: Path
    page_path: Path
    bytes_each: float
    seconds: float
    gib: float

    def read(self) -> Results:
        """Return the committed results."""
        found = json.loads(self.results.read_text(encoding="utf-8"))
        proofs = [self.kind(**proof) for proof in found["proofs"]]
        return Results(proofs, found["versions"], found.get("slow", {}))

    def write(self, proofs: list[Any], slow: dict[str, float]) -> None:
        """Write the results and the page."""
        names = ("torch", "torchvision", "timm", "transformers")
        versions = ", ".join(f"{name} {metadata.version(name).partition('+')[0]}" for name in names)
        lines = ",\n".join(json.dumps(asdict(proof)) for proof in proofs)
        head = json.dumps({"versions": versions, "slow": slow})
        text = f'{head[:-1]}, "proofs": [\n{lines}\n]}}\n'
        write_atomically(self.results, text.encode())
        page = self.page(Results(proofs, versions, slow))
        write_atomically(self.page_path, page.encode())

    def run(self) -> None:
        """Print one line per architecture, and exit with code 1 if one of them fails."""
        arguments = self._arguments()
        if arguments.worker:
            torch.set_num_threads(1)
            answer(self._proven)
            return
        everything = list(self.subjects())
        order = [spec.qualified_name for spec in everything]
        known: dict[str, Any] = {}
        slow: dict[str, float] = {}
        if arguments.write and self.results.is_file():
            committed = self.read()
            known = {proof.name: proof for proof in committed.proofs if not proof.problems}
            slow = committed.slow
        wanted = [
            spec
            for spec in everything
            if spec.qualified_name not in known
            and slow.get(spec.qualified_name, 0) < arguments.seconds
            and any(
                fnmatch.fnmatch(name, pattern)
                for name in (spec.name, spec.qualified_name)
                for pattern in arguments.patterns
            )
        ]
        failed = 0
        workers = [Worker(self.file, "--worker") for _ in range(arguments.workers)]
        limits = (arguments.seconds, arguments.gib, time.monotonic() + arguments.minutes * 60)
        proven = ask_all(wanted, workers, lambda spec: spec.qualified_name, self.bytes_each, limits)
        for spec, found in proven:
            name = spec.qualified_name
            if isinstance(found, str):
                print(f"{name}: not run: {found}", flush=True)
                if found != too_slow(arguments.seconds):
                    continue
                slow[name] = arguments.seconds
            else:
                known[name] = proof = self.kind(**found)
                slow.pop(name, None)
                failed += bool(proof.problems)
                outcome = "; ".join(proof.problems) or "passed"
                print(f"{name}: {self.line(proof)} {outcome}", flush=True)
            if arguments.write:
                self.write([known[each] for each in order if each in known], slow)
        raise SystemExit(1 if failed else 0)

    def _proven(self, name: str) -> Any:
        """Return the proof of an architecture; one that crashes is a failure."""
        try:
            return self.prove(name)
        except Exception as error:  # The proof of another architecture may still be run.
            traceback.print_exc()
            return self.kind(name, problems=[f"{type(error).__name__}: {error}"])

    def _arguments(self) -> argparse.Namespace:
        parser = argparse.ArgumentParser(description=self.description)
        option = parser.add_argument
        parser.add_argument("patterns", nargs="*", default=["*"])
        option("--seconds", type=float, default=self.seconds, help="time limit for one proof")
        option("--gib", type=float, default=self.gib, help="memory for all proofs together")
        option("--minutes", type=float, default=math.inf, help="time limit for all proofs")
        option("--workers", type=int, default=1, help="number of worker processes")
        option("--write", action="store_true", help="continue, and write the results")
        option("--worker", action="store_true", help=argparse.SUPPRESS)
        return parser.parse_args()
