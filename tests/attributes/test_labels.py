"""Tables of labels: every format reads the same, and errors name the problem."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from headstrip import HeadstripError, OptionError
from headstrip.attributes.labels import labels_in, read_labels
from headstrip.attributes.targets import Target, check_kinds, infer_kind, target_of
from headstrip.errors import HeadstripWarning

COLUMNS = {
    "path": ["a.jpg", "b,c.jpg", "d.jpg"],
    "colour": ["red", "line\nbreak", None],
    "age": [1.5, None, 3.0],
}


def written_csv(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "pandas", "polars", "arrow", "mapping"])
def test_every_format_of_a_table_reads_the_same(form: str, tmp_path: Path) -> None:
    frame, path = pd.DataFrame(COLUMNS), tmp_path / f"labels.{form}"
    table: Any = {
        "pandas": frame,
        "polars": pl.DataFrame(COLUMNS),
        "arrow": pa.table(COLUMNS),
        "mapping": COLUMNS,
    }.get(form, path)
    if form in {"csv", "tsv"}:
        frame.to_csv(path, index=False, sep="," if form == "csv" else "\t")
    elif form == "parquet":
        pq.write_table(pa.table(COLUMNS), path)
    found = read_labels(table)
    assert found.paths == COLUMNS["path"]
    assert list(found.columns) == ["colour", "age"]
    assert found.columns["colour"] == ["red", "line\nbreak", None]
    assert [None if cell is None else float(cell) for cell in found.columns["age"]] == [  # type: ignore[arg-type]
        1.5,
        None,
        3.0,
    ]


def test_folders_are_classes(tmp_path: Path) -> None:
    for name in ("birds/a.png", "fish/deep/b.png", "fish/notes.txt", "top.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name, "PNG")
    found = read_labels(tmp_path)
    assert found.paths == ["birds/a.png", "fish/deep/b.png"]
    assert found.columns == {"class": ["birds", "fish"]}


def test_every_name_of_a_folder_is_a_class(tmp_path: Path) -> None:
    """In a table these would be missing, a number and two labels."""
    for name in ("None", "12", "red|dark"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name / "a.png")
    found = read_labels(tmp_path)
    assert found.columns == {"class": ["12", "None", "red|dark"]}
    assert (found.nan_cells, found.kinds) == (0, {"class": "class"})


def test_empty_and_nan_cells_are_missing_unless_nan_strings_are_kept(tmp_path: Path) -> None:
    path = written_csv(tmp_path / "a.csv", "path,colour\na,NaN\nb,\nc,NA\nd,red\n")
    found = read_labels(path)
    assert (found.columns["colour"], found.nan_cells) == ([None, None, None, "red"], 2)
    kept = read_labels(path, keep_nan_strings=True)
    assert (kept.columns["colour"], kept.nan_cells) == (["NaN", None, "NA", "red"], 0)


def test_repeated_rows_are_counted_and_contradictory_labels_are_refused(tmp_path: Path) -> None:
    path = written_csv(tmp_path / "a.csv", "path,colour\na,red\nb,blue\na,red\n./b,blue\n")
    found = read_labels(path)
    assert (found.paths, found.repeated_rows) == (["a", "b"], 2)
    path = written_csv(tmp_path / "b.csv", "path,colour\na,red\na,blue\n")
    with pytest.raises(HeadstripError, match=r"'a' twice with different.*'red' in row 1.*'blue'"):
        read_labels(path)


def test_the_column_of_paths_is_found_or_must_be_named(tmp_path: Path) -> None:
    path = written_csv(tmp_path / "a.csv", "id,file,colour\n1,x/a.jpg,red\n")
    assert read_labels(path, path_prefix="x/").paths == ["a.jpg"]
    assert list(read_labels(path).columns) == ["id", "colour"]
    assert read_labels(path, path_column="id").paths == ["1"]
    path = written_csv(tmp_path / "b.csv", "id,colour\n1,red\n")
    with pytest.raises(HeadstripError, match=r"cannot find the paths.*'id', 'colour'.*--path-col"):
        read_labels(path)
    with pytest.raises(HeadstripError, match=r"has no column 'x'; its columns: 'id', 'colour'"):
        read_labels(path, path_column="x")
    path = written_csv(tmp_path / "c.csv", "path,image,colour\n1,2,red\n")
    with pytest.raises(HeadstripError, match="'path' and 'image' could each have the paths"):
        read_labels(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('path,a\nx,"y\n', r"cannot be read at line \d.*Close each quote"),
        ("path,a\nx,1,2\n", r"has 3 cells in the row that ends in line 2, and 2 in its header"),
        ("path,a,a\nx,1,2\n", r"has the column 'a' twice"),
        ("path,a\n,1\n", r"has '' in column 'path' at row 1"),
        ("", r"cannot find the paths"),
    ],
)
def test_a_damaged_csv_gives_a_clear_error(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match=message):
        read_labels(written_csv(tmp_path / "a.csv", text))


def test_a_value_that_is_not_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense PAR1")
    written_csv(tmp_path / "a.json", "{}")
    (tmp_path / "empty").mkdir()
    for table, message in (
        (tmp_path / "none.csv", "There is no table of labels"),
        (tmp_path / "a.parquet", "cannot be read as a table of labels"),
        (tmp_path / "a.json", "is not a table of labels that headstrip reads"),
        (tmp_path / "empty", "has no folder with images"),
        (3, "The int is not a table of labels"),
    ):
        with pytest.raises(HeadstripError, match=message):
            read_labels(table)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["red", "blue", None], "class"),
        (["a|b", "a", None], "labels"),
        ([("a",), ("a", "b")], "labels"),
        (["1", "2", "3", "2"], "class"),
        ([1, 2, 3], "class"),
        (list(map(str, range(21))), "number"),
        ([1.5, 2.0, None], "number"),
        (["1.5", "2", None], "number"),
        (["1.5", "two"], "class"),
        ([True, False], "class"),
        (["inf", "1.5"], "class"),
        ([], "class"),
    ],
    ids=repr,
)
def test_kinds_are_inferred(cells: Any, kind: str) -> None:
    assert infer_kind(cells) == kind


def test_classes_are_sorted_and_missing_labels_left_out() -> None:
    found = target_of("a", ["10", None, "9", "10"], None)
    assert isinstance(found, Target)
    assert found.attribute.classes == ("9", "10")
    assert (found.rows.tolist(), found.values.tolist()) == ([0, 2, 3], [1, 0, 1])


def test_integer_codes_that_pandas_turned_into_floats_stay_classes() -> None:
    found = target_of("a", [1.0, None, 2.0, 1.0], None)
    assert isinstance(found, Target)
    assert found.attribute.classes == ("1", "2")


def test_several_labels_are_split_and_may_be_empty() -> None:
    assert list(labels_in("a| b ||c")) == ["a", "b", "c"]
    found = target_of("a", ["b|a", "|", "b", None], None)
    assert isinstance(found, Target)
    assert found.attribute.classes == ("a", "b")
    assert found.values.tolist() == [[True, True], [False, False], [False, True]]


@pytest.mark.parametrize(
    ("cells", "kind", "reason"),
    [
        ([None, None], None, "no image has a label"),
        (["a", "a"], None, "all 2 labels are 'a'"),
        (["a", "b"], None, "each of its 2 labels belongs to one image only"),
        ([2.5, 2.5], None, "all 2 labels are 2.5"),
        (["|", "|"], "labels", "no image has any of its labels"),
    ],
)
def test_an_attribute_that_cannot_be_fitted_has_a_reason(
    cells: Any, kind: Any, reason: str
) -> None:
    found = target_of("a", cells, kind)
    assert isinstance(found, str)
    assert found.startswith(reason)


def test_a_kind_that_does_not_fit_the_cells_is_refused() -> None:
    with pytest.raises(HeadstripError, match=r"'a' has 'red', which is not a finite number"):
        target_of("a", ["red", "1"], "number")
    with pytest.raises(HeadstripError, match="lists of labels, which are not of kind 'class'"):
        target_of("a", [("x",), ("y",)], "class")
    with pytest.raises(OptionError, match=r"The kind of 'a' is 'text'. Pass one of 'class'"):
        check_kinds({"a": "text"}, ["a"])
    with pytest.raises(OptionError, match="given for 'b', and there is no such attribute"):
        check_kinds({"b": "class"}, ["a"])


def test_decimals_are_numbers_and_dates_are_reported_as_unusable(tmp_path: Path) -> None:
    table = pa.table(
        {
            "path": ["a", "b", "c"],
            "price": pa.array([Decimal("1.50"), None, Decimal("2.25")]),
            "taken": pa.array([date(2024, 1, 1), None, date(2024, 1, 2)]),
            "ranks": pa.array([[1], [2], None]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    for form in (tmp_path / "a.parquet", table):
        found = read_labels(form)
        assert found.columns == {"price": [1.5, None, 2.25]}
        assert list(found.unusable) == ["taken", "ranks"]
        assert found.unusable["taken"] == "date32[day]"
    with pytest.raises(
        HeadstripError, match=r"The Table has the type date32\[day\] in its column 'taken'"
    ):
        read_labels(table, path_column="taken")


def test_white_space_around_text_is_removed_and_counted(tmp_path: Path) -> None:
    path = written_csv(tmp_path / "a.csv", "path, colour\na, red\nb,red\nc,  \nd,dark red\n")
    found = read_labels(path)
    assert found.columns == {"colour": ["red", "red", None, "dark red"]}
    assert found.stripped_cells == 2
    found = read_labels({"path": ["a", "b"], "marks": [[" dot", "ring"], []]})
    assert found.columns == {"marks": [("dot", "ring"), ()]}


@pytest.mark.parametrize(
    "cells", [[0, 1, None, 1], [0.0, 2.5, None, 2.5], [True, False, None, True], [7, 8, 9, 7]]
)
@pytest.mark.parametrize("kind", ["class", "labels"])
def test_a_data_frame_and_its_files_have_the_same_classes(
    cells: Any, kind: Any, tmp_path: Path
) -> None:
    frame = pd.DataFrame({"path": list("abcd"), "a": cells})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    classes = []
    for form in (frame, tmp_path / "a.csv", tmp_path / "a.parquet"):
        target = target_of("a", read_labels(form).columns["a"], kind)
        assert isinstance(target, Target)
        classes.append(target.attribute.classes)
    assert classes[0] == classes[1] == classes[2]
    assert not any(name.endswith(".0") for name in classes[0]) or 2.5 in cells


def test_codes_keep_their_leading_zeros() -> None:
    found = target_of("a", ["007", "08", "007"], None)
    assert isinstance(found, Target)
    assert found.attribute.classes == ("007", "08")


def test_text_among_numbers_gives_a_warning() -> None:
    cells = [*map(str, range(30)), "unknown", None]
    message = r"'age' has 30 numbers, and 'unknown' in 1 other cells.*as 'class'.*--kind age=class"
    with pytest.warns(HeadstripWarning, match=message):
        target_of("age", cells, None)
    target_of("age", cells, "class")
    target_of("age", ["1", "2", "unknown", "1"], None)


def test_a_csv_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("path,farbe\na,rot\nb,grün\n".encode("latin-1"))
    with pytest.raises(HeadstripError, match=r"'gr\\\\xfcn' in column 'farbe' at row 2.*UTF-8"):
        read_labels(path)
    path.write_bytes("path,größe\na,1\n".encode("latin-1"))
    with pytest.raises(HeadstripError, match=r"as its name, which is not UTF-8.*Save the table"):
        read_labels(path)
    path.write_bytes("path,farbe\ngrün.jpg,rot\n".encode("latin-1"))
    assert read_labels(path).paths == ["gr\\xfcn.jpg"]
    path.write_bytes("path,farbe\na,grün\n".encode("utf-16")[:-1])
    with pytest.raises(HeadstripError, match="cannot be read as a table of labels"):
        read_labels(path)


def test_nan_among_several_labels_is_missing(tmp_path: Path) -> None:
    path = written_csv(tmp_path / "a.csv", "path,m\na,dot|NaN\nb,NA|nan\nc,dot|ring\nd,|\n")
    found = read_labels(path)
    assert [cell if cell is None else list(labels_in(cell)) for cell in found.columns["m"]] == [
        ["dot"],
        None,
        ["dot", "ring"],
        [],
    ]
    assert (found.nan_cells, infer_kind(found.columns["m"])) == (2, "labels")
    lists = {"path": ["a", "b", "c"], "m": [["dot", "NaN"], ["NaN"], [None]]}
    assert read_labels(lists).columns["m"] == [("dot",), None, None]
    kept = read_labels(path, keep_nan_strings=True).columns["m"]
    assert list(labels_in(kept[0])) == ["dot", "NaN"]
