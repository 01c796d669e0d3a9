"""headstrip converts a file once into an optimized copy that it can map unchanged."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import safetensors.torch
import torch
from tests.children import DIED, Children
from tests.failing import failing
from tests.weights.files import (
    SAVERS,
    contents,
    identical,
    save_legacy,
    save_safetensors,
    save_zip,
    sha256_of,
)
from torchvision import models

from headstrip import WeightsError
from headstrip.weights import trust
from headstrip.weights.optimized import optimize
from headstrip.weights.records import find_copy, recorded

STATE = {
    "weight": torch.arange(12.0).reshape(3, 4),
    "bias": torch.arange(5, dtype=torch.int16),
    "count": torch.tensor(3),
    "none": torch.zeros(0, 2),
    "half": torch.ones(7).half(),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """headstrip's cache folder, which does not exist yet."""
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_an_optimized_copy_is_mapped_completely_and_aligned(tmp_path: Path, save: Callable) -> None:
    parsed = contents(optimize(save(STATE, tmp_path / "x")), mapped=True, checked=True)
    assert parsed.content.keys() == STATE.keys()
    assert parsed.mapped_bytes == sum(value.nbytes for value in STATE.values())
    for name, tensor in parsed.content.items():
        assert identical(tensor, STATE[name])
        assert tensor.data_ptr() % 64 == 0


def test_an_optimized_copy_is_found_by_the_hash_of_its_source(tmp_path: Path, cache: Path) -> None:
    source = save_legacy(STATE, tmp_path / "x")
    assert find_copy(sha256_of(source)) is None
    target = optimize(source)
    assert find_copy(sha256_of(source)) == target
    assert target == cache / "optimized" / f"{sha256_of(source)}.safetensors"
    assert source.read_bytes() == save_legacy(STATE, tmp_path / "y").read_bytes()


@pytest.mark.parametrize("name", ["", "0" * 63, "../" + "0" * 61, "A" * 64])
def test_an_invalid_hash_finds_no_copy(name: str) -> None:
    assert find_copy(name) is None


def test_the_hash_of_an_optimized_copy_is_recorded(tmp_path: Path) -> None:
    target = optimize(save_legacy(STATE, tmp_path / "x"))
    record = recorded(target)
    assert (record.sha256, record.origin) == (sha256_of(target), "optimized")


def test_a_file_is_converted_only_once(tmp_path: Path) -> None:
    source = save_legacy(STATE, tmp_path / "x")
    before = optimize(source).stat().st_mtime_ns, optimize(source).stat().st_ino
    assert before == (optimize(source).stat().st_mtime_ns, optimize(source).stat().st_ino)
    assert len(os.listdir(optimize(source).parent)) == 1


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"x" + data[1:]])
def test_a_damaged_copy_is_written_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    copy = optimize(source := save_legacy(STATE, tmp_path / "x"))
    whole = copy.read_bytes()
    copy.write_bytes(damage(whole))
    assert optimize(source) == copy
    assert copy.read_bytes() == whole


def test_an_optimized_copy_keeps_the_module_versions(tmp_path: Path) -> None:
    # MNASNet refuses to load without module versions.
    state = models.mnasnet0_5().state_dict()
    content = contents(optimize(save_legacy(state, tmp_path / "x")), mapped=True).content
    assert isinstance(content, OrderedDict)
    assert content._metadata == state._metadata
    models.mnasnet0_5().load_state_dict(content)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_an_optimized_copy_keeps_everything_in_a_checkpoint(tmp_path: Path, save: Callable) -> None:
    checkpoint = {
        "state_dict": OrderedDict(a=torch.ones(3)),
        "epoch": 3,
        "nested": [1, (2.5, None), {"x"}],
        7: {"__metadata__": torch.zeros(2), "__pad_1": torch.zeros(1)},
        "": torch.tensor(True),
        "loss": float("inf"),
        "size": torch.Size([1, 2]),
        "state_dict.a": torch.zeros(1),
        "list": [torch.arange(4), torch.arange(4).half()],
    }
    content = contents(optimize(save(checkpoint, tmp_path / "x")), mapped=True).content
    assert list(content) == list(checkpoint)
    assert content["nested"] == checkpoint["nested"]
    assert (content["epoch"], content["loss"], content["size"]) == (3, float("inf"), (1, 2))
    assert isinstance(content["size"], torch.Size)
    assert isinstance(content["state_dict"], OrderedDict)
    assert identical(content["state_dict"]["a"], torch.ones(3))
    assert identical(content["state_dict.a"], torch.zeros(1))
    assert identical(content[7]["__metadata__"], torch.zeros(2))
    assert identical(content[7]["__pad_1"], torch.zeros(1))
    assert identical(content[""], torch.tensor(True))
    assert identical(content["list"][1], torch.arange(4).half())


@pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(3)], {}, None, 3])
def test_an_optimized_copy_keeps_content_of_any_type(tmp_path: Path, content: object) -> None:
    back = contents(optimize(save_zip(content, tmp_path / "x")), mapped=True).content
    assert type(back) is type(content)
    assert str(back) == str(content)


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    tensor = torch.arange(10_000.0)
    state = {"a": tensor, "b": tensor, "c": tensor[5:], "t": tensor.reshape(100, 100).T}
    target = optimize(save_legacy(state, tmp_path / "x"))
    content = contents(target, mapped=True).content
    assert content["a"].data_ptr() == content["b"].data_ptr()
    assert all(identical(content[name], state[name]) for name in state)
    assert target.stat().st_size < 3 * tensor.nbytes + 2000


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0)[1::4][:1],
        torch.arange(6.0)[1::2],
        torch.arange(6.0).reshape(2, 3).T,
        torch.ones(1).expand(3),
        torch.complex(torch.ones(2), torch.ones(2)).conj(),
        torch.zeros(0, 3).T,
        torch.nn.Parameter(torch.ones(2)),
        torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
    ],
    ids=["one", "steps", "turned", "repeated", "conjugate", "empty", "parameter", "channels last"],
)
@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_tensors_with_any_strides_become_contiguous(
    tmp_path: Path, tensor: torch.Tensor, save: Callable
) -> None:
    back = contents(optimize(save({"a": tensor}, tmp_path / "x")), mapped=True).content["a"]
    assert back.is_contiguous()
    assert torch.equal(back, tensor)


def test_the_safetensors_library_can_read_an_optimized_copy(tmp_path: Path) -> None:
    target = optimize(save_legacy(STATE, tmp_path / "x"))
    read = safetensors.torch.load_file(target)
    assert all(identical(read[name], STATE[name]) for name in STATE)
    with safetensors.safe_open(target, "pt") as file:
        assert file.metadata()["source_sha256"] == target.stem


def test_a_file_outside_the_cache_is_never_read_as_an_optimized_copy(tmp_path: Path) -> None:
    target = optimize(save_legacy(STATE, tmp_path / "x"))
    copied = tmp_path / target.name
    copied.write_bytes(target.read_bytes())
    assert any(name.startswith("__pad_") for name in contents(copied).content)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"wrapped": ""},
        {"wrapped": "{}"},
        {"wrapped": '{"tensor":"b"}'},
        {"wrapped": '{"dict":3}'},
        {"wrapped": "[" * 100_000},
        {"wrapped": '{"x":[[1,2]]}'},
        {"wrapped": '{"set":[{"list":[]}]}'},
        {"wrapped": '{"tensor":[1]}'},
        {"wrapped": '{"size":["a"]}'},
        {"wrapped": '{"ordered":[],"attributes":3}'},
    ],
    ids=str,
)
def test_an_optimized_copy_with_a_damaged_description_is_refused(
    tmp_path: Path, cache: Path, wrong: dict
) -> None:
    (cache / "optimized").mkdir(parents=True)
    path = cache / "optimized" / f"{'0' * 64}.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1)}, path, metadata=wrong)
    with pytest.raises(WeightsError, match="its description is damaged"):
        contents(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"a": torch.zeros(1, dtype=torch.complex128)}, "complex128, torch.strided at 'a'"),
        ({"a": [b"bytes"]}, "a bytes at 'a.0'"),
        ({"a": torch.float32}, "a dtype at 'a'"),
    ],
)
def test_the_error_names_the_content_that_cannot_be_converted(
    tmp_path: Path, content: object, what: str
) -> None:
    path = save_zip(content, tmp_path / "x")
    with pytest.raises(WeightsError, match=rf"cannot convert .*x.pth: it contains .*{what}.*alone"):
        optimize(path)
    assert find_copy(sha256_of(path)) is None


