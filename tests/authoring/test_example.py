"""The example plugin is minimal, and its files and the tutorial are up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

import headstrip
from headstrip import UnknownBackboneError, build_encoder
from headstrip.authoring.catalog_writer import FILES, LiveRegistry, changes, contents, live_rows
from headstrip.registry.registry import Registry

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "plugins/headstrip-example/src/headstrip_example"


def test_the_example_plugin_is_one_file_of_at_most_30_lines():
    (file,) = PACKAGE.glob("**/*.py")
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 30


def test_the_tutorial_quotes_the_whole_example_plugin():
    code = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    tutorial = (ROOT / "docs" / "tutorial" / "write-a-plugin.md").read_text(encoding="utf-8")
    assert tutorial.count(f"\n```py\n{code}```\n") == 1


def test_the_example_plugin_uses_only_public_names():
    code = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    (names,) = [line for line in code.splitlines() if "headstrip import" in line]
    assert set(names.partition(" import ")[2].split(", ")) <= set(headstrip.__all__)
    assert code.count("headstrip") == 2  # In that line and in the name of the command.


def test_the_catalog_of_the_example_plugin_is_up_to_date():
    rows = live_rows(LiveRegistry("example"))
    assert rows.problems == ()
    assert changes(PACKAGE, contents(rows)) == {file: [] for file in FILES}


def test_the_qualified_name_builds_the_example_backbone():
    encoder = build_encoder("example:tiny", weights=None, options={}, strict=True)
    assert encoder.output_dim == 32
    assert encoder.head.out_features == 10


def test_an_unknown_option_is_refused():
    with pytest.raises(
        headstrip.PluginError, match=r"no options \['depth'\]\. It has only num_classes"
    ):
        build_encoder("example:tiny", weights=None, options={"depth": 3})


def test_a_bare_name_belongs_to_no_source():
    with pytest.raises(UnknownBackboneError, match="example:tiny"):
        Registry().resolve("tiny")
