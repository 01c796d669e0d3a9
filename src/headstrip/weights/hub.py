"""Files of the Hugging Face hub, found in its cache or downloaded into it by huggingface_hub.

A file that is in the cache is used without asking the network, even where its branch has moved
since.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from headstrip._version import __version__
from headstrip.errors import WeightsError, one_line
from headstrip.weights.folders import hub_folder
from headstrip.weights.sharded_checkpoint import is_index, read_index, read_object

# What timm looks for, in its order; last the index of a checkpoint in several files.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")
_LOCATION = re.compile(
    r"hf:(?P<id>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[^/@\s]+))?"
    r"(?:/(?P<file>[^@\s]+))?"
)
_NO_NAME = re.compile(r"[\x00-\x1f\x7f\\:]")
# Seconds for a connection to come about.
_CONNECT = 5.0
_TRUE = {"1", "ON", "YES", "TRUE"}
_FALSE = {"", "0", "OFF", "NO", "FALSE"}
_offline_call: ContextVar[bool] = ContextVar("offline_call", default=False)


@dataclass(frozen=True, slots=True)
class HubLocation:
    """The parts of ``hf:org/name[@revision][/file]``.

    Attributes:
        id: The repository, ``org/name``.
        revision: Branch, tag or commit; None for the branch ``main``.
        file: Path inside the repository; None for whichever file of weights it has.
    """

    id: str
    revision: str | None = None
    file: str | None = None

    @property
    def folder(self) -> str:
        """Name of the repository's folder in the hub's cache."""
        return f"models--{self.id.replace('/', '--')}"

    @property
    def names(self) -> tuple[str, ...]:
        """The files that it may mean, in the order in which they are looked for."""
        return (self.file,) if self.file else _WEIGHTS


def parse(location: str) -> HubLocation:
    """Split ``hf:org/name[@revision][/file]`` into its parts.

    Raises:
        WeightsError: ``location`` is not of this form.

    Example:
        >>> parse("hf:timm/resnet50.a1_in1k@main/model.safetensors")
        HubLocation(id='timm/resnet50.a1_in1k', revision='main', file='model.safetensors')
    """
    match = _LOCATION.fullmatch(location)
    parts = (part for text in match.groups() for part in (text or "x").split("/")) if match else ()
    # They become names of folders, and a colon or a backslash leads elsewhere on Windows.
    if match is None or any(part in {"", ".", ".."} or _NO_NAME.search(part) for part in parts):
        raise WeightsError(
            f"{location!r} is not a location on the Hugging Face hub. "
            "Write hf:org/name[@revision][/file], such as 'hf:timm/resnet50.a1_in1k'."
        )
    return HubLocation(**match.groupdict())


@contextmanager
def offline_call(is_offline: bool) -> Iterator[None]:
    """Forbid every download meanwhile, in this thread, where a call asks for it.

    Plugins read configurations from the hub before there is any weights file.
    """
    token = _offline_call.set(is_offline or _offline_call.get())
    try:
        yield
    finally:
        _offline_call.reset(token)


def offline() -> str | None:
    """Return the argument or the setting that forbids every download, or None."""
    return "offline=True" if _offline_call.get() else _set("HEADSTRIP_OFFLINE")


def hub_offline() -> str | None:
    """Return the setting that forbids downloads from the Hugging Face hub, or None."""
    # huggingface_hub reads its environment once, when it is imported.
    constants = sys.modules.get("huggingface_hub.constants")
    by_hub = "HF_HUB_OFFLINE" if getattr(constants, "HF_HUB_OFFLINE", False) else None
    return offline() or by_hub or _set("HF_HUB_OFFLINE")


def hub_file(location: str, *, offline: bool = False) -> Path:
    """Return the local file of ``hf:org/name[@revision][/file]``, downloading it if need be.

    Without a file it is ``model.safetensors``, else ``pytorch_model.bin``, else the index of a
    sharded checkpoint. The shards of an index are in its folder.

    Args:
        location: Where it is.
        offline: Whether to use what is in the cache and open no socket.

    Raises:
        WeightsError: There is no such repository, revision or file, or it cannot be reached.
    """
    place = parse(location)
    path = _file(place, place.names, offline)
    if not is_index(path):
        return path
    name = PurePosixPath(place.file or path.name)
    # The cache has a folder for each commit: the branch may move between two downloads.
    of_commit = replace(place, revision=path.parents[len(name.parts) - 1].name)
    for shard in sorted(set(read_index(path).values())):
        _file(of_commit, (str(name.parent / shard),), offline)
    return path


def hub_json(location: str, filename: str) -> dict[str, Any]:
    """Return what a repository's JSON file holds, such as its ``config.json``.

    Args:
        location: ``org/name[@revision]``, with or without ``hf:``; a file in it is left aside.
        filename: Path inside the repository.

    Raises:
        WeightsError: As ``hub_file``, or the file holds no JSON object.
    """
    place = parse(location if location.startswith("hf:") else f"hf:{location}")
    return read_object(_file(place, (filename,)))


def cached_file(place: HubLocation, names: tuple[str, ...]) -> Path | None:
    """Return the first of ``names`` that the hub's cache has of a repository, None without any."""
    folder, commit = hub_folder() / place.folder, place.revision or "main"
    # Without a file for it, the revision is a commit itself.
    with suppress(OSError, ValueError):
        commit = (folder / "refs" / commit).read_text(encoding="utf-8").strip()
    paths = (folder / "snapshots" / commit / name for name in names)
    return next((path for path in paths if path.is_file()), None)


