"""``headstrip neighbors``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.cli.conftest import Run
from tests.embed.pages import Page

NAME = "squeezenet1_1"
WeightsOf = Callable[[str], Path]


@pytest.fixture
def embedded(run: Run, photos: Path, tmp_path: Path, weights_of: WeightsOf) -> Path:
    """Embed the photos; two of the four are bad."""
    out = tmp_path / "out.parquet"
    result = run(
        "embed", photos, "-b", NAME, "--weights", weights_of(NAME), "-o", out, "--workers", 0
    )
    assert result.exit_code == 1, result.output
    return out


@pytest.fixture
def ask(run: Run, embedded: Path, weights_of: WeightsOf) -> Run:
    """Search for neighbours among the photos."""

    def ask(*arguments: object) -> object:
        return run("neighbors", embedded, "--weights", weights_of(NAME), *arguments)

    return ask  # type: ignore[return-value]


def test_a_picture_is_its_own_nearest_neighbour_and_bad_images_are_left_out(
    ask: Run, photos: Path
) -> None:
    result = ask("--query", photos / "z.png", "-q", photos / "a.png")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split()[-1] for line in lines] == [
        str(photos / "z.png"),
        "z.png",
        "a.png",
        str(photos / "a.png"),
        "a.png",
        "z.png",
    ]
    assert [lines[1], lines[4]] == ["  1.0000  z.png", "  1.0000  a.png"]
    assert float(lines[2].split()[0]) < 1


def test_json_has_the_similarity_and_the_row(ask: Run, photos: Path) -> None:
    result = ask("-q", photos / "z.png", "-k", 1, "--json")
    (found,) = json.loads(result.stdout)
    assert (found["query"], found["error"]) == (str(photos / "z.png"), None)
    (nearest,) = found["neighbors"]
    assert (nearest["path"], nearest["row"]) == ("z.png", 3)
    assert nearest["similarity"] == pytest.approx(1, abs=1e-5)


def test_a_bad_query_is_reported_and_the_others_are_searched(ask: Run, photos: Path) -> None:
    result = ask("-q", photos / "torn.jpg", "-q", photos / "none.png", "-q", photos / "a.png")
    assert result.exit_code == 1
    assert [line.rpartition("/")[2].split(":")[0] for line in result.stderr.splitlines()] == [
        "torn.jpg",
        "none.png",
    ]
    assert result.stdout.splitlines()[0] == str(photos / "a.png")
    result = ask("-q", photos / "torn.jpg", "--json")
    (found,) = json.loads(result.stdout)
    assert (result.exit_code, found["neighbors"]) == (1, None)
    assert found["error"]


def test_html_writes_a_page_with_the_pictures(ask: Run, photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = ask("-q", photos / "z.png", "--html", page, "--root", photos)
    assert (result.exit_code, result.stderr) == (0, "")
    found = Page(page.read_text(encoding="ascii"))
    assert [tag for tag, _ in found.elements].count("img") == 3
    assert {"z.png", "a.png", "1.0000", str(photos / "z.png")} <= set(found.text)


def test_missing_pictures_are_reported_with_exit_code_1(
    ask: Run, photos: Path, tmp_path: Path
) -> None:
    (photos / "a.png").unlink()
    result = ask("-q", photos / "z.png", "--html", tmp_path / "page.html", "--root", photos)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "No picture of a.png: No such file or directory.",
        f"{tmp_path / 'page.html'} lacks 1 pictures. "
        "Pass the source that was embedded with --root.",
    ]
    assert "1.0000" in result.stdout
    found = Page((tmp_path / "page.html").read_text(encoding="ascii"))
    assert "No such file or directory." in found.text


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
@pytest.mark.parametrize(
    "name", [b'"><img src=x onerror=alert(1)>.png', b"\xff\n\x1b[2J\xe2\x80\xae.png"]
)
def test_a_hostile_name_stays_text_in_the_page_and_on_the_terminal(
    run: Run, photos: Path, tmp_path: Path, weights_of: WeightsOf, name: bytes
) -> None:
    def asked(out: Path) -> tuple[Page, str]:
        weights, page = ["--weights", weights_of(NAME)], tmp_path / "page.html"
        run("embed", photos, "-b", NAME, *weights, "-o", out, "--workers", 0)
        result = run(
            "neighbors", out, "-q", photos / "z.png", *weights, "--html", page, "--root", photos
        )
        assert (result.exit_code, result.stderr) == (0, "")
        return Page(page.read_text(encoding="ascii")), result.stdout

    for bad in ("notes.jpg", "torn.jpg"):
        (photos / bad).unlink()
    plain, _ = asked(tmp_path / "plain.parquet")
    (photos / "a.png").rename(photos / os.fsdecode(name))
    hostile, text = asked(tmp_path / "hostile.parquet")
    assert hostile.elements == plain.elements
    assert text.replace("\n", "").isprintable()
    assert len(text.splitlines()) == 3


def test_invalid_arguments_are_a_usage_error(
    run: Run, embedded: Path, photos: Path, tmp_path: Path
) -> None:
    query = ["-q", photos / "a.png"]
    for arguments, message in (
        ([tmp_path / "none.parquet", *query], "There is no file"),
        ([embedded, *query, "--weights", "none.pth"], "There is no file 'none.pth'"),
        ([embedded, *query, "--html", tmp_path / "none" / "page.html"], "there is no folder"),
        ([embedded, *query, "--html", embedded], "would overwrite an input file"),
        ([embedded], "Missing option '-q'"),
        ([embedded, *query, "-k", 0], "Invalid value for '-k'"),
        ([embedded, *query, "--index", "hnsw"], "Invalid value for '--index'"),
    ):
        result = run("neighbors", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr


def test_a_file_or_weights_that_cannot_be_searched_with_give_a_clear_error(
    run: Run, embedded: Path, photos: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    table = pq.read_table(embedded)
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "bare.parquet")
    query, weights = ["-q", photos / "a.png"], ["--weights", weights_of(NAME)]
    for arguments, message in (
        ([photos / "a.png", *query], "cannot be read as a file of embeddings"),
        ([tmp_path / "bare.parquet", *query], "does not name the encoder"),
        ([embedded, *query], "pass it with --weights"),
        ([embedded, *query, "--weights", weights_of("resnet18")], "does not fit"),
        (
            [embedded, *query, *weights, "--html", tmp_path / "p.html", "--root", tmp_path / "no"],
            "There is no",
        ),
    ):
        result = run("neighbors", *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "p.html").exists()


def test_a_file_of_only_bad_images_has_no_neighbours(
    run: Run, embedded: Path, photos: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    table = pq.read_table(embedded)
    column = table.schema.get_field_index("embedding")
    none = pa.nulls(len(table), table.schema.field("embedding").type)
    bad = tmp_path / "bad.parquet"
    pq.write_table(table.set_column(column, table.schema.field("embedding"), none), bad)
    result = run("neighbors", bad, "-q", photos / "a.png", "--weights", weights_of(NAME))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "contains no embeddings" in result.stderr
