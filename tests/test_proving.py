"""The tools that prove many architectures report each one, also where a proof crashes."""

import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[1] / "tools"

TOOL = """
import sys
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
    return Proof(name)

def spec(name):
    return BackboneSpec(name, "lab", "lab:lab", "lab", "image", (3, 8, 8), 1, 1)

ProofTool(
    file=__file__,
    description="",
    kind=Proof,
    prove=prove,
    subjects=lambda: [spec("bad"), spec("good")],
    line=lambda proof: "",
    page=None,
    results=Path(),
    page_path=Path(),
    bytes_each=1,
    seconds=60,
    gib=1,
).run()
"""


def test_a_proof_that_crashes_fails_and_the_next_one_runs(tmp_path):
    script = tmp_path / "tool.py"
    script.write_text(TOOL.format(tools=str(TOOLS)))
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines() == ["lab:bad:  ValueError: no such layer", "lab:good:  passed"]
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr
