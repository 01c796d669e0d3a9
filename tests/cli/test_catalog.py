"""``headstrip catalog`` writes what the plugin lists, completely or not at all."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

import pytest
from tests.cli.conftest import Run
from tests.distributions import install_distribution, run_python

from headstrip.registry.catalog import WeightsTable, read_catalog
from headstrip.registry.registry import use_registry
from headstrip.spec import BackboneSpec

CODE = """
from torch import nn

from headstrip import BackboneSpec, WeightsEntry, detach, hookimpl

FAMILIES = ("net",)
WIDTHS = {"wide": 9, "narrow": 4}


def describe(name, **changes):
    facts = dict(source="mine", family="mine:net", plugin="mine", task="image", dim=0, params=0)
    return BackboneSpec(name, **{**facts, "input_shape": (3, 8, 8), **changes})


@hookimpl
def backbones():
    print("noise")
    return [describe(name, options=(("width", width),)) for name, width in WIDTHS.items()]


@hookimpl
def weights(spec):
    tags = ("V2", "V1") if spec.name == "wide" else ()
    return [WeightsEntry(tag, ("file.pth",), input_shape=(3, 16, 16)) for tag in tags]


@hookimpl
def build_model(spec, options):
    width, classes = options["width"], options.get("num_classes", 2)
    stem = nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(stem, nn.Linear(width, classes))


@hookimpl
def strip_head(model):
    return detach(model, "1")
