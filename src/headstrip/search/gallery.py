"""One HTML page with images and their neighbours, which loads nothing and runs no script.

Names and pictures come from outside and are not trusted: the page shows names as text with
invisible characters escaped, and thumbnails that headstrip encoded itself.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from headstrip.errors import HeadstripError
from headstrip.printable import printable
from headstrip.search.thumbnails import thumbnail
from headstrip.system.atomic import write_atomically
from headstrip.system.os_errors import explain

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }
h1 { font-size: 1.3rem; }
section { border-top: 1px solid #ccc; padding: 1rem 0; display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; width: 232px; }
figure:first-child { padding-right: 1rem; border-right: 3px solid #ccc; }
img, p { display: block; margin: 0; width: 224px; height: 224px; object-fit: contain; }
img { background: #f3f3f3; }
p { box-sizing: border-box; padding: 1rem; background: #fbeaea; overflow: hidden; }
figcaption { overflow-wrap: anywhere; font-size: 0.85rem; }
b { display: block; }
"""
_POLICY = (
    "default-src 'none'; img-src data:; "
    "style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<title>Nearest images</title>
<style>{style}</style>
</head>
<body>
<h1>Nearest images in <bdi>{source}</bdi></h1>
{sections}
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the page.

    Attributes:
        name: Text under the picture, such as its path.
        note: Text above the name, such as the similarity.
        image: The image, of any size and mode, or a sentence that says why there is none.
    """

    name: str
    note: str
    image: Image.Image | str


def write_gallery(path: Path, source: str, rows: Sequence[Sequence[Picture]]) -> None:
    """Write a page with one row of pictures for each query image.

    Args:
        path: The HTML file to write. An existing file is replaced.
        source: Name of the embeddings file, for the heading.
        rows: The pictures of each row, the query image first.

    Raises:
        HeadstripError: The file cannot be written.
    """
    try:
        write_atomically(path, gallery(source, rows).encode("ascii"))
    except OSError as error:
        raise HeadstripError(explain(error, f"{str(path)!r} could not be written")) from error


def gallery(source: str, rows: Sequence[Sequence[Picture]]) -> str:
    """Return the page that ``write_gallery`` writes. It contains only ASCII characters."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    sections = "\n".join(
        f"<section>\n{''.join(map(_figure, pictures))}</section>" for pictures in rows
    )
    page = _PAGE.format(
        policy=_POLICY.format(style=digest), style=_STYLE, source=_text(source), sections=sections
    )
    return page.encode("ascii", "xmlcharrefreplace").decode()


def _text(text: str) -> str:
    return html.escape(printable(text))


def _figure(picture: Picture) -> str:
    shown = (
        f"<p>{_text(picture.image)}</p>"
        if isinstance(picture.image, str)
        else f'<img alt="" src="data:image/jpeg;base64,{_encoded(picture.image)}">'
    )
    # Names never go into an attribute. `bdi` isolates a name that is written from right to left.
    caption = f"<b>{_text(picture.note)}</b><bdi>{_text(picture.name)}</bdi>"
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>\n"


def _encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    thumbnail(image).save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
