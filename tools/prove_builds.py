"""Prove for torchvision and timm that headstrip builds the same network as the ordinary way.

For each architecture, the script builds a network, perturbs every parameter and running statistic,
and saves the state dict. Then it builds the network twice from that file: the ordinary way, with
`load_state_dict`, and with headstrip. It compares, bit for bit, all parameters and buffers
(persistent or not), every tensor, array and number in the attributes of modules (also inside
containers and objects), and an embedding for networks with at most 30 million parameters.

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
"""Number of parameters up to which the embeddings are compared too."""

BYTES = 4 * 3
"""Peak memory per parameter: two networks, and the file in the page cache."""


def prove(name: str, folder: Path) -> Proof:
    """Build one architecture both ways from a file, and compare the networks."""
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
        name,
        built.mechanism,
        count,
        "compared" if small else "-",
        "no" if seen else "yes",
        "; ".join(seen[:5]),
        time.perf_counter() - started,
    )


def worker(folder: Path) -> Worker:
    """Return a worker process that keeps its files in a folder."""
    folder.mkdir()
    env = {
        # Workers share the cores, so more threads would only wait for each other.
        "OMP_NUM_THREADS": "1",
        **os.environ,
        # Keep records about temporary files out of the user's cache.
        "HEADSTRIP_CACHE": str(folder / "cache"),
    }
    return Worker(__file__, "--worker", str(folder), env=env)


def work(folder: Path) -> None:
    """Prove the architectures named on stdin. An error counts as a difference."""
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
    """Prove architectures, the smallest first, and those that need much memory one at a time."""
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
    parser.add_argument("patterns", nargs="*", default=["*"], help="shell patterns for source:name")
    parser.add_argument("--seconds", type=float, default=120, help="time limit for one proof")
    parser.add_argument("--gib", type=float, default=12, help="memory for all proofs together")
    parser.add_argument("--minutes", type=float, default=math.inf, help="time limit for all proofs")
    parser.add_argument("--workers", type=int, default=2, help="number of worker processes")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument(
        "--go-on",
        action="store_true",
        help="keep the rows of the file that passed, and prove the others",
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print one row per architecture, and exit with code 1 if one of them differs."""
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
