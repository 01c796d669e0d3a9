"""Prove for torchvision and timm that building from a file gives what the ordinary way gives.

For each architecture a network is built on real memory, every parameter and running statistic of
it is perturbed, and its state dict goes to a file. Then the network is built twice from that file:
the ordinary way, on real memory with `load_state_dict` copying, and by headstrip, by whichever
mechanism it chooses. Compared bit for bit are all parameters and buffers, persistent or not, every
tensor, array and number that a module keeps in an attribute, in containers and objects too, and for
networks of at most 30 million parameters an embedding.

    python tools/prove_builds.py                              every architecture
    python tools/prove_builds.py 'timm:vit_*' 'torchvision:*' --gib 12
    python tools/prove_builds.py --markdown docs/reference/builds.md --minutes 60
    python tools/prove_builds.py --markdown docs/reference/builds.md --go-on
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prove_builds_table import Proof, markdown, not_run, proven
from proving import OVER, Worker, answer, ask_all

from headstrip.registry.registry import get_registry
from headstrip.spec import BackboneSpec
from headstrip.system.atomic import write_atomically

SOURCES = ("torchvision", "timm")
SMALL = 30_000_000
"""Parameters up to which an embedding is compared too."""

BYTES = 4 * 3
"""Memory that a parameter takes at the peak: two networks, and the file in the page cache."""


def prove(name: str, folder: Path) -> Proof:
    """Build one architecture both ways from a file in a folder, and compare."""
    import torch
    from prove_builds_twins import differences, in_eval, ordinary, same, write_weights

    from headstrip.factory.construction import build_stripped

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


def worker(folder: Path) -> Worker:
    """Return a process that proves; its files go to a folder."""
    folder.mkdir()
    env = {
        # Workers that share the cores wait for each other's threads.
        "OMP_NUM_THREADS": "1",
        **os.environ,
        # No record of these files is useful: they are removed a second later.
        "HEADSTRIP_CACHE": str(folder / "cache"),
    }
    return Worker(__file__, "--worker", str(folder), env=env)


def work(folder: Path) -> None:
    """Prove what is named on stdin; an architecture that fails is one that differs."""
    import prove_builds_twins  # noqa: F401  (imported before the first proof is timed)

    def proof(name: str) -> Proof:
        try:
            return prove(name, folder)
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            return Proof(name, "-", 0, "-", "no", text[:300], 0)

    answer(proof)


def prove_all(
    specs: list[BackboneSpec], seconds: float, gib: float, workers: int, end: float
) -> Iterator[Proof]:
    """Prove architectures, the smallest first; those that need much memory one at a time."""
    limits = (seconds, gib, end)
    with tempfile.TemporaryDirectory(prefix="headstrip-builds-") as folder:
        processes = [worker(Path(folder, str(number))) for number in range(workers)]
        for spec, found in ask_all(
            specs, processes, lambda spec: spec.qualified_name, BYTES, limits
        ):
            name = spec.qualified_name
            yield not_run(name, found) if isinstance(found, str) else Proof(**found)


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
    """Print one row per architecture, and fail when one of them differs."""
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
            rest = [not_run(name, OVER) for name in waiting]
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
