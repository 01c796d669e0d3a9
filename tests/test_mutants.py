"""The committed table of mutants: enough are killed, or each survivor has a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
AREAS: dict[str, dict[str, Any]] = json.loads(
    (ROOT / "benchmarks" / "mutants.json").read_text(encoding="utf-8")
)["areas"]


@pytest.mark.parametrize("area", AREAS)
def test_the_tests_of_an_area_kill_nine_of_ten_mutants_or_survivors_have_reasons(area: str) -> None:
    row = AREAS[area]
    assert row["killed"] + row["survived"] == row["mutants"]
    assert row["survived"] == len(row["survivors"])
    unexplained = [one for one in row["survivors"] if not one["reason"].endswith(".")]
    assert row["killed"] >= 0.9 * row["mutants"] or not unexplained


def test_the_files_of_each_area_exist() -> None:
    for row in AREAS.values():
        for file in row["files"]:
            assert (ROOT / "src" / "headstrip" / file).is_file()
