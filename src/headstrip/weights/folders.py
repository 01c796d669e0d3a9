"""Where the Hugging Face hub's cache and installed packages have a file.

huggingface_hub is not imported for it; where it is already, it is asked.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

from headstrip.plugins import package_folder


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
    """
    distribution, _, inside = location.removeprefix("dist:").partition("/")
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


def names_in(folder: Path) -> frozenset[str]:
    """Return the names in a folder, none where it cannot be read."""
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()
