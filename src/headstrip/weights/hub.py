"""Find files of the Hugging Face hub in its cache, or download them with huggingface_hub.

headstrip uses a file in the cache without a request, even if its branch has a newer version.
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
from headstrip.weights.addresses import stays_inside
from headstrip.weights.folders import hub_folder
from headstrip.weights.sharded_checkpoint import is_index, read_index, read_object

# The file names that timm looks for, in the same order, and then the index of several files.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")
_LOCATION = re.compile(
    r"hf:(?P<id>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[^/@\s]+))?"
    r"(?:/(?P<file>[^@\s]+))?"
)
_CONNECTION_TIMEOUT = 5.0
_TRUE = {"1", "ON", "YES", "TRUE"}
_FALSE = {"", "0", "OFF", "NO", "FALSE"}
_offline_call: ContextVar[bool] = ContextVar("offline_call", default=False)


@dataclass(frozen=True, slots=True)
class HubLocation:
    """The parts of ``hf:org/name[@revision][/file]``.

    Attributes:
        id: The repository, ``org/name``.
        revision: The branch, tag or commit, or None for the branch ``main``.
        file: The path inside the repository, or None for the default weights file.
    """

    id: str
    revision: str | None = None
    file: str | None = None

    @property
    def folder(self) -> str:
        """The name of the repository's folder in the hub's cache."""
        return f"models--{self.id.replace('/', '--')}"

    @property
    def names(self) -> tuple[str, ...]:
        """The files that the location can mean, in order of preference."""
        return (self.file,) if self.file else _WEIGHTS


def parse(location: str) -> HubLocation:
    """Split ``hf:org/name[@revision][/file]`` into its parts.

    Raises:
        WeightsError: ``location`` does not have this form.

    Example:
        >>> parse("hf:timm/resnet50.a1_in1k@main/model.safetensors")
        HubLocation(id='timm/resnet50.a1_in1k', revision='main', file='model.safetensors')
    """
    match = _LOCATION.fullmatch(location)
    # The parts become names of folders.
    if match is None or not all(stays_inside(part) for part in match.groups() if part):
        raise WeightsError(
            f"{location!r} is not a location on the Hugging Face hub. "
            "Write hf:org/name[@revision][/file], such as 'hf:timm/resnet50.a1_in1k'."
        )
    return HubLocation(**match.groupdict())


@contextmanager
def offline_call(is_offline: bool) -> Iterator[None]:
    """Forbid every download of this thread during a call with ``offline=True``.

    Plugins read configurations from the hub before headstrip looks for a weights file.
    """
    token = _offline_call.set(is_offline or _offline_call.get())
    try:
        yield
    finally:
        _offline_call.reset(token)


def offline() -> str | None:
    """Return the argument or the environment variable that forbids every download, or None."""
    return "offline=True" if _offline_call.get() else _if_on("HEADSTRIP_OFFLINE")


def hub_offline() -> str | None:
    """Return the setting that forbids downloads from the Hugging Face hub, or None."""
    # huggingface_hub reads the environment once, at its import.
    constants = sys.modules.get("huggingface_hub.constants")
    by_hub = "HF_HUB_OFFLINE" if getattr(constants, "HF_HUB_OFFLINE", False) else None
    return offline() or by_hub or _if_on("HF_HUB_OFFLINE")


def hub_file(location: str, *, offline: bool = False) -> Path:
    """Return the local file of ``hf:org/name[@revision][/file]``, and download it if it is missing.

    If the location does not name a file, the function returns ``model.safetensors``, otherwise
    ``pytorch_model.bin``, otherwise the index of a sharded checkpoint. It downloads the shards of
    an index too, into the folder of the index.

    Args:
        location: The location of the file.
        offline: Whether to use only files in the cache, and open no socket.

    Raises:
        WeightsError: The repository, the revision or the file does not exist, or the hub cannot be
            reached.
    """
    place = parse(location)
    path = _file(place, place.names, offline)
    if not is_index(path):
        return path
    name = PurePosixPath(place.file or path.name)
    # Use the commit of the index for all shards: the branch may move between two downloads.
    of_commit = replace(place, revision=path.parents[len(name.parts) - 1].name)
    for shard in sorted(set(read_index(path).values())):
        _file(of_commit, (str(name.parent / shard),), offline)
    return path


def hub_json(location: str, filename: str) -> dict[str, Any]:
    """Return the content of a JSON file of a repository, such as ``config.json``.

    Args:
        location: ``org/name[@revision]``, with or without ``hf:``. The function ignores a file in
            the location.
        filename: The path inside the repository.

    Raises:
        WeightsError: As ``hub_file``, or the file does not contain a JSON object.
    """
    place = parse(location if location.startswith("hf:") else f"hf:{location}")
    return read_object(_file(place, (filename,)))


def cached_file(place: HubLocation, names: tuple[str, ...]) -> Path | None:
    """Return the first of ``names`` that is in the hub's cache, or None if none of them is."""
    folder, commit = hub_folder() / place.folder, place.revision or "main"
    # Branches and tags have a file that contains the commit. Otherwise the revision is a commit.
    with suppress(OSError, ValueError):
        commit = (folder / "refs" / commit).read_text(encoding="utf-8").strip()
    paths = (folder / "snapshots" / commit / name for name in names)
    return next((path for path in paths if path.is_file()), None)


