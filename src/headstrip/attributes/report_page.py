"""An HTML page with the measures of fitted predictors, and the images that they get wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from headstrip.attributes.held_out import (
    Calibration,
    Mistake,
    calibration,
    confusions,
    mistakes,
)
from headstrip.attributes.titles import JOIN, MEASURES, RANKED_BY
from headstrip.encoder.attribute import Attribute
from headstrip.encoder.held_out import HeldOut
from headstrip.encoder.predictors_file import FittedPredictors
from headstrip.html import charts, tables
from headstrip.html.charts import Axis, Frame, chart, diagonal, dots, line
from headstrip.html.elements import Html, element, joined, name
from headstrip.html.page import page
from headstrip.html.pictures import Picture, figure
from headstrip.html.tables import confusion_table, table

Report = Mapping[str, Any]
ReadPictures = Callable[[Sequence[str]], Mapping[str, Image.Image | str]]

WRONG = 24
"""Number of wrong images that the page shows for each attribute."""

_MOST_ROWS = 50
_MOST_DOTS = 2_000
_BASELINES = {"majority": "most frequent", "shuffled": "shuffled labels"}

_STYLE = (
    charts.STYLE
    + tables.STYLE
    + """
body { --side: 150px; max-width: 75rem; margin-inline: auto;
  padding-inline: clamp(0.75rem, 3vw, 2rem); }
h2 { font-size: 1.15rem; margin: 0 0 0.25rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 0.25rem; }
a { color: var(--one); }
:focus-visible { outline: 2px solid var(--one); outline-offset: 2px; }
.attribute { border-top: 1px solid var(--line); margin-top: 2rem; padding-top: 1.25rem; }
.quiet { color: var(--quiet); }
.notes { background: var(--soft); border-left: 3px solid var(--two); margin: 0.75rem 0;
  padding: 0.4rem 0.75rem 0.4rem 1.75rem; }
nav li { min-width: 0; overflow-wrap: anywhere; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; list-style: none; padding: 0; }
.charts { display: flex; flex-wrap: wrap; gap: 1.25rem 2.5rem; align-items: start; }
.charts > * { min-width: 0; max-width: 100%; }
.charts > .drawn { flex: 0 1 24rem; }
.drawn h3 { margin-top: 0; }
small { color: var(--quiet); white-space: nowrap; }
.strong { font-weight: 600; }
.pictures { display: grid; gap: 1rem 0.75rem; margin-top: 0.75rem;
  grid-template-columns: repeat(auto-fill, minmax(calc(var(--side) + 8px), 1fr)); }
summary { cursor: pointer; color: var(--quiet); }
.legend { margin: 0.25rem 0 0.5rem; font-size: 0.9rem; }
.key-one { color: var(--one); } .key-two { color: var(--two); }
@media (max-width: 480px) { body { --side: 140px; } .wide { display: none; }
  small { display: block; } }
