"""Fingerprints: a hash of everything that an embedding depends on, to compare two files by."""

from __future__ import annotations

import hashlib
import json
import marshal
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.images.preprocessing import Preprocessing
from headstrip.network.checkpoints import extra_states
from headstrip.network.load_hooks import keeps_more

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Identity and environment of an encoder.

    Attributes:
        identity: Hexadecimal sha256 of the name, the tensors of the backbone, its options, its
            preprocessing and its dtype. Do not mix embeddings of two encoders whose identities
            differ.
        name: Qualified name of the backbone.
        weights: Tag of the weights, None for random ones.
        weights_sha256: Hash of the weights file, None without one.
        dtype: Dtype of the parameters.
        environment: Versions of the libraries that compute embeddings. If only these versions
            differ, at most the last bits of the embeddings differ.
    """

    identity: str
    name: str
    weights: str | None
    weights_sha256: str | None
    dtype: str
    environment: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the fingerprint as plain JSON values."""
        return asdict(self)


def fingerprint_of(
    backbone: nn.Module,
    *,
    name: str,
    weights: str | None,
    weights_sha256: str | None,
    options: Mapping[str, Any],
    preprocessing: Preprocessing | None,
    dtype: torch.dtype,
    inputs: Mapping[str, Any] | None = None,
    expand: nn.Module | None = None,
) -> Fingerprint:
    """Hash the parts of an encoder that its embeddings depend on.

    Args:
        backbone: The network without its head.
        name: Qualified name of the backbone.
        weights: Tag of the weights, None for random ones.
        weights_sha256: Hash of the weights file, None without one.
        options: Constructor arguments of the network.
        preprocessing: The steps that turn an image into the input, or None.
        dtype: Dtype of the parameters.
        inputs: The channels and the size that the user passed; None or empty for none.
        expand: The module that turns grey input into the channels of the backbone, or None.
    """
    facts = [name, options, preprocessing.to_json() if preprocessing else None, str(dtype)]
    # Without `inputs` the identity is the same as in earlier versions.
    facts += [inputs] if inputs else []
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=_as_json).encode())
    tensors = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    if expand is not None:
        tensors |= {f"expand.{name}": buffer for name, buffer in expand.named_buffers()}
    for key in sorted(tensors):
        _add(digest, key, tensors[key])
    # `state_dict` copies mapped parameters, so it is called only if it has more than tensors.
    if keeps_more(backbone):
        for key, value in sorted(extra_states(backbone.state_dict()).items()):
            _add_value(digest, key, value)
    return Fingerprint(
        identity=digest.hexdigest(),
        name=name,
        weights=weights,
        weights_sha256=weights_sha256,
        dtype=str(dtype).removeprefix("torch."),
        environment=environment(),
    )


def head_digest(head: nn.Module | None) -> str | None:
    """Hash the tensors of a head. The logits depend on them, the embeddings do not.

    Returns:
        Hexadecimal sha256, None without a head.
    """
    if head is None:
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(head.state_dict().items()):
        _add_value(digest, name, tensor)
    return digest.hexdigest()


def environment() -> dict[str, str]:
    """Return the versions of the libraries that compute embeddings."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": metadata.version("torchvision"),
        "machine": platform.machine(),
    }


def _as_json(option: Any) -> Any:
    """Describe an argument that JSON cannot express, in the same way in every process."""
    if isinstance(option, (set, frozenset)):
        return sorted(map(repr, option))
    if isinstance(option, partial):
        return [_as_json(option.func), option.args, option.keywords]
    if isinstance(option, FunctionType):
        # Two lambdas have the same name. Their code and the values that it uses tell them apart.
        cells = [_as_json(cell.cell_contents) for cell in option.__closure__ or ()]
        code = hashlib.sha256(marshal.dumps(option.__code__)).hexdigest()
        return [f"{option.__module__}.{option.__qualname__}", code, cells, option.__defaults__]
    if hasattr(option, "__qualname__"):
        return f"{option.__module__}.{option.__qualname__}"
    # The default repr contains the memory address, which differs in each process.
    return _ADDRESS.sub("", repr(option))


def _add(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().flatten()
    # Viewed as bytes, because NumPy has no bfloat16. An empty tensor cannot be viewed as bytes.
    if flat.numel():
        digest.update(flat.view(torch.uint8).numpy())


def _add_value(digest: Any, name: str, value: Any) -> None:
    """Add a value of any type that a module stores; for the tensors in it add their bits."""
    if isinstance(value, Tensor):
        _add(digest, name, value)
    elif isinstance(value, (Mapping, list, tuple)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        digest.update(f"{name} {type(value).__name__} {len(value)}".encode())
        for key, item in items:
            _add_value(digest, f"{name}[{key!r}]", item)
    else:
        digest.update(f"{name} {_ADDRESS.sub('', repr(value))}".encode())
