"""The published distributions: their files, and a description without dead links."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path
from types import ModuleType

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
IDS = [path.name if path != ROOT else "headstrip" for path in FOLDERS]


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """Load the module that turns README.md into the description."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def links_in(markdown: str) -> list[str]:
    """Return where the links and images of a text lead, as an index renders it."""
    html = MarkdownIt().render(markdown)
    return re.findall(r'(?:href|src)="([^"]*)"', html)


def dead_links_in(markdown: str) -> list[str]:
    return [link for link in links_in(markdown) if not re.match(r"https?://|#", link)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("See [the pages](docs/x.md#a-part).", "See the pages (`docs/x.md`)."),
        ("See [docs/x.md](docs/x.md).", "See `docs/x.md`."),
        ("See [`docs/x.md`](docs/x.md).", "See `docs/x.md`."),
        ("See [two\nlines](docs/x.md).", "See two\nlines (`docs/x.md`)."),
        ("See [its plugin](plugins/headstrip-x/README.md).", "See its plugin (`headstrip-x`)."),
        ("See [there](https://example.org/x.md) and [here](#start).", None),
        ("```python\na[0](b)\n[x](y.md)\n```\n", None),
    ],
)
def test_a_link_to_a_file_becomes_its_name(hook: ModuleType, before: str, after: str) -> None:
    assert hook.without_relative_links(before) == (before if after is None else after)


def test_the_description_of_headstrip_has_no_dead_link(hook: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert dead_links_in(readme)
    assert dead_links_in(hook.without_relative_links(readme)) == []
    assert "https://github.com/apple2373/wbcatt" in links_in(hook.without_relative_links(readme))


@pytest.mark.parametrize("folder", FOLDERS[1:], ids=IDS[1:])
def test_the_readme_of_a_plugin_has_no_dead_link(folder: Path) -> None:
    assert dead_links_in((folder / "README.md").read_text(encoding="utf-8")) == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, tuple[Path, Path]]:
    """Return the source distribution and the wheel of each folder."""
    found = {}
    for folder in FOLDERS:
        target = tmp_path_factory.mktemp("dist")
        command = [sys.executable, "-m", "hatchling", "build", "-d", str(target)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found[folder] = (next(target.glob("*.tar.gz")), next(target.glob("*.whl")))
    return found


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(".dist-info/METADATA")]
        return message_from_string(archive.read(name).decode())


Built = dict[Path, tuple[Path, Path]]


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_a_built_description_has_no_dead_link(folder: Path, built: Built) -> None:
    metadata = metadata_of(built[folder][1])
    assert metadata["Description-Content-Type"] == "text/markdown"
    description = str(metadata.get_payload())
    assert len(description) > 300
    assert dead_links_in(description) == []


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_the_classifiers_claim_only_tested_platforms(folder: Path, built: Built) -> None:
    claimed = metadata_of(built[folder][1]).get_all("Classifier") or []
    assert [one for one in claimed if one.startswith("Operating System")] == [
        "Operating System :: POSIX :: Linux"
    ]
    assert "Programming Language :: Python :: 3.11" in claimed


@pytest.mark.slow
def test_every_core_dependency_has_a_minimum_version(built: Built) -> None:
    required = metadata_of(built[ROOT][1]).get_all("Requires-Dist") or []
    core = [one for one in required if "extra ==" not in one]
    assert len(core) > 5
    assert [one for one in core if ">=" not in one] == []


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_the_wheel_has_every_file_of_the_package(folder: Path, built: Built) -> None:
    with zipfile.ZipFile(built[folder][1]) as archive:
        names = set(archive.namelist())
    sources = {path.relative_to(folder / "src").as_posix() for path in files_under(folder / "src")}
    assert sources <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    if folder == ROOT:
        prefix = "headstrip-0.1.0.data/data/share/doc/headstrip/"
        pages = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        assert pages == pages_in(ROOT / "docs")


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_the_source_distribution_builds_the_same_wheel_and_has_the_docs(
    folder: Path, built: Built, tmp_path: Path
) -> None:
    archive, wheel = built[folder]
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert (source / "README.md").is_file()
    if folder == ROOT:
        assert pages_in(source / "docs") == pages_in(ROOT / "docs")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def pages_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in files_under(folder)}


def files_under(folder: Path) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
