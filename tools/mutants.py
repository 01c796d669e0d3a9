"""Change headstrip's code in small ways, one at a time, and count what the tests notice.

mutmut makes the changes ("mutants"), such as `<` instead of `<=`. The tests kill a mutant if one
of them fails. Each area has a few files, and only the tests of these files run, so that the time is
bounded. The script writes a table with the numbers of each area, and with every mutant that no test
killed and the reason why that is all right, if it is known. It keeps the reasons that the table
already has. It fails if an area has less than 90 % killed and a survivor without a reason.

    python tools/mutants.py                       all areas
    python tools/mutants.py registry manifest     some; the others keep their rows
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from faults import COPIED, ROOT

TABLE = ROOT / "benchmarks" / "mutants.json"
MINUTES = 30
"""Minutes after which the script gives an area up."""
NEEDED = 0.9
"""Share of the mutants that the tests of an area must kill, if a survivor has no reason."""
KILLED = (1, 3, -24, 24, 36, 152, 255)
"""Exit codes of mutmut's workers for a failing test and for a run that takes far too long."""
# What mutmut copies in addition to `src` and `tests`; the tests read these files.
NEEDED_BY_TESTS = [name for name in COPIED if name not in {"src", "tests", "pyproject.toml"}]


@dataclass(frozen=True)
class Area:
    """Files to change, and the tests that must notice.

    Attributes:
        files: Paths from ``src/headstrip``.
        tests: Paths of the tests.
        without: Tests that do not run, by a part of their names: those that take seconds, and those
            that need the calls of the unchanged code.
    """

    files: tuple[str, ...]
    tests: tuple[str, ...]
    without: tuple[str, ...] = ()


AREAS = {
    "registry": Area(
        ("registry/registry.py",),
        (
            "tests/registry/test_registry.py",
            "tests/registry/test_claims.py",
            "tests/registry/test_live.py",
            "tests/registry/test_weights.py",
        ),
        ("load_no_plugin",),
    ),
    "manifest": Area(
        ("encoder/manifest.py",),
        (
            "tests/encoder/test_manifest_fields.py",
            "tests/encoder/test_manifest_comparison.py",
        ),
        ("line_of_the_caller",),
    ),
    "width": Area(
        ("network/width.py", "network/head_check.py"),
        (
            "tests/network/test_widths.py",
            "tests/network/test_unchanged_by_probing.py",
            "tests/network/test_head_check.py",
        ),
        ("the_probed_width_is", "large_network", "network_of_torchvision"),
    ),
    "plan": Area(
        ("embed/plan.py",), ("tests/embed/test_earlier_rows.py", "tests/embed/test_plan.py")
    ),
    "merging": Area(
        ("embed/output/merging.py",),
        ("tests/embed/output/test_merged_rows.py", "tests/embed/output/test_merging.py"),
        ("full_at_any_call",),
    ),
    "trust": Area(
        ("weights/trust.py",),
        ("tests/weights/test_expected_bytes.py", "tests/weights/test_trust.py"),
        (
            "published_files",
            "processes",
            "process_died",
            "whichever_write",
            "threads_can_read",
            "recorded_file_is_not",
            "new_time_or_size",
            "new_modification_time",
            "same_time",
            "silently_changed",
            "damaged_record",
            "invalid_value",
            "whole_file_from",
            "digits_of_a_hash",
        ),
    ),
}


def configuration(area: Area) -> str:
    """Return the section for mutmut that a copy's ``pyproject.toml`` gets."""
    skipped = " and ".join(f"not {name}" for name in area.without)
    settings: dict[str, Any] = {
        "source_paths": ["src"],
        "only_mutate": [f"src/headstrip/{file}" for file in area.files],
        "also_copy": NEEDED_BY_TESTS,
        "pytest_add_cli_args": [
            *("-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore"),
            # It collects garbage after each run, which takes longer than most tests.
            *("-p", "no:unraisableexception"),
            # It parses the mutated files, which are long, for constants to test with.
            *("-p", "no:hypothesispytest"),
            # Each mutant runs in a fork of one process, which imports torchvision once.
            *("-p", "torchvision.models"),
            *(("-k", skipped) if skipped else ()),
        ],
        "pytest_add_cli_args_test_selection": list(area.tests),
        # torch cannot be forked after it has started threads.
        "process_isolation": "forkserver",
        # A minute for a test that takes no time, because the machine may be busy.
        "timeout_constant": 4.0,
    }
    # Lists and strings are written alike in JSON and TOML.
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join(["", "[tool.mutmut]", *lines, ""])


