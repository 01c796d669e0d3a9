"""The pictures that a file of embeddings names, small enough to be shown."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from headstrip.embed.files import original_path
from headstrip.embed.pages import page_of, split_page
from headstrip.embed.sources import Item, Reader, Source
from headstrip.errors import ImageError, PreprocessingError
from headstrip.images.decode import decode, decode_bytes, decoding_errors, opened_file, upright
from headstrip.images.modes import as_picture
from headstrip.images.preprocessing import Preprocessing

SIDE = 224
"""Pixels that the longer side of a small picture has at most."""

_SHOWN = Preprocessing(crop=(SIDE, SIDE), resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)


def pictures_of(
    source: Source, root: str | os.PathLike[str], paths: Iterable[str]
) -> dict[str, Image.Image | str]:
    """Read pictures that a file of embeddings names.

    Those of a folder of image files are opened by their paths; any other source is listed until
    all are found.

    Args:
        source: What ``source_of(root)`` gave.
        root: What was embedded.
        paths: The paths in the file of embeddings.

    Returns:
        By its path a small RGB picture, or why there is none to show.

    Raises:
        HeadstripError: The source cannot be listed.
    """
    wanted = dict.fromkeys(paths)
    if os.path.isdir(root) and source.describe().get("kind") == "files":
        return {path: picture_in(Path(root), path) for path in wanted}
    reader = source.reader()
    pictures: dict[str, Image.Image | str] = dict.fromkeys(wanted, "it is not in the source.")
    for item in source.items() if wanted else ():
        if item.path in wanted:
            del wanted[item.path]
            pictures[item.path] = _read(reader, item)
            if not wanted:
                break
    return pictures


def picture_in(root: Path, stored: str) -> Image.Image | str:
    r"""Read a picture of a folder.

    Args:
        root: The folder.
        stored: The path in it, as ``stored_path`` wrote it.

    Returns:
        A small RGB picture, or why there is none to show, such as for a path that leads out.
    """
    # Not in `stored`: there a dot may be written as `\x2e`.
    relative = Path(original_path(stored))
    if relative.anchor or ".." in relative.parts:
        return "its path leads out of the folder."
    try:
        file, page = split_page(os.fspath(root / relative))
        if page and not (root / relative).exists():
            with decoding_errors(), opened_file(file) as opened:
                return thumbnail(upright(page_of(opened.read(), page)))
        return thumbnail(decode(root / relative))
    except ImageError as error:
        return str(error)


def thumbnail(image: Image.Image) -> Image.Image:
    """Make a small RGB picture with pixels and nothing else: no place, no comment, no profile.

    Raises:
        ImageError: The pixels cannot be shown.
    """
    scale = min(1.0, SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    try:
        picture = as_picture(image, _SHOWN).resize((width, height), reducing_gap=2.0)
    except (PreprocessingError, OSError, ValueError, MemoryError) as error:
        raise ImageError(f"{str(error).rstrip('.')}.") from error
    picture.info = {}
    return picture


def _read(reader: Reader, item: Item) -> Image.Image | str:
    try:
        return thumbnail(decode_bytes(reader.read(item)))
    except ImageError as error:
        return str(error)
