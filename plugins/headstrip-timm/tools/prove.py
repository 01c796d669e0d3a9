"""Prove with real forward passes that timm's architectures lose nothing with their head.

Each architecture goes through two checks of the conformance kit, ``lossless`` and ``width``. The
kit builds two networks, perturbs every parameter and running statistic of one, loads its state dict
into the other, removes the head of the other, and compares the logits from the embedding with those
of the untouched network. Networks that need too much memory or time get a row with the reason.

    python plugins/headstrip-timm/tools/prove.py                     every architecture
    python plugins/headstrip-timm/tools/prove.py 'vit_*' --seconds 60 --gib 20
    python plugins/headstrip-timm/tools/prove.py --markdown PAGE --minutes 60
    python plugins/headstrip-timm/tools/prove.py --markdown PAGE --go-on

PAGE is docs/reference/timm-proofs.md.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from proving import OVER, Worker, answer, ask_all

from headstrip import BackboneSpec
from headstrip.plugin_api import format_shape
from headstrip.registry.registry import get_registry
from headstrip.system.atomic import write_atomically

SOURCE = "timm"
DOCUMENT = """\
# timm, architecture by architecture

This page is for readers who want to check that headstrip loses nothing with a timm head. `python
plugins/headstrip-timm/tools/prove.py --markdown docs/reference/timm-proofs.md` writes it. The tool
builds each network twice, in real memory. It perturbs every parameter and running statistic of
one, loads its state dict into the other, and takes the head off the other. Then it compares what
the head fidelity (column `law`) promises, on real forward passes of three inputs on the CPU.
`exact`: the logits, bit for bit. `rounding`: the logits, within 1e-6 of the largest one.
`declared` and `headless`: the embedding, bit for bit, with the plugin's `reference` hook or with
the untouched network's output. Networks that take any input size are compared at 128 pixels.

Made on {date} with timm {timm} and torch {torch}, within {seconds} s and {gib} GiB each.

| head fidelity (`law`) | passed | failed | not run |
|---|---|---|---|
{counts}

| architecture | width | `law` | input of the comparison | lossless |
|---|---|---|---|---|
{table}
"""
BYTES = 2 * 4 * 1.25
"""Peak memory of a proof per parameter: two float32 networks, and activations."""


@dataclass(frozen=True)
class Proof:
    """The result for one architecture.

    Attributes:
        name: The architecture.
        dim: Width that the catalog claims.
        law: Head fidelity that strip_head states.
        input: Input of the comparison.
        outcome: ``yes``, ``no``, or why it was not run.
        seen: What the kit saw.
        seconds: Duration.
    """

    name: str
    dim: int
    law: str
    input: str
    outcome: str
    seen: str
    seconds: float


def prove(spec: BackboneSpec) -> Proof:
    """Run both checks on one architecture, in this process."""
    from headstrip.testing.subject import Subject
    from headstrip.testing.suite import run_check

    subject = Subject(get_registry(), spec, "real")
    results = [run_check(subject, name) for name in ("lossless", "width")]
    failed = [result.seen for result in results if result.status != "passed"]
    made = subject.made
    law = made["pair"].stripped.law if hasattr(made.get("pair"), "stripped") else spec.law
    shape = made["pair"].shape if hasattr(made.get("pair"), "shape") else spec.input_shape
    return Proof(
        spec.name,
        spec.dim,
        law,
        format_shape(shape),
        "no" if failed else "yes",
        "; ".join(failed) or results[0].seen,
        sum(result.seconds for result in results),
    )


def not_run(spec: BackboneSpec, reason: str) -> Proof:
    """Return the row of an architecture that was not run, with the reason."""
    return Proof(spec.name, spec.dim, spec.law, "-", f"not run: {reason}", "", 0)


def work() -> None:
    """Prove the architectures named on stdin."""
    import timm  # noqa: F401  (imported before the first proof is timed)

    import headstrip.testing.suite  # noqa: F401

    answer(lambda name: prove(get_registry().resolve(f"{SOURCE}:{name}")[0]))


def prove_all(
    specs: list[BackboneSpec], seconds: float, gib: float, workers: int, end: float
) -> Iterator[Proof]:
    """Prove architectures, the smallest first, and those that need much memory one at a time."""
    processes = [Worker(__file__, "--worker") for _ in range(workers)]
    limits = (seconds, gib, end)
    for spec, found in ask_all(specs, processes, lambda spec: spec.name, BYTES, limits):
        yield not_run(spec, found) if isinstance(found, str) else Proof(**found)


def proven(path: Path) -> dict[str, Proof]:
    """Read the rows that passed from a table, by architecture. The file may be missing."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\w+) \| (\S+) \| yes \|$", text, re.MULTILINE)
    return {name: Proof(name, int(dim), law, shape, "yes", "", 0) for name, dim, law, shape in rows}


