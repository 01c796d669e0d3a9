"""The example plugin is the smallest there is, and its files are what it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

import headstrip
from headstrip import UnknownBackboneError, build_encoder
from headstrip.authoring.catalog_writer import FILES, LiveRegistry, changes, contents, live_rows
from headstrip.registry.registry import Registry

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "plugins/headstrip-example/src/headstrip_example"


def test_it_is_one_file_of_at_most_30_lines():
    (file,) = PACKAGE.glob("**/*.py")
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 30


def test_the_tutorial_quotes_the_whole_of_it():
    code = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    tutorial = (ROOT / "docs" / "tutorial" / "write-a-plugin.md").read_text(encoding="utf-8")
    assert tutorial.count(f"\n```py\n{code}```\n") == 1


def test_it_uses_nothing_of_headstrip_that_is_not_public():
    code = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    (names,) = [line for line in code.splitlines() if "headstrip import" in line]
    assert set(names.partition(" import ")[2].split(", ")) <= set(headstrip.__all__)
    assert code.count("headstrip") == 2  # That line, and the name of the command.


def test_its_catalog_is_what_it_shows():
    rows = live_rows(LiveRegistry("example"))
    assert rows.problems == ()
    assert changes(PACKAGE, contents(rows)) == {file: [] for file in FILES}


def test_a_user_builds_it_by_its_whole_name():
    encoder = build_encoder("example:tiny", weights=None, options={}, strict=True)
    assert encoder.output_dim == 32
    assert encoder.head.out_features == 10


def test_an_option_that_it_has_not_is_refused():
    with pytest.raises(
        headstrip.PluginError, match=r"no options \['depth'\]\. It has only num_classes"
    ):
        build_encoder("example:tiny", weights=None, options={"depth": 3})


def test_its_bare_name_is_nobodys():
    with pytest.raises(UnknownBackboneError, match="example:tiny"):
        Registry().resolve("tiny")
