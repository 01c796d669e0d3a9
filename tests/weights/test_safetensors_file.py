"""headstrip reads safetensors files as the safetensors library does, but more strictly."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.weights.files import contents, identical, write_safetensors

from headstrip import WeightsError
from headstrip.weights.safetensors_file import DTYPES

ONE = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
PARTS = {"<one>": ONE, "<deep>": "[" * 100_000, "<nines>": "9" * 3000, "<ones>": "1," * 64}


def test_the_reader_supports_all_common_dtypes() -> None:
    known = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "C64"}
    assert known | {"F8_E4M3", "F8_E5M2", "U16", "U32", "U64"} <= DTYPES.keys()


def of_any_type(data: bytes, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    count = torch.Size(shape).numel() * dtype.itemsize
    taken = (data * (count // max(len(data), 1) + 1))[:count] if data else bytes(count)
    raw = torch.tensor(list(taken), dtype=torch.uint8)
    return (raw % 2 if dtype is torch.bool else raw).view(dtype).reshape(shape)


WRITABLE = [dtype for name, dtype in DTYPES.items() if name != "F8_E8M0"]
TENSORS = st.builds(
    of_any_type,
    st.binary(max_size=40),
    st.sampled_from(WRITABLE),
    st.lists(st.integers(0, 5), max_size=4),
)


@given(
    state=st.dictionaries(st.text(max_size=8).filter(lambda n: n != "__metadata__"), TENSORS),
    metadata=st.dictionaries(st.text(max_size=4), st.text(max_size=30)),
    mapped=st.booleans(),
)
@settings(max_examples=150)
def test_any_file_is_read_bit_for_bit_as_the_library_reads_it(
    tmp_path_factory, state, metadata, mapped
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(safetensors.torch.save(state, metadata if state else None))
    before = path.read_bytes()
    content = contents(path, mapped=mapped).content
    expected = safetensors.torch.load(before)
    assert content.keys() == expected.keys()
    for name, tensor in content.items():
        assert identical(tensor, expected[name])
        assert tensor.is_contiguous()
        assert tensor.data_ptr() % 64 == 0
        tensor.zero_()
    assert path.read_bytes() == before


def test_key_order_and_whitespace_in_a_header_do_not_matter(tmp_path: Path) -> None:
    header = (
        '{ "b\\u0061" : {\n"shape" : [ 2 , 1 ] , "data_offsets":[8,16], "dtype":"F32"},'
        '"__metadata__":{"format" : "pt", "\\"{": "}\\\\"} ,\t"a":' + ONE + "}    "
    )
    path = write_safetensors(tmp_path / "x.safetensors", header.encode(), bytes(range(16)))
    content, expected = contents(path).content, safetensors.torch.load(path.read_bytes())
    assert content.keys() == expected.keys() == {"a", "ba"}
    assert all(identical(content[name], expected[name]) for name in content)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ('{"a":<one>,"a":<one>}', "names 'a' twice"),
        ('{"a":<one>,"\\u0061":<one>}', "names 'a' twice"),
        ('{"__metadata__":{},"__metadata__":{},"a":<one>}', "names '__metadata__' twice"),
        ('{"__metadata__":{"k":"1","k":"2"},"a":<one>}', "names 'k' twice"),
        ('{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "'dtype' twice"),
        ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}}', "must have exactly"),
        ('{"a":{"dtype":"F32","shape":[2]}}', "must have exactly"),
        ('{"a":{}}', "must have exactly"),
        ('{"__metadata__":{"k":1},"a":<one>}', "must be an object of strings"),
        ('{"__metadata__":{"k":{}},"a":<one>}', "must be an object of strings"),
        ('{"__metadata__":null,"a":<one>}', "must be an object of strings"),
        ('{"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}}', "unknown dtype 'F31'"),
        ('{"a":{"dtype":["F32"],"shape":[2],"data_offsets":[0,8]}}', "unknown dtype"),
        ('{"a":{"dtype":"F32","shape":[true,2],"data_offsets":[0,8]}}', "64 integers"),
        ('{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', "64 integers"),
        ('{"a":{"dtype":"F32","shape":[-2,-1],"data_offsets":[0,8]}}', "64 integers"),
        ('{"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}}', "64 integers"),
        ('{"a":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}}', "64 integers"),
        ('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', "NaN is not JSON"),
        ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}}', "data_offsets of 'a'"),
        ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}', "data_offsets of 'a'"),
        ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[true,8]}}', "64 integers"),
        ('{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}', "'a' has 8 bytes"),
        (
            '{"a":{"dtype":"F32","shape":[4611686018427387904,0,8],"data_offsets":[0,0]}}',
            "more bytes than a",
        ),
        ('{"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]}}', "64 integers"),
        ('{"a":{"dtype":"F32","shape":[<nines>],"data_offsets":[0,8]}}', "64 integers"),
        ('{"a":{"dtype":"F32","shape":[<ones>1],"data_offsets":[0,4]}}', "64 integers"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "tensors end at byte"),
        ('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', "tensors end at byte"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', "does not start where"),
        ('{"a":<one>,"b":{"dtype":"U8","shape":[1],"data_offsets":[7,8]}}', "'b' does not start"),
        ('{"a":<one>,"b":<one>}', "'b' does not start"),
        ("{}", "tensors end at byte"),
        ("[]", "must begin with"),
        ("", "must begin with"),
        (' {"a":<one>}', "must begin with"),
        ('{"a":<one>,}', "Expecting property name|trailing comma"),
        ('{"a":<one>', "Expecting ',' delimiter"),
        ('{"a":<one>}{}', "Extra data"),
        ('{"a":<one>}\0', "Extra data"),
        ("{a:<one>}", "Expecting property name|trailing comma"),
        ('{"a":[<one>]}', "must have exactly"),
        ('{"a":1}', "must have exactly"),
        ('{"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}}', "64 integers"),
        ('{"a":{"dtype":"F32","shape":<deep>,"data_offsets":[0,8]}}', "recursion"),
        ('{"a":<deep>}', "recursion"),
        ("<deep>", "must begin with"),
        ('{"\\ud800":<one>}', "surrogates not allowed"),
        ('{"a\nb":<one>}', "Invalid control character"),
        ('{"\\x":<one>}', "Invalid.*escape"),
    ],
)
def test_an_invalid_header_is_refused(tmp_path: Path, header: str, problem: str) -> None:
    for part, text in PARTS.items():
        header = header.replace(part, text)
    path = write_safetensors(tmp_path / "x.safetensors", header.encode(), bytes(8))
    with pytest.raises(WeightsError, match=rf"x.safetensors is damaged .*{problem}") as caught:
        contents(path)
    assert len(str(caught.value)) < 600 + len(str(path))


@pytest.mark.parametrize(
    "start", [b"", b"1234567", b"\xff" * 8, (1 << 40).to_bytes(8, "little") + b"{}"]
)
def test_a_header_length_beyond_the_end_of_the_file_is_refused(
    tmp_path: Path, start: bytes
) -> None:
    (tmp_path / "x.safetensors").write_bytes(start)
    with pytest.raises(WeightsError, match=r"it claims|it is empty"):
        contents(tmp_path / "x.safetensors")


def test_a_header_length_beyond_the_limit_of_the_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((100_000_001).to_bytes(8, "little"))
    os.truncate(path, 100_000_100)
    with pytest.raises(WeightsError, match="it claims 100000001 bytes"):
        contents(path)


def test_a_header_that_is_not_valid_utf8_is_refused(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", b'{"\xff":%s}' % ONE.encode(), bytes(8))
    with pytest.raises(WeightsError, match="can't decode byte 0xff"):
        contents(path)


def test_a_header_with_too_many_values_is_refused(tmp_path: Path) -> None:
    entry = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    header = "{" + ",".join(entry % index for index in range(1 << 17)) + "}"
    path = write_safetensors(tmp_path / "x.safetensors", header.encode())
    with pytest.raises(WeightsError, match="has more than 1,048,576 values"):
        contents(path)


def test_a_file_with_more_bytes_than_the_limit_is_refused_before_reading(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "U8", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}})
    path = write_safetensors(tmp_path / "x.safetensors", header.encode())
    os.truncate(path, path.stat().st_size + (1 << 40))
    with pytest.raises(WeightsError, match=r"1,099,511,627,776 bytes .* at most 1,000\."):
        contents(path, limit=1000)
    small = write_safetensors(tmp_path / "y.safetensors", b'{"a":%s}' % ONE.encode(), bytes(8))
    assert contents(small, limit=8).content["a"].tolist() == [0, 0]


def test_loaded_tensors_can_be_saved_again_together_or_alone(tmp_path: Path) -> None:
    state = {"a": torch.arange(16.0), "b": torch.arange(3, dtype=torch.int16), "c": torch.ones(99)}
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    for mapped in (True, False):
        content = contents(tmp_path / "x.safetensors", mapped=mapped).content
        safetensors.torch.save_file(content, tmp_path / "y.safetensors")
        torch.save(content["b"], tmp_path / "b.pth")
        assert (tmp_path / "b.pth").stat().st_size < 2000
        again = safetensors.torch.load_file(tmp_path / "y.safetensors")
        assert all(identical(again[name], state[name]) for name in state)


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) << 10


@pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="this system does not report peak memory"
)
@pytest.mark.parametrize("mapped", [True, False])
def test_reading_an_unaligned_file_takes_about_its_size_in_memory(
    tmp_path: Path, mapped: bool
) -> None:
    names = [f"layer.{index}.{kind}" for index in range(12) for kind in ("weight", "bias")]
    shapes = [(1 << 20) if name.endswith("weight") else 1001 for name in names]
    state = {name: torch.ones(n) for name, n in zip(names, shapes, strict=True)}
    safetensors.torch.save_file({**state, "n": torch.tensor(1)}, tmp_path / "x.safetensors")
    del state
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system cannot reset the peak memory")
    before = peak()
    content = contents(tmp_path / "x.safetensors", mapped=mapped).content
    assert peak() - before < (tmp_path / "x.safetensors").stat().st_size + (16 << 20)
    assert len(content) == 25