def markdown(proofs: list[Proof], seconds: float, gib: float) -> str:
    """Return the document with the table."""
    versions = {name: metadata.version(name) for name in ("timm", "torch")}
    counts = Counter((proof.law, proof.outcome.partition(":")[0]) for proof in proofs)
    laws = sorted({law for law, _ in counts})
    rows = [
        f"| {law} | {counts[law, 'yes']} | {counts[law, 'no']} | {counts[law, 'not run']} |"
        for law in laws
    ]
    table = [
        f"| `{proof.name}` | {proof.dim} | {proof.law} | {proof.input} | {proof.outcome} |"
        for proof in sorted(proofs, key=lambda proof: proof.name)
    ]
    return DOCUMENT.format(
        date=datetime.date.today(),
        timm=versions["timm"],
        torch=versions["torch"].partition("+")[0],
        seconds=f"{seconds:g}",
        gib=f"{gib:g}",
        counts="\n".join(rows),
        table="\n".join(table),
    )


def main() -> None:
    """Print one row per architecture, and exit with code 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--seconds", type=float, default=60, help="time limit for one proof")
    parser.add_argument("--gib", type=float, default=20, help="memory for all proofs together")
    parser.add_argument("--minutes", type=float, default=math.inf, help="time limit for all proofs")
    parser.add_argument("--workers", type=int, default=2, help="number of worker processes")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument(
        "--go-on",
        action="store_true",
        help="keep the rows of the file that passed, and prove the others",
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work()
        return
    specs = sorted(
        (
            spec
            for spec in get_registry().specs()
            if spec.source == SOURCE
            and any(fnmatch.fnmatch(spec.name, pattern) for pattern in arguments.patterns)
        ),
        key=lambda spec: spec.params,
    )
    kept = proven(arguments.markdown) if arguments.go_on else {}
    proofs = [kept[spec.name] for spec in specs if spec.name in kept]
    specs = [spec for spec in specs if spec.name not in kept]
    end = time.monotonic() + arguments.minutes * 60
    waiting = {spec.name: spec for spec in specs}

    def save() -> None:
        if arguments.markdown:
            rest = [not_run(spec, OVER) for spec in waiting.values()]
            text = markdown([*proofs, *rest], arguments.seconds, arguments.gib)
            write_atomically(arguments.markdown.resolve(), text.encode())

    for proof in prove_all(specs, arguments.seconds, arguments.gib, arguments.workers, end):
        proofs.append(proof)
        del waiting[proof.name]
        save()
        outcome = proof.outcome if proof.outcome != "no" else f"no: {proof.seen}"
        print(
            f"{proof.name:44} {proof.dim:5} {proof.law:9} {proof.input:>10} "
            f"{proof.seconds:5.1f} s  {outcome}",
            flush=True,
        )
    print(Counter((proof.law, proof.outcome.partition(":")[0]) for proof in proofs))
    save()
    raise SystemExit(1 if any(proof.outcome == "no" for proof in proofs) else 0)


if __name__ == "__main__":
    main()
