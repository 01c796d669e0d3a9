"""Measure how long it takes to build a pretrained encoder with headstrip and in other ways.

Each measurement runs in a new process, with the weights file in the page cache and after all
imports. The ways alternate, and the result is the median of the repeats. Quote the ratios. The
script runs only on Linux, because it reads memory from /proc. `build_ways.py` contains the ways.
`build_files.py` writes the weights once, under --folder: 0.3, 1.1, 1, 2.4 and 7.6 GB. --clean
deletes them after each architecture. For vit_h_14, the way "notes" (WBCAtt's code) takes 20 GiB of
memory and minutes. transformers has no vgg16. All ways build vit_h_14 at 518 pixels, the size of
torchvision's default weights.

    python benchmarks/build.py                                    all of it
    python benchmarks/build.py --only resnet50 --repeat 1
    python benchmarks/build.py --ways headstrip timm map --clean
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from build_files import ARCHITECTURES, Architecture, Files, read_record, record, torch_home
from build_table import table
from build_ways import FLOORS, WAYS

HERE = Path(__file__).parent
PROCESSES = 4
"""Number of processes that hold the same encoder at the same time."""

LIMIT = 1800
"""Time limit of one measurement in seconds."""

Seen = dict[str, Any]


class Failed(Exception):
    """A process ended without a result. The message says why."""


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a measurement: separate caches, and no network."""
    return {
        **os.environ,
        "TORCH_HOME": str(torch_home(folder)),
        "HEADSTRIP_CACHE": str(folder / "headstrip"),
        "HEADSTRIP_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore",
    }


def run(script: str, arguments: list[str], folder: Path, given: str = "") -> str:
    """Run one of the two other scripts, and return its output.

    Raises:
        Failed: The script failed, or was killed because of its memory.
    """
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / script), *arguments],
            input=given,
            capture_output=True,
            text=True,
            env=environment(folder),
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"more than {LIMIT} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise Failed(last if done.returncode > 0 else f"killed by signal {-done.returncode}")
    return done.stdout


def files_of(architecture: Architecture, folder: Path) -> Files:
    """Return the files of an architecture. Write them if they do not exist."""
    files = read_record(architecture.name, folder)
    if files is None:
        print(f"writing the weights of {architecture.name} ...", file=sys.stderr)
        run("build_files.py", [architecture.name, str(folder)], folder)
        files = read_record(architecture.name, folder)
    assert files is not None
    return files


def is_there(way: str, files: Files) -> bool:
    """Return whether a way supports the files, and its library is installed."""
    if way == "transformers" and files.transformers is None:
        return False
    return version_of(WAYS[way][1].partition(".")[0]) is not None


def read_once(path: Path) -> None:
    """Read a file, so that it is in the page cache."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 22)
        while file.readinto(buffer):
            pass


def modules_of(way: str, name: str, folder: Path) -> list[str]:
    """Find out which modules a way imports while it builds, in a run that is not measured.

    In this run, headstrip also records the file's hash.
    """
    out = run("build_ways.py", [way, name, str(folder), "scout"], folder)
    modules: list[str] = json.loads(out)["modules"]
    return modules


def measure(
    architecture: Architecture, files: Files, ways: list[str], repeat: int, folder: Path
) -> dict[str, Seen]:
    """Measure all ways of building one architecture, alternately."""
    modules: dict[str, list[str]] = {}
    runs: dict[str, list[Seen]] = {way: [] for way in ways}
    failures: dict[str, Seen] = {}
    for turn in range(repeat):
        for way in ways:
            if way in failures:
                continue
            print(f"{architecture.name} {way} {turn + 1}/{repeat}", file=sys.stderr)
            try:
                if way not in modules:
                    modules[way] = modules_of(way, architecture.name, folder)
                read_once(files.of(way))
                arguments = [way, architecture.name, str(folder), "measure"]
                out = run("build_ways.py", arguments, folder, json.dumps(modules[way]))
                runs[way].append(json.loads(out))
            except Failed as failure:
                failures[way] = {"failed": str(failure)}
    return {way: failures.get(way) or _median(runs[way]) for way in ways}


def _median(runs: list[Seen]) -> Seen:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def shared(way: str, architecture: Architecture, files: Files, folder: Path) -> Seen:
    """Return the proportional memory of several processes that hold the same encoder."""
    if available() < (PROCESSES + 1) * files.of(way).stat().st_size * 1.2 and way != "headstrip":
        return {"failed": f"{PROCESSES} copies would not fit the memory"}
    arguments = [sys.executable, str(HERE / "build_ways.py"), way, architecture.name, str(folder)]
    with contextlib.ExitStack() as stack:
        holders = []
        for _ in range(PROCESSES):
            process = stack.enter_context(
                subprocess.Popen(
                    [*arguments, "hold"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env=environment(folder),
                )
            )
            holders.append(process)
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                return {"failed": "a process ended before it held an encoder"}
        # Leaving the stack closes their stdin, which ends the processes.
        return {
            "pss_bytes": sum(pss(process.pid) for process in holders),
            "file_pss_bytes": sum(pss(process.pid, files.of(way)) for process in holders),
        }


def pss(pid: int, path: Path | None = None) -> int:
    """Return the proportional set size of a process, or of the pages of one mapped file."""
    total, counts = 0, path is None
    source = Path(f"/proc/{pid}/{'smaps' if path else 'smaps_rollup'}")
    wanted = {str(path), str(path.resolve())} if path else set()
    if path:
        # A mapping has the name of the hard link that was opened.
        wanted |= {str(other) for other in path.parent.iterdir() if other.samefile(path)}
    for line in source.read_text(encoding="utf-8").splitlines():
        head, *rest = line.split(maxsplit=5)
        if path and not head.endswith(":"):
            counts = bool(rest) and rest[-1] in wanted
        elif head == "Pss:" and counts:
            total += int(rest[0]) * 1024
    return total


def available() -> int:
    """Return the bytes of memory that are available for new processes."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def version_of(name: str) -> str | None:
    """Return the version of a distribution, None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def machine() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--repeat", type=int, default=3, help="number of runs for the median")
    parser.add_argument("--folder", type=Path, help="keep the weights in this folder")
    parser.add_argument(
        "--clean", action="store_true", help="delete the weights after each architecture"
    )
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print the table, and write the JSON."""
    options = parse()
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("This benchmark reads memory from /proc. Run it on Linux.")
    folder = (options.folder or Path(tempfile.gettempdir()) / "headstrip-build").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    result: Seen = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "cores": os.cpu_count(),
        "versions": {
            name: version_of(name)
            for name in ("headstrip", "torch", "torchvision", "timm", "transformers", "safetensors")
        },
        "repeat": options.repeat,
        "architectures": {},
    }
    for name in options.only:
        architecture, files = ARCHITECTURES[name], files_of(ARCHITECTURES[name], folder)
        ways = [way for way in options.ways if is_there(way, files)]
        seen = measure(architecture, files, ways, options.repeat, folder)
        for way in ("headstrip", "torchvision"):
            if way in ways and "failed" not in seen[way]:
                seen[way]["shared"] = shared(way, architecture, files, folder)
        sizes = {way: files.of(way).stat().st_size for way in ways if way not in FLOORS}
        result["architectures"][name] = {"file_bytes": sizes, "ways": seen}
        if options.clean:
            files.remove()
            record(name, folder).unlink()
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result["architectures"]))


if __name__ == "__main__":
    main()
