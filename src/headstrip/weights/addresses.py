"""File names and addresses of weights files, and the folder of torch hub's cache."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors", ".index.json")
"""The suffixes of weights files."""

_LONGEST = 180
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_RESERVED = re.compile(
    r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\..*)?", re.I | re.S
)
_MIRROR = re.compile(r"\s*(https?://[^=\s]+)=(https?://\S+)\s*")
_NOT_A_NAME = re.compile(r"[\x00-\x1f\x7f\\:]")


def checkpoints() -> Path:
    """Return torch hub's folder of weights files, without importing torch.

    It is ``$TORCH_HOME/hub/checkpoints``, or the folder that ``torch.hub.set_dir`` chose.
    """
    get_dir = getattr(sys.modules.get("torch.hub"), "get_dir", None)
    if get_dir is not None:
        return Path(get_dir()) / "checkpoints"
    home = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(os.path.expanduser(os.environ.get("TORCH_HOME", home))) / "hub" / "checkpoints"


def file_name(url: str) -> str:
    """Return the name that torch hub gives to the file of a URL.

    Raises:
        ValueError: The URL does not name a file, or some operating system does not accept the name
            or gives it another meaning.

    Example:
        >>> file_name("https://download.pytorch.org/models/resnet50-0676ba61.pth?x=1")
        'resnet50-0676ba61.pth'
    """
    parts = urlparse(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the address does not begin with http:// or https:// and a server")
    # Reading the port raises a ValueError if it is not a number.
    _ = parts.port
    name = parts.path.rpartition("/")[2]
    if not name:
        raise ValueError("the address does not name a file")
    if problem := _problem(name) or _problem(unquote(name)):
        raise ValueError(f"the file name {name[:80]!r} {problem}")
    return name


def stays_inside(path: str) -> bool:
    """Return whether a relative path stays inside its folder on every operating system.

    A colon or a backslash leads elsewhere on Windows.
    """
    return not any(part in {"", ".", ".."} or _NOT_A_NAME.search(part) for part in path.split("/"))


def _problem(name: str) -> str:
    """Return why some operating system does not accept a file name, or "" if all accept it."""
    if name in (".", ".."):
        return "means a folder"
    if match := _FORBIDDEN.search(name):
        return f"contains {match[0]!r}"
    if name[-1:] in (".", " "):
        return "ends with a dot or a space"
    if _RESERVED.fullmatch(name):
        return "is reserved by Windows"
    if len(os.fsencode(name)) > _LONGEST:
        return f"is longer than {_LONGEST} bytes"
    return ""


def requested_address(url: str) -> str:
    """Return the address that headstrip requests for a URL: the URL itself, or one at a mirror.

    ``HEADSTRIP_MIRROR`` has pairs ``PREFIX=REPLACEMENT``, separated by commas. headstrip uses the
    first pair whose prefix matches. A prefix matches complete parts of the path only.

    Raises:
        ValueError: The variable contains something else.
    """
    for pair in filter(str.strip, os.environ.get("HEADSTRIP_MIRROR", "").split(",")):
        match = _MIRROR.fullmatch(pair)
        if match is None:
            raise ValueError(
                f"HEADSTRIP_MIRROR has {pair.strip()!r}, which is not a pair of addresses such as "
                "https://download.pytorch.org=https://mirror.example/pytorch"
            )
        prefix, replacement = (part.rstrip("/") for part in match.groups())
        if url.startswith(f"{prefix}/"):
            return replacement + url.removeprefix(prefix)
    return url
