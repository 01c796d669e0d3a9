"""Hostile rows: docs/reference/sources.md states the message of each."""

from __future__ import annotations

import json
import re
from ast import literal_eval
from pathlib import Path
from typing import Any

import pytest
from tests.distributions import run_python
from tests.embed.sources.made import contents, image_table, write_files, write_tar

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "sources.md"
LISTED = re.compile(r"^\| `(?P<row>.+?)` \| (?P<message>.+?) \|$", re.MULTILINE)
PROGRAM = Path(__file__).with_name("hostile_rows.py")


def documented() -> dict[str, str]:
    """Return the rows of the document, written there as in a Python string."""
    table = DOCUMENT.read_text(encoding="utf-8").partition("## Hostile rows")[2]
    return {literal_eval(f'"{each["row"]}"'): each["message"] for each in LISTED.finditer(table)}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    rows = documented()
    # What is typed as the source may be private, or have a password; `?` is a wildcard there.
    typed = ("not a public address", "user name or a password", "a share of another machine")
    sources = [row for row, message in rows.items() if not any(each in message for each in typed)]
    order = {
        "rows": list(rows),
        "sources": [row for row in sources if row.isprintable()],
        "list": str(tmp_path_factory.mktemp("hostile") / "rows"),
    }
    ran = run_python(str(PROGRAM), input=json.dumps(order))
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_the_document_lists_at_least_sixty_hostile_rows() -> None:
    assert len(documented()) >= 60


def test_no_hostile_row_opens_a_file_a_socket_or_a_process(
    result: dict[str, Any],
) -> None:
    assert result["opened"] == []


def test_hostile_rows_do_not_import_fsspec(result: dict[str, Any]) -> None:
    assert result["fsspec"] is False


@pytest.mark.parametrize("way", ["jsonl", "parquet", "iterable"])
def test_each_hostile_row_gives_the_documented_message(result: dict[str, Any], way: str) -> None:
    expected = documented()
    for (row, message), found in zip(expected.items(), result["found"][way], strict=True):
        assert found.startswith(message.removesuffix("...")), row
        assert found == message or message.endswith("..."), row


def test_hostile_texts_are_refused_as_sources_too(result: dict[str, Any]) -> None:
    assert "NOT REFUSED" not in result["found"]["source"]


def test_names_in_archives_and_tables_are_never_read_as_addresses(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    write_tar(tmp_path / "x.tar", {"reference://a.jpg::data:,b.jpg": b"1"})
    assert contents(tmp_path / "x.tar") == {"x.tar/reference:/a.jpg::data:,b.jpg": b"1"}
    cells = image_table([b"2"])["image"].to_pylist()
    cells[0]["path"] = "reference://a.jpg::data:,{}"
    pq.write_table(image_table([b"2"]).set_column(0, "image", [cells]), tmp_path / "y.parquet")
    assert contents(tmp_path / "y.parquet") == {"y.parquet/000000000": b"2"}


def test_a_file_may_be_named_like_an_address(tmp_path: Path) -> None:
    names = {"a::b.jpg": b"1", "data:,c.jpg": b"2", "reference:/d.jpg": b"3", "zip::e.jpg": b"4"}
    write_files(tmp_path, names)
    assert contents(tmp_path) == names
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names))
    assert contents(tmp_path / "list.txt") == names
    assert contents(tmp_path / "a::b.jpg") == {"a::b.jpg": b"1"}