"""
)


def fit_page(
    fitted: FittedPredictors, source: str, read: ReadPictures
) -> tuple[str, Mapping[str, Image.Image | str]]:
    """Return the page, which contains only ASCII characters, and the pictures that it shows.

    Args:
        fitted: What ``fit_predictors`` returned. Predictors that were read from a file have
            measures only.
        source: Name of the embeddings, for the heading.
        read: Returns the picture of each path, or why it is missing; called once.
    """
    wrong = {key: mistakes(held) for key, held in fitted.held_out.items()}
    paths = dict.fromkeys(
        fitted.held_out[key].paths[one.row] for key, found in wrong.items() for one in found[:WRONG]
    )
    pictures = read(list(paths))
    report = fitted.report
    sections = [
        _attribute(
            number,
            one,
            report["attributes"][one.name],
            fitted.held_out.get(one.name),
            wrong.get(one.name, []),
            pictures,
        )
        for number, one in enumerate(fitted.attributes)
    ]
    content = page(
        "Fitted predictors",
        element("h1", "Predictors of ", name(source)),
        _introduction(fitted),
        _contents(fitted),
        _overview(fitted),
        _skipped(report.get("skipped", {})),
        *sections,
        style=_STYLE,
    )
    return content, pictures


def _introduction(fitted: FittedPredictors) -> Html:
    join = fitted.report["join"]
    numbers = [f"{join['joined']:,} images with labels"]
    numbers += [f"{join[key]:,} {words}" for key, words in JOIN.items() if join[key]]
    if copies := fitted.report.get("duplicates"):
        numbers.append(f"{copies:,} copies of other images, kept in their part")
    encoder = fitted.encoder.get("name")
    return joined(
        [
            element("p", f"{'; '.join(numbers)}."),
            element("p", "Encoder: ", name(str(encoder)), ".") if encoder else None,
            element(
                "p",
                "All measures are for held-out images, with 95 % intervals by bootstrap over these "
                "images. Two other predictors know nothing about an image: one always gives the "
                "most frequent class (or the mean), the other was fitted to shuffled labels. A "
                "predictor has learned something only if it is better than both.",
                class_="quiet",
            ),
        ],
        "\n",
    )


def _contents(fitted: FittedPredictors) -> Html | None:
    if len(fitted.attributes) < 2:
        return None
    links = [
        element("li", element("a", name(one.name), href=f"#attribute-{number}"))
        for number, one in enumerate(fitted.attributes)
    ]
    return element("nav", element("ul", *links), aria_label="Attributes")


def _overview(fitted: FittedPredictors) -> Html | None:
    if len(fitted.attributes) < 2:
        return None
    rows = []
    for one in fitted.attributes:
        found = fitted.report["attributes"][one.name]
        key = RANKED_BY[one.kind]
        measure, others = found["measures"][key], [found[line].get(key) for line in _BASELINES]
        drawn = None
        if measure["value"] is not None:
            drawn = charts.interval(
                Axis(""), measure["value"], measure["low"], measure["high"], others
            )
        rows.append(
            element(
                "tr",
                element(
                    "th",
                    name(one.name),
                    " ",
                    element("small", MEASURES[one.kind][key]),
                    scope="row",
                ),
                element("td", *_value(measure, _number)),
                element("td", drawn, class_="wide"),
                *(element("td", _number(other)) for other in others),
            )
        )
    return table(
        "Overview",
        "One measure of each attribute, with its interval and those of the two predictors that "
        "know nothing. Lines go from 0 to 1.",
        ["attribute", "held out", ("", "wide"), *_BASELINES.values()],
        rows,
    )


def _skipped(skipped: Mapping[str, str]) -> Html | None:
    if not skipped:
        return None
    items = [element("li", name(key), f": {reason}.") for key, reason in skipped.items()]
    return joined([element("h2", "Not fitted"), element("ul", *items, class_="notes")])


def _attribute(
    number: int,
    attribute: Attribute,
    found: Report,
    held: HeldOut | None,
    wrong: Sequence[Mistake],
    pictures: Mapping[str, Image.Image | str],
) -> Html:
    images = found["images"]
    kinds = {
        "class": f"one of {attribute.outputs:,} classes",
        "labels": f"any of {attribute.outputs:,} labels",
        "number": "a number",
    }
    facts = [
        kinds[attribute.kind],
        f"{images['train'] + images['validation']:,} images to fit",
        f"{images['test']:,} held out",
        f"{images['missing']:,} without a label" if images["missing"] else "",
        f"C = {found['strength']:.2g}",
        f"temperature {found['temperature']:.2f}" if found.get("temperature") else "",
    ]
    notes = found.get("notes", ())
    title = f"attribute-{number}"
    return element(
        "section",
        element("h2", name(attribute.name), id=title),
        element("p", " \u00b7 ".join(filter(None, facts)), class_="quiet"),
        element("ul", *(element("li", note) for note in notes), class_="notes") if notes else None,
        element(
            "div", _measures(attribute, found), *_views(attribute, found, held), class_="charts"
        ),
        _mistakes(attribute, held, wrong, pictures),
        class_="attribute",
        aria_labelledby=title,
    )


def _measures(attribute: Attribute, found: Report) -> Html:
    rows = []
    for key, title in MEASURES[attribute.kind].items():
        # The error has the unit of the numbers, so its size may be anything.
        shown = _quantity if key == "mae" else _number
        rows.append(
            element(
                "tr",
                element("th", title, scope="row"),
                element("td", *_value(found["measures"][key], shown)),
                *(element("td", shown(found[one].get(key))) for one in _BASELINES),
            )
        )
    return table("Measures", "", ["measure", "held out", *_BASELINES.values()], rows)


def _views(attribute: Attribute, found: Report, held: HeldOut | None) -> list[Html]:
    if held is None:
        return []
    if attribute.kind == "number":
        return [_scatter(held)]
    if attribute.kind == "labels":
        assert held.probability is not None
        curve = calibration(held.probability, held.truth)
        return [
            _curves("Probability of a label", "Share of images that have it", curve, None),
            _labels(held),
        ]
    assert held.probability is not None
    assert held.calibrated is not None
    is_right = held.predicted == held.truth
    return [
        _curves(
            "Probability of the predicted class",
            "Share that is right",
            calibration(held.probability, is_right),
            calibration(held.calibrated, is_right),
        ),
        confusion_table(held.classes, confusions(held)),
    ]


def _labels(held: HeldOut) -> Html:
    """Return a table of how often each label was found, missed and wrongly given."""
    has, given = held.truth, held.predicted
    found, missed, wrong = (has & given).sum(0), (has & ~given).sum(0), (~has & given).sum(0)
    order = sorted(range(len(held.classes)), key=lambda one: (-(missed[one] + wrong[one]), one))
    rows = [
        element(
            "tr",
            element("th", name(held.classes[one]), scope="row"),
            *(element("td", f"{int(count[one]):,}") for count in (found, missed, wrong)),
        )
        for one in order[:_MOST_ROWS]
    ]
    more = len(order) - len(rows)
    caption = "Confusions of each label, most errors first" + (
        f"; {more:,} more are left out" if more else ""
    )
    return table("Confusions", caption, ["label", "found", "missed", "wrongly given"], rows)


def _curves(across: str, up: str, plain: Calibration, scaled: Calibration | None) -> Html:
    frame = Frame(Axis(across), Axis(up))
    lines = [_curve(frame, plain, "one")]
    legend = [element("span", "\u25cf solid", class_="key-one"), ": as fitted"]
    if scaled is not None:
        lines.append(_curve(frame, scaled, "two"))
        legend += [
            ". ",
            element("span", "\u25cb dashed", class_="key-two"),
            ": with the temperature",
        ]
    legend.append(
        ". Larger circles stand for more predictions; on the diagonal, probabilities are right."
    )
    curves = [("as fitted", plain), *([("with the temperature", scaled)] if scaled else [])]
    rows = [
        element(
            "tr",
            element("td", words),
            element("td", f"{confidence:.3f}"),
            element("td", f"{share:.3f}"),
            element("td", f"{count:,}"),
        )
        for words, curve in curves
        for confidence, share, count in zip(
            curve.confidence, curve.share, curve.counts, strict=True
        )
    ]
    return element(
        "div",
        element("h3", "Calibration"),
        element("p", *legend, class_="legend"),
        chart(frame, "Calibration curve; its numbers follow", diagonal(frame), *lines),
        element(
            "details",
            element("summary", "Numbers of the curve"),
            table("Calibration", "", ["curve", "probability", "share", "predictions"], rows),
        ),
        class_="drawn",
    )


def _curve(frame: Frame, curve: Calibration, class_: str) -> Html:
    total = sum(curve.counts)
    return line(frame, curve.confidence, curve.share, class_, [one / total for one in curve.counts])


def _scatter(held: HeldOut) -> Html:
    chosen = np.unique(np.linspace(0, len(held.truth) - 1, _MOST_DOTS).astype(int))
    truth, predicted = held.truth[chosen], held.predicted[chosen]
    low, high = float(min(truth.min(), predicted.min())), float(max(truth.max(), predicted.max()))
    if not high > low:
        high = low + max(1.0, abs(low))
    frame = Frame(Axis("Label", low, high), Axis("Prediction", low, high))
    caption = "Each dot is an image that was held out; on the diagonal, predictions are right."
    if len(chosen) < len(held.truth):
        caption += f" {len(chosen):,} of {len(held.truth):,} images are shown."
    return element(
        "div",
        element("h3", "Predictions and labels"),
        element("p", caption, class_="legend"),
        chart(
            frame,
            "Scatter plot of predictions and labels",
            diagonal(frame),
            dots(frame, truth.tolist(), predicted.tolist()),
        ),
        class_="drawn",
    )


def _mistakes(
    attribute: Attribute,
    held: HeldOut | None,
    wrong: Sequence[Mistake],
    pictures: Mapping[str, Image.Image | str],
) -> Html:
    if held is None:
        return element("p", "The predictions for single images are not known here.", class_="quiet")
    if not wrong:
        return element("p", "Every image that was held out is predicted correctly.")
    shown = wrong[:WRONG]
    figures = [_figure(held, one, pictures[held.paths[one.row]]) for one in shown]
    gone = sum(isinstance(pictures[held.paths[one.row]], str) for one in shown)
    number, count = attribute.kind == "number", len(shown)
    heading = "The image that is farthest off" if number else "The image that is confidently wrong"
    if count > 1:
        heading = (
            f"The {count} images that are farthest off"
            if number
            else f"The {count} most confidently wrong of {len(wrong):,} wrong images"
        )
        if not number and count == len(wrong):
            heading = f"The {count} wrong images, the most confident first"
    missing = None
    if gone:
        missing = element(
            "p",
            f"{gone} of these {count} pictures cannot be shown: the images are not where headstrip "
            "looked for them. Pass the source that was embedded with --root.",
            class_="notes",
        )
    return joined([element("h3", heading), missing, element("div", *figures, class_="pictures")])


def _figure(held: HeldOut, mistake: Mistake, picture: Image.Image | str) -> Html:
    row = mistake.row
    if held.probability is None:
        note = f"{_quantity(held.predicted[row])}, labelled {_quantity(held.truth[row])}"
    elif mistake.label is not None:
        has = bool(held.truth[row, mistake.label])
        note = joined(
            [
                name(held.classes[mistake.label]),
                f" {_percent(held.probability[row, mistake.label])}, "
                f"{'has' if has else 'lacks'} the label",
            ]
        )
    else:
        note = joined(
            [
                name(held.classes[held.predicted[row]]),
                f" {_percent(mistake.error)}, labelled ",
                name(held.classes[held.truth[row]]),
            ]
        )
    return figure(Picture(held.paths[row], note, picture))


def _value(measure: Report, shown: Callable[[float | None], str]) -> list[str]:
    if measure["value"] is None:
        return ["-"]
    return [
        element("span", shown(measure["value"]), class_="strong"),
        " ",
        element("small", f"{shown(measure['low'])} to {shown(measure['high'])}"),
    ]


def _number(value: float | None) -> str:
    # Adding 0 makes -0 a 0.
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"


def _quantity(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(share: float) -> str:
    # A probability that is not certain is not shown as 100 %.
    text = f"{min(share, 0.999):.1%}" if share > 0.995 else f"{share:.0%}"
    return text.replace("%", " %")
