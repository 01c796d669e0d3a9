"""Thumbnails of the images that an embeddings file names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from headstrip.embed.pages import page_of, split_page
from headstrip.embed.sources import Item, Reader, Source, original_path
from headstrip.errors import ImageError, PreprocessingError
from headstrip.images.bands import Bands
from headstrip.images.decode import decode_bytes, decoding_errors, load_image, upright
from headstrip.images.modes import as_picture
from headstrip.images.preprocessing import Preprocessing
from headstrip.images.size_limit import opened_file

SIDE = 224
"""Largest side of a thumbnail, in pixels."""

_SHOWN = Preprocessing(crop=(SIDE, SIDE), resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)


def pictures_of(
    source: Source, root: str | os.PathLike[str], paths: Iterable[str]
) -> dict[str, Image.Image | str]:
    """Read the pictures that an embeddings file names.

    In a folder of image files, headstrip opens the paths directly. It lists any other source until
    it has found all paths.

    Args:
        source: The result of ``source_of(root)``.
        root: The source that was embedded.
        paths: Paths in the embeddings file.

    Returns:
        For each path, an RGB thumbnail, or the reason why it is missing.

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
    r"""Read a picture in a folder.

    Args:
        root: The folder.
        stored: Path in the folder, as ``stored_path`` wrote it.

    Returns:
        An RGB thumbnail, or the reason why it is missing: for example, the path leads out of the
        folder.
    """
    # Check the original path: in `stored`, a dot may be escaped as `\x2e`.
    relative = Path(original_path(stored))
    if relative.anchor or ".." in relative.parts:
        return "its path leads out of the folder."
    try:
        file, page = split_page(os.fspath(root / relative))
        if page and not (root / relative).exists():
            with decoding_errors(), opened_file(file) as opened:
                return thumbnail(upright(page_of(opened.read(), page)))
        return thumbnail(load_image(root / relative))
    except ImageError as error:
        return str(error)


def thumbnail(image: Image.Image | Bands) -> Image.Image:
    """Return an RGB thumbnail without metadata: no GPS position, no comment, no colour profile.

    For an image with more than three channels, it shows the first three as red, green and blue.

    Raises:
        ImageError: The pixels cannot be converted to RGB.
    """
    image = image.shown() if isinstance(image, Bands) else image
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
