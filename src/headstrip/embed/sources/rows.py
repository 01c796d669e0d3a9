"""What a row of a list means: the text that somebody wrote, and the image that it names."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass

from headstrip.embed.files import escape, original_path
from headstrip.embed.sources.access import Access, is_url, local_refusal
from headstrip.embed.sources.files import read_address, read_file
from headstrip.embed.sources.items import Item, image_errors
from headstrip.embed.sources.opened import joined
from headstrip.embed.sources.trees import stamp_of
from headstrip.errors import ImageError

_SHARE = re.compile(r"[\\/]{2}[^\\/]" if os.name == "nt" else r"\\\\[^\\]")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True)
class RowReader:
    """Reads the images that rows name, relative to a folder or a url.

    Attributes:
        root: That folder or url.
        access: Which urls may be read.
    """

    root: str
    access: Access

    def read(self, item: Item) -> bytes:
        """Return the bytes of the image of a row.

        Raises:
            ImageError: It cannot be read, or may not.
        """
        with image_errors():
            # The text of some rows cannot be read back, and is kept beside it in another form.
            stored = item.place or item.path
            place = joined(self.root, stored)
            if is_url(place):
                return read_address(place, item, self.access)
            path = original_path(stored)
            found = located(self.root, path)
            if found is None:
                raise ImageError(_why_missing(path))
            return read_file(found)


def listed(root: str, path: str) -> Item:
    """Return the item of a row; a relative path starts at ``root``.

    Its name is the text of the row and nothing else, so that the results can be joined to the list.
    """
    stored = _stored(path)
    name = path if _is_unicode(path) else stored
    place = "" if stored == name else stored
    if is_url(name) or is_url(root):
        return Item(name, 0, 0, place)
    found = located(root, path)
    return Item(name, *(stamp_of(found) if found is not None else (0, 0)), place)


def located(root: str, path: str) -> str | None:
    """Return the file that a path means: of that very name, else written in another way.

    Other ways are backslashes between folders, and accents composed (NFC) or apart (NFD).

    Args:
        root: The folder that a relative path starts at.
        path: The path.

    Returns:
        A path to what is there, None where nothing is.
    """
    if os.name == "nt" and _SHARE.match(path):
        # Looking there would tell the other machine who is logged in.
        return None
    exact = os.path.join(root, path)
    if os.path.lexists(exact):
        return exact
    for written in (path, path.replace("\\", "/")):
        if found := _in_any_form(root, written):
            return found
    return None


def _in_any_form(root: str, path: str) -> str | None:
    """Walk along a path, and take each part as it is, composed or apart."""
    place = "/" if path.startswith("/") else root
    for part in path.split("/"):
        forms = (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD")))
        there = (os.path.join(place, form) for form in forms)
        found = next(filter(os.path.lexists, there), None)
        if found is None:
            return None
        place = found
    return place


def _why_missing(path: str) -> str:
    if _SHARE.match(path):
        return "it names a share of another machine. Copy the file to this one."
    if os.name != "nt" and _DRIVE.match(path):
        return (
            "it is a path of Windows, and no file is there. Write paths that are relative to the "
            "list."
        )
    if why := local_refusal(path):
        return why
    if _NOT_UTF8.search(path):
        return (
            "no file has this name, and the list is not in UTF-8. Save the list in UTF-8, such as "
            "with `iconv -f LATIN1 -t UTF-8`."
        )
    if "\0" in path:
        return "it has a zero byte in it, which no name of a file has. Check the list."
    return "No such file or directory."


def _is_unicode(path: str) -> bool:
    """Whether a column of text can hold a path unchanged."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stored(path: str) -> str:
    """Return a path as ``original_path`` reads it back."""
    try:
        return escape(os.fsencode(path))
    except UnicodeEncodeError:
        # Half of a surrogate pair, which no file's name has.
        return escape(path.encode("utf-8", "backslashreplace"))
