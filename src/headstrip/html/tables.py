"""Tables of a page, which scroll sideways in a narrow window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headstrip.html.elements import Html, element, joined, name

_LEVELS = 8
_MOST_CLASSES = 30
_MOST_ROWS = 50

STYLE = """
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.caption { color: var(--quiet); margin: 0 0 0.25rem; max-width: 32rem; font-size: 0.9rem; }
th, td { padding: 0.2rem 0.6rem 0.2rem 0; text-align: left; vertical-align: baseline;
  font-weight: normal; border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
tbody th { min-width: 4.5rem; }
th bdi { overflow-wrap: anywhere; }
thead th { color: var(--quiet); font-size: 0.85rem; vertical-align: bottom; }
.matrix { table-layout: fixed; font-size: 0.85rem; }
.matrix td { min-width: 1.6rem; padding: 0.2rem; text-align: center;
  border: 1px solid var(--line); }
.matrix th { padding: 0.2rem 0.4rem 0.2rem 0; border: 0; }
.matrix tbody th { position: sticky; left: 0; background: var(--paper); text-align: right;
  min-width: 5rem; max-width: min(16rem, 35vw); }
.matrix thead th > bdi { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 8rem;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.matrix thead th { text-align: center; padding: 0 0 0.3rem; }
""" + "".join(
    f".{word}-{level} {{ background: color-mix(in srgb, {hue} {8 * level}%, transparent); }}\n"
    for word, hue in (("right", "var(--one)"), ("wrong", "var(--two)"))
    for level in range(1, _LEVELS + 1)
)
"""CSS for the tables; pass it to ``page`` with the page's other CSS."""


def table(
    label: str, caption: str, titles: Sequence[str | tuple[str, str]], rows: Sequence[Html]
) -> Html:
    """Return a table.

    Args:
        label: A description for readers who cannot see the table. Never a name from outside.
        caption: Text above the table; empty for none.
        titles: Titles of the columns, as for ``heading``.
        rows: The rows, as ``tr`` elements.
    """
    whole = element("table", heading(titles), element("tbody", joined(rows, "\n")))
    return scrolling(label, caption, whole)


def heading(titles: Sequence[str | tuple[str, str]]) -> Html:
    """Return the first row of a table: each title is text, or a pair of text and CSS class."""
    pairs = [(one, None) if isinstance(one, str) else one for one in titles]
    cells = [element("th", title, scope="col", class_=class_) for title, class_ in pairs]
    return element("thead", element("tr", *cells))


def scrolling(label: str, caption: str, content: Html) -> Html:
    """Return content that scrolls sideways in a narrow window, with a caption above it."""
    # The element must be able to get the focus, so that the arrow keys scroll it.
    scroll = element("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)
    return element("div", element("p", caption, class_="caption") if caption else None, scroll)


def confusion_table(classes: Sequence[str], counts: Mapping[tuple[int, int], int]) -> Html:
    """Return a confusion matrix, or the most frequent confusions of many classes.

    Args:
        classes: Names of the classes.
        counts: Number of images by the indices of their true and their predicted class. Pairs
            without an image may be missing.
    """
    if len(classes) > _MOST_CLASSES:
        return _most_frequent(classes, counts)
    indices = range(len(classes))
    rows = []
    for row in indices:
        total = sum(counts.get((row, column), 0) for column in indices)
        cells = [_cell(counts.get((row, one), 0), total, row == one) for one in indices]
        rows.append(element("tr", element("th", name(classes[row]), scope="row"), *cells))
    titles = [element("th", name(one), scope="col") for one in classes]
    head = element("thead", element("tr", element("th"), *titles))
    caption = (
        "Confusion matrix: rows are the labels, columns the predictions. A colour is the share of "
        "its row."
    )
    matrix = element("table", head, element("tbody", *rows), class_="matrix")
    return scrolling("Confusion matrix", caption, matrix)


def _cell(count: int, total: int, is_right: bool) -> Html:
    level = -(-count * _LEVELS // total) if total else 0
    class_ = f"{'right' if is_right else 'wrong'}-{level}" if level else None
    return element("td", str(count) if count else "", class_=class_)


def _most_frequent(classes: Sequence[str], counts: Mapping[tuple[int, int], int]) -> Html:
    wrong = sorted(
        (-count, *pair) for pair, count in counts.items() if count and pair[0] != pair[1]
    )
    rows = [
        element(
            "tr",
            element("td", name(classes[truth])),
            element("td", name(classes[guess])),
            element("td", f"{-count:,}"),
        )
        for count, truth, guess in wrong[:_MOST_ROWS]
    ]
    shown = (
        f"The {len(rows)} most frequent of {len(wrong):,} confusions" if rows else "No confusion"
    )
    caption = f"{shown}. A matrix of {len(classes):,} classes would be too large."
    return table("Confusions", caption, ["label", "prediction", "images"], rows)
