"""Small networks with weights, and labelled pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compare.lab import lab_in, write_pictures


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[None]:
    """Register the plugin for this test."""
    with lab_in(tmp_path):
        yield


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pictures", 48)
    return tmp_path / "pictures"
