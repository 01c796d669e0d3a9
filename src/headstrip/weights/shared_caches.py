"""Whether a file lies where nobody edits files, so that it can be mapped by default.

A mapped file must not be written to: a shorter one ends the process that reads the mapping. Users
save over their own checkpoints every day, and nobody saves over what a cache or a package keeps.
"""

from __future__ import annotations

import os
import site
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from headstrip.weights.addresses import checkpoints
from headstrip.weights.folders import hub_folder
from headstrip.weights.installed import hash_of_installed
from headstrip.weights.records import cache_home


def lies_in_a_cache(path: Path) -> bool:
    """Whether a file lies in torch hub's cache, the hub's, an installed package or headstrip's.

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
