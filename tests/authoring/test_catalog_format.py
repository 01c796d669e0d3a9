"""The page about catalog files lists every column, and says correctly which may be empty."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headstrip.images.preprocessing import Preprocessing
from headstrip.registry.catalog import (
    CATALOG_COLUMNS,
    UNREADABLE,
    WEIGHTS_COLUMNS,
    entry_from_row,
    row_of_entry,
    row_of_spec,
    spec_from_row,
)
from headstrip.registry.index import row_problem
from headstrip.spec import BackboneSpec, WeightsEntry

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference" / "catalog.md").read_text(encoding="utf-8")
SPEC = BackboneSpec(
    "net", "mylab", "mylab:net", "mylab", "image", (3, 8, 8), 8, 9, "V1", (("width", 8),)
)
ENTRY = WeightsEntry(
    "V1",
    ("file.pth",),
    "00ff",
    (("width", 8),),
    10,
    (3, 8, 8),
    "digits",
    Preprocessing((8, 8), 8, (0.5,), (0.5,)),
    "CC0-1.0",
    (("accuracy", 0.9),),
)


def described(file):
    """Return the columns on the page, each with its text for an empty cell."""
    (section,) = re.findall(rf"^## {re.escape(file)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.M)
    table = section.strip().split("\n\n")[0]
    return dict(re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", table, re.MULTILINE))


@pytest.mark.parametrize(
    ("file", "columns"), [("catalog.tsv", CATALOG_COLUMNS), ("weights.tsv", WEIGHTS_COLUMNS)]
)
def test_the_page_has_all_columns_in_order(file, columns):
    assert tuple(described(file)) == columns


@pytest.mark.parametrize("column", CATALOG_COLUMNS)
def test_a_catalog_column_may_be_empty_exactly_if_the_page_says_so(column):
    row = row_of_spec(SPEC)
    row[CATALOG_COLUMNS.index(column)] = ""
    try:
        refused = row_problem(spec_from_row(row), "mylab") is not None
    except UNREADABLE:
        refused = True
    assert refused == (described("catalog.tsv")[column] == "never")


@pytest.mark.parametrize("column", WEIGHTS_COLUMNS)
def test_a_weights_column_may_be_empty_exactly_if_the_page_says_so(column):
    row = row_of_entry("net", ENTRY)
    assert all(row)
    row[WEIGHTS_COLUMNS.index(column)] = ""
    try:
        refused = entry_from_row(row) is None
    except UNREADABLE:
        refused = True
    assert refused == (described("weights.tsv")[column] == "never")
