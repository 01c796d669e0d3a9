"""What a user named, and the source that it is."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable
from typing import Any, BinaryIO

from headstrip.embed.sources.access import Access, is_url
from headstrip.embed.sources.files import FilesSource
from headstrip.embed.sources.items import Source, shown_place
from headstrip.embed.sources.left_out import LeftOut, sentence
from headstrip.embed.sources.patterns import Patterns, expand_braces, is_wild
from headstrip.embed.sources.rows import located
from headstrip.embed.sources.trees import (
    FolderTree,
    NamedTree,
    Tree,
    kind_of,
    suffix_of,
    whole_folder,
)
from headstrip.errors import HeadstripError

_LISTS = frozenset({".csv", ".jsonl", ".ndjson", ".tsv", ".txt"})
_SHEET = "a spreadsheet. Save the sheet with the paths as .csv in UTF-8"
_TABLE = "a table. Write its paths to a .parquet, .csv or .jsonl"
_PACKED = "a packed archive. Unpack it, and name the folder"
_REFUSED = {
    ".json": "JSON in one piece. Write one object a line, and name the file .jsonl",
    ".ods": _SHEET, ".numbers": _SHEET, ".xls": _SHEET, ".xlsb": _SHEET, ".xlsm": _SHEET,
    ".xlsx": _SHEET, ".arrow": _TABLE, ".feather": _TABLE, ".h5": _TABLE, ".hdf5": _TABLE,
    ".npy": _TABLE, ".npz": _TABLE, ".pickle": _TABLE, ".pkl": _TABLE, ".sqlite": _TABLE,
    ".7z": _PACKED, ".gz": _PACKED, ".rar": _PACKED, ".zip": _PACKED,
}  # fmt: skip
"""What files are that might be taken for a source, and what to do instead."""
_SAMPLE = 1 << 12
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_DATASETS = ("state.json", "dataset_dict.json")


def source_of(
    what: str | os.PathLike[str] | Iterable[Any],
    *,
    column: str = "path",
    image_column: str | None = None,
    allow_schemes: Iterable[str] = (),
    allow_private: bool = False,
    offline: bool = False,
) -> Source:
    """Return the source that a path, a pattern, a url or an iterable stands for.

    Args:
        what: A folder, one image, a pattern such as ``photos/**/*.jpg`` or
            ``train-{000..012}.tar``, a list (``.txt``, ``.csv``, ``.tsv``, ``.jsonl``,
            ``.parquet``), a tar archive, Parquet with the bytes of images, a folder that
            ``save_to_disk`` of Hugging Face's datasets wrote, a url of any of these; or an iterable
            of paths, PIL images, uint8 arrays (height, width, 3) or bytes of image files.
        column: Which column of a list has the paths.
        image_column: Which column of a table has the bytes, where several might.
        allow_schemes: Schemes that urls may have besides http, https, s3, gs, az, abfs, abfss and
            hf, such as ``["ftp"]``. They hold for every row of a list.
        allow_private: Whether urls in a list, and redirects, may lead to addresses that are not
            public, such as 127.0.0.1.
        offline: Refuse every url of a network; ``HEADSTRIP_OFFLINE=1`` does it for all calls.

    Raises:
        HeadstripError: It is nothing of these, nothing of them is there, several are, or it is a
            url that may not be read.

    Example:
        >>> source = source_of("photos")  # doctest: +SKIP
        >>> [item.path for item in source.items()]  # doctest: +SKIP
        ['cat.png', 'coffee.png']
    """
    if not isinstance(what, (str, os.PathLike)):
        from headstrip.embed.sources.stream import StreamSource

        access = Access.of("", allow_schemes, private=allow_private, offline=offline)
        return StreamSource(what, access)
    text = os.fsdecode(what)
    if not text:
        raise HeadstripError("The source is named ''. Name a folder, a list or an archive.")
    access = Access.of(text, allow_schemes, private=allow_private, offline=offline)
    tree = _url_tree(text, access) if is_url(text) else _local_tree(text)
    if isinstance(tree, FolderTree) and _is_dataset(tree.root):
        from headstrip.embed.sources.arrow import ArrowSource

        return ArrowSource(tree.root, image_column)
    kind = _kind_by_suffix(tree) if tree.suffix else _kind_of_first(tree)
    if kind == "list":
        return _list(tree, column, access)
    if kind == "tar":
        from headstrip.embed.sources.tars import TarSource

        return TarSource(tree)
    if kind == "parquet":
        return _tables(tree, column, image_column, access)
    return FilesSource(tree)


def _local_tree(text: str) -> Tree:
    # What is there has the name that it has, wildcards and all; accents may be written otherwise.
    text = located("", text) or text
    if os.path.isdir(text):
        return whole_folder(text)
    if os.path.exists(text):
        return NamedTree.of([text], _shown(text))
    names = expand_braces(text)
    wild = [name for name in names if is_wild(name)]
    if not wild:
        return NamedTree.of(names, _shown(text))
    if len(wild) < len(names):
        raise HeadstripError(f"{text!r} has names with wildcards and names without. Name one kind.")
    suffixes = {suffix_of(name) for name in wild}
    suffix = suffixes.pop() if len(suffixes) == 1 else ""
    return FolderTree(Patterns.parse(wild), _shown(text), "" if is_wild(suffix) else suffix)


def _url_tree(text: str, access: Access) -> Tree:
    from headstrip.embed.sources.urls import UrlTree

    return UrlTree.of(text, access)


def _shown(text: str) -> str:
    return shown_place(os.path.abspath(text))


def _is_dataset(root: str) -> bool:
    return any(os.path.isfile(os.path.join(root, name)) for name in _DATASETS)


def _kind_by_suffix(tree: Tree) -> str:
    if reason := _REFUSED.get(tree.suffix):
        raise HeadstripError(f"{tree.where!r} cannot be a source: it is {reason}.")
    if tree.suffix in _LISTS:
        return "list"
    kind = kind_of("x" + tree.suffix)
    if kind is None and isinstance(tree, NamedTree) and _is_text(tree.paths[0]):
        raise HeadstripError(
            f"{tree.where!r} cannot be a source: it is text, and not an image. If it is a list of "
            "paths, give it the suffix by which headstrip knows lists: .txt (a path a line), .csv, "
            ".tsv, .jsonl or .parquet."
        )
    return kind or "image"


def _is_text(path: str) -> bool:
    """Whether a file starts like text, and not like an image that is written in digits."""
    try:
        with _opened_regular(path) as file:
            start = file.read(_SAMPLE)
    except OSError:
        # Reading it says why, in its row.
        return False
    if start.startswith((b"P1", b"P2", b"P3")):
        return False
    encoding = "utf-16" if start.startswith(_UTF16) else "utf-8"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError:
        return False
    return bool(text) and _CONTROL.search(text) is None


def _opened_regular(path: str) -> BinaryIO:
    if not os.path.isfile(path):
        raise OSError
    return open(path, "rb")


def _kind_of_first(tree: Tree) -> str:
    """Return what the first image or archive says; tables count where there is neither.

    What an earlier run wrote among the images is a table.
    """
    kinds, left_out = set(), LeftOut()
    for item in tree.files(left_out.note):
        kind = kind_of(item.path)
        if kind != "parquet":
            return kind or "image"
        kinds.add(kind)
    if not kinds:
        raise HeadstripError(
            f"There is no image in {tree.where!r}, no .tar and no .parquet. "
            + (
                sentence(left_out.counts())
                or "Images are known by their suffix, such as .jpg; check the path."
            )
        )
    return "parquet"


def _the_one(tree: Tree, kind: str) -> str:
    """Return the place of a list, of which there can be one only."""
    from headstrip.embed.sources.opened import joined

    places = [joined(tree.root, item.path) for item, _ in zip(tree.files(), range(2), strict=False)]
    if len(places) != 1:
        raise HeadstripError(f"{tree.where!r} stands for {len(places)} {kind}s. Name one file.")
    return places[0]


def _list(tree: Tree, column: str, access: Access) -> Source:
    from headstrip.embed.sources.lists import ListSource

    return ListSource(_the_one(tree, "list"), tree.suffix, column, access)


def _tables(tree: Tree, column: str, image_column: str | None, access: Access) -> Source:
    """Take a single table for a list of paths where it has no images, or its column is named."""
    from headstrip.embed.sources.tables import TablesSource, columns_with_bytes

    if image_column is None and tree.is_file:
        names, with_bytes = columns_with_bytes(_the_one(tree, "table"), tree.where, access)
        is_named = column in names and column != "path"
        if is_named or not set(with_bytes) - {column}:
            return _list(tree, column, access)
    return TablesSource(tree, image_column)
