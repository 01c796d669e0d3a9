"""From what a user named to the source that it is."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headstrip.embed.sources.access import Access, is_url
from headstrip.embed.sources.files import FilesSource, located
from headstrip.embed.sources.items import Source
from headstrip.embed.sources.left_out import LeftOut, sentence
from headstrip.embed.sources.lists import SUFFIXES, ListSource
from headstrip.embed.sources.names import display_name, joined, kind_of, suffix_of
from headstrip.embed.sources.patterns import expand_braces, is_wild, parse_patterns
from headstrip.embed.sources.stream import StreamSource
from headstrip.embed.sources.tar import TarSource
from headstrip.embed.sources.trees import FolderTree, NamedTree, Tree, UrlTree
from headstrip.errors import HeadstripError, OptionError
from headstrip.system.arguments import type_of

if TYPE_CHECKING:
    from headstrip.embed.sources.kept import Keep

_REFUSED = {
    "one JSON document. Write one object per line, and name the file .jsonl": ".json",
    "a spreadsheet. Save the sheet with the paths as .csv in UTF-8": (
        ".numbers .ods .xls .xlsb .xlsm .xlsx"
    ),
    "a table. Write its paths to a .parquet, .csv or .jsonl": (
        ".arrow .feather .h5 .hdf5 .npy .npz .pickle .pkl .sqlite"
    ),
    "a packed archive. Unpack it, and pass the folder": ".7z .gz .rar .zip",
}
"""Suffixes of files that cannot be a source, by what they are and what to do instead."""

_TABLES = (".csv", ".tsv", ".parquet")
_SAMPLE = 1 << 12
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_SAVED_DATASET = ("state.json", "dataset_dict.json")


def source_of(
    what: str | os.PathLike[str] | Iterable[Any],
    *,
    column: str = "path",
    image_column: str | None = None,
    keep: Keep = (),
    allow_schemes: Iterable[str] = (),
    allow_private: bool = False,
    offline: bool = False,
) -> Source:
    """Return the source that a path, a pattern, a url or an iterable stands for.

    Args:
        what: A folder, one image, a pattern such as ``photos/**/*.jpg`` or
            ``train-{000..012}.tar``, a list (``.txt``, ``.csv``, ``.tsv``, ``.jsonl``,
            ``.parquet``), a tar archive, Parquet with the bytes of images, a folder that
            ``save_to_disk`` of Hugging Face's datasets wrote, a url of any of these but the last;
            or an iterable of paths, PIL images, uint8 arrays (height, width, 3) or bytes of image
            files.
        column: The column of a list that has the paths.
        image_column: The column of a table that has the bytes, where several may have them.
        keep: Columns of a CSV, TSV or Parquet list that are copied into the file of embeddings,
            such as ``["colour", "shape"]``, or ``"all"`` except the column of the paths.
        allow_schemes: Schemes that urls may have beyond http, https, s3, gs, az, abfs, abfss and
            hf, such as ``["ftp"]``. They hold for every row of a list.
        allow_private: Whether urls in a list, and redirects, may lead to addresses that are not
            public, such as 127.0.0.1.
        offline: Refuse every url of a network. ``HEADSTRIP_OFFLINE=1`` does so for all calls.

    Raises:
        HeadstripError: It is not such a source, it has no image or files of several kinds, it
            is a url that may not be read, or a column cannot be kept.
        OptionError: It is a dict, or a text that cannot be a path.

    Example:
        >>> source = source_of("photos")  # doctest: +SKIP
        >>> [item.path for item in source.items()]  # doctest: +SKIP
        ['cat.png', 'coffee.png']
    """
    text = os.fsdecode(what) if isinstance(what, (str, os.PathLike)) else ""
    access = Access.of(text, allow_schemes, private=allow_private, offline=offline)
    found = _found(what, text, column, image_column, access)
    if not keep:
        return found
    if not isinstance(found, ListSource) or found.suffix not in _TABLES:
        shown = repr(text)[:200] if text else type_of(what)
        raise HeadstripError(
            f"--keep (keep=) copies columns of a .csv, .tsv or .parquet list of paths, and the "
            f"source is {shown}. Leave it out, or pass such a list."
        )
    kept: Keep = "all" if keep == "all" else (keep,) if isinstance(keep, str) else tuple(keep)
    found = replace(found, keep=kept)
    found.kept_fields()
    return found


def _found(
    what: str | os.PathLike[str] | Iterable[Any],
    text: str,
    column: str,
    image_column: str | None,
    access: Access,
) -> Source:
    """Return the source, of which no column is kept."""
    if not isinstance(what, (str, os.PathLike)):
        return StreamSource(what, access)
    if not text:
        raise HeadstripError("The source is an empty text. Pass a folder, a list or an archive.")
    _check_encodable(text)
    tree = UrlTree.of(text, access) if is_url(text) else _local_tree(text)
    if isinstance(tree, FolderTree) and any(
        os.path.isfile(os.path.join(tree.root, name)) for name in _SAVED_DATASET
    ):
        from headstrip.embed.sources.arrow import ArrowSource

        return ArrowSource(tree.root, image_column)
    kind = _kind_by_suffix(tree) if tree.suffix else _kind_by_files(tree)
    if kind == "tar":
        return TarSource(tree)
    if kind == "parquet":
        from headstrip.embed.sources.parquet import ParquetSource

        if image_column is not None or not _is_table_of_paths(tree, column):
            return ParquetSource(tree, image_column)
        kind = "list"
    if kind == "list":
        return ListSource(_only_file(tree), tree.suffix, column, access)
    return FilesSource(tree)


def _check_encodable(text: str) -> None:
    """Refuse a text that the system cannot have as a name.

    Raises:
        OptionError: It has half of a pair of surrogates.
    """
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise OptionError(
            f"The source {text!r:.200} cannot be a path: no file name can have the character "
            f"{text[error.start]!r}. Check the path."
        ) from error


def _local_tree(text: str) -> Tree:
    # A file with exactly this name has priority, even if the name looks like a pattern. The file's
    # name may have its accents in the other form of Unicode.
    text = located("", text) or text
    shown = display_name(os.path.abspath(text))
    if os.path.isdir(text):
        return FolderTree(root=os.path.abspath(text), where=shown)
    if os.path.exists(text):
        return NamedTree.of_names([text], shown)
    names = expand_braces(text)
    wild = [name for name in names if is_wild(name)]
    if not wild:
        return NamedTree.of_names(names, shown)
    if len(wild) < len(names):
        raise HeadstripError(f"{text!r} has names with wildcards and names without. Pass one kind.")
    suffixes = {suffix_of(name) for name in wild}
    suffix = suffixes.pop() if len(suffixes) == 1 else ""
    suffix = "" if is_wild(suffix) else suffix
    root, patterns = parse_patterns(wild)
    return FolderTree(root=root, where=shown, suffix=suffix, patterns=patterns)


def _kind_by_suffix(tree: Tree) -> str:
    for reason, suffixes in _REFUSED.items():
        if tree.suffix in suffixes.split():
            raise HeadstripError(f"{tree.where!r} cannot be a source: it is {reason}.")
    if tree.suffix in SUFFIXES:
        return "list"
    kind = kind_of("x" + tree.suffix)
    if kind is None and isinstance(tree, NamedTree) and _is_text(tree.paths[0]):
        raise HeadstripError(
            f"{tree.where!r} cannot be a source: it is text, and not an image. If it is a list of "
            "paths, give it the suffix of a list: .txt (one path per line), .csv, .tsv, .jsonl or "
            ".parquet."
        )
    return kind or "image"


def _is_text(path: str) -> bool:
    """Whether a file starts like text, and not like an image whose pixels are digits (P1 to P3)."""
    try:
        with open(path, "rb") as file:
            start = file.read(_SAMPLE)
    except OSError:
        # Its row has the reason.
        return False
    if start.startswith((b"P1", b"P2", b"P3")):
        return False
    encoding = "utf-16" if start.startswith(_UTF16) else "utf-8"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError:
        return False
    return bool(text) and _CONTROL.search(text) is None


def _kind_by_files(tree: Tree) -> str:
    """Return the kind of the first image or archive; tables count only if there is neither.

    A table among images may be one that an earlier run wrote.
    """
    has_tables, left_out = False, LeftOut()
    for item in tree.files(left_out.note):
        kind = kind_of(item.path)
        if kind != "parquet":
            return kind or "image"
        has_tables = True
    if has_tables:
        return "parquet"
    raise HeadstripError(
        f"There is no image in {tree.where!r}, no .tar and no .parquet. "
        + (
            sentence(left_out.counts())
            or "Images are known by their suffix, such as .jpg; check the path."
        )
    )


def _only_file(tree: Tree) -> str:
    """Return the path or url of a list: several cannot be one source."""
    found = [joined(tree.root, item.path) for item, _ in zip(tree.files(), range(2), strict=False)]
    if len(found) != 1:
        raise HeadstripError(
            f"{tree.where!r} stands for {len(found)} lists. Pass one file, as several lists cannot "
            "be one source."
        )
    return found[0]


def _is_table_of_paths(tree: Tree, column: str) -> bool:
    """Whether a Parquet file has no images, or the user named another column than ``path``."""
    from headstrip.embed.sources.tables import bytes_columns, opened_table

    if not tree.is_file:
        return False
    with opened_table(_only_file(tree), tree.where, tree.access) as table:
        schema = table.schema_arrow
    return (column in schema.names and column != "path") or not {*bytes_columns(schema)} - {column}
