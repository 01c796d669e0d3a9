"""``headstrip new-plugin`` creates a complete folder or nothing, under a valid name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Run
from tests.distributions import install_distribution, run_python

from headstrip.families import BUILT_IN
from headstrip.registry.catalog import WeightsTable, read_catalog
from headstrip.registry.index import row_problem

FILES = [
    "README.md",
    "pyproject.toml",
    "src/headstrip_mylab/__init__.py",
    "src/headstrip_mylab/catalog.tsv",
    "src/headstrip_mylab/py.typed",
    "src/headstrip_mylab/weights.tsv",
    "tests/test_contract.py",
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_folder_has_the_name_of_the_plugin_and_all_its_files(run: Run, here: Path) -> None:
    result = run("new-plugin", "mylab")
    assert result.exit_code == 0
    assert written(here) == [f"mylab/{file}" for file in FILES]
    assert "Created headstrip-mylab in ./mylab" in result.stdout
    assert "  pip install -e ./mylab\n  headstrip verify 'mylab:*'\n" in result.stdout


def test_the_author_is_reminded_to_choose_a_licence(run: Run, here: Path) -> None:
    assert "has no licence yet" in run("new-plugin", "mylab").stdout
    assert "Choose a licence" in Path("mylab/pyproject.toml").read_text()
    assert "Choose a licence" in Path("mylab/README.md").read_text()
    assert not list(here.rglob("LICENSE*"))


@pytest.mark.parametrize("name", ["mylab", "My-Lab_2", "7"])
def test_the_catalog_of_a_new_plugin_is_valid_under_any_name(run: Run, name: str) -> None:
    folder = Path(json.loads(run("new-plugin", name, "--json").stdout)["folder"])
    (package,) = (folder / "src").iterdir()
    (spec,) = read_catalog(package / "catalog.tsv")
    assert package.name.isidentifier()
    assert row_problem(spec, name) is None
    assert WeightsTable(package / "weights.tsv").names() == ()
    assert not [path for path in folder.rglob("*.*") if "{{" in path.read_text()]


def test_new_plugin_can_use_another_folder(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "some where"
    result = run("new-plugin", "mylab", "--to", folder)
    assert written(folder) == FILES
    assert f"  pip install -e '{folder}'\n" in result.stdout


@pytest.mark.parametrize("thing", ["file", "folder", "dangling link"])
def test_an_existing_path_is_refused_and_unchanged(run: Run, here: Path, thing: str) -> None:
    place = here / "mylab"
    if thing == "folder":
        place.mkdir()
    elif thing == "file":
        place.write_text("mine")
    else:
        place.symlink_to("nowhere")
    result = run("new-plugin", "mylab")
    assert result.exit_code == 2
    assert "'mylab' already exists, and headstrip does not change it" in result.stderr
    assert [path.name for path in here.iterdir()] == ["mylab"]
    assert thing != "file" or place.read_text() == "mine"


def test_a_missing_parent_folder_is_refused(run: Run, here: Path) -> None:
    result = run("new-plugin", "mylab", "--to", "no/where")
    assert result.exit_code == 2
    assert "There is no folder 'no'. Create it" in result.stderr
    assert list(here.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder here refuses even root")
def test_a_folder_that_cannot_be_written_to_gives_a_clear_error(run: Run) -> None:
    result = run("new-plugin", "mylab", "--to", "/proc/mylab")
    assert result.exit_code == 1
    assert "Error: '/proc/mylab' cannot be created (" in result.stderr


def test_a_full_disk_leaves_no_files(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def fill(self: Path, *arguments: str, **options: str) -> int:
        if self.name == "weights.tsv":
            raise OSError(28, "No space left on device")
        return write(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", fill)
    result = run("new-plugin", "mylab")
    assert result.exit_code == 1
    assert "'mylab' cannot be created (No space left on device)" in result.stderr
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "my lab",
        "my.lab",
        "my/lab",
        "../lab",
        "labör",
        "_lab",
        "lab-",
        "lab_",
        "-",
        "a:b",
        "headstrip",
        "torchvision",
        "timm",
        "Timm",
        "hf",
        "example",
        "efficientnet_lite",
        *BUILT_IN,
    ],
)
def test_an_invalid_or_reserved_name_is_refused(run: Run, here: Path, name: str) -> None:
    result = run("new-plugin", "--", name)
    assert result.exit_code == 2
    assert f"A new plugin cannot be called {name!r}: " in result.stderr
    assert list(here.iterdir()) == []


def test_the_name_of_an_installed_plugin_is_refused(run: Run, site: Path) -> None:
    install_distribution(site, "their-nets", {"mylab": "their_nets"}, {"their_nets.py": ""})
    result = run("new-plugin", "mylab")
    assert result.exit_code == 2
    assert "an installed plugin has that name (their-nets 1.0). Choose another" in result.stderr


def test_the_name_of_the_same_plugin_is_accepted_when_it_is_installed(run: Run, site: Path) -> None:
    install_distribution(site, "headstrip_MYLAB", {"mylab": "mylab"}, {"mylab.py": ""})
    assert run("new-plugin", "mylab").exit_code == 0


def test_new_plugin_does_not_import_torch(here: Path) -> None:
    code = (
        "import sys\nfrom headstrip.cli import main\n"
        "try: main(['new-plugin', 'mylab'], prog_name='headstrip')\n"
        "except SystemExit as end: print(end.code, {'torch', 'numpy'} & set(sys.modules))\n"
    )
    assert run_python("-c", code).stdout.endswith("0 set()\n")
