"""The folders that contain weights files: torch hub's cache, the Hugging Face hub's, packages.

This module does not import torch or huggingface_hub. If they are imported already, it uses their
settings.
"""

from __future__ import annotations

import base64
import csv
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from headstrip.errors import WeightsError
from headstrip.system.packages import package_folder
from headstrip.weights.addresses import checkpoints, stays_inside
from headstrip.weights.records import cache_home

_DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def hub_folder() -> Path:
    """Return the folder of the Hugging Face hub's cache, as huggingface_hub computes it."""
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        return Path(constants.HF_HUB_CACHE)
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", os.path.join(cache, "huggingface"))
    older = os.environ.get("HUGGINGFACE_HUB_CACHE", os.path.join(home, "hub"))
    folder = os.environ.get("HF_HUB_CACHE", older)
    return Path(os.path.expandvars(os.path.expanduser(folder)))


def file_in_package(location: str) -> Path | None:
    """Return the path of ``dist:DISTRIBUTION/path``, or None if the distribution is not installed.

    The file may not exist. This function does not import the package.

    Raises:
        WeightsError: The location is malformed, or its path leads out of the distribution.
    """
    distribution, _, inside = location.removeprefix("dist:").partition("/")
    if not stays_inside(inside) or not _DISTRIBUTION.fullmatch(distribution):
        raise WeightsError(
            f"{location!r} is not a file of an installed package. Write dist:DISTRIBUTION/path, "
            "with a path below the folder that the package is installed in, such as "
            "'dist:headstrip-mylab/headstrip_mylab/weights.safetensors'."
        )
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(inside)))
    except (metadata.PackageNotFoundError, ValueError):
        return None
    if path.is_file():
        return path
    # An editable installation does not copy the files from the source folder.
    package, _, rest = inside.partition("/")
    folder = package_folder(package)
    return folder / rest if folder else path


def file_of_location(location: str) -> Path:
    """Return the path that a location names. ``~`` means the home folder.

    Raises:
        WeightsError: The location is an address, not a path.
    """
    path = Path(os.path.expanduser(location))
    if _ADDRESS.match(location) and not path.is_file():
        raise WeightsError(
            f"{location!r} is not a location of weights. Write https://..., "
            "hf:org/name[@revision][/file], dist:DISTRIBUTION/path or the path of a file."
        )
    return path


def names_in(folder: Path) -> frozenset[str]:
    """Return the names in a folder, or no names if the folder cannot be read."""
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


def hash_of_installed(path: Path) -> str:
    """Return the sha256 of an installed file in its distribution's ``RECORD``, in hexadecimal.

    Return "" for a file that no distribution lists, such as one of an editable installation.
    """
    folders = set(sys.path)
    for folder in path.parents:
        if str(folder) in folders and (found := _listed_hash(folder, path)):
            return found
    return ""


def _listed_hash(site: Path, path: Path) -> str:
    inside = path.relative_to(site).as_posix()
    for package in metadata.distributions(path=[str(site)]):
        # Skip a distribution whose RECORD cannot be read.
        with suppress(OSError, ValueError, TypeError, csv.Error):
            if inside not in (package.read_text("RECORD") or ""):
                continue
            listed = next((file for file in package.files or () if str(file) == inside), None)
            if listed is not None and listed.hash and listed.hash.mode == "sha256":
                digest = base64.urlsafe_b64decode(f"{listed.hash.value}=")
                return digest.hex() if len(digest) == 32 else ""
    return ""


def lies_in_a_cache(path: Path) -> bool:
    """Return whether a file is in a folder whose files users do not edit.

    These are torch hub's cache, the Hugging Face hub's cache, headstrip's cache and the folders of
    installed packages. Both the path and the file that it resolves to must be in such a folder: a
    link in a cache can point to a user's file, and a user can write through a link into a cache.
    The sources of an editable package are elsewhere, because users edit them. In other folders of
    packages, the ``RECORD`` of a distribution must list the file.
    """
    folders = list(_folders())
    named, real = os.path.abspath(path), os.path.realpath(path)
    return (
        any(_is_inside(named, os.path.abspath(folder)) for folder in folders)
        and any(_is_inside(real, os.path.realpath(folder)) for folder in folders)
    ) or (named == real and bool(hash_of_installed(Path(real))))


def _folders() -> Iterator[str | Path]:
    yield checkpoints()
    yield hub_folder()
    yield cache_home()
    yield from (sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    yield from site.getsitepackages()
    yield site.getusersitepackages()


def _is_inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)
