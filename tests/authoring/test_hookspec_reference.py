"""The reference of the hooks is what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import headstrip
from headstrip.plugins.validation import HOOKS

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "hookspec_reference.py"))
TEXT = (ROOT / "docs" / "reference" / "hookspec.md").read_text(encoding="utf-8")


def test_it_is_what_the_tool_writes_now():
    assert TOOL["reference"]() == TEXT


def test_every_hook_has_its_section_with_its_signature():
    for hook in HOOKS:
        assert f"\n## {hook}\n\n```text\n{hook}(" in TEXT


def test_every_value_in_it_is_a_public_name():
    named = [name for _, name in (*TOOL["VALUES"], *TOOL["FUNCTIONS"])]
    assert set(named) <= set(headstrip.__all__)
    assert all(f"\n### {name}\n" in TEXT for name in named)


def test_no_docstring_s_markup_is_left_in_it():
    assert "``" not in TEXT.replace("```", "")
    assert not [line for line in TEXT.splitlines() if line.endswith(("Args:", "Raises:"))]
