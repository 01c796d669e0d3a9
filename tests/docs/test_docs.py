"""Run every example in README and docs, and compare its output."""

import doctest
import importlib.util
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from tests import warm
from tests.authoring.environment import Environment

from headstrip.registry.registry import use_registry

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
INDEX = ROOT / "docs" / "index.md"
DOCUMENTS = [ROOT / "README.md", *PAGES]
FENCE = re.compile(r"^```(\w*)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_ELSEWHERE = {"sh", "text"}
QUOTED = {"py": "**/*.py", "toml": "**/pyproject.toml"}
# A block of Python that runs only where a package is installed: `python needs=polars`.
NEEDS = "needs="
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
LIBRARIES = {
    "fine-tune-with-lightning.md": "pytorch_lightning",
    "fine-tune-with-lora.md": "peft",
    "score-with-mteb.md": "mteb",
}
"""Libraries that a document needs and that may be missing; the extra ``dev`` lacks only mteb."""

LONG = {
    "cli.md",
    "compare-backbones.md",
    "fine-tune-with-lightning.md",
    "fine-tune-with-lora.md",
    "fit-predictors.md",
    "fix-a-plugin.md",
    "save-an-encoder.md",
    "search-embeddings.md",
    "test-a-plugin.md",
    "use-wbcatt-files.md",
    "write-a-plugin.md",
    "write-an-engine.md",
}
"""Documents that take longer than five seconds, and are slow tests."""


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A working folder with real photographs, without access to the user's cache."""
    from skimage import data
    from skimage.io import imsave

    (tmp_path / "photos").mkdir()
    imsave(tmp_path / "photos" / "cat.png", data.chelsea())
    imsave(tmp_path / "photos" / "coffee.png", data.coffee())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    # Another document may have registered a plugin in this process.
    use_registry(None)
    state = torch.get_rng_state()
    yield tmp_path
    use_registry(None)
    torch.set_rng_state(state)
    torch.use_deterministic_algorithms(False)


def blocks(path):
    """Return the language, path and text of each block; the path names a file to write."""
    return FENCE.findall(path.read_text(encoding="utf-8"))


def _marked(path):
    marks = pytest.mark.slow if path.name in LONG else ()
    return pytest.param(path, id=str(path.relative_to(ROOT)), marks=marks)


@pytest.mark.parametrize("document", [_marked(path) for path in DOCUMENTS])
def test_the_examples_of_a_document_give_the_output_that_it_shows(document, photos):
    if document.name in LIBRARIES and find_spec(LIBRARIES[document.name]) is None:
        pytest.skip(f"{LIBRARIES[document.name]} is not installed")
    names, terminal = {}, Terminal(photos)
    for language, path, body in blocks(document):
        if path.startswith(NEEDS):
            if importlib.util.find_spec(path.removeprefix(NEEDS)):
                check_python(document.name, body, names)
        elif path:
            (photos / path).parent.mkdir(parents=True, exist_ok=True)
            (photos / path).write_text(body, encoding="utf-8")
        elif language == "python":
            check_python(document.name, body, names)
        elif language == "console":
            check_console(body, terminal)
        elif language in QUOTED:
            check_quoted(document.name, body, QUOTED[language])
        elif language == "yaml":
            assert yaml.safe_load(body), f"{document.name} has a block of YAML with nothing in it"
        else:
            assert language in RUN_ELSEWHERE, f"{document.name} has a block of {language!r}"


def check_quoted(name, body, pattern):
    files = (ROOT / "plugins" / "headstrip-example").glob(pattern)
    assert any(body in file.read_text(encoding="utf-8") for file in files), (
        f"{name} quotes what no file of the example has:\n{body}"
    )


def check_python(name, body, names):
    test = doctest.DocTestParser().get_doctest(body, names, name, name, 0)
    assert test.examples, f"{name} has a block of Python with no example in it:\n{body}"
    report = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    failures, _ = runner.run(test, out=report.append, clear_globs=False)
    names.update(test.globs)
    assert not failures, "".join(report)


class Terminal:
    """Runs the commands of a document in its folder, with everything that they installed before."""

    def __init__(self, folder):
        self.folder, self.environment = folder, None

    def run(self, program, *arguments):
        if program == "pip":
            self.environment = self.environment or Environment.make(self.folder / "environment")
            return self.environment.pip(*arguments, cwd=self.folder)
        start = {"headstrip": ["-m", "headstrip.cli"], "python": []}[program]
        prefix = self.environment.folder if self.environment else None
        return warm.run(*start, *arguments, cwd=self.folder, prefix=prefix)


def check_console(body, terminal):
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", body, re.MULTILINE):
        ran = terminal.run(*shlex.split(command))
        assert ran.returncode == 0, ran.stderr
        checker = doctest.OutputChecker()
        assert checker.check_output(expected, ran.stdout, FLAGS), (
            f"$ {command}\n{ran.stdout}\nand the document says\n{expected}"
        )


PUBLIC = {
    "headstrip",
    "headstrip.compat.mteb",
    "headstrip.compat.wbcatt",
    "headstrip.testing",
    "headstrip.plugin_api",
}


def test_documents_import_only_public_names():
    readmes = [*DOCUMENTS, *ROOT.glob("plugins/*/README.md"), ROOT / "README.md"]
    for document in readmes:
        text = document.read_text(encoding="utf-8")
        deep = re.findall(r"^(?:>>> |\.\.\. )?\s*import (headstrip\.[\w.]+)", text, re.MULTILINE)
        assert set(deep) <= PUBLIC, f"{document.name} imports {deep}"
        for module, names in re.findall(
            r"^(?:>>> |\.\.\. )?\s*from (headstrip[\w.]*) import (.+)$", text, re.MULTILINE
        ):
            if module.startswith("headstrip_"):
                continue
            assert module in PUBLIC, f"{document.name} imports {names} from {module}"
            public = importlib.import_module(module).__all__
            for name in names.strip("()").split(","):
                assert name.strip() in public, f"{document.name} imports {name} from {module}"


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_the_page_of_public_names_lists_every_name_of_a_module(module):
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {re.escape(module)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    names = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(names) == sorted(importlib.import_module(module).__all__)


LINKED = (*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
LINK = re.compile(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)")


def anchors(text):
    """Return what links may point to in a page: each heading, as GitHub writes it."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_or_a_heading_works(document):
    for target, anchor in LINK.findall(FENCE.sub("", document.read_text(encoding="utf-8"))):
        file = document.parent / target if target else document
        assert file.exists(), f"{document.name} links to {target}"
        if anchor:
            headings = anchors(file.read_text(encoding="utf-8"))
            assert anchor in headings, f"{document.name} links to #{anchor} of {file.name}"


@pytest.mark.parametrize("document", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_starts_with_its_audience_and_is_in_the_index(document):
    text = document.read_text(encoding="utf-8")
    assert re.match(r"# .+\n\nThis (page|guide|tutorial) is for ", text)
    if document != INDEX:
        links = [target for target, _ in LINK.findall(INDEX.read_text(encoding="utf-8"))]
        assert str(document.relative_to(INDEX.parent)) in links


def test_contributing_quotes_the_real_source_of_a_family():
    (quoted,) = [body for kind, _, body in blocks(ROOT / "CONTRIBUTING.md") if kind == "python"]
    assert quoted == (ROOT / "src/headstrip/families/vgg.py").read_text(encoding="utf-8")


def test_the_table_of_proofs_has_every_architecture():
    from headstrip.registry.registry import get_registry

    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| \w+ \| [\dx]+ \| (yes|no) \|$",
        (ROOT / "docs/reference/lossless.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    catalog = {s.name: str(s.dim) for s in get_registry().specs() if s.source == "torchvision"}
    assert {name: dim for name, dim, _ in rows} == catalog
    assert {lossless for *_, lossless in rows} == {"yes"}


def test_the_table_of_timms_proofs_has_every_architecture_and_no_failure():
    from headstrip.registry.registry import get_registry

    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| (\w+) \| [\dx-]+ \| (yes|no|not run: .*) \|$",
        (ROOT / "docs/reference/timm-proofs.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    catalog = {s.name: (str(s.dim), s.law) for s in get_registry().specs() if s.source == "timm"}
    assert {name: (dim, law) for name, dim, law, _ in rows} == catalog
    assert "no" not in {outcome for *_, outcome in rows}
    assert sum(outcome == "yes" for *_, outcome in rows) >= 300


def test_the_make_targets_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for language, _, body in blocks(ROOT / "README.md"):
        for target in re.findall(r"^make (\w+)", body, re.MULTILINE) if language == "sh" else ():
            assert re.search(rf"^{target}:", makefile, re.MULTILINE)


ROOTS = ("src", "tests", "tools", "docs", "plugins", "benchmarks")


def test_every_path_that_contributing_names_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(rf"`((?:{'|'.join(ROOTS)})/[\w./-]+)`", text)
    assert len(paths) > 60
    assert [path for path in paths if not (ROOT / path).exists()] == []
