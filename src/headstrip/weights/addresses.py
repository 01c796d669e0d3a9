"""What files of weights are called, and where a URL's file belongs in torch hub's cache."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors", ".index.json")
"""How the name of a file of weights ends."""

_LONGEST = 180
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_RESERVED = re.compile(
    r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\..*)?", re.I | re.S
)
_MIRROR = re.compile(r"\s*(https?://[^=\s]+)=(https?://\S+)\s*")


def checkpoints() -> Path:
    """Return torch hub's folder of weights files, without importing torch.

    It is ``$TORCH_HOME/hub/checkpoints``, or where ``torch.hub.set_dir`` put it.
    """
    get_dir = getattr(sys.modules.get("torch.hub"), "get_dir", None)
    if get_dir is not None:
        return Path(get_dir()) / "checkpoints"
    home = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(os.path.expanduser(os.environ.get("TORCH_HOME", home))) / "hub" / "checkpoints"


def file_name(url: str) -> str:
    """Return the name that torch hub stores a URL's file under, if every system takes it.

    Raises:
        ValueError: The URL does not name a file, or the name leads out of a folder, or means
            something else to an operating system.

    Example:
        >>> file_name("https://download.pytorch.org/models/resnet50-0676ba61.pth?x=1")
        'resnet50-0676ba61.pth'
    """
    parts = urlparse(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it is not the address of a server")
    # This raises where the port is not a number.
    _ = parts.port
    name = parts.path.rpartition("/")[2]
    if not name:
        raise ValueError("it names no file")
    if problem := _problem(name) or _problem(unquote(name)):
        raise ValueError(f"the file name {name[:80]!r} {problem}")
    return name


def _problem(name: str) -> str:
    """Say why some system does not take a file name, "" where all do."""
    if name in (".", ".."):
        return "is that of a folder"
    if match := _FORBIDDEN.search(name):
        return f"has {match[0]!r} in it"
    if name[-1:] in (".", " "):
        return "ends with a dot or a space"
    if _RESERVED.fullmatch(name):
        return "is reserved by Windows"
    if len(os.fsencode(name)) > _LONGEST:
        return f"is longer than {_LONGEST} bytes"
    return ""


def mirrored(url: str) -> str:
    """Return where a URL's file is asked for: there, or at the mirror in ``HEADSTRIP_MIRROR``.

    The variable has pairs ``PREFIX=INSTEAD``, with commas between; the first that fits counts. A
    prefix ends where a part of the path ends.

    Raises:
        ValueError: The variable has something else in it.
    """
    for pair in filter(str.strip, os.environ.get("HEADSTRIP_MIRROR", "").split(",")):
        match = _MIRROR.fullmatch(pair)
        if match is None:
            raise ValueError(
                f"HEADSTRIP_MIRROR has {pair.strip()!r}, which is not a pair of addresses such as "
                "https://download.pytorch.org=https://mirror.example/pytorch"
            )
        prefix, instead = (part.rstrip("/") for part in match.groups())
        if url.startswith(f"{prefix}/"):
            return instead + url.removeprefix(prefix)
    return url
