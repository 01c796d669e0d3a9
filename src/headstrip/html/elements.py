"""Elements of a page, which escape all text in them."""

from __future__ import annotations

import html
from collections.abc import Iterable

from headstrip.printable import printable

_EMPTY = frozenset({"br", "col", "img", "meta"})


class Html(str):
    """Text that is HTML already. Only the functions of this module make it."""

    __slots__ = ()


def element(tag: str, /, *children: str | None, **attributes: str | float | None) -> Html:
    """Return an element.

    Args:
        tag: Its name.
        children: Its content: text, which is escaped, or ``Html``. None is left out.
        attributes: Its attributes. An underscore at the end is removed, and other underscores
            become hyphens: ``class_="wide"``, ``stroke_width=2``. None is left out. Never pass a
            name that comes from outside as a value: put it into the text.

    Example:
        >>> element("b", "a < b", element("i", "c"), class_="name")
        '<b class="name">a &lt; b<i>c</i></b>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _EMPTY:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{joined(children)}</{tag}>")


def joined(parts: Iterable[str | None], between: str = "") -> Html:
    """Join parts; escape those that are not ``Html``."""
    return Html(between.join(_escaped(part) for part in parts if part is not None))


def name(text: str) -> Html:
    """Return a name from outside, isolated so that right-to-left text does not move other text."""
    return element("bdi", text)


def _escaped(text: str) -> str:
    return text if isinstance(text, Html) else html.escape(printable(text))
