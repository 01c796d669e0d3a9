"""An environment to install plugins into."""

from __future__ import annotations

import pytest
from tests.authoring.environment import Environment


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return a separate environment that also sees this environment's packages."""
    return Environment.make(tmp_path_factory.mktemp("environment") / "venv")
