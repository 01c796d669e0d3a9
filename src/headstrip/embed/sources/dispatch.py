"""What a user named, and the source that it is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from headstrip.embed.sources.files import FilesSource
from headstrip.embed.sources.items import Source, is_url, shown_place
from headstrip.embed.sources.patterns import Patterns, expand_braces, is_wild
from headstrip.embed.sources.trees import (
    FolderTree,
    NamedTree,
    Tree,
    kind_of,
    suffix_of,
    whole_folder,
)
from headstrip.errors import HeadstripError

_LISTS = frozenset({".csv", ".tsv", ".txt"})
_DATASETS = ("state.json", "dataset_dict.json")


def source_of(
    what: str | os.PathLike[str] | Iterable[Any],
    *,
    column: str = "path",
    image_column: str | None = None,
) -> Source:
    """Return the source that a path, a pattern, a url or an iterable stands for.

    Args:
        what: A folder, one image, a pattern such as ``photos/**/*.jpg`` or
            ``train-{000..012}.tar``, a list (``.txt``, ``.csv``, ``.tsv``, ``.parquet``), a tar
            archive, Parquet with the bytes of images, a folder that ``save_to_disk`` of Hugging
            Face's datasets wrote, a url of any of these that fsspec reaches; or an iterable of
            paths, PIL images, uint8 arrays (height, width, 3) or bytes of image files.
        column: Which column of a list has the paths.
        image_column: Which column of a table has the bytes, where several might.

    Raises:
        HeadstripError: It is nothing of these, nothing of them is there, or several are.

    Example:
        >>> source = source_of("photos")  # doctest: +SKIP
        >>> [item.path for item in source.items()]  # doctest: +SKIP
        ['cat.png', 'coffee.png']
    """
    if not isinstance(what, (str, os.PathLike)):
        from headstrip.embed.sources.stream import StreamSource

        return StreamSource(what)
    text = os.fsdecode(what)
    if not text:
        raise HeadstripError("The source is named ''. Name a folder, a list or an archive.")
    tree = _url_tree(text) if is_url(text) else _local_tree(text)
    if isinstance(tree, FolderTree) and _is_dataset(tree.root):
        from headstrip.embed.sources.arrow import ArrowSource

        return ArrowSource(tree.root, image_column)
    kind = _kind_by_suffix(tree) if tree.suffix else _kind_of_first(tree)
    if kind == "list":
        return _list(tree, column)
    if kind == "tar":
        from headstrip.embed.sources.tars import TarSource

        return TarSource(tree)
    if kind == "parquet":
        return _tables(tree, column, image_column)
    return FilesSource(tree)


def _local_tree(text: str) -> Tree:
    # What is there has the name that it has, wildcards and all.
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


def _url_tree(text: str) -> Tree:
    from headstrip.embed.sources.urls import UrlTree

    return UrlTree.of(text)


def _shown(text: str) -> str:
    return shown_place(os.path.abspath(text))


def _is_dataset(root: str) -> bool:
    return any(os.path.isfile(os.path.join(root, name)) for name in _DATASETS)


def _kind_by_suffix(tree: Tree) -> str:
    return "list" if tree.suffix in _LISTS else kind_of("x" + tree.suffix) or "image"


def _kind_of_first(tree: Tree) -> str:
    """Return what the first image or archive says; tables count where there is neither.

    What an earlier run wrote among the images is a table.
    """
    kinds = set()
    for item in tree.files():
        kind = kind_of(item.path)
        if kind != "parquet":
            return kind or "image"
        kinds.add(kind)
    if not kinds:
        raise HeadstripError(
            f"There is no image in {tree.where!r}, no .tar and no .parquet. "
            "Images are known by their suffix, such as .jpg; check the path."
        )
    return "parquet"


def _the_one(tree: Tree, kind: str) -> str:
    """Return the place of a list, of which there can be one only."""
    from headstrip.embed.sources.opened import joined

    places = [joined(tree.root, item.path) for item, _ in zip(tree.files(), range(2), strict=False)]
    if len(places) != 1:
        raise HeadstripError(f"{tree.where!r} stands for {len(places)} {kind}s. Name one file.")
    return places[0]


def _list(tree: Tree, column: str) -> Source:
    from headstrip.embed.sources.lists import ListSource

    return ListSource(_the_one(tree, "list"), tree.suffix, column)


def _tables(tree: Tree, column: str, image_column: str | None) -> Source:
    """Take a single table for a list of paths where it has no images, or its column is named."""
    from headstrip.embed.sources.tables import TablesSource, columns_with_bytes

    if image_column is None and tree.is_file:
        names, with_bytes = columns_with_bytes(_the_one(tree, "table"), tree.where)
        is_named = column in names and column != "path"
        if is_named or not set(with_bytes) - {column}:
            return _list(tree, column)
    return TablesSource(tree, image_column)
