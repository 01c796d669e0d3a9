"""A forked process runs a program like a new process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests import warm

PROGRAM = (
    "import os, pickle, sys\n"
    "class Own: pass\n"
    "pickle.loads(pickle.dumps(Own()))\n"
    "print(__name__, sys.argv, sys.path[:2], os.getcwd(), os.environ.get('NAME'), input())\n"
    "print('to stderr', file=sys.stderr)\n"
    "assert 'HEADSTRIP_CACHE' not in os.environ\n"
    "sys.exit(3)\n"
)


@pytest.mark.parametrize("kind", ["-c", "-m", "script"])
def test_a_forked_program_has_the_arguments_paths_and_streams_of_a_new_one(
    kind: str, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    program = {
        "-c": ["-c", PROGRAM],
        "-m": ["-m", "program"],
        "script": [str(tmp_path / "program.py")],
    }[kind]
    variables = {
        "PATH": os.environ["PATH"],
        "NAME": "value",
        "PYTHONPATH": str(tmp_path / "packages"),
    }
    ran = warm.run(*program, "a", "b", cwd=tmp_path, environment=variables, stdin="line\n")
    new = subprocess.run(
        [sys.executable, *program, "a", "b"],
        cwd=tmp_path,
        env=variables,
        input="line\n",
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, new.stdout, "to stderr\n")


def test_a_program_does_not_affect_the_next_one(tmp_path: Path) -> None:
    changes = (
        "import os, sys, headstrip, torch\n"
        "os.environ['NAME'] = 'x'; os.chdir('/'); sys.path.clear()\n"
        "torch.manual_seed(1); torch.use_deterministic_algorithms(True); headstrip.own = 1\n"
    )
    state = (
        "import os, headstrip, torch\n"
        "print(os.environ.get('NAME'), os.getcwd(), torch.initial_seed(),\n"
        "      torch.are_deterministic_algorithms_enabled(), hasattr(headstrip, 'own'))\n"
    )
    before = warm.run("-c", state, cwd=tmp_path)
    assert warm.run("-c", changes, cwd=tmp_path).returncode == 0
    assert before.returncode == 0
    assert warm.run("-c", state, cwd=tmp_path).stdout == before.stdout


def test_errors_and_signals_of_the_program_are_reported() -> None:
    failed = warm.run("-c", "raise ValueError('no')")
    assert failed.returncode == 1
    assert failed.stderr.endswith("ValueError: no\n")
    assert warm.run("-c", "import os; os.kill(os.getpid(), 9)").returncode == -9
