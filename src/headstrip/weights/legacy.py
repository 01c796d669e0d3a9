"""The files that torch wrote before 1.6: five pickles, and the storages one after another.

torch allocates what such a file claims before it looks at the rest, and leaves memory
uninitialised where the file claims a storage and does not hold it. So the claims are read first,
without building what the pickles describe.
"""

from __future__ import annotations

import pickletools
from typing import Any, BinaryIO

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_BEGINNING = 32
_COUNT = 8
_ITEMSIZES = {
    f"{kind}Storage": size
    for size, kinds in (
        (1, "Bool Byte Char QInt8 QUInt2x4 QUInt4x2 QUInt8"),
        (2, "BFloat16 Half Short"),
        (4, "Float Int QInt32"),
        (8, "ComplexFloat Double Long"),
        (16, "ComplexDouble"),
    )
    for kind in kinds.split()
}
_OTHER = object()
_MARK = object()


def check_legacy(file: BinaryIO, size: int) -> int:
    """Check that a file holds the storages that it names, each once.

    Args:
        file: The open file.
        size: Its bytes.

    Returns:
        The bytes of tensors in it.

    Raises:
        ValueError: It is not as torch writes it. The message is a few words.
    """
    file.seek(0)
    # What is another file altogether is not searched for operations.
    begins = _MAGIC.to_bytes(10, "little") in file.read(_BEGINNING)
    file.seek(0)
    if not begins or _scan(file)[0] != _MAGIC:
        raise ValueError("it does not begin as a file of torch.save does")
    if _scan(file)[0] != _PROTOCOL:
        raise ValueError("it is of a version that torch never wrote")
    _scan(file)
    claims = _scan(file)[1]
    keys = _scan(file)[2]
    if len(keys) != len(claims) or set(keys) != claims.keys():
        raise ValueError("it names other tensors than it holds")
    position = file.tell()
    for key in keys:
        elements, itemsize = claims[key]
        file.seek(position)
        if int.from_bytes(file.read(_COUNT), "little") != elements:
            raise ValueError("a tensor in it has another size than it says, or is cut short")
        position += _COUNT + elements * itemsize
    if position > size:
        raise ValueError("it ends before its last tensor does")
    return sum(elements * itemsize for elements, itemsize in claims.values())


def _scan(file: BinaryIO) -> tuple[Any, dict[str, tuple[int, int]], list[str]]:
    """Follow one pickle as far as texts, numbers and tuples go; nothing is built or imported.

    Returns:
        The top of the stack at the end; the storages in it by key, as elements and bytes of each;
        and the strings that it holds, in their order.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    claims: dict[str, tuple[int, int]] = {}
    texts: list[str] = []
    for code, value, _ in pickletools.genops(file):
        name = code.name
        if name in ("STOP", "PROTO", "FRAME"):
            continue
        if name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if value is None else value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo.get(value, _OTHER))
        elif name == "MARK":
            stack.append(_MARK)
        elif name.startswith("TUPLE"):
            items = _pop(stack, int(name[5:]) if name[5:] else None)
            stack.append(tuple(items))
        elif name == "BINPERSID":
            _claim(stack.pop(), claims)
            stack.append(_OTHER)
        elif isinstance(value, (str, int)) and not code.stack_before:
            stack.append(value)
            if isinstance(value, str) and name != "GLOBAL":
                texts.append(value)
        elif name == "NONE":
            stack.append(None)
        else:
            _pass(stack, code)
    return (stack[-1] if stack else None), claims, texts


def _pop(stack: list[Any], count: int | None) -> list[Any]:
    """Take the uppermost from the stack, or what lies above the uppermost mark."""
    if count is None:
        count = 0
        while stack[-1 - count] is not _MARK:
            count += 1
        items = stack[len(stack) - count :]
        del stack[len(stack) - count - 1 :]
        return items
    items = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return items


def _pass(stack: list[Any], code: pickletools.OpcodeInfo) -> None:
    """Do to the stack what an operation does, without its values."""
    before = list(code.stack_before)
    if pickletools.markobject in before:
        _pop(stack, None)
        before = before[: before.index(pickletools.markobject)]
    _pop(stack, len(before))
    stack.extend([_OTHER] * len(code.stack_after))


def _claim(claimed: Any, claims: dict[str, tuple[int, int]]) -> None:
    """Note a storage: ("storage", type, key, place, elements, a part of it or None)."""
    if not isinstance(claimed, tuple) or len(claimed) != 6 or claimed[0] != "storage":
        raise ValueError("it holds more than tensors and plain values, such as a whole model")
    kind, key, elements, part = claimed[1], claimed[2], claimed[4], claimed[5]
    itemsize = _ITEMSIZES.get(kind.split(" ")[-1]) if isinstance(kind, str) else None
    if (
        itemsize is None
        or not isinstance(key, str)
        or type(elements) is not int
        or elements < 0
        or not (part is None or isinstance(part, tuple))
        or claims.setdefault(key, (elements, itemsize)) != (elements, itemsize)
    ):
        raise ValueError("a tensor in it is described as torch never does")
