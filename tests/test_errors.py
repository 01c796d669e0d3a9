"""Errors and warnings of headstrip are one printable line, whatever text they quote."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings

import pytest
from tests.distributions import run_python

from headstrip import HeadstripError, WeightsError, errors
from headstrip.errors import one_line
from headstrip.testing import ConformanceError
from headstrip.testing.report import Result

HOSTILE = "\x1b]0;title\x07 \x9b2J \u202egnp.exe \u2066 \x00 \udcff"
KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, (HeadstripError, Warning)) and kind.__module__ == errors.__name__
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_and_warning_is_one_printable_line(kind: type[Exception]) -> None:
    error = kind(f"The file {HOSTILE}\nis damaged.")
    assert str(error).isprintable()
    assert "\\x1b]0;title\\x07 \\x9b2J \\u202egnp.exe \\u2066 \\x00 \\xff\\nis" in str(error)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(again), again.args) == (kind, error.args)


def test_arguments_that_are_not_text_stay_unchanged() -> None:
    assert HeadstripError().args == ()
    assert WeightsError("a", 3).args == ("a", 3)


def test_an_error_class_of_a_plugin_is_printable_too() -> None:
    class TheirError(errors.PluginError):
        def __init__(self, name: str) -> None:
            super().__init__(f"{name} is not here")

    assert str(TheirError(HOSTILE)).isprintable()


def test_the_error_of_another_library_is_quoted_on_one_printable_line() -> None:
    assert one_line(OSError(f"first\n\tsecond{HOSTILE}")).startswith("first second\\x1b]0;")
    assert one_line(OSError(f"first\n\tsecond{HOSTILE}")).isprintable()
    assert one_line(MemoryError()) == "MemoryError"


def test_a_conformance_error_has_one_printable_line_per_failure() -> None:
    failures = [Result(f"evil:{HOSTILE}\nforged", "build", "failed", HOSTILE, 0.0)] * 2
    lines = str(ConformanceError(failures)).split("\n")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


def test_an_uncaught_traceback_has_no_control_characters() -> None:
    code = f"from headstrip import WeightsError\nraise WeightsError({HOSTILE!r})\n"
    shown = run_python("-c", code).stderr
    assert "title" in shown
    assert not {c for c in shown if not c.isprintable()} - {"\n"}


def test_a_printed_warning_has_no_control_characters() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn(HOSTILE, errors.CatalogMismatchWarning, stacklevel=1)
    assert str(caught[0].message).isprintable()
