"""Files that fsspec reaches: ``s3://``, ``gs://``, ``https://``, and what else a user allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from headstrip.embed.files import escape
from headstrip.embed.sources.access import HTTP, Access, refusal
from headstrip.embed.sources.http import Client
from headstrip.embed.sources.items import (
    MAX_BYTES,
    Item,
    failure,
    in_column,
    refuse_size,
    shown_place,
)
from headstrip.embed.sources.left_out import Note, unnoted
from headstrip.embed.sources.patterns import is_wild
from headstrip.embed.sources.trees import kind_of, suffix_of
from headstrip.errors import HeadstripError, ImageError

_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
_NONE = "."


def filesystem(url: str, access: Access) -> tuple[Any, str]:
    """Return fsspec's file system of a url, and the path in it.

    All that is read by url is read by what this returns. fsspec's own reading of urls, which
    follows chains of file systems, is not used.

    Args:
        url: The address.
        access: Which addresses may be read.

    Raises:
        HeadstripError: The url may not be read, or fsspec or its driver is not installed.
    """
    if why := refusal(url, access):
        raise HeadstripError(f"{shown_place(url)!r} cannot be read: {why}")
    try:
        from fsspec import get_filesystem_class
    except ImportError as error:
        raise HeadstripError(
            f"{shown_place(url)!r} is a url, and fsspec, which reads it, is not installed. "
            "Run pip install 'headstrip[fsspec]'."
        ) from error
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    url = f"{scheme}://{rest}"
    try:
        driver = get_filesystem_class(scheme)
        options = driver._get_kwargs_from_urls(url)
        if scheme in HTTP:
            options["get_client"] = Client(access)
        return driver(**options), driver._strip_protocol(url)
    except (ImportError, TypeError, ValueError) as error:
        raise HeadstripError(
            f"{shown_place(url)!r} cannot be read: fsspec has no driver for {scheme!r} here "
            f"({failure(error)}). Install the package that fsspec names for it."
        ) from error


def stamp(info: Mapping[str, Any]) -> tuple[int, int]:
    """Return the bytes of a file, and when it was written in ns; 0 for what a driver omits.

    What a server says is any number, and a column has 64 bits.
    """
    size = info.get("size")
    times = (_nanoseconds(info[name]) for name in _TIMES if info.get(name) is not None)
    known = in_column(max(0, size)) if isinstance(size, int) else 0
    return known, next(filter(None, times), 0)


def read_url(url: str, size: int, access: Access) -> bytes:
    """Return the bytes behind a url.

    Args:
        url: Of one image.
        size: Its bytes, 0 where they are not known.
        access: Which addresses may be read.

    Raises:
        ImageError: It is empty, or larger than ``MAX_BYTES``.
        Exception: Whatever fsspec's driver raises.
    """
    refuse_size(size)
    files, path = filesystem(url, access)
    if size:
        content = files.cat_file(path)
    else:
        with files.open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    refuse_size(len(content))
    if not content:
        raise ImageError("the file is empty.")
    return bytes(content)


@dataclass(frozen=True)
class UrlTree:
    """What is below a url, or meets a pattern of one; see ``Tree``.

    fsspec lists a place as a whole: unlike a folder here, it takes memory by the file.
    """

    url: str
    root: str
    access: Access
    suffix: str = ""
    is_file: bool = False

    @classmethod
    def of(cls, url: str, access: Access) -> UrlTree:
        """Take a url that stands for a folder, one file, or a pattern.

        Raises:
            HeadstripError: The url may not be read, or fsspec or its driver is not installed.
        """
        filesystem(url, access)
        scheme, _, path = url.partition("://")
        parts = path.split("/")
        wild = next((i for i, part in enumerate(parts) if _is_wild(scheme, part)), None)
        suffix = suffix_of(parts[-1])
        if wild is None and _is_folder(url, access):
            return cls(url, url, access)
        first = len(parts) - 1 if wild is None else wild
        root = f"{scheme}://{'/'.join(parts[:first])}{'/' if first else ''}"
        if wild is None:
            return cls(url, root, access, suffix or _NONE, is_file=True)
        return cls(url, root, access, "" if is_wild(suffix) else suffix)

    @property
    def where(self) -> str:
        """What the tree is called in a table."""
        return shown_place(self.url)

    def files(self, note: Note = unnoted) -> Iterator[Item]:
        """List the files.

        Raises:
            HeadstripError: They cannot be listed.
        """
        files, root = filesystem(self.root, self.access)
        start = len(root.rstrip("/"))
        for path, info in self._found(files).items():
            name = path[start:].lstrip("/")
            # What is neither, such as a link, is a row that says why it cannot be read.
            if info.get("type", "file") == "directory":
                continue
            if self.suffix or kind_of(name):
                yield Item(escape(name.encode("utf-8", "surrogateescape")), *stamp(info))
            else:
                note(name)

    def _found(self, files: Any) -> dict[str, Any]:
        _, path = filesystem(self.url, self.access)
        try:
            if self.is_file:
                found: dict[str, Any] = {path: files.info(path)}
            elif self.root == self.url:
                found = files.find(path, detail=True)
            else:
                found = files.glob(path, detail=True)
        except Exception as error:
            raise _unlisted(self.where, failure(error)) from error
        if not found:
            raise _unlisted(self.where, "nothing is there")
        return found


def _unlisted(where: str, why: str) -> HeadstripError:
    return HeadstripError(
        f"{where!r} cannot be listed: {why}. Check the address, and that you may list it."
    )


def _is_wild(scheme: str, part: str) -> bool:
    """Whether a part of a url is a pattern; on the web a question mark is none."""
    return "*" in part if scheme.lower() in {"http", "https"} else is_wild(part)


def _is_folder(url: str, access: Access) -> bool:
    if url.endswith("/"):
        return True
    if kind_of(url) is not None:
        return False
    files, path = filesystem(url, access)
    try:
        return not files.isfile(path)
    except Exception as error:
        raise _unlisted(shown_place(url), failure(error)) from error


def _nanoseconds(value: Any) -> int:
    """Return a time that a driver states as ns since 1970, 0 where it is no time."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
            value = aware.timestamp()
        return in_column(int(value * 10**9)) if isinstance(value, (int, float)) else 0
    except (ValueError, OverflowError):
        # NaN, an infinite number, or text that is no date.
        return 0
