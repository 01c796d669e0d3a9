"""The folders of weights files: torch hub's cache, the Hugging Face hub's, packages.

Neither torch nor huggingface_hub is imported to find them; where they already are, they are asked.
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
from headstrip.weights.addresses import checkpoints
from headstrip.weights.records import cache_home

_DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_NO_NAME = re.compile(r"[\x00-\x1f\x7f\\:]")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def hub_folder() -> Path:
    """Return the Hugging Face hub's folder of repositories, as huggingface_hub finds it."""
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        return Path(constants.HF_HUB_CACHE)
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", os.path.join(cache, "huggingface"))
    older = os.environ.get("HUGGINGFACE_HUB_CACHE", os.path.join(home, "hub"))
    folder = os.environ.get("HF_HUB_CACHE", older)
    return Path(os.path.expandvars(os.path.expanduser(folder)))


def file_in_package(location: str) -> Path | None:
    """Return where ``dist:DISTRIBUTION/path`` is or would be; None without the distribution.

    Nothing of it is imported.

    Raises:
        WeightsError: The path leads out of the distribution, or is not a path.
    """
    distribution, _, inside = location.removeprefix("dist:").partition("/")
    is_inside = not any(
        part in {"", ".", ".."} or _NO_NAME.search(part) for part in inside.split("/")
    )
    if not is_inside or not _DISTRIBUTION.fullmatch(distribution):
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
    # An editable installation leaves its files where the sources are.
    package, _, rest = inside.partition("/")
    folder = package_folder(package)
    return folder / rest if folder else path


def file_of_location(location: str) -> Path:
    """Return the path that a location names, in the home folder for ``~``.

    Raises:
        WeightsError: It is an address, or a share of another machine, which is not looked at.
    """
    path = Path(os.path.expanduser(location))
    if os.name == "nt" and location.startswith(("\\\\", "//")):
        raise WeightsError(
            f"{location!r} is a share of another machine. Copy the file to this one."
        )
    if _ADDRESS.match(location) and not path.is_file():
        raise WeightsError(
            f"{location!r} is not a location of weights. Write https://..., "
            "hf:org/name[@revision][/file], dist:DISTRIBUTION/path or the path of a file."
        )
    return path


def names_in(folder: Path) -> frozenset[str]:
    """Return the names in a folder, none where it cannot be read."""
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


def hash_of_installed(path: Path) -> str:
    """Return the hexadecimal sha256 that the record of a distribution has for a file.

    It is empty for a file that no distribution lists, such as those of an editable installation.
    """
    folders = set(sys.path)
    for folder in path.parents:
        if str(folder) in folders and (found := _listed(folder, path)):
            return found
    return ""


def _listed(site: Path, path: Path) -> str:
    inside = path.relative_to(site).as_posix()
    for package in metadata.distributions(path=[str(site)]):
        # A record that cannot be read says nothing.
        with suppress(OSError, ValueError, TypeError, csv.Error):
            if inside not in (package.read_text("RECORD") or ""):
                continue
            listed = next((file for file in package.files or () if str(file) == inside), None)
            if listed is not None and listed.hash and listed.hash.mode == "sha256":
                digest = base64.urlsafe_b64decode(f"{listed.hash.value}=")
                return digest.hex() if len(digest) == 32 else ""
    return ""


def lies_in_a_cache(path: Path) -> bool:
    """Whether a file is in torch hub's cache, the hub's, an installed package or headstrip's cache.

    Both its name and the file that the name leads to must lie there: a link in a cache may lead to
    a user's file, and a user may write through a link that leads into a cache. The sources of a
    package that is installed editable lie elsewhere, and users edit those. Outside the usual
    folders of packages, a distribution's record must list the file.
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
