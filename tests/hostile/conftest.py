"""Twelve hostile plugins, installed at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.hostile.install import install_hostile


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all twelve plugins installed."""
    folder = tmp_path_factory.mktemp("site")
    install_hostile(folder)
    return folder
