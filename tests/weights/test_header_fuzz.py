"""headstrip reads any safetensors header, or refuses it with a `WeightsError`."""

from __future__ import annotations

import io
import json
import random
import re
from pathlib import Path

import pytest

from headstrip import WeightsError
from headstrip.weights.safetensors_file import read_header

SEED = 20240229
PATH = Path("fuzz.safetensors")
DTYPES = {"F32": 4, "F16": 2, "I64": 8, "U8": 1, "BOOL": 1, "BF16": 2, "F8_E4M3": 1}
NUMBERS = [
    -1,
    0,
    1,
    2,
    3,
    7,
    8,
    63,
    64,
    1 << 31,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    1 << 64,
    10**40,
    1e3,
    0.5,
    True,
    None,
    "4",
    [],
    {},
]
WORDS = ["a", "", "__metadata__", "dtype", "shape", "F32", "F64 ", "f32", "\0", "é", "\U0001f600"]
TOKENS = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"\\u0061",
    b"\\ud800",
    b"null",
    b"true",
    b"NaN",
    b"-0",
    b"1e999",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b" ",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"9" * 5000,
]


def valid(rng: random.Random) -> tuple[dict[str, object], int]:
    """Return the entries of a valid header, and the size of their data in bytes."""
    entries: dict[str, object] = {}
    end = 0
    for index in range(rng.randrange(6)):
        dtype = rng.choice(list(DTYPES))
        shape = [rng.randrange(5) for _ in range(rng.randrange(4))]
        size = DTYPES[dtype]
        for count in shape:
            size *= count
        entries[f"layer.{index}"] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [end, end + size],
        }
        end += size
    if rng.random() < 0.3:
        entries["__metadata__"] = {"format": "pt"}
    return entries, end


def change_value(rng: random.Random, entries: dict[str, object]) -> None:
    """Change, remove or duplicate one random value of the header."""
    holder: object = entries
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = rng.choice(keys)
        inner = holder[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.8:
            holder = inner
            continue
        kind = rng.randrange(4)
        if kind == 0:
            holder[key] = rng.choice(NUMBERS)
        elif kind == 1:
            holder[key] = rng.choice(WORDS)
        elif kind == 2:
            del holder[key]
        elif isinstance(holder, dict):
            holder[rng.choice(WORDS)] = inner
        else:
            holder.append(inner)
        return


def change_bytes(rng: random.Random, header: bytes) -> bytes:
    """Change the serialized header at a random position."""
    at = rng.randrange(len(header) + 1)
    kind = rng.randrange(6)
    if kind == 0:
        return header[:at]
    if kind == 1:
        return header[:at] + bytes([rng.randrange(256)]) + header[at + 1 :]
    if kind == 2:
        return header[:at] + rng.choice(TOKENS) + header[at:]
    if kind == 3:
        to = min(len(header), at + rng.randrange(1, 60))
        return header[:to] + header[at:]
    if kind == 4:
        return header[:at] + header[at + rng.randrange(1, 20) :]
    numbers = list(re.finditer(rb"\d+", header))
    if not numbers:
        return header
    found = rng.choice(numbers)
    number = str(rng.choice(NUMBERS[:15])).encode()
    return header[: found.start()] + number + header[found.end() :]


def mutant(rng: random.Random) -> bytes:
    """Return the bytes of a valid file after one to three changes."""
    entries, end = valid(rng)
    changes = [rng.random() < 0.4 for _ in range(rng.randrange(1, 4))]
    for structured in changes:
        if structured:
            change_value(rng, entries)
    header = json.dumps(entries).encode()
    for structured in changes:
        if not structured:
            header = change_bytes(rng, header)
    length = len(header) if rng.random() < 0.9 else rng.choice([0, 1, 1 << 30, (1 << 64) - 1])
    data = bytes(max(0, end + rng.choice([0, 0, 0, 0, -1, 1, 8])))
    return length.to_bytes(8, "little") + header + data


def resident() -> int:
    """Return the resident memory of this process in bytes, or 0 if it is unknown."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def fuzz(count: int) -> tuple[int, int]:
    """Read many mutants; return how many were valid, and the peak growth of memory in bytes."""
    rng = random.Random(SEED)
    passed, before, most = 0, resident(), 0
    for index in range(count):
        data = mutant(rng)
        try:
            header = read_header(PATH, io.BytesIO(data), len(data))
        except WeightsError:
            continue
        finally:
            if index % 500 == 0:
                most = max(most, resident() - before)
        # The entries of an accepted header cover every byte of the data.
        assert sum(entry.size for entry in header.entries) == len(data) - data_start(data)
        passed += 1
    return passed, most


def data_start(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


@pytest.mark.parametrize(
    "count", [2_000, pytest.param(30_000, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_mutated_headers_are_read_or_refused_in_bounded_memory(count: int) -> None:
    passed, most = fuzz(count)
    assert count * 0.005 < passed < count * 0.5
    assert most < 32 << 20


HOSTILE = {
    "nested lists": b'{"a":' + b"[" * 20_000_000,
    "nested objects": b'{"a":' * 4_000_000,
    "many lists": b'{"a":{"dtype":"F32","shape":[' + b"[]," * 7_000_000 + b"1]}}",
    "long shape": b'{"a":{"dtype":"F32","shape":[' + b"1," * 10_000_000 + b"1]}}",
    "long number": b'{"a":{"dtype":"F32","shape":[' + b"9" * 20_000_000 + b"]}}",
    "long name": b'{"' + b"a" * 20_000_000 + b'":1}',
    "escapes": b'{"' + b"\\u0061" * 3_000_000 + b'":1}',
    "backslashes": b'{"' + b"\\" * 20_000_001,
    "commas": b"{" + b"," * 20_000_000,
    "spaces": b"{" + b" " * 20_000_000,
    "metadata": b'{"__metadata__":{' + b",".join(b'"%d":""' % i for i in range(1_000_000)) + b"}}",
}


@pytest.mark.skipif(not resident(), reason="this system does not report memory use")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_header_takes_only_a_few_times_its_own_size_in_memory(kind: str) -> None:
    header = HOSTILE[kind]
    data = len(header).to_bytes(8, "little") + header
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system cannot reset the peak memory")
    before = peak()
    with pytest.raises(WeightsError):
        read_header(PATH, io.BytesIO(data), len(data))
    assert peak() - before < 5 * len(header) + (64 << 20)


def peak() -> int:
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
