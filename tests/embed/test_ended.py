"""Runs that end early, at any moment, can be resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.failing import DIED

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")

ROOT = Path(__file__).parents[2]

FEWEST = {False: 30, True: 20}
"""The least number of runs that end early; with maps only every third call ends one."""


def runs(folder: Path, kind: str) -> list[dict[str, Any]]:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.embed.ended", str(folder), kind],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    found: list[dict[str, Any]] = json.loads(ended.stdout)
    return found


def check_resumed(run: dict[str, Any]) -> None:
    assert run["whole"], run
    assert run["left"] in (
        [],
        ["out.parquet"],
        ["out.parquet.parts"],
        ["out.parquet", "out.parquet.parts"],
    ), run
    assert (run["again"], run["again_message"]) == (0, ""), run
    assert run["equal"], run
    assert run["after"] == ["out.parquet"], run


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["died", "maps-died"])
def test_a_run_can_be_resumed_after_its_process_died_at_any_call(tmp_path: Path, kind: str) -> None:
    *ended, last = runs(tmp_path, kind)
    assert len(ended) > FEWEST[kind.startswith("maps-")]
    assert {run["code"] for run in ended} == {DIED}
    assert last["code"] == 0
    for run in [*ended, last]:
        check_resumed(run)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["failed", "maps-failed"])
def test_a_failing_call_is_reported_and_the_run_can_be_resumed(tmp_path: Path, kind: str) -> None:
    *failed, last = runs(tmp_path, kind)
    assert len(failed) > FEWEST[kind.startswith("maps-")]
    assert last["code"] == 0
    for run in [*failed, last]:
        # A call that is not needed may fail: the run completes then.
        assert run["code"] == 3 or run["message"].startswith("HeadstripError: ") or run is last, run
        check_resumed(run)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["killed", "maps-killed"])
def test_a_run_killed_25_times_writes_the_file_of_an_uninterrupted_run(
    tmp_path: Path, kind: str
) -> None:
    *killed, last = runs(tmp_path, kind)
    assert {run["code"] for run in killed} <= {-9, 0}
    shards = [run["shards"] for run in killed if run["code"] == -9]
    assert shards == sorted(shards)
    check_resumed(last)


@pytest.mark.slow
def test_a_run_interrupted_at_any_moment_ends_and_can_be_resumed(tmp_path: Path) -> None:
    interrupted = runs(tmp_path, "interrupted")
    codes = [run["code"] for run in interrupted]
    assert set(codes) <= {0, 130}, [run for run in interrupted if run["code"] not in {0, 130}]
    assert 130 in codes
    for run in interrupted:
        check_resumed(run)


@pytest.mark.slow
def test_a_measurement_that_is_interrupted_at_any_moment_ends(tmp_path: Path) -> None:
    assert {run["code"] for run in runs(tmp_path, "measured")} == {130}