"""
NOTHING_LISTED = "from headstrip import hookimpl\n\n@hookimpl\ndef build_model():\n    pass\n"

Install = Callable[..., Path]


@pytest.fixture
def install(site: Path) -> Install:
    """Install the plugin ``mine``; ``changes`` replace lines of its code."""

    def install(code: str = CODE, changes: dict[str, str] | None = None) -> Path:
        for line, other in (changes or {}).items():
            assert line in code
            code = code.replace(line, other)
        # Remove what an older copy left, which a separate process would not have.
        sys.modules.pop("mine_nets", None)
        rmtree(site / "mine_nets" / "__pycache__", ignore_errors=True)
        install_distribution(site, "mine", {"mine": "mine_nets"}, {"mine_nets/__init__.py": code})
        use_registry(None)
        return site / "mine_nets"

    return install


@pytest.fixture
def package(install: Install, run: Run) -> Path:
    """The package of the plugin, with its catalog written."""
    folder = install()
    assert run("catalog", "write", "mine").exit_code == 0
    return folder


def test_write_measures_width_parameters_and_law_and_sorts_the_rows(package: Path) -> None:
    narrow, wide = read_catalog(package / "catalog.tsv")
    facts = ("mine", "mine:net", "mine", "image")
    assert narrow == BackboneSpec(
        "narrow", *facts, (3, 8, 8), 4, 122, None, (("width", 4),), "exact", "any"
    )
    assert wide == BackboneSpec(
        "wide", *facts, (3, 16, 16), 9, 272, "V2", (("width", 9),), "exact", "any"
    )


def test_weights_are_written_in_the_order_of_the_plugin(package: Path) -> None:
    table = WeightsTable(package / "weights.tsv")
    assert [entry.tag for entry in table.entries("wide")] == ["V2", "V1"]
    assert table.names() == ("wide",)


def test_write_reports_what_it_wrote_and_what_changed(
    install: Install, run: Run, site: Path
) -> None:
    folder = install()
    first = run("catalog", "write", "mine")
    assert first.stdout == (
        f"{folder}/catalog.tsv: 2 rows\n  there was no file\n"
        f"{folder}/weights.tsv: 2 rows\n  there was no file\n"
    )
    (folder / "catalog.tsv").write_text(
        (folder / "catalog.tsv")
        .read_text()
        .replace("\t9\t272", "\t8\t272")
        .replace("narrow", "old")
    )
    assert run("catalog", "write", "mine").stdout == (
        f"{folder}/catalog.tsv: 2 rows\n  old: removed\n  narrow: added\n  wide: dim 8 -> 9\n"
        f"{folder}/weights.tsv: 2 rows, nothing changed\n"
    )


def test_writing_again_changes_nothing(package: Path, run: Run) -> None:
    result = run("catalog", "write", "mine", "--json")
    assert [file["changes"] for file in json.loads(result.stdout)["files"]] == [[], []]


def test_output_of_the_plugin_goes_to_stderr(package: Path, run: Run) -> None:
    result = run("catalog", "check", "mine")
    assert "noise" in result.stderr
    assert "noise" not in result.stdout


def test_write_warns_when_the_plugin_is_an_installed_copy(install: Install, run: Run) -> None:
    install()
    assert "wrote into the installed copy" in run("catalog", "write", "mine").stderr


def test_write_can_use_another_folder(install: Install, run: Run, tmp_path: Path) -> None:
    folder = install()
    result = run("catalog", "write", "mine", "--to", tmp_path)
    assert result.exit_code == 0
    assert "copy" not in result.stderr
    assert len(read_catalog(tmp_path / "catalog.tsv")) == 2
    assert not (folder / "catalog.tsv").exists()


def test_a_missing_folder_is_a_usage_error(install: Install, run: Run, tmp_path: Path) -> None:
    install()
    result = run("catalog", "write", "mine", "--to", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder here refuses even root")
def test_a_folder_that_cannot_be_written_to_gives_a_clear_error(install: Install, run: Run) -> None:
    install()
    result = run("catalog", "write", "mine", "--to", "/proc")
    assert result.exit_code == 1
    assert "Error: '/proc' cannot be written to (" in result.stderr


def test_files_of_another_version_are_rewritten(package: Path, run: Run) -> None:
    good = (package / "catalog.tsv").read_bytes()
    (package / "catalog.tsv").write_text("name\tdim\nwide\t9\n")
    use_registry(None)
    assert "the file had other columns" in run("catalog", "write", "mine").stdout
    assert (package / "catalog.tsv").read_bytes() == good


def test_write_uses_the_current_weights_of_the_plugin_not_those_in_the_file(
    package: Path, install: Install, run: Run
) -> None:
    install(changes={'("V2", "V1")': '("V3", "V2")'})
    result = run("catalog", "write", "mine")
    assert "wide: default_weights V2 -> V3" in result.stdout
    assert "  wide.V1: removed\n  wide.V3: added\n" in result.stdout


def test_check_passes_when_the_files_match_the_plugin(package: Path, run: Run) -> None:
    result = run("catalog", "check", "mine")
    assert result.exit_code == 0
    assert result.stdout.count("nothing changed") == 2


def test_check_reports_differences_and_writes_nothing(package: Path, run: Run) -> None:
    path = package / "catalog.tsv"
    path.write_text(path.read_text().replace("\t9\t272\texact", "\t9\t271\tdeclared"))
    before = path.read_bytes()
    result = run("catalog", "check", "mine", "--json")
    assert result.exit_code == 1
    catalog, _ = json.loads(result.stdout)["files"]
    assert catalog["changes"] == ["wide: params 271 -> 272, law declared -> exact"]
    assert path.read_bytes() == before


def test_check_reports_a_change_of_order(package: Path, run: Run) -> None:
    path = package / "catalog.tsv"
    head, narrow, wide = path.read_text().splitlines(keepends=True)
    path.write_text(head + wide + narrow)
    result = run("catalog", "check", "mine")
    assert result.exit_code == 1
    assert "the rows had another order" in result.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({'source="mine"': 'source="theirs"'}, "claims the source 'theirs', which is not 'mine'"),
        ({'family="mine:net"': 'family="theirs:net"'}, "names the family 'theirs:net'"),
        ({'"wide": 9': '"a b.c": 9'}, "'a b.c' does not have the form of a backbone's name"),
        ({"in WIDTHS.items()": "in 2 * [*WIDTHS.items()]"}, "lists 'narrow' twice"),
        ({"width, classes = ": "raise ValueError('no'); "}, "raised ValueError: no in build_model"),
        ({"dim=0": "default_weights='V1', dim=0"}, "has default_weights='V1'"),
        ({'("V2", "V1")': r'("V\t2", "V1")'}, "it contains a tab or a line break"),
        ({"(3, 8, 8)": "[3, 8, 8]"}, "again, input_shape would not"),
        ({'("V2", "V1")': '("V1", "V1")'}, "have the same name: wide.V1"),
    ],
)
def test_an_invalid_row_gives_a_clear_error_and_the_old_files_are_kept(
    package: Path, install: Install, run: Run, changes: dict[str, str], message: str
) -> None:
    before = (package / "catalog.tsv").read_bytes()
    install(changes={**changes, '"narrow": 4': '"narrow": 5'})
    result = run("catalog", "write", "mine")
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert (package / "catalog.tsv").read_bytes() == before


def test_the_error_for_a_plugin_that_lists_nothing_names_the_hook(
    install: Install, run: Run
) -> None:
    install(NOTHING_LISTED)
    result = run("catalog", "write", "mine")
    assert result.exit_code == 1
    assert "The plugin 'mine' (mine 1.0) lists no backbones. Implement the hook" in result.stderr


def test_a_broken_plugin_gives_a_clear_error(install: Install, run: Run) -> None:
    install("raise SystemExit('stop')")
    result = run("catalog", "write", "mine")
    assert result.exit_code == 1
    assert "cannot be used: SystemExit: stop" in result.stderr


@pytest.mark.parametrize(
    ("name", "message"), [("nobody", "is not installed"), ("vgg", "is part of headstrip")]
)
def test_the_plugin_must_be_installed_and_not_part_of_headstrip(
    run: Run, name: str, message: str
) -> None:
    for verb in ("write", "check"):
        result = run("catalog", verb, name)
        assert result.exit_code == 2
        assert f"The plugin {name!r} {message}" in result.stderr


def test_a_plugin_without_a_package_cannot_ship_a_catalog(run: Run, site: Path) -> None:
    install_distribution(site, "mine", {"mine": "mine_net"}, {"mine_net.py": CODE})
    use_registry(None)
    result = run("catalog", "write", "mine")
    assert result.exit_code == 2
    assert "is the module 'mine_net', which cannot contain" in result.stderr


def test_a_disabled_plugin_is_refused(install: Install, run: Run) -> None:
    install()
    result = run("--no-plugin", "mine", "catalog", "write", "mine")
    assert result.exit_code == 1
    assert "disabled by" in result.stderr


def test_neither_help_nor_an_unknown_name_imports_torch() -> None:
    code = (
        "import sys\nfrom headstrip.cli import main\n"
        "for arguments in (['catalog', '-h'], ['catalog', 'write', 'nobody']):\n"
        "    try: main(arguments, prog_name='headstrip')\n"
        "    except SystemExit as end: print(end.code)\n"
        "print({'torch', 'numpy'} & set(sys.modules))\n"
    )
    assert run_python("-c", code).stdout.endswith("0\n2\nset()\n")
