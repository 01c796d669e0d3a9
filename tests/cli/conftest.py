"""The command line in this process, and weights files that need no download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from tests.distributions import on_path
from torchvision import models

from headstrip.cli import main
from headstrip.registry.registry import use_registry

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Run the command line; stdout is a pipe."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="headstrip")

    return run


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    use_registry(None)
    yield
    use_registry(None)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A folder on the path, to install distributions into."""
    folder = tmp_path / "site"
    folder.mkdir()
    with on_path(folder):
        yield folder


@pytest.fixture(scope="session")
def weights_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Save the state dict of an architecture with random weights, once."""
    folder = tmp_path_factory.mktemp("weights")

    def save(name: str) -> Path:
        path = folder / f"{name}.pth"
        if not path.exists():
            torch.manual_seed(0)
            torch.save(models.get_model(name, weights=None).state_dict(), path)
        return path

    return save


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos, and between them a torn one and a text named ``.jpg``."""
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in ("a.png", "torn.jpg", "z.png"):
        noise = generator.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(noise).save(folder / name)
    torn = folder / "torn.jpg"
    torn.write_bytes(torn.read_bytes()[:-400])
    (folder / "notes.jpg").write_text("not a picture")
    return folder
