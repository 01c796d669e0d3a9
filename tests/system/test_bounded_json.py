"""Parsing JSON that may come from others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headstrip.system import bounded_json

WHAT = "The manifest 'm.json'"


@pytest.mark.parametrize(
    "value", [None, True, -1, 1.5, "é", [], {"a": [{"b": "c"}]}, 10**19 - 1, -(10**19) + 1]
)
def test_ordinary_json_is_parsed_from_text_and_from_bytes(value: object) -> None:
    text = json.dumps(value)
    assert bounded_json.parse(text, WHAT) == value
    assert bounded_json.parse(text.encode(), WHAT) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 65 + "]" * 65, "more than 64 lists and objects inside each other"),
        ('{"a":' * 65 + "1" + "}" * 65, "more than 64 lists"),
        ("[" * 1_000_000, "more than 64 lists"),
        ('{"a":[' * 200_000, "more than 64 lists"),
        ("1" * 20, "the number 11111111111111111111 is out of range"),
        ("[-" + "9" * 5000 + "]", "the number -99999999999999999999... is out of range"),
        ("1e999", "the number 1e999 is out of range"),
        ("NaN", "the number NaN is out of range"),
        ("[-Infinity]", "the number -Infinity is out of range"),
        ("{", "is not valid JSON"),
        ("", "is not valid JSON"),
        (b"\xff\xfe1\x00", "is not valid JSON"),
        (b'"\xff"', "is not valid JSON"),
        ("x" * (8 << 20) + "x", "is longer than 8,388,608 bytes"),
    ],
)
def test_too_deep_too_long_or_invalid_json_gives_a_clear_error(
    text: str | bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^The manifest 'm.json' .*{message}.*\\.$"):
        bounded_json.parse(text, WHAT)


def test_the_limits_are_inclusive_and_can_be_set() -> None:
    assert bounded_json.parse("[" * 64 + "]" * 64, WHAT)
    assert bounded_json.parse('"abcdefgh"', WHAT, max_bytes=10, max_depth=0) == "abcdefgh"
    with pytest.raises(ValueError, match="longer than 9 bytes"):
        bounded_json.parse('"abcdefgh"', WHAT, max_bytes=9)
    with pytest.raises(ValueError, match="more than 2 lists"):
        bounded_json.parse("[[[]]]", WHAT, max_depth=2)


def test_a_file_is_read_only_up_to_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    file.write_text("[1]")
    assert bounded_json.read(file, WHAT) == [1]
    with open(file, "wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(ValueError, match="longer than"):
        bounded_json.read(file, WHAT)
    with pytest.raises(FileNotFoundError):
        bounded_json.read(tmp_path / "none.json", WHAT)