def _file(place: HubLocation, names: tuple[str, ...], forbid: bool = False) -> Path:
    """Return the first of ``names`` that the cache has, else the first that the hub has."""
    _require_library(place)
    forbidden = "offline=True" if forbid else hub_offline()
    try:
        path = cached_file(place, names) or (None if forbidden else _downloaded(place, names))
    # Each release of huggingface_hub lets errors of another HTTP library through.
    except Exception as error:
        raise WeightsError(_sentence(place, error)) from error
    if path is not None:
        return path
    shown, revision = " or ".join(names), place.revision or "main"
    if forbidden:
        raise WeightsError(
            f"The folder {hub_folder() / place.folder} has no {shown} of hf:{place.id} at revision "
            f"{revision}, and {forbidden} forbids downloads. Unset it, or run `hf download "
            f"{place.id}` on a machine with a network and copy that folder here."
        )
    from huggingface_hub import constants

    raise WeightsError(
        f"hf:{place.id} has no file {shown} at revision {revision}. Choose one of the files listed "
        f"at {constants.ENDPOINT}/{place.id}/tree/{revision}."
    )


def _require_library(place: HubLocation) -> None:
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise WeightsError(
            f"hf:{place.id} is on the Hugging Face hub, and huggingface_hub cannot be imported "
            f"({one_line(error)}). Run `pip install 'headstrip[hub]'`."
        ) from error


def _downloaded(place: HubLocation, names: tuple[str, ...]) -> Path | None:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        try:
            return download_file(place.id, name, place.revision)
        except LocalEntryNotFoundError:
            # It says that the hub was not reached; by its class it is an EntryNotFoundError too.
            raise
        except EntryNotFoundError:
            continue
    return None


def download_file(
    repository: str, name: str, revision: str | None, cache: Path | None = None
) -> Path:
    """Download a file of a repository into the hub's cache, or into another folder.

    Raises:
        Exception: What huggingface_hub and its HTTP library raise.
    """
    from huggingface_hub import hf_hub_download

    _require_a_hub()
    return Path(
        hf_hub_download(
            repository,
            name,
            revision=revision,
            cache_dir=cache,
            library_name="headstrip",
            library_version=__version__,
        )
    )


def _require_a_hub() -> None:
    """Raise what keeps the hub from being reached, which huggingface_hub does after 23 seconds.

    Where no connection comes about, its own client may know another way: that is asked too, once.
    """
    from huggingface_hub import constants, get_session

    if not _connects(constants.ENDPOINT):
        get_session().head(constants.ENDPOINT, timeout=_CONNECT)


def _connects(url: str) -> bool:
    """Whether a server takes connections, as far as they do not go by way of a proxy."""
    from urllib.request import getproxies, proxy_bypass

    address = urlsplit(url)
    host, port = address.hostname or "", 443 if address.scheme == "https" else 80
    if {address.scheme, "all"} & getproxies().keys() and not proxy_bypass(host):
        return False
    try:
        socket.create_connection((host, address.port or port), _CONNECT).close()
    except OSError:
        return False
    return True


def _sentence(place: HubLocation, error: Exception) -> str:
    """Say what kept a file from being downloaded, and what to do."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        return (
            f"hf:{place.id} is gated. Accept its terms at {hub}/{place.id}, and log in with "
            "`hf auth login`."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"There is no repository {place.id!r} at {hub}, or it is private. Check its name, or "
            "log in with `hf auth login`."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"hf:{place.id} has no revision {place.revision!r}. "
            "Name a branch, a tag or a commit of it, or none for main."
        )
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        return (
            f"{hub} does not let you read hf:{place.id} ({one_line(error)[:300]}). "
            "Log in with `hf auth login`, or look at HF_TOKEN."
        )
    return (
        f"hf:{place.id} could not be downloaded from {hub} to {hub_folder() / place.folder} "
        f"({one_line(error)[:300]}). Check the network, or copy that folder from where there is "
        "one."
    )


def is_set(variable: str) -> bool:
    """Whether an environment variable says yes."""
    return os.environ.get(variable, "").strip().upper() in _TRUE


def _set(variable: str) -> str | None:
    value = os.environ.get(variable, "").strip().upper()
    # Of headstrip's own a value that is neither forbids: that is the safe side.
    own = variable.startswith("HEADSTRIP") and value not in _FALSE
    return variable if value in _TRUE or own else None
