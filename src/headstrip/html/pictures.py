"""Pictures of a page: small JPEGs that headstrip encodes itself, with captions."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from headstrip.html.elements import Html, element, name
from headstrip.html.thumbnails import thumbnail


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a page.

    Attributes:
        name: Text under the picture, such as its path.
        note: Text above the name, such as the similarity.
        image: The image, of any size and mode, or a sentence that says why it is missing.
    """

    name: str
    note: str
    image: Image.Image | str


def figure(picture: Picture) -> Html:
    """Return the element that shows a picture, or the reason why it is missing."""
    image = picture.image
    return element(
        "figure",
        element("p", image) if isinstance(image, str) else _embedded(image),
        element("figcaption", element("b", picture.note), name(picture.name)),
    )


def _embedded(image: Image.Image) -> Html:
    buffer = io.BytesIO()
    thumbnail(image).save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return element("img", alt="", src=f"data:image/jpeg;base64,{data}")
