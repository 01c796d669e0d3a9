"""An HTML page with images and their neighbours, which loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headstrip.html.elements import element, joined, name
from headstrip.html.page import page, write_page
from headstrip.html.pictures import Picture, figure

_STYLE = """
section { border-top: 1px solid var(--line); padding: 1rem 0; display: flex; flex-wrap: wrap;
  gap: 1rem; }
figure:first-child { padding-right: 1rem; border-right: 3px solid var(--line); }
"""


def write_gallery(path: Path, source: str, rows: Sequence[Sequence[Picture]]) -> None:
    """Write a page with one row of pictures for each query image.

    Args:
        path: The HTML file to write. An existing file is replaced.
        source: Name of the embeddings file, for the heading.
        rows: The pictures of each row, the query image first.

    Raises:
        HeadstripError: The file cannot be written.
    """
    write_page(path, gallery(source, rows))


def gallery(source: str, rows: Sequence[Sequence[Picture]]) -> str:
    """Return the page that ``write_gallery`` writes. It contains only ASCII characters."""
    sections = [element("section", joined(map(figure, pictures), "\n")) for pictures in rows]
    heading = element("h1", "Nearest images in ", name(source))
    return page("Nearest images", heading, *sections, style=_STYLE)
