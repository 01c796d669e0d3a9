"""The tools that prove many architectures report each one, even if a proof crashes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"

TOOL = """
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
sys.path.insert(0, {tools!r})
from proving import ProofTool
from headstrip import BackboneSpec

@dataclass
class Proof:
    name: str
    problems: list = field(default_factory=list)

def prove(name):
    if name.endswith("bad"):
        raise ValueError("no such layer")
    if name.endswith("long"):
        time.sleep(3)
    return Proof(name)

def spec(name):
    return BackboneSpec(name, "lab", "lab:lab", "lab", "image", (3, 8, 8), 1, 1)

ProofTool(
    file=__file__,
    description="",
    kind=Proof,
    prove=prove,
    subjects=lambda: [spec("bad"), spec("good"), spec("long")],
    line=lambda proof: "",
    page=lambda results: str(results),
    results=Path("results.json"),
    page_path=Path("page.md"),
    bytes_each=1,
    seconds=60,
    gib=1,
).run()
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the tool in an empty folder."""
    script = tmp_path / "tool.py"
    script.write_text(TOOL.format(tools=str(TOOLS)))

    def ran(*arguments):
        command = [sys.executable, script, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    return ran


@pytest.mark.slow
def test_a_crashed_proof_fails_and_the_next_one_runs(run):
    ran = run("bad", "good")
    assert ran.stdout.splitlines() == ["lab:bad:  ValueError: no such layer", "lab:good:  passed"]
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr


@pytest.mark.slow
def test_a_proof_that_takes_too_long_is_repeated_only_with_more_time(run, tmp_path):
    def slow():
        return json.loads((tmp_path / "results.json").read_text())["slow"]

    assert run("long", "--write", "--seconds", "1").stdout == (
        "lab:long: not run: it takes more than 1 s or too much memory\n"
    )
    assert slow() == {"lab:long": 1}
    assert run("long", "--write", "--seconds", "1").stdout == ""
    assert run("long", "--write", "--seconds", "60").stdout == "lab:long:  passed\n"
    assert slow() == {}
