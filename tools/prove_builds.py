"""Prove for torchvision and timm that building from a file gives what the ordinary way gives.

For each architecture a network is built on real memory, every parameter and running statistic of
it is perturbed, and its state dict goes to a file. Then the network is built twice from that file:
the ordinary way, on real memory with `load_state_dict` copying, and by headstrip, by whichever
mechanism it chooses. Compared bit for bit are all parameters and buffers, persistent or not, every
tensor, array and number that a module keeps in an attribute, in containers and objects too, and for
networks of at most 30 million parameters an embedding.

    python tools/prove_builds.py                              every architecture
    python tools/prove_builds.py 'timm:vit_*' 'torchvision:*' --gib 12
    python tools/prove_builds.py --markdown docs/builds.md --minutes 60
    python tools/prove_builds.py --markdown docs/builds.md --go-on
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue

from prove_builds_table import Proof, markdown, not_run, proven

from headstrip.catalog import write_atomically
from headstrip.registry import get_registry
from headstrip.spec import BackboneSpec

SOURCES = ("torchvision", "timm")
SMALL = 30_000_000
"""Parameters up to which an embedding is compared too."""

BYTES = 4 * 3
"""Memory that a parameter takes at the peak: two networks, and the file in the page cache."""


def prove(name: str, folder: Path) -> Proof:
    """Build one architecture both ways from a file in a folder, and compare."""
    import torch
    from prove_builds_twins import differences, in_eval, ordinary, same, write_weights

    from headstrip.construction import build_stripped

    started = time.perf_counter()
    path = folder / "weights.pth"
    try:
        write_weights(name, path)
        built = build_stripped(name, weights=path)
        mine, twin = in_eval(built.stripped), in_eval(ordinary(name, path))
        seen, count = differences(twin, mine)
        small = built.spec.params <= SMALL
        if small and not seen:
            x = torch.randn(1, *built.input_shape)
            with torch.inference_mode():
                one, other = twin.backbone(x), mine.backbone(x)
            seen = [] if same(one, other) else ["the embedding"]
    finally:
        path.unlink(missing_ok=True)
    return Proof(
        name, built.mechanism, count, "compared" if small else "-", "no" if seen else "yes",
        "; ".join(seen[:5]), time.perf_counter() - started,
    )  # fmt: skip


class Worker:
    """A process that proves one architecture after the other, and can be ended."""

    def __init__(self, folder: Path) -> None:
        """Start it on the first proof; its files go to a folder."""
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def prove(self, name: str, seconds: float) -> Proof:
        """Have one architecture proven within a number of seconds."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        if line:
            return Proof(**json.loads(line))
        self.close()
        return not_run(name, f"it takes more than {seconds:g} s, or than the memory")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._folder.mkdir(exist_ok=True)
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", __file__, "--worker", str(self._folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={
                    # Workers that share the cores wait for each other's threads.
                    "OMP_NUM_THREADS": "1",
                    **os.environ,
                    # What is noted of files that are gone a second later is nobody's.
                    "HEADSTRIP_CACHE": str(self._folder / "cache"),
                },
            )  # fmt: skip
            assert self._process.stdout is not None
            # The import of torch and timm is nobody's proof.
            self._process.stdout.readline()
        return self._process


def work(folder: Path) -> None:
    """Prove what is named on stdin; what plugins print is kept off stdout."""
    answers, sys.stdout = sys.stdout, sys.stderr
    import prove_builds_twins  # noqa: F401  (imported before the first proof is timed)

    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        name = line.strip()
        try:
            proof = prove(name, folder)
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            proof = Proof(name, "-", 0, "-", "no", text[:300], 0)
        print(json.dumps(asdict(proof)), file=answers, flush=True)


def prove_all(
    specs: list[BackboneSpec], seconds: float, gib: float, workers: int, end: float
) -> Iterator[Proof]:
    """Prove architectures, the smallest first; those that need much memory one at a time."""
    free: SimpleQueue[Worker] = SimpleQueue()

    def one(spec: BackboneSpec) -> Proof:
        need = spec.params * BYTES / 2**30
        if need > gib:
            return not_run(spec.qualified_name, f"it needs about {need:.0f} GiB")
        worker = free.get()
        try:
            if time.monotonic() > end:
                return not_run(spec.qualified_name, "the time for all of them was over")
            return worker.prove(spec.qualified_name, seconds)
        finally:
            free.put(worker)

    with tempfile.TemporaryDirectory(prefix="headstrip-builds-") as folder:
        for number in range(workers):
            free.put(Worker(Path(folder, str(number))))
        light = [spec for spec in specs if spec.params * BYTES * workers <= gib * 2**30]
        try:
            with ThreadPoolExecutor(workers) as pool:
                yield from pool.map(one, light)
            yield from map(one, [spec for spec in specs if spec not in light])
        finally:
            for _ in range(workers):
                free.get().close()


def chosen(patterns: list[str]) -> list[BackboneSpec]:
    """Return the architectures whose qualified names match, the smallest first."""
    specs = [
        spec
        for spec in get_registry().specs()
        if spec.source in SOURCES
        and any(fnmatch.fnmatch(spec.qualified_name, pattern) for pattern in patterns)
    ]
    return sorted(specs, key=lambda spec: spec.params)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("patterns", nargs="*", default=["*"], help="of source:name")
    parser.add_argument("--seconds", type=float, default=120, help="limit of one proof")
    parser.add_argument("--gib", type=float, default=12, help="memory that proofs may take")
    parser.add_argument("--minutes", type=float, default=math.inf, help="limit of all proofs")
    parser.add_argument("--workers", type=int, default=2, help="processes at once")
    parser.add_argument("--markdown", type=Path, help="file to write the table to")
    parser.add_argument(
        "--go-on", action="store_true", help="keep the rows of the file that passed"
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print a row an architecture, and fail when one of them differs."""
    options = parse()
    if options.worker:
        work(options.worker)
        return
    specs = chosen(options.patterns)
    kept = proven(options.markdown) if options.go_on else {}
    proofs = [kept[spec.qualified_name] for spec in specs if spec.qualified_name in kept]
    waiting = {spec.qualified_name: spec for spec in specs if spec.qualified_name not in kept}

    def save() -> None:
        if options.markdown:
            rest = [not_run(name, "the time for all of them was over") for name in waiting]
            text = markdown([*proofs, *rest], options.seconds, options.gib)
            write_atomically(options.markdown.resolve(), text.encode())

    end = time.monotonic() + options.minutes * 60
    for proof in prove_all(
        list(waiting.values()), options.seconds, options.gib, options.workers, end
    ):
        proofs.append(proof)
        del waiting[proof.name]
        save()
        outcome = proof.outcome if proof.outcome != "no" else f"no: {proof.seen}"
        print(f"{proof.name:50} {proof.mechanism:9} {proof.seconds:6.1f} s  {outcome}", flush=True)
    print(Counter((proof.mechanism, proof.outcome.partition(":")[0]) for proof in proofs))
    save()
    raise SystemExit(1 if any(proof.outcome == "no" for proof in proofs) else 0)


if __name__ == "__main__":
    main()
