"""Everything that README and docs show is run, and prints what they say."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_ELSEWHERE = {"sh", "text"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A working folder with real photographs in it, and the user's cache out of reach."""
    from skimage import data
    from skimage.io import imsave

    (tmp_path / "photos").mkdir()
    imsave(tmp_path / "photos" / "cat.png", data.chelsea())
    imsave(tmp_path / "photos" / "coffee.png", data.coffee())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    state = torch.get_rng_state()
    yield tmp_path
    torch.set_rng_state(state)
    torch.use_deterministic_algorithms(False)


def blocks(path):
    return FENCE.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_shows_is_true(document, photos):
    names = {}
    for language, body in blocks(document):
        if language == "python":
            check_python(document.name, body, names)
        elif language == "console":
            check_console(body)
        else:
            assert language in RUN_ELSEWHERE, f"{document.name} has a block of {language!r}"


def check_python(name, body, names):
    test = doctest.DocTestParser().get_doctest(body, names, name, name, 0)
    assert test.examples, f"{name} has a block of Python with no example in it:\n{body}"
    report = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    failures, _ = runner.run(test, out=report.append, clear_globs=False)
    names.update(test.globs)
    assert not failures, "".join(report)


def check_console(body):
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", body, re.MULTILINE):
        program, *arguments = shlex.split(command)
        assert program == "headstrip"
        ran = subprocess.run(
            [sys.executable, "-m", "headstrip.cli", *arguments],
            capture_output=True,
            text=True,
            env=os.environ,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        checker = doctest.OutputChecker()
        assert checker.check_output(expected, ran.stdout, FLAGS), (
            f"$ {command}\n{ran.stdout}\nand the document says\n{expected}"
        )


def test_every_link_to_a_file_leads_to_one():
    for document in (*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_family_that_contributing_quotes_is_the_real_one():
    quoted = dict(blocks(ROOT / "CONTRIBUTING.md"))["python"]
    assert quoted == (ROOT / "src/headstrip/families/vgg.py").read_text(encoding="utf-8")


def test_the_table_of_proofs_has_every_architecture():
    from headstrip.registry import get_registry

    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| \w+ \| [\dx]+ \| (yes|no) \|$",
        (ROOT / "docs/lossless.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    catalog = {s.name: str(s.dim) for s in get_registry().specs() if s.source == "torchvision"}
    assert {name: dim for name, dim, _ in rows} == catalog
    assert {lossless for *_, lossless in rows} == {"yes"}


def test_the_make_targets_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for language, body in blocks(ROOT / "README.md"):
        for target in re.findall(r"^make (\w+)", body, re.MULTILINE) if language == "sh" else ():
            assert re.search(rf"^{target}:", makefile, re.MULTILINE)
