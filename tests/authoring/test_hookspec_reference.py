"""The reference page of the hooks matches the code."""

from __future__ import annotations

import runpy
from pathlib import Path

import headstrip
from headstrip.plugins.validation import HOOKS

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "hookspec_reference.py"))
TEXT = (ROOT / "docs" / "reference" / "hookspec.md").read_text(encoding="utf-8")


def test_the_reference_is_up_to_date():
    assert TOOL["reference"]() == TEXT


def test_the_reference_has_a_section_with_the_signature_of_every_hook():
    for hook in HOOKS:
        assert f"\n## {hook}\n\n```text\n{hook}(" in TEXT


def test_every_value_in_the_reference_is_a_public_name():
    named = [name for _, name in (*TOOL["VALUES"], *TOOL["FUNCTIONS"])]
    assert set(named) <= set(headstrip.__all__)
    assert all(f"\n### {name}\n" in TEXT for name in named)


def test_the_reference_has_no_docstring_markup():
    assert "``" not in TEXT.replace("```", "")
    assert not [line for line in TEXT.splitlines() if line.endswith(("Args:", "Raises:"))]
