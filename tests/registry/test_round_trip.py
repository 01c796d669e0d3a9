"""Values written to a catalog are read back equal, or headstrip refuses to write them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.registry.strategies import ENTRIES, NAMES, SHAPES, SPECS

from headstrip import BackboneSpec, CatalogError, WeightsEntry
from headstrip.registry.catalog import (
    WeightsTable,
    format_shape,
    parse_shape,
    read_catalog,
    write_catalog,
    write_weights,
)

SPEC = BackboneSpec("net", "acme", "acme:net", "acme", "image", (3, 8, 8), 8, 1)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("catalog") / "rows.tsv"


@given(specs=st.lists(SPECS, max_size=3, unique_by=lambda spec: spec.name))
def test_architectures_are_read_back_equal_and_sorted_by_name(path, specs):
    write_catalog(path, specs)
    assert read_catalog(path) == sorted(specs, key=lambda spec: spec.name)


@given(name=NAMES, entries=st.lists(ENTRIES, max_size=3, unique_by=lambda entry: entry.tag))
def test_weights_are_read_back_equal_and_in_order(path, name, entries):
    write_weights(path, [(name, entry) for entry in entries])
    assert WeightsTable(path).entries(name) == tuple(entries)


@given(SHAPES)
def test_shapes_are_read_back_equal(shape):
    assert parse_shape(format_shape(shape)) == shape


@pytest.mark.parametrize("text", ["", "3x", "3x0x8", "-3x8", "3,8,8", "3 by 8"])
def test_text_that_is_not_a_shape_is_refused(text):
    with pytest.raises(ValueError, match="input_shape must have integers"):
        parse_shape(text)


def test_the_order_of_options_does_not_matter(path):
    write_catalog(path, [replace(SPEC, options=(("b", {"d": 1, "c": 2}), ("a", [2])))])
    assert read_catalog(path)[0].options == (("a", (2,)), ("b", (("c", 2), ("d", 1))))


def test_weights_of_several_architectures_are_kept_apart(path):
    rows = [("one", WeightsEntry("V1")), ("other", WeightsEntry("V1")), ("one", WeightsEntry("V2"))]
    write_weights(path, rows)
    table = WeightsTable(path)
    assert table.names() == ("one", "other")
    assert [entry.tag for entry in table.entries("one")] == ["V1", "V2"]
    assert table.entries("another") == ()


@pytest.mark.parametrize("character", ["\t", "\n", "\r"])
def test_tabs_and_line_breaks_are_refused(path, character):
    with pytest.raises(CatalogError, match="it contains a tab or a line break"):
        write_catalog(path, [replace(SPEC, family=f"a{character}b")])
    with pytest.raises(CatalogError, match="it contains a tab or a line break"):
        write_weights(path, [("net", WeightsEntry(f"V{character}1"))])


def test_a_name_that_would_be_read_as_a_comment_is_refused(path):
    with pytest.raises(CatalogError, match="begins with '#'"):
        write_catalog(path, [replace(SPEC, name="#net")])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": ""}, "it is not a backbone's name"),
        ({"name": "net.large"}, "it is not a backbone's name"),
        ({"task": "audio"}, "task='audio'"),
        ({"dim": 0}, "dim must have integers of 1 or more, got 0"),
        ({"params": -1}, "params must have integers of 0 or more, got -1"),
        ({"input_shape": ()}, "input_shape must have integers, got ''"),
        ({"input_shape": (3, 0, 8)}, "input_shape must have integers of 1 or more, got 0"),
        ({"input_shape": [3, 8, 8]}, "again, input_shape would not"),
        ({"default_weights": ""}, "again, default_weights would not"),
        ({"options": (("activation", len),)}, "not JSON serializable"),
        ({"options": (("rate", float("nan")),)}, "Out of range float values|nan"),
        ({"family": "\udc80"}, "surrogates not allowed"),
    ],
)
def test_values_that_would_not_be_read_back_are_refused_with_the_reason(path, changes, reason):
    with pytest.raises(CatalogError, match=reason):
        write_catalog(path, [replace(SPEC, **changes)])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tag": ""}, "tag=''"),
        ({"locations": (1,)}, "not a JSON array of strings"),
        ({"locations": ["https://example.org"]}, "again, locations would not"),
        ({"num_classes": 0}, "num_classes must have integers of 1 or more, got 0"),
        ({"labels": "", "license": ""}, "again, labels and license would not"),
        ({"metrics": (("top1", float("inf")),)}, "Out of range float values|inf"),
    ],
)
def test_weights_that_would_not_be_read_back_are_refused_with_the_reason(path, changes, reason):
    with pytest.raises(CatalogError, match=reason):
        write_weights(path, [("net", replace(WeightsEntry("V1"), **changes))])


def test_weights_without_an_architecture_are_refused(path):
    with pytest.raises(CatalogError, match="name=''"):
        write_weights(path, [("", WeightsEntry("V1"))])


def test_writing_a_name_twice_is_refused(path):
    with pytest.raises(CatalogError, match=r"same name: net\. Name each of them once"):
        write_catalog(path, [SPEC, replace(SPEC, dim=9)])
    with pytest.raises(CatalogError, match=r"same name: net\.V1\. Name each of them once"):
        write_weights(path, [("net", WeightsEntry("V1")), ("net", WeightsEntry("V1"))])
