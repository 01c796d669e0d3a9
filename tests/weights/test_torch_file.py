"""headstrip reads files of torch.save completely as data, and never runs code in them."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.weights.files import (
    SAVERS,
    Canary,
    contents,
    identical,
    save_legacy,
    save_safetensors,
    save_zip,
)

from headstrip import WeightsError
from headstrip.weights.safetensors_file import DTYPES

STATE = {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.ones(5, dtype=torch.bfloat16)}
SMALL = {"a": torch.arange(3.0), "b": torch.arange(2)}


@pytest.fixture(params=[True, False], ids=["mapped", "read"])
def mapped(request: pytest.FixtureRequest) -> bool:
    return request.param


# The format before torch 1.6 has no storage type for these dtypes.
NEWER = {dtype for name, dtype in DTYPES.items() if name.startswith(("F8", "U16", "U32", "U64"))}


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Draw a tensor of any dtype and shape, perhaps transposed, sliced, repeated or offset."""
    dtype = draw(
        st.sampled_from([*sorted(set(DTYPES.values()) - NEWER, key=str), torch.complex128])
    )
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
    form = draw(st.sampled_from(["plain", "transposed", "sliced", "repeated", "moved"]))
    if form == "transposed":
        return tensor.permute(tuple(reversed(range(tensor.ndim))))
    if form == "sliced" and tensor.ndim:
        return tensor[1::2]
    if form == "repeated":
        return tensor.expand(2, *shape)
    if form == "moved":
        return torch.zeros(1 + tensor.numel(), dtype=dtype)[1:].reshape(shape)
    return tensor


@given(
    state=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=6), tensors()),
    save=st.sampled_from([save_zip, save_legacy]),
    mapped=st.booleans(),
    checked=st.booleans(),
)
@settings(max_examples=150)
def test_any_state_dict_is_read_back_equal_and_its_file_is_never_changed(
    tmp_path_factory, state, save: Callable, mapped: bool, checked: bool
) -> None:
    path = save(state, tmp_path_factory.getbasetemp() / "any")
    before = path.read_bytes()
    content = contents(path, mapped=mapped, checked=checked).content
    assert content.keys() == state.keys()
    for name, tensor in content.items():
        assert identical(tensor, state[name])
        assert tensor.stride() == state[name].stride()
        if 0 not in tensor.stride():
            tensor.zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize("dtype", sorted(NEWER, key=str), ids=str)
def test_newer_dtypes_are_read_back_equal(tmp_path: Path, dtype: torch.dtype, mapped: bool) -> None:
    tensor = torch.arange(1, 8, dtype=torch.uint8).repeat(8).view(dtype)
    path = save_zip({"a": tensor}, tmp_path / "x")
    assert identical(contents(path, mapped=mapped).content["a"], tensor)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_tensors_that_share_memory_still_share_it_after_reading(
    tmp_path: Path, save: Callable, mapped: bool
) -> None:
    flat = torch.arange(100.0)
    one, apart = flat[3:7], flat[5:20]
    state = {"a": one, "tied": one, "again": flat[3:7], "turned": flat[3:7].reshape(2, 2).T}
    content = contents(save({**state, "apart": apart}, tmp_path / "x"), mapped=mapped).content
    content["a"][0] = -1
    assert content["tied"] is content["a"]
    assert content["again"][0] == content["turned"][0, 0] == -1
    assert content["apart"].tolist() == apart.tolist()


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_tensors_that_share_one_flat_buffer_are_read_back_equal(
    tmp_path: Path, save: Callable
) -> None:
    flat = torch.arange(10_000.0)
    parts = flat.split(13)
    parsed = contents(save(dict(enumerate(parts)), tmp_path / "x"), mapped=True)
    assert all(identical(parsed.content[i], part) for i, part in enumerate(parts))


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_other_values_in_a_checkpoint_are_read_back_equal(tmp_path: Path, save: Callable) -> None:
    module = torch.nn.BatchNorm1d(3)
    state = module.state_dict()
    checkpoint = {
        "state_dict": state,
        "epoch": 3,
        "best": (0.5, None, "x"),
        "list": [module.weight, {1, 2}],
        "size": torch.Size([1, 2]),
    }
    content = contents(save(checkpoint, tmp_path / "x"), mapped=True).content
    assert isinstance(content["state_dict"], OrderedDict)
    assert content["state_dict"]._metadata == state._metadata
    assert isinstance(content["list"][0], torch.nn.Parameter)
    assert (content["epoch"], content["best"], content["size"]) == (3, (0.5, None, "x"), (1, 2))


def test_a_checkpoint_that_contains_itself_can_be_read(tmp_path: Path, mapped: bool) -> None:
    checkpoint: dict[str, object] = {"a": torch.ones(3)}
    checkpoint["self"] = [checkpoint]
    content = contents(save_zip(checkpoint, tmp_path / "x"), mapped=mapped).content
    assert content["self"][0] is content


