"""A reader that accepts few classes reads what torch read once, with the same result."""

from __future__ import annotations

import copyreg
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.weights.files import Canary, State, contents, identical, save_zip, sha256_of, state_of
from tests.weights.test_torch_file import tensors
from torch import nn

from headstrip import WeightsError, build_encoder
from headstrip.weights import mapped_archive


@pytest.fixture
def torch_loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the files that `torch.load` reads."""
    files: list[Any] = []
    load = torch.load

    def noted(file: Any, **options: Any) -> Any:
        files.append(file)
        return load(file, **options)

    monkeypatch.setattr(torch, "load", noted)
    return files


def read(path: Path) -> Any:
    return contents(path, mapped=True, checked=True, read_before=True).content


@given(state=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=6), tensors()))
@settings(max_examples=150)
def test_any_state_dict_is_read_exactly_as_torch_reads_it(tmp_path_factory, state: State) -> None:
    path = save_zip(state, tmp_path_factory.getbasetemp() / "any")
    before = path.read_bytes()
    content, expected = read(path), torch.load(path, weights_only=True)
    assert list(content) == list(expected)
    for name, tensor in content.items():
        assert identical(tensor, expected[name])
        assert tensor.stride() == expected[name].stride()
        assert tensor.storage_offset() == expected[name].storage_offset()
        assert tensor.untyped_storage().nbytes() == expected[name].untyped_storage().nbytes()
        if 0 not in tensor.stride():
            tensor.zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32"])
def test_a_torchvision_network_is_read_without_torch_load(
    tmp_path: Path, name: str, torch_loads: list[Any]
) -> None:
    state = state_of(name)
    content = read(save_zip(state, tmp_path / "x"))
    assert not torch_loads
    assert isinstance(content, OrderedDict)
    assert content._metadata == state._metadata
    assert all(identical(content[key], state[key]) for key in state)


def test_tensors_that_share_memory_still_share_it_after_reading(
    tmp_path: Path, torch_loads: list[Any]
) -> None:
    flat = torch.arange(100.0)
    one = flat[3:7]
    state = {"a": one, "tied": one, "again": flat[3:7], "turned": flat[3:7].reshape(2, 2).T}
    content = read(save_zip(state, tmp_path / "x"))
    content["a"][0] = -1
    assert content["tied"] is content["a"]
    assert content["again"][0] == content["turned"][0, 0] == -1
    assert not torch_loads


def test_requires_grad_survives_reading(tmp_path: Path, torch_loads: list[Any]) -> None:
    state = {"a": torch.ones(2, requires_grad=True), "b": torch.ones(2)}
    content = read(save_zip(state, tmp_path / "x"))
    assert [content[key].requires_grad for key in ("a", "b")] == [True, False]
    assert not torch_loads


@pytest.mark.parametrize(
    "other",
    [
        nn.Parameter(torch.ones(3)),
        torch.ones(3, dtype=torch.complex64).conj(),
        torch.ones(3).view(torch.uint8).view(torch.float8_e5m2),
        torch.Size([1, 2]),
        {1, 2},
    ],
    ids=["parameter", "conjugate", "float8", "size", "set"],
)
def test_torch_reads_files_that_this_reader_does_not_support(
    tmp_path: Path, other: Any, torch_loads: list[Any]
) -> None:
    content = read(save_zip({"a": torch.ones(3), "b": other}, tmp_path / "x"))
    assert torch_loads
    assert type(content["b"]) is type(other)
    assert torch.equal(content["a"], torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_torch_reads_files_of_the_other_byte_order(
    tmp_path: Path, dtype: torch.dtype, torch_loads: list[Any]
) -> None:
    path = save_zip({"a": torch.arange(3).to(dtype)}, tmp_path / "x")
    swapped = tmp_path / "swapped.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(swapped, "w") as new:
        for entry in old.infolist():
            new.writestr(entry, b"big" if entry.filename.endswith("byteorder") else old.read(entry))
    content = read(swapped)
    assert torch_loads
    assert not torch.equal(content["a"], torch.arange(3).to(dtype))


class Pickled:
    """An object that pickle writes with the given arguments of ``__reduce__``."""

    def __init__(self, how: Any) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return self.how


def with_pickle(path: Path, data: Callable[[bytes], bytes]) -> Path:
    """Copy an archive with a changed pickle."""
    other = path.with_name("other.pth")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry, data(content) if entry.filename.endswith("data.pkl") else content)
    return other


@pytest.mark.parametrize("place", ["alone", "inside", "as a state", "as a key"])
def test_code_in_a_file_is_refused_and_never_runs(tmp_path: Path, place: str) -> None:
    marker = tmp_path / "it-was-executed"
    bomb = Canary(marker)
    content = {
        "alone": bomb,
        "inside": {"a": torch.ones(1), "b": [bomb]},
        "as a state": Pickled((OrderedDict, (), {"x": bomb})),
        "as a key": {Pickled((OrderedDict.fromkeys, ([1],))): torch.ones(1), "b": bomb},
    }[place]
    with pytest.raises(WeightsError, match="headstrip executed nothing in it"):
        read(save_zip(content, tmp_path / "x"))
    assert not marker.exists()


PROGRAMS = {
    "a function of the system": b"cposix\nsystem\n(S'true'\ntR.",
    "an attribute of the class": b"ccollections\nOrderedDict\n(N}S'fromkeys'\nK\x01stb.",
    "an attribute of the function": b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'x'\nK\x01stb.",
    "another class for the function": b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'__class__'\n"
    b"ccollections\nOrderedDict\nstb.",
    "a class by its number": b"\x82\xf0.",
    "a storage by its name": b"P0\n.",
    "a storage of no tensor": b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x009X\x03\x00\x00\x00cpuK\x01tQ.",
    "no end": b"\x80\x02}",
    "nothing": b"",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_hostile_pickle_is_refused_and_changes_nothing(tmp_path: Path, program: bytes) -> None:
    found, function = OrderedDict.fromkeys, torch._utils._rebuild_tensor_v2
    copyreg.add_extension("tests.weights.files", "Canary", 0xF0)
    try:
        path = with_pickle(save_zip({"a": torch.ones(3)}, tmp_path / "x"), lambda _: program)
        with pytest.raises(WeightsError, match="is damaged or is not a weights file"):
            read(path)
    finally:
        copyreg.remove_extension("tests.weights.files", "Canary", 0xF0)
    assert OrderedDict.fromkeys == found
    assert torch._utils._rebuild_tensor_v2 is function
    assert set(mapped_archive._ALLOWED) == {
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        *(("torch", name) for name in mapped_archive.STORAGES),
    }


@pytest.mark.parametrize("elements", [4, 10**6, -1])
def test_torch_reads_a_file_with_a_tensor_of_another_size_than_its_entry(
    tmp_path: Path, elements: int, torch_loads: list[Any]
) -> None:
    def other_size(data: bytes) -> bytes:
        old = b"cpu" + data.partition(b"cpu")[2].partition(b"K\x03")[0] + b"K\x03"
        assert old in data
        return data.replace(old, old[:-2] + b"J" + elements.to_bytes(4, "little", signed=True), 1)

    path = with_pickle(save_zip({"a": torch.ones(3)}, tmp_path / "x"), other_size)
    with suppress(WeightsError):
        assert torch.equal(read(path)["a"], torch.ones(3))
    assert torch_loads


@pytest.mark.parametrize("place", ["hub", "own"])
def test_torch_load_reads_each_file_only_once(
    tmp_path: Path,
    torch_loads: list[Any],
    hub: Path,
    published: Callable[..., Any],
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "records"))
    state = state_of("resnet18")
    folder = hub if place == "hub" else tmp_path
    path = save_zip(state, folder / "resnet18-f37072fd")
    published("resnet18", sha256=sha256_of(path))
    how: dict[str, Any] = {} if place == "hub" else {"weights": path, "map": True}
    encoders = [build_encoder("resnet18", **how) for _ in range(3)]
    assert len(torch_loads) == 1
    for encoder in encoders:
        assert encoder.head is not None
        assert identical(encoder.head.weight, state["fc.weight"])
    # A file with other bytes counts as a new file.
    save_zip({**state, "fc.bias": state["fc.bias"] + 1}, folder / "resnet18-f37072fd")
    published("resnet18", sha256=sha256_of(path))
    build_encoder("resnet18", **how)
    assert len(torch_loads) == 2


@pytest.mark.parametrize("mapped", [True, False])
def test_a_pickle_with_a_huge_memo_number_is_refused(tmp_path: Path, mapped: bool) -> None:
    number = (2**28).to_bytes(4, "little")
    path = with_pickle(
        save_zip({"a": torch.ones(3)}, tmp_path / "x"), lambda _: b"\x80\x02}r%b." % number
    )
    with pytest.raises(WeightsError, match="has the number 268435456"):
        contents(path, mapped=mapped, checked=True)
