"""Rows of a list: the text that somebody wrote, and the file that it names."""

from __future__ import annotations

import os
import re
import unicodedata

from headstrip.embed.files import escape, original_path
from headstrip.embed.sources.access import is_url, local_refusal
from headstrip.embed.sources.items import Item
from headstrip.embed.sources.trees import size_and_time_of
from headstrip.errors import ImageError

_SHARE = re.compile(r"[\\/]{2}[^\\/]" if os.name == "nt" else r"\\\\[^\\]")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def item_of_row(root: str, text: str) -> Item:
    """Return the item of a row; a relative path starts at ``root``.

    Its name is the text of the row and nothing else, so that the results can be joined to the list.
    """
    stored = _stored(text)
    name = text if _is_unicode(text) else stored
    container = "" if stored == name else stored
    if is_url(name) or is_url(root):
        return Item(name, 0, 0, container)
    found = located(root, text)
    return Item(name, *(size_and_time_of(found) if found is not None else (0, 0)), container)


def file_of_row(root: str, stored: str) -> str:
    """Return the file that a row names.

    Args:
        root: The folder that a relative path starts at.
        stored: The row, as ``stored_path`` writes it.

    Raises:
        ImageError: There is none.
    """
    path = original_path(stored)
    found = located(root, path)
    if found is None:
        raise ImageError(_why_missing(path))
    return found


def located(root: str, path: str) -> str | None:
    """Return the file or folder that a path names, or None where there is none.

    The exact name goes first. Then backslashes count as slashes, and accents may be composed (NFC)
    or decomposed (NFD).

    Args:
        root: The folder that a relative path starts at.
        path: The path.
    """
    if os.name == "nt" and _SHARE.match(path):
        # To look there would tell the other machine who is logged in.
        return None
    exact = os.path.join(root, path)
    if os.path.lexists(exact):
        return exact
    spellings = (path, path.replace("\\", "/"))
    return next(filter(None, (_in_any_form(root, each) for each in spellings)), None)


def _in_any_form(root: str, path: str) -> str | None:
    """Follow a path part by part, each as it is, composed or decomposed."""
    reached = "/" if path.startswith("/") else root
    for part in path.split("/"):
        forms = (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD")))
        there = (os.path.join(reached, form) for form in forms)
        found = next(filter(os.path.lexists, there), None)
        if found is None:
            return None
        reached = found
    return reached


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
        return "it contains a zero byte, and no file name can. Check the list."
    return "No such file or directory."


def _is_unicode(text: str) -> bool:
    """Whether a column of text can hold a path unchanged."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stored(text: str) -> str:
    """Return a path so that ``original_path`` reads it back."""
    try:
        return escape(os.fsencode(text))
    except UnicodeEncodeError:
        # Half of a surrogate pair, which no file name contains.
        return escape(text.encode("utf-8", "backslashreplace"))