def _file(place: HubLocation, names: tuple[str, ...], forbid: bool = False) -> Path:
    """Return the first of ``names`` in the cache, otherwise the first one on the hub."""
    _require_library(place)
    forbidden = "offline=True" if forbid else hub_offline()
    try:
        path = cached_file(place, names) or (None if forbidden else _downloaded(place, names))
    # The errors depend on the HTTP library, which differs between releases of huggingface_hub.
    except Exception as error:
        raise WeightsError(_explanation(place, error)) from error
    if path is not None:
        return path
    shown, revision = " or ".join(names), place.revision or "main"
    if forbidden:
        raise WeightsError(
            f"The folder {hub_folder() / place.folder} has no {shown} of hf:{place.id} at revision "
            f"{revision}, and {forbidden} forbids downloads. Unset it, or run `hf download "
            f"{place.id}` on a machine with a network and copy the folder from there."
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
            f"hf:{place.id} is on the Hugging Face hub, but huggingface_hub cannot be imported "
            f"({one_line(error)}). Run `pip install 'headstrip[hub]'`."
        ) from error


def _downloaded(place: HubLocation, names: tuple[str, ...]) -> Path | None:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        try:
            return download_file(place.id, name, place.revision)
        except LocalEntryNotFoundError:
            # It is a subclass of EntryNotFoundError, but means that the hub was not reached.
            raise
        except EntryNotFoundError:
            continue
    return None


def download_file(
    repository: str, name: str, revision: str | None, cache: Path | None = None
) -> Path:
    """Download a file of a repository into the hub's cache, or into the folder ``cache``.

    Raises:
        Exception: The errors of huggingface_hub and of its HTTP library.
    """
    from huggingface_hub import hf_hub_download

    _require_connection()
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


def _require_connection() -> None:
    """Raise the error of an unreachable hub after 5 seconds. huggingface_hub needs 23 seconds.

    If no direct connection is possible, its own client tries once: it may know another way.
    """
    from huggingface_hub import constants, get_session

    if not _connects(constants.ENDPOINT):
        get_session().head(constants.ENDPOINT, timeout=_CONNECTION_TIMEOUT)


def _connects(url: str) -> bool:
    """Return whether a server accepts connections. Assume it for a server behind a proxy."""
    from urllib.request import getproxies, proxy_bypass

    address = urlsplit(url)
    host, port = address.hostname or "", 443 if address.scheme == "https" else 80
    if {address.scheme, "all"} & getproxies().keys() and not proxy_bypass(host):
        return False
    try:
        socket.create_connection((host, address.port or port), _CONNECTION_TIMEOUT).close()
    except OSError:
        return False
    return True


def _explanation(place: HubLocation, error: Exception) -> str:
    """Return a message that says why a download failed, and what to do."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        return (
            f"hf:{place.id} is gated. Accept its terms at {hub}/{place.id}, and log in with "
            "`hf auth login`."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"There is no repository {place.id!r} at {hub}, or it is private. Check the name, or "
            "log in with `hf auth login`."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"hf:{place.id} has no revision {place.revision!r}. "
            "Pass a branch, a tag or a commit, or leave out @revision for main."
        )
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        return (
            f"{hub} does not let you read hf:{place.id} ({one_line(error, 300)}). "
            "Log in with `hf auth login`, or check HF_TOKEN."
        )
    return (
        f"hf:{place.id} could not be downloaded from {hub} to {hub_folder() / place.folder} "
        f"({one_line(error, 300)}). Check the network, or copy the folder from a machine with a "
        "network."
    )


def is_set(variable: str) -> bool:
    """Return whether an environment variable has a value that means yes."""
    return os.environ.get(variable, "").strip().upper() in _TRUE


def _if_on(variable: str) -> str | None:
    """Return the name of an environment variable that is switched on, or None."""
    value = os.environ.get(variable, "").strip().upper()
    # An unknown value of headstrip's own variable counts as yes, which is the safe choice.
    own = variable.startswith("HEADSTRIP") and value not in _FALSE
    return variable if value in _TRUE or own else None
