"""Where the Hugging Face hub's cache and installed packages have a file.

huggingface_hub is not imported for it; where it is already, it is asked.
"""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from pathlib import Path

from headstrip.errors import WeightsError
from headstrip.system.packages import package_folder

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


def commit_of(repository: Path, revision: str) -> str:
    """Return the commit that the hub's cache has for a branch or tag, else the name itself."""
    try:
        return (repository / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return revision


def file_in_package(location: str) -> Path | None:
    """Return where ``dist:DISTRIBUTION/path`` is or would be; None without the distribution.

    Nothing of it is imported.

    Raises:
        WeightsError: The path leads out of the distribution, or is none.
    """
    distribution, _, inside = location.removeprefix("dist:").partition("/")
    is_inside = not any(
        part in {"", ".", ".."} or _NO_NAME.search(part) for part in inside.split("/")
    )
    if not is_inside or not _DISTRIBUTION.fullmatch(distribution):
        raise WeightsError(
            f"{location!r} is no file of an installed package. Write dist:DISTRIBUTION/path, with "
            "a path below the folder that the package is installed in, such as "
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
    path = Path(location).expanduser()
    if os.name == "nt" and location.startswith(("\\\\", "//")):
        raise WeightsError(
            f"{location!r} is a share of another machine. Copy the file to this one."
        )
    if _ADDRESS.match(location) and not path.is_file():
        raise WeightsError(
            f"{location!r} is no location of weights. Write https://..., "
            "hf:org/name[@revision][/file], dist:DISTRIBUTION/path or the path of a file."
        )
    return path


def names_in(folder: Path) -> frozenset[str]:
    """Return the names in a folder, none where it cannot be read."""
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()
