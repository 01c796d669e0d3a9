"""A mapped file is parsed once; what was found is used for the same bytes again."""

from __future__ import annotations

import io
import json
import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from tests.weights.files import save_legacy, save_zip, sha256_of

from headstrip import WeightsError
from headstrip.weights.reading import Reading, WeightsFile, read_weights

MAPPED = Reading(mapped=True)


@pytest.fixture(autouse=True)
def layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "layouts"


def checkpoint() -> dict[str, object]:
    table = torch.arange(1000.0)
    state = OrderedDict(
        a=table.reshape(10, 100), same=table[64:164], columns=torch.rand(8, 6, 3, 3).to(
            memory_format=torch.channels_last
        ), half=torch.rand(70).half(), count=torch.tensor(3), none=torch.zeros(0, 4),
    )  # fmt: skip
    state._metadata = OrderedDict({"": {"version": 2}})  # type: ignore[attr-defined]
    return {"state_dict": state, "epoch": 3, "names": ["a", None, 1.5]}


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor)
        alike = one.stride() == other.stride() and one.dtype == other.dtype
        return alike and torch.equal(one, other)
    if isinstance(one, dict):
        assert isinstance(other, dict)
        assert vars(one) == vars(other) if isinstance(one, OrderedDict) else True
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return one == other


def read_twice(path: Path) -> tuple[WeightsFile, WeightsFile]:
    return read_weights(path, how=MAPPED), read_weights(path, how=MAPPED)


def test_the_second_reading_gives_what_the_first_gave(tmp_path: Path, layouts: Path) -> None:
    path = save_zip(checkpoint(), tmp_path / "x")
    first, second = read_twice(path)
    assert (layouts / f"{sha256_of(path)}.json").is_file()
    assert same(first.content, second.content)
    assert same(torch.load(path, weights_only=True), second.content)
    assert second.guards


def test_it_parses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_zip(checkpoint(), tmp_path / "x")
    first = read_weights(path, how=MAPPED)
    monkeypatch.setattr(torch, "load", None)
    assert same(first.content, read_weights(path, how=MAPPED).content)


def test_tensors_that_share_memory_still_do(tmp_path: Path) -> None:
    state = read_twice(save_zip(checkpoint(), tmp_path / "x"))[1].content["state_dict"]  # type: ignore[index]
    state["a"].view(-1)[64] = -1
    assert state["same"][0] == -1


def test_every_tensor_starts_at_a_multiple_of_64_bytes(tmp_path: Path) -> None:
    state = read_twice(save_zip(checkpoint(), tmp_path / "x"))[1].content["state_dict"]  # type: ignore[index]
    assert all(one.data_ptr() % 64 == 0 for one in state.values() if one.numel())


def test_saving_one_tensor_does_not_save_the_file(tmp_path: Path) -> None:
    path = save_zip({"large": torch.rand(100_000), "small": torch.rand(3)}, tmp_path / "x")
    content = read_twice(path)[1].content
    saved = io.BytesIO()
    torch.save(content["small"], saved)  # type: ignore[index]
    assert len(saved.getvalue()) < 10_000


def test_writing_to_a_tensor_never_writes_the_file(tmp_path: Path) -> None:
    path = save_zip({"a": torch.rand(100)}, tmp_path / "x")
    before = path.read_bytes()
    read_twice(path)[1].content["a"].zero_()  # type: ignore[index]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda layout: b"",
        lambda layout: b"[]",
        lambda layout: json.dumps({**layout, "format": 0}).encode(),
        lambda layout: json.dumps({**layout, "storages": [[10**9, 4]]}).encode(),
        lambda layout: json.dumps({**layout, "storages": [[-4, 4]]}).encode(),
        lambda layout: json.dumps({**layout, "storages": [["a", 4]]}).encode(),
        lambda layout: json.dumps({**layout, "description": "{"}).encode(),
        lambda layout: json.dumps(
            {**layout, "tensors": [["a", "torch.float32", 0, 0, [10**9], [1]]]}
        ).encode(),
        lambda layout: json.dumps(
            {**layout, "tensors": [["a", "os.system", 0, 0, [1], [1]]]}
        ).encode(),
        lambda layout: json.dumps({**layout, "tensors": [["a"]]}).encode(),
    ],
)
def test_a_damaged_layout_has_the_file_parsed(tmp_path: Path, layouts: Path, damage) -> None:
    path = save_zip({"a": torch.arange(100.0)}, tmp_path / "x")
    first = read_weights(path, how=MAPPED)
    place = layouts / f"{sha256_of(path)}.json"
    place.write_bytes(damage(json.loads(place.read_bytes())))
    assert same(first.content, read_weights(path, how=MAPPED).content)


def test_the_limit_holds_for_it_too(tmp_path: Path) -> None:
    path = save_zip({"a": torch.rand(1000)}, tmp_path / "x")
    read_weights(path, how=MAPPED)
    with pytest.raises(WeightsError, match="holds 4,000 bytes of tensors"):
        read_weights(path, how=Reading(mapped=True, limit=3999))


def test_a_file_of_the_old_format_has_none(tmp_path: Path, layouts: Path) -> None:
    read_twice(save_legacy({"a": torch.rand(9)}, tmp_path / "x"))
    assert not layouts.exists()


def equal_layers() -> dict[str, object]:
    """Tensors of one size, some of them with the same values."""
    same = torch.rand(40, 40)
    return {"a": same, "b": torch.rand(40, 40), "c": same.clone(), "d": torch.zeros(40, 40)}


@pytest.mark.parametrize("content", [checkpoint, equal_layers])
def test_a_file_that_is_read_into_memory_is_parsed_twice_and_no_more(
    content, tmp_path: Path, layouts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = content()
    if content is checkpoint:
        # A view that starts at no multiple of 64 bytes is moved.
        del state["state_dict"]["same"]
    path = save_zip(state, tmp_path / "y")
    first = read_weights(path, how=Reading(mapped=False))
    assert not layouts.exists()
    read_weights(path, how=Reading(mapped=False))
    assert (layouts / f"{sha256_of(path)}.json").is_file()
    monkeypatch.setattr(torch, "load", None)
    for mapped in (False, True):
        assert same(first.content, read_weights(path, how=Reading(mapped=mapped)).content)


def test_what_is_read_by_its_layout_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = save_zip(checkpoint(), tmp_path / "x")
    read_weights(path, how=MAPPED)
    copied = read_weights(path, how=Reading(mapped=False))
    os.truncate(path, 10)
    state = copied.content["state_dict"]  # type: ignore[index]
    assert not copied.guards
    assert same(state["a"], torch.arange(1000.0).reshape(10, 100))
    assert all(one.data_ptr() % 64 == 0 for one in state.values() if one.numel())


def test_other_bytes_under_the_same_name_are_parsed(tmp_path: Path) -> None:
    read_twice(save_zip({"a": torch.zeros(100)}, tmp_path / "x"))
    path = save_zip({"a": torch.ones(100)}, tmp_path / "x")
    os.utime(path, ns=(1, 1))
    assert read_twice(path)[1].content["a"].sum() == 100  # type: ignore[index]
