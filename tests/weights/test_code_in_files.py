"""headstrip never executes code in a weights file."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.weights.files import save_legacy, save_zip, sha256_of

from headstrip import WeightsError, build_encoder
from headstrip.weights import read_weights


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def save_pickle(content: object, path: Path) -> Path:
    path.with_suffix(".pth").write_bytes(pickle.dumps(content))
    return path.with_suffix(".pth")


def save_under_another_name(content: object, path: Path) -> Path:
    return save_zip(content, path).rename(path.with_suffix(".safetensors"))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it-was-executed"


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_pickle, save_under_another_name])
@pytest.mark.parametrize("where", ["alone", "beside tensors", "deep inside"])
def test_a_file_with_code_is_refused_and_the_code_does_not_run(
    save: Callable[[object, Path], Path], where: str, marker: Path, tmp_path: Path
) -> None:
    content: object = {
        "alone": Bomb(marker),
        "beside tensors": {"a": torch.zeros(1), "b": Bomb(marker)},
        "deep inside": {"state_dict": {"a": [torch.zeros(1), {"b": (Bomb(marker),)}]}},
    }[where]
    path = save(content, tmp_path / "x")
    with pytest.raises(WeightsError, match="headstrip executed nothing in it"):
        read_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_torch_load_runs_the_code_in_the_test_file(
    save: Callable[[object, Path], Path], marker: Path, tmp_path: Path
) -> None:
    torch.load(save(Bomb(marker), tmp_path / "x"), weights_only=False)
    assert marker.exists()


def test_code_in_a_cached_file_does_not_run_even_if_the_hash_matches(
    marker: Path, hub: Path, published: Callable[..., Any]
) -> None:
    path = save_zip({"fc.weight": Bomb(marker)}, hub / "resnet18-f37072fd")
    published("resnet18", sha256=sha256_of(path))
    with pytest.raises(WeightsError, match="headstrip executed nothing in it"):
        build_encoder("resnet18")
    assert not marker.exists()


def test_code_in_a_users_own_file_does_not_run(marker: Path, tmp_path: Path) -> None:
    path = save_legacy({"fc.weight": Bomb(marker)}, tmp_path / "x")
    with pytest.raises(WeightsError, match="headstrip executed nothing in it"):
        build_encoder("resnet18", weights=path)
    assert not marker.exists()
