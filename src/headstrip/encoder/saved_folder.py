"""Read folders that ``Encoder.save`` wrote. This module imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstrip._version import __version__
from headstrip.errors import ManifestError, one_line
from headstrip.spec import CONFIG, SAVED
from headstrip.system import bounded_json

FORMAT = 1
"""Version of the layout; a later headstrip writes a higher one."""

WEIGHTS, PREDICTORS = "weights", "predictors"
NAMES = re.compile(rf"({WEIGHTS}|{PREDICTORS})-[0-9a-f]{{8}}\.safetensors")
"""Names of the files of tensors. They contain the first digits of the file's sha256."""

PREDICTORS_KEY = "headstrip.predictors"
"""The key of the metadata of predictors in the header of their file."""

_BEGINNING = b'{\n "format": '
_LONGEST_HEADER = 64 << 20
_AGAIN = "Get the whole folder again, or save the encoder again."


class OtherNetworkError(ManifestError):
    """The tensors in a folder do not belong to the network that its manifest names.

    Attributes:
        problems: Words that say which tensors differ.
    """

    def __init__(self, message: str, problems: str = "") -> None:
        """Store the message and the problems."""
        super().__init__(message)
        self.problems = problems


@dataclass(frozen=True, slots=True)
class SavedFolder:
    """The content of a folder that ``Encoder.save`` wrote.

    Attributes:
        path: The folder.
        manifest: The encoder, as ``Encoder.manifest`` describes it, without predictors.
        labels: The names of the head's classes, None if they are unknown.
        weights: The file with the tensors of the backbone and the head; None if they are equal to
            the catalog's weights.
        network: The data to build that network without a catalog: the rows of the backbone and of
            its weights, and the number of classes of its head; None if ``weights`` is None.
        predictors: The file of predictors, None without predictors.
        headstrip: The version that wrote the folder.
    """

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)
    labels: tuple[str, ...] | None = field(default=None, repr=False)
    weights: Path | None = None
    network: Mapping[str, Any] | None = field(default=None, repr=False)
    predictors: Path | None = None
    headstrip: str = __version__

    @property
    def shown(self) -> str:
        """The folder, for messages."""
        return repr(os.path.join(self.path, ""))

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``encoder.json``."""
        files = {WEIGHTS: self.weights, PREDICTORS: self.predictors}
        return {
            "format": FORMAT,
            "headstrip": self.headstrip,
            "files": {kind: path.name for kind, path in files.items() if path is not None},
            "manifest": dict(self.manifest),
            "labels": None if self.labels is None else list(self.labels),
            "network": None if self.network is None else dict(self.network),
        }


def read_folder(path: str | os.PathLike[str]) -> SavedFolder:
    """Read ``encoder.json`` in a folder. headstrip executes nothing in it and reads no tensor.

    Raises:
        ManifestError: There is no such folder, ``Encoder.save`` did not write it, a file is
            missing, or a later headstrip wrote it.
    """
    # The methods of Path raise an error for a name that is too long or that has an unknown user.
    # These functions do not.
    folder = Path(os.path.expanduser(path))
    shown = repr(os.path.join(os.fspath(path), ""))
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
        raise ManifestError(f"The folder {shown} {what}. Pass a folder that encoder.save wrote.")
    if not (folder / SAVED).is_file():
        hint = f" For a folder of transformers, write 'hf:{os.path.abspath(folder)}'."
        raise ManifestError(
            f"The folder {shown} has no {SAVED}, so encoder.save did not write it. Pass a folder "
            f"that encoder.save wrote.{hint if (folder / CONFIG).is_file() else ''}"
        )
    try:
        return _parsed(folder, shown, bounded_json.read(folder / SAVED, "it"))
    except (OSError, ValueError) as error:
        if isinstance(error, ManifestError):
            raise
        reason = one_line(error, 300)
        raise ManifestError(
            f"{SAVED} in the folder {shown} cannot be read: {reason}. {_AGAIN}"
        ) from error


def is_own(path: Path) -> bool:
    """Whether ``Encoder.save`` wrote an ``encoder.json``, which may be damaged since.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        text = file.read(bounded_json.MAX_BYTES)
    if not text or text.startswith(_BEGINNING):
        return True
    try:
        found = bounded_json.parse(text, "it")
    except ValueError:
        return False
    return isinstance(found, dict) and {"format", "headstrip", "manifest"} <= found.keys()


def predictors_in(saved: SavedFolder) -> dict[str, Any]:
    """Return the metadata of the file of predictors in a folder, without reading a tensor.

    Raises:
        ManifestError: The file is damaged.
    """
    assert saved.predictors is not None
    try:
        with open(saved.predictors, "rb") as file:
            length = min(int.from_bytes(file.read(8), "little"), _LONGEST_HEADER)
            header = bounded_json.parse(file.read(length), "its header", max_bytes=_LONGEST_HEADER)
        found = bounded_json.parse(header["__metadata__"][PREDICTORS_KEY], "its metadata")
        if not isinstance(found, dict):
            raise ValueError("its metadata are not those of predictors")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = one_line(error, 200)
        raise ManifestError(
            f"{saved.predictors.name} in the folder {saved.shown} is damaged: {reason}. {_AGAIN}"
        ) from error


def _parsed(folder: Path, shown: str, found: Any) -> SavedFolder:
    """Check what ``encoder.json`` states.

    Raises:
        ManifestError: It has another format, or a file is missing.
        ValueError: It is damaged.
    """
    if not isinstance(found, dict) or type(found.get("format")) is not int:
        raise ValueError("it does not describe a saved encoder")
    if found["format"] != FORMAT:
        raise ManifestError(
            f"The folder {shown} has the format {found['format']}, and headstrip {__version__} "
            f"reads the format {FORMAT}. Install the headstrip that wrote it, "
            f"{found.get('headstrip')!r:.40}."
        )
    for key, kinds in _KINDS.items():
        if key not in found or not isinstance(found[key], kinds):
            raise ValueError(f"{key!r} is {found.get(key)!r:.60}")
    labels, files, network = found["labels"], found["files"], found["network"]
    if labels is not None and not all(isinstance(one, str) for one in labels):
        raise ValueError("a label is not a text")
    if (network is None) != (WEIGHTS not in files):
        raise ValueError("'network' and 'files' do not belong together")
    return SavedFolder(
        folder,
        found["manifest"],
        None if labels is None else tuple(labels),
        _file(folder, shown, files, WEIGHTS),
        network,
        _file(folder, shown, files, PREDICTORS),
        found["headstrip"],
    )


_KINDS: dict[str, tuple[type, ...]] = {
    "headstrip": (str,),
    "files": (dict,),
    "manifest": (dict,),
    "labels": (list, type(None)),
    "network": (dict, type(None)),
}


def _file(folder: Path, shown: str, files: Mapping[str, Any], kind: str) -> Path | None:
    name = files.get(kind)
    if name is None:
        return None
    # A name with a path separator could refer to a file outside the folder.
    match = NAMES.fullmatch(name) if isinstance(name, str) else None
    if not isinstance(name, str) or match is None or match[1] != kind:
        raise ValueError(f"the name of the file of {kind} is {name!r:.60}")
    if not (folder / name).is_file():
        raise ManifestError(f"The folder {shown} lacks its file {name}. {_AGAIN}")
    return folder / name
