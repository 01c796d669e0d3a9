"""One HTML file that loads nothing and runs no script, light or dark like the reader's system."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from headstrip.errors import HeadstripError
from headstrip.html.elements import Html, element, joined
from headstrip.system.atomic import write_atomically
from headstrip.system.os_errors import explain

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --quiet: #5c5c5c; --line: #ccc;
  --soft: #f3f3f3; --bad: #fbeaea; --one: #0b62c4; --two: #b34700; --side: 224px; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e4e4; --paper: #16181b; --quiet: #a3a3a3;
  --line: #44484d; --soft: #22262a; --bad: #4a2525; --one: #6cb2ff; --two: #ff9f5a; } }
body { font: 15px/1.4 system-ui, sans-serif; margin: clamp(0.75rem, 3vw, 2rem);
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.3rem; }
h1, h2, h3 { overflow-wrap: anywhere; }
figure { margin: 0; width: calc(var(--side) + 8px); }
figure img, figure p { display: block; margin: 0; width: var(--side); height: var(--side);
  object-fit: contain; }
figure img { background: var(--soft); }
figure p { box-sizing: border-box; padding: 1rem; background: var(--bad); overflow: hidden; }
figcaption { overflow-wrap: anywhere; font-size: 0.85rem; }
figcaption b { display: block; }
"""
_POLICY = (
    "default-src 'none'; img-src data:; "
    "style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
)


def page(title: str, *body: str | None, style: str = "") -> str:
    """Return a page. It contains only ASCII characters.

    Args:
        title: Its title, which is text.
        body: Its content: ``Html``, or text, which is escaped. None is left out.
        style: CSS to add to the common CSS, and never text from outside. The common CSS defines
            the colours ``--ink``, ``--paper``, ``--quiet``, ``--line``, ``--soft``, ``--bad``,
            ``--one`` and ``--two``, for light and dark, and ``--side``, the side of a picture.
    """
    css = _STYLE + style
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY.format(style=digest)),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        # A browser does not decode escapes in this element.
        element("style", Html(css)),
    )
    whole = element("html", head, element("body", joined(body, "\n")), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n".encode("ascii", "xmlcharrefreplace").decode()


def write_page(path: Path, content: str) -> None:
    """Write the result of ``page``; replace an existing file, or leave it unchanged on failure.

    Raises:
        HeadstripError: The file cannot be written.
    """
    try:
        write_atomically(path, content.encode("ascii"))
    except OSError as error:
        raise HeadstripError(explain(error, f"{str(path)!r} could not be written")) from error