def test_a_file_with_an_expanded_tensor_is_not_converted(tmp_path: Path) -> None:
    path = save_zip({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "x")
    with pytest.raises(WeightsError, match="has tensors that were expanded"):
        optimize(path)


def test_a_checkpoint_that_contains_itself_is_not_converted(tmp_path: Path) -> None:
    checkpoint: dict[str, object] = {}
    checkpoint["model"] = checkpoint
    with pytest.raises(WeightsError, match="cannot convert"):
        optimize(save_zip(checkpoint, tmp_path / "x"))


def test_a_damaged_file_or_a_folder_is_not_converted(tmp_path: Path, cache: Path) -> None:
    source = save_legacy(STATE, tmp_path / "x")
    os.truncate(source, source.stat().st_size - 1)
    with pytest.raises(WeightsError, match="damaged"):
        optimize(source)
    with pytest.raises(WeightsError, match="is a folder, not a weights file"):
        optimize(tmp_path)
    assert not (cache / "optimized").exists()


def converted(source: Path) -> tuple[Path | None, str]:
    """Return the optimized copy, or None and the error message."""
    try:
        return optimize(source), ""
    except WeightsError as error:
        return None, str(error)


@pytest.mark.parametrize("name", ["mkdir", "open", "write", "fsync", "replace"])
def test_a_full_disk_leaves_no_incomplete_copy(tmp_path: Path, cache: Path, name: str) -> None:
    source = save_safetensors(STATE, tmp_path / "x")
    for at in itertools.count():
        with failing(name, at=at, error=errno.ENOSPC) as calls:
            made, message = converted(source)
        assert made or "Make room" in message or "cannot read" in message
        folder = cache / "optimized"
        left = sorted(os.listdir(folder)) if folder.exists() else []
        assert left in ([], [f"{sha256_of(source)}.safetensors"])
        if made is not None:
            assert identical(contents(made).content["weight"], STATE["weight"])
            made.unlink()
        if not calls.hit:
            break


def test_a_file_that_is_rewritten_during_conversion_gives_an_error(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_zip(STATE, tmp_path / "x")
    real = trust.hash_of

    def hash_and_rewrite(file: BinaryIO) -> str:
        found = real(file)
        save_zip({name: value * 0 for name, value in STATE.items()}, tmp_path / "x")
        return found

    monkeypatch.setattr("headstrip.weights.optimized.hash_of", hash_and_rewrite)
    with pytest.raises(WeightsError, match="was rewritten in place"):
        optimize(source)
    assert os.listdir(cache / "optimized") == []


def test_looking_for_an_optimized_copy_does_not_import_torch() -> None:
    code = (
        "import sys; from headstrip.weights.records import find_copy; find_copy('0' * 64);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_next_conversion_removes_the_leftovers_of_a_killed_process(
    tmp_path: Path, cache: Path
) -> None:
    source = save_legacy(STATE, tmp_path / "x")
    with Children() as children:
        ended = children.run(
            "headstrip.weights.optimized:optimize", source, names=("replace",), at=0
        )
    assert ended.code == DIED
    (left,) = (cache / "optimized").iterdir()
    os.utime(left, (1, 1))
    being_written = left.with_name(f"{left.name[:-8]}00000000")
    being_written.touch()
    assert set((cache / "optimized").iterdir()) == {left, being_written}
    assert set(optimize(source).parent.iterdir()) == {being_written, optimize(source)}