def archive_of(data: bytes) -> bytes:
    """Return an archive of torch.save that contains the given pickle."""
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/byteorder", "little")
        archive.writestr("x/version", "3\n")
    return stored.getvalue()


def legacy_of(data: bytes) -> bytes:
    """Return a file in the format before torch 1.6 that contains the given pickle."""
    before = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in before) + data + pickle.dumps([], 2)


def tar_of(data: bytes) -> bytes:
    """Return a file in the format before torch 0.1.10 that contains the given pickle."""
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w:") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stored.getvalue()


@pytest.mark.parametrize("packed", [archive_of, legacy_of, tar_of, bytes, lambda d: b"\n" + d])
@pytest.mark.parametrize("form", [lambda c: c, lambda c: {"a": c}, lambda c: [torch.ones, c]])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_code_in_a_file_never_runs(
    tmp_path: Path, packed: Callable, form: Callable, suffix: str, mapped: bool, monkeypatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, canary = tmp_path / f"x{suffix}", tmp_path / "canary"
    code = pickle.dumps(form(Canary(canary)), 2)
    path.write_bytes(packed(code))
    for checked in (True, False):
        with pytest.raises(WeightsError, match="headstrip executed nothing in it"):
            contents(path, mapped=mapped, checked=checked)
    assert not canary.exists()
    pickle.loads(code)
    assert canary.exists()


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_a_pickled_model_gives_a_clear_error(tmp_path: Path, save: Callable, mapped: bool) -> None:
    path = save(torch.nn.Linear(2, 2), tmp_path / "x")
    with pytest.raises(WeightsError, match="such as a whole model") as caught:
        contents(path, mapped=mapped)
    assert "safe_globals" not in str(caught.value)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_an_argparse_namespace_is_read_as_data(
    tmp_path: Path, save: Callable, mapped: bool
) -> None:
    # torch keeps the safe globals in a set, so their order varies.
    allowed = set(torch.serialization.get_safe_globals())
    path = save({"w": torch.ones(2), "args": Namespace(lr=0.1)}, tmp_path / "x")
    content = contents(path, mapped=mapped).content
    assert (content["args"].lr, content["w"].tolist()) == (0.1, [1, 1])
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_the_error_names_the_class_that_a_file_needs(tmp_path: Path, mapped: bool) -> None:
    path = save_zip({"w": torch.ones(2), "args": Namespace(path=tmp_path)}, tmp_path / "x")
    with pytest.raises(WeightsError, match=r"it names pathlib\."):
        contents(path, mapped=mapped)


def test_a_torchscript_archive_gives_a_clear_error(tmp_path: Path, mapped: bool) -> None:
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"x/{name}", b"x" * 200)
    (tmp_path / "x.pt").write_bytes(stored.getvalue())
    with pytest.raises(WeightsError, match=r"TorchScript archive.*save its state dict"):
        contents(tmp_path / "x.pt", mapped=mapped)


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_a_file_with_more_tensor_bytes_than_the_limit_is_refused(
    tmp_path: Path, save: Callable, mapped: bool
) -> None:
    path = save({"a": torch.zeros(100)}, tmp_path / "x")
    assert len(contents(path, mapped=mapped, limit=400).content) == 1
    with pytest.raises(WeightsError, match=r"x\.\w+ has 400 bytes of tensors.* most 399\."):
        contents(path, mapped=mapped, limit=399)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><title>404</title>", "it is a web page"),
        (b"\n\n<HTML><body>Please log in.", "it is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (tar_of(b""), "it is a tar archive"),
    ],
    ids=["empty", "page", "page after lines", "xml", "pointer", "tar"],
)
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
def test_the_error_names_the_real_type_of_a_file_without_weights(
    tmp_path: Path, content: bytes, what: str, suffix: str, mapped: bool
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{what}.*Get the file again"):
        contents(path, mapped=mapped)


class Failing(io.FileIO):
    """A file on a disk that fails after 20,000 bytes."""

    def readinto(self, buffer) -> int:
        if self.tell() + len(buffer) > 20_000:
            raise OSError(5, "Input/output error")
        return super().readinto(buffer)

    def readall(self) -> bytes:
        raise OSError(5, "Input/output error")

    def read(self, size: int = -1) -> bytes:
        data = bytearray(size)
        return bytes(data[: self.readinto(data)])


@pytest.mark.parametrize("save", [save_zip, save_safetensors])
def test_a_failing_disk_is_not_reported_as_a_damaged_file(
    tmp_path: Path, save: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstrip.weights.parsing import parse

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.preadv", fail, raising=False)
    path = save({"a": torch.arange(9000.0)}, tmp_path / "x")
    with Failing(path) as file, pytest.raises(WeightsError, match=r"cannot read .*disk or the"):
        parse(path, file)
