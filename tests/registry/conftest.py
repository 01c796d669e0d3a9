"""A folder on the path that has no timm until a test installs one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.distributions import on_path
from tests.registry.sources import hide_timm


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on the path, for tests to install distributions in."""
    hide_timm(tmp_path)
    with on_path(tmp_path):
        yield tmp_path