def copy_with(area: Area, folder: Path) -> None:
    """Copy headstrip with its tests into a folder, with the configuration of an area."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "dist", "*.egg-info")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copyfile(ROOT / name, folder / name)
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write(configuration(area))


def mutmut(folder: Path, *arguments: str, capture: bool = False) -> str:
    """Run mutmut in a folder, and return what it printed where that is captured."""
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        text=True,
        timeout=60 * MINUTES,
        stdout=subprocess.PIPE if capture else None,
    )
    return done.stdout or ""


def change_of(folder: Path, mutant: str) -> list[str]:
    """Return the lines of a mutant's diff, removed ones with ``-`` and added ones with ``+``."""
    lines = mutmut(folder, "show", mutant, capture=True).splitlines()
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in {"+++", "---"}]
    return [f"{line[0]} {line[1:].strip()}" for line in changed]


def measure(area: Area, folder: Path) -> dict[str, Any]:
    """Run the mutants of an area, and return its numbers and survivors."""
    copy_with(area, folder)
    mutmut(folder, "run", "--max-children", "1")
    return result_in(folder, area)


def result_in(folder: Path, area: Area) -> dict[str, Any]:
    """Return the numbers and survivors of the run in a folder."""
    codes: dict[str, int] = {}
    for file in area.files:
        meta = folder / "mutants" / "src" / "headstrip" / f"{file}.meta"
        codes.update(json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"])
    survivors = [
        {
            "function": mutant.rpartition("__mutmut_")[0].replace("ǁ", ".").replace(".x_", "."),
            "change": change_of(folder, mutant),
            "reason": "",
        }
        for mutant, code in sorted(codes.items())
        if code not in KILLED
    ]
    return {
        "files": list(area.files),
        "mutants": len(codes),
        "killed": len(codes) - len(survivors),
        "survived": len(survivors),
        "survivors": survivors,
    }


def put(area: str, row: dict[str, Any]) -> None:
    """Put the row of an area into the table, with the reasons that the table already has."""
    table = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {"areas": {}}
    known = {
        (one["function"], *one["change"]): one["reason"]
        for one in table["areas"].get(area, {}).get("survivors", [])
    }
    for one in row["survivors"]:
        one["reason"] = known.get((one["function"], *one["change"]), "")
    table["mutmut"] = version("mutmut")
    areas = {**table["areas"], area: row}
    table["areas"] = {name: areas[name] for name in AREAS if name in areas}
    text = json.dumps(table, indent=1, ensure_ascii=False)
    TABLE.write_text(text + "\n", encoding="utf-8")


def main() -> int:
    """Measure areas, and return 1 if one of them falls short of what is needed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"measure {', '.join(AREAS)}")
    wanted = parser.parse_args().areas or list(AREAS)
    if unknown := set(wanted) - set(AREAS):
        parser.error(f"There is no area {', '.join(unknown)}. There are {', '.join(AREAS)}.")
    failed = False
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="headstrip-mutants-") as folder:
            row = measure(AREAS[name], Path(folder))
        put(name, row)
        share = row["killed"] / row["mutants"]
        unexplained = [one for one in row["survivors"] if not one["reason"]]
        print(
            f"\n{name}: {row['killed']} of {row['mutants']} killed ({share:.1%}), "
            f"{len(unexplained)} survivors without a reason"
        )
        failed |= bool(unexplained) and share < NEEDED
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
