"""Split the content of a weights file into tensors and a JSON description, and restore it.

The description writes a value that is not plain as a dict with one key: its kind.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from headstrip.errors import one_line
from headstrip.weights.safetensors_file import DTYPES, PAD

DESCRIPTION = "wrapped"
"""Metadata key of an optimized copy that has the description."""

_WRONG = (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError)
_RESERVED = ("__metadata__", PAD)
_PLAIN = (str, int, float, bool, type(None))
_SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "size": torch.Size}


def take_apart(content: object) -> tuple[dict[str, Tensor], str]:
    """Return the tensors in the content of a file, each once, and a description of the rest.

    Raises:
        TypeError: The content has an object that cannot be described. The message names it.
        RecursionError: The content is nested too deeply, or contains itself.
    """
    parts = _Parts()
    described = json.dumps(parts.describe(content, []))
    return parts.tensors, described


def restore(tensors: dict[str, Tensor], description: str) -> object:
    """Return the content that `take_apart` split.

    Raises:
        ValueError: The description is damaged.
    """
    try:
        return _restored(json.loads(description), tensors)
    except _WRONG as error:
        raise ValueError(f"its description is damaged: {one_line(error, 80)}") from None


class _Parts:
    """Collects tensors under names, and gives one name to views of the same memory."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def describe(self, item: Any, path: list[str]) -> Any:
        kind = type(item)
        if isinstance(item, Tensor):
            return {"tensor": self._name(item.detach(), path)}
        if kind in _PLAIN:
            return item
        if kind is dict:
            return {"dict": self._pairs(item, path)}
        if kind is OrderedDict:
            # A state dict stores the versions of its modules in an attribute.
            attributes = {"attributes": self.describe(vars(item), path)} if vars(item) else {}
            return {"ordered": self._pairs(item, path), **attributes}
        for name, sequence in _SEQUENCES.items():
            if kind is sequence:
                return {name: [self.describe(one, [*path, str(i)]) for i, one in enumerate(item)]}
        raise TypeError(f"a {kind.__name__} at {'.'.join(path)!r:.80}")

    def _pairs(self, mapping: dict[Any, Any], path: list[str]) -> list[Any]:
        return [
            [self.describe(key, path), self.describe(value, [*path, str(key)])]
            for key, value in mapping.items()
        ]

    def _name(self, tensor: Tensor, path: list[str]) -> str:
        if tensor.layout is not torch.strided or tensor.dtype not in DTYPES.values():
            raise TypeError(
                f"a tensor of {tensor.dtype}, {tensor.layout} at {'.'.join(path)!r:.80}"
            )
        identity = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and identity in self._names:
            return self._names[identity]
        name = ".".join(path)
        if name in self.tensors or name.startswith(_RESERVED):
            name = f"tensor {len(self.tensors)} {name}"
        self._names[identity] = name
        self.tensors[name] = tensor
        return name


def _restored(item: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(item, dict):
        return item
    kind, content = next(iter(item.items()))
    if kind == "tensor":
        return tensors[content]
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](_restored(one, tensors) for one in content)
    pairs = [(_restored(key, tensors), _restored(value, tensors)) for key, value in content]
    if kind == "dict":
        return dict(pairs)
    if kind != "ordered":
        raise KeyError(kind)
    ordered = OrderedDict(pairs)
    if "attributes" in item:
        vars(ordered).update(_restored(item["attributes"], tensors))
    return ordered
