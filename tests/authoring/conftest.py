"""An environment to install plugins into."""

from __future__ import annotations

import pytest
from tests.authoring.environment import Environment


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an environment of its own, which sees what this one has."""
    return Environment.make(tmp_path_factory.mktemp("environment") / "venv")
