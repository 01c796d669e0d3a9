"""headstrip compares the hash of a weights file and reads it as data, or refuses it."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.weights.files import save_legacy, save_zip, sha256_of
from torch import Tensor
from torchvision import models

from headstrip import UnknownBackboneError, WeightsError, build_encoder
from headstrip.network.checkpoints import plain_state_dict
from headstrip.weights import read_weights

Save = Callable[[object, Path], Path]
STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.bfloat16)}


def same(one: object, other: dict[str, Tensor]) -> bool:
    assert isinstance(one, dict)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in other)


def test_each_format_gives_the_tensors_and_the_hash_of_the_file(save: Save, tmp_path: Path) -> None:
    path = save(STATE, tmp_path / "x")
    file = read_weights(path)
    assert same(file.content, STATE)
    assert (file.path, file.sha256) == (path, sha256_of(path))


@pytest.mark.parametrize("digits", [0, 8, 64])
def test_a_matching_hash_prefix_of_any_length_is_accepted(
    save: Save, tmp_path: Path, digits: int
) -> None:
    path = save(STATE, tmp_path / "x")
    known = sha256_of(path)[:digits]
    assert read_weights(path, known).sha256.startswith(known)
    assert read_weights(path, known.upper()).sha256.startswith(known)


def test_the_error_for_a_wrong_hash_names_the_file_and_both_hashes(
    save: Save, tmp_path: Path
) -> None:
    path = save(STATE, tmp_path / "x")
    with pytest.raises(WeightsError) as caught:
        read_weights(path, "deadbeef")
    for part in (str(path), "the catalog has deadbeef", sha256_of(path), "copy it again"):
        assert part in str(caught.value)


def test_the_hash_is_compared_at_each_load(tmp_path: Path) -> None:
    path = save_zip(STATE, tmp_path / "x")
    known = sha256_of(path)
    read_weights(path, known)
    save_zip({"a": torch.zeros(1)}, tmp_path / "x")
    with pytest.raises(WeightsError, match=f"has {known}"):
        read_weights(path, known)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_reported_as_damaged(save: Save, tmp_path: Path, kept: float) -> None:
    path = save({"a": torch.zeros(1000)}, tmp_path / "x")
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(
        WeightsError, match=rf"{re.escape(str(path))} .*damaged.*Get the file again"
    ):
        read_weights(path)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
def test_a_web_page_saved_as_weights_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_text("<!DOCTYPE html><html><body>Please log in.</body></html>")
    with pytest.raises(WeightsError, match="is not a weights file"):
        read_weights(path)


def test_an_error_message_is_one_short_line(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps(torch.nn.Linear(1, 1)))
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 450 + len(str(path))


def test_a_missing_file_gives_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot read .*Check the path"):
        read_weights(tmp_path / "missing.pth")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("config.json", "Pass 'hf:{folder}' as the backbone"),
        ("encoder.json", "Pass '{folder}/' as the backbone"),
        ("epoch_3.ckpt", "Pass a weights file in it, such as '{folder}/epoch_3.ckpt'"),
        ("notes.md", "Pass a weights file."),
    ],
)
def test_the_error_for_a_folder_says_what_to_pass(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(WeightsError, match="is a folder, not a weights file") as caught:
        build_encoder("resnet18", weights=tmp_path)
    assert advice.format(folder=tmp_path) in str(caught.value)


def test_the_error_recognizes_a_local_folder_passed_as_a_tag_or_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"'run' here is a folder.*Pass 'hf:"):
        build_encoder("resnet18", weights="run")
    for name in ("run", "hf:run"):
        with pytest.raises(UnknownBackboneError, match=r"of that name, write 'hf:\./run'"):
            build_encoder(name)


def test_a_pickled_network_is_refused_with_advice_to_save_its_state_dict(tmp_path: Path) -> None:
    path = save_zip(torch.nn.Linear(2, 2), tmp_path / "x")
    with pytest.raises(WeightsError, match=r"executed nothing in it.*save its state dict"):
        read_weights(path)


@pytest.mark.parametrize(
    "checkpoint",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model_state_dict": STATE, "loss": 0.5},
        {"model": STATE, "args": ["--lr", 1]},
        {"model": {"state_dict": STATE}, "epoch": 3},
        {"state_dict": {"model": {"model_state_dict": STATE}}},
    ],
    ids=["plain", "state_dict", "model_state_dict", "model", "model inside", "three deep"],
)
@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_the_state_dict_in_a_checkpoint_is_found(
    tmp_path: Path, save: Save, checkpoint: object
) -> None:
    content = read_weights(save(checkpoint, tmp_path / "x")).content
    assert same(plain_state_dict(content), STATE)


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(1)],
        torch.zeros(1),
        None,
        {},
        {"state_dict": {}},
        {"a": 1},
        {1: torch.zeros(1)},
        {"state_dict": [torch.zeros(1)]},
    ],
    ids=str,
)
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    loaded = read_weights(save_zip(content, tmp_path / "x")).content
    with pytest.raises(WeightsError, match=r"no state dict.*Save model.state_dict\(\)"):
        plain_state_dict(loaded)


def test_a_checkpoint_that_contains_itself_is_refused() -> None:
    checkpoint: dict[str, object] = {}
    checkpoint["model"] = checkpoint
    stored = io.BytesIO()
    torch.save(checkpoint, stored)
    stored.seek(0)
    with pytest.raises(WeightsError, match="no state dict"):
        plain_state_dict(torch.load(stored, weights_only=True))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save(models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


def test_changed_bytes_in_the_middle_of_an_archive_are_detected(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[5_000_000:5_001_000] = bytes(1000)
    saved.write_bytes(data)
    with pytest.raises(WeightsError, match=r"checksum of 'resnet18/data/\d+' in it is wrong"):
        read_weights(saved)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><title>404</title>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    ],
)
def test_the_error_names_the_real_type_of_a_file_without_weights(
    content: bytes, what: str, tmp_path: Path
) -> None:
    (tmp_path / "page.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=what):
        read_weights(tmp_path / "page.pth")


def test_the_error_for_a_pickled_model_does_not_mention_safe_globals(tmp_path: Path) -> None:
    torch.save(models.resnet18(), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="such as a whole model") as caught:
        read_weights(tmp_path / "model.pth")
    assert "safe_globals" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize("change", [torch.Tensor.int, torch.Tensor.to_sparse])
def test_tensors_that_loading_would_silently_convert_are_refused(change, tmp_path: Path) -> None:
    state = models.resnet18().state_dict()
    state["conv1.weight"] = change(state["conv1.weight"])
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"'conv1.weight' in the file is (int32|float32 w)"):
        build_encoder("resnet18", weights=tmp_path / "odd.pth")


def test_the_weights_key_names_the_prefix_of_the_tensors(tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in models.resnet18().state_dict().items()}
    torch.save(state, tmp_path / "ddp.pth")
    assert build_encoder("resnet18", weights=tmp_path / "ddp.pth").weights_key == "module"
