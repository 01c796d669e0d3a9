"""Errors in catalog files name the file and the row, and a write succeeds as a whole or fails."""

from __future__ import annotations

import os
import stat
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstrip import BackboneSpec, CatalogError, WeightsEntry
from headstrip.registry.catalog import (
    CATALOG_COLUMNS,
    WEIGHTS_COLUMNS,
    WeightsTable,
    read_catalog,
    read_labels,
    write_atomically,
    write_catalog,
    write_weights,
)

SPEC = BackboneSpec("net", "acme", "acme:net", "acme", "image", (3, 8, 8), 8, 1)


@pytest.fixture
def catalog(tmp_path):
    """Return a function that writes one row with some cells changed."""

    def written(**cells):
        path = tmp_path / "catalog.tsv"
        write_catalog(path, [SPEC])
        header, row, _ = path.read_text().split("\n")
        changed = {**dict(zip(CATALOG_COLUMNS, row.split("\t"), strict=True)), **cells}
        path.write_text(f"{header}\n" + "\t".join(changed.values()) + "\n")
        return path

    return written


@pytest.fixture
def weights(tmp_path):
    """Return a function that writes one row of weights with some cells changed."""

    def written(**cells):
        path = tmp_path / "weights.tsv"
        write_weights(path, [("net", WeightsEntry("V1"))])
        header, row, _ = path.read_text().split("\n")
        changed = {**dict(zip(WEIGHTS_COLUMNS, row.split("\t"), strict=True)), **cells}
        path.write_text(f"{header}\n" + "\t".join(changed.values()) + "\n")
        return path

    return written


def test_a_catalog_of_an_older_version_is_read_without_its_new_columns(catalog):
    path = catalog(sizes="any", channels="64,512", strides="4,32")
    whole = replace(SPEC, sizes="any", channels=(64, 512), strides=(4, 32))
    assert read_catalog(path) == [whole]
    without_maps = replace(SPEC, sizes="any")
    for count, expected in ((1, None), (1, without_maps), (1, SPEC)):
        lines = [line.rsplit("\t", count)[0] for line in path.read_text().splitlines()]
        path.write_text("\n".join(lines) + "\n")
        if expected is not None:
            assert read_catalog(path) == [expected]


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("name", ""),
        ("task", "audio"),
        ("input_shape", "3x8xlarge"),
        ("input_shape", ""),
        ("dim", "wide"),
        ("dim", "0"),
        ("params", "-1"),
        ("sizes", "large"),
        ("channels", "many"),
        ("strides", "8"),
        ("options", "{"),
        ("options", "[1, 2]"),
        ("options", "[" * 100_000),
    ],
)
def test_the_error_for_an_unreadable_row_names_the_row_and_its_file(catalog, column, cell):
    path = catalog(**{column: cell})
    name = cell if column == "name" else "net"
    with pytest.raises(CatalogError, match=f"The row of '{name}' in {path} cannot be read"):
        read_catalog(path)


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("tag", ""),
        ("locations", '"https://example.org"'),
        ("locations", "[1]"),
        ("options", "1"),
        ("num_classes", "many"),
        ("input_shape", "3x"),
        ("preprocessing", "[]"),
        ("preprocessing", '{"crop": [8, 8]}'),
        ("preprocessing", '{"crop": 8, "resize": 8, "mean": [0], "std": [1]}'),
        ("preprocessing", '{"crop": [8, 8], "resize": 0, "mean": [0], "std": [1]}'),
        ("metrics", "null"),
    ],
)
def test_an_unreadable_weights_row_fails_only_when_it_is_requested(weights, column, cell):
    path = weights(**{column: cell})
    table = WeightsTable(path)
    with pytest.raises(CatalogError, match=f"The row of 'net' in {path} cannot be read"):
        table.entries("net")


def test_the_error_names_a_row_with_too_many_columns(catalog):
    path = catalog(options="\t")
    with pytest.raises(CatalogError, match=r"The row of 'net' in .* has 15 columns instead of 14"):
        read_catalog(path)


@pytest.mark.parametrize("text", ["", "\n", "# a comment\n", "name\tsource\n", "<html>"])
def test_a_file_with_another_first_line_is_refused(tmp_path, text):
    path = tmp_path / "catalog.tsv"
    path.write_text(text)
    with pytest.raises(CatalogError, match=f"{path} is not a catalog"):
        read_catalog(path)


def test_a_name_that_occurs_twice_is_refused(catalog, weights):
    path = catalog()
    path.write_text(path.read_text() + path.read_text().split("\n")[1] + "\n")
    with pytest.raises(CatalogError, match=f"Rows of {path} have the same name: net"):
        read_catalog(path)
    path = weights()
    path.write_text(path.read_text() + path.read_text().split("\n")[1] + "\n")
    with pytest.raises(CatalogError, match=f"Rows of {path} have the same name: net.V1"):
        WeightsTable(path)


def test_comments_empty_lines_and_windows_line_ends_are_accepted(catalog):
    path = catalog()
    path.write_bytes(b"# written by hand\r\n\r\n" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_catalog(path) == [SPEC]


@pytest.mark.parametrize("read", [read_catalog, WeightsTable, lambda path: read_labels(path, None)])
def test_the_error_names_a_missing_or_binary_file(tmp_path, read):
    path = tmp_path / "rows.tsv"
    with pytest.raises(CatalogError, match=f"{path} cannot be read .*No such file"):
        read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CatalogError, match=f"{path} cannot be read .*codec can't decode"):
        read(path)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_gives_a_catalog_or_a_catalog_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.tsv"
    path.write_text("\t".join(CATALOG_COLUMNS) + f"\n{text}", encoding="utf-8", newline="")
    try:
        specs = read_catalog(path)
    except CatalogError:
        return
    assert len(specs) <= text.count("\n") + text.count("\r") + 1


def test_a_failed_write_leaves_only_the_old_file(catalog, tmp_path, monkeypatch):
    path = catalog()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_catalog(path, [])
    assert read_catalog(path) == [SPEC]
    assert list(tmp_path.iterdir()) == [path]


def test_refused_rows_leave_the_old_file(catalog):
    path = catalog()
    with pytest.raises(CatalogError):
        write_catalog(path, [SPEC, SPEC])
    assert read_catalog(path) == [SPEC]


def test_written_files_are_readable_by_all_users(tmp_path):
    write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
