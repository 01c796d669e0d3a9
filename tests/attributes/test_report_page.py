"""The page of fitted predictors: it shows each kind of attribute, and no text in it can run."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.attributes.tables import clusters
from tests.embed.pages import BROWSER, Page, browse

from headstrip import FittedPredictors, fit_predictors, load_predictors
from headstrip.attributes.held_out import calibration, confusions, mistakes
from headstrip.attributes.report_page import fit_page
from headstrip.encoder.held_out import HeldOut
from headstrip.html.page import write_page

RED = Image.new("RGB", (30, 20), (250, 10, 20))
HOSTILE = [
    '"><img src=x onerror=document.title=1>',
    "</bdi></td></table></section><script>document.title=1</script>",
    "\u202e\u2066\n\x1b[2J\x00",
    "' onload='x",
    "<!--",
    "]]><![CDATA[<b>",
    "<style>@import url(//x)</style>{policy}%s{0}",
    "\udcff\u2028",
]
QUICK = {"strengths": [0.01, 1.0]}


def table_of(
    classes: Sequence[str], rows: int = 160, **more: Any
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return embeddings, and labels of three kinds that depend on them with much noise."""
    points, truth = clusters(rows, 6, len(classes), noise=3.0)
    generator = np.random.default_rng(1)
    labels = [
        "|".join(one for at, one in enumerate(classes) if at == kind or generator.random() < 0.3)
        for kind in truth
    ]
    number = points[:, 0] + generator.normal(size=rows)
    table = {"kind": [classes[one] for one in truth], "tags": labels, "size": number.tolist()}
    return points, table


def fitted_to(classes: Sequence[str]) -> FittedPredictors:
    points, table = table_of(classes)
    names = [f"{row:03d}.png" for row in range(len(points))]
    kinds = {"tags": "labels"}
    return fit_predictors(points, {"path": names, **table}, paths=names, kinds=kinds, **QUICK)


@pytest.fixture(scope="module")
def fitted() -> FittedPredictors:
    return fitted_to(["cat", "dog", "owl"])


def shown(paths: Sequence[str]) -> dict[str, Image.Image | str]:
    return dict.fromkeys(paths, RED)


def text_of(page: str) -> str:
    return "".join(Page(page).text)


def test_the_held_out_predictions_agree_with_the_measures(fitted: FittedPredictors) -> None:
    report = fitted.report["attributes"]
    kind, tags, size = (fitted.held_out[name] for name in ("kind", "tags", "size"))
    assert len(set(kind.paths)) == report["kind"]["images"]["test"]
    measured = report["kind"]["measures"]
    assert (kind.truth == kind.predicted).mean() == pytest.approx(measured["accuracy"]["value"])
    counts = confusions(kind)
    right = sum(count for (truth, guess), count in counts.items() if truth == guess)
    assert right / sum(counts.values()) == pytest.approx(measured["accuracy"]["value"])
    assert kind.probability is not None
    curve = calibration(kind.probability, kind.truth == kind.predicted)
    gaps = np.abs(np.subtract(curve.confidence, curve.share)) @ curve.counts / sum(curve.counts)
    assert gaps == pytest.approx(measured["ece"]["value"])
    measured = report["tags"]["measures"]
    assert (tags.truth == tags.predicted).mean() == pytest.approx(measured["accuracy"]["value"])
    measured = report["size"]["measures"]
    assert np.abs(size.truth - size.predicted).mean() == pytest.approx(measured["mae"]["value"])


def test_mistakes_are_sorted_by_confidence() -> None:
    held = HeldOut(
        ("d", "c", "b", "a"),
        ("x", "y"),
        np.array([0, 0, 1, 1]),
        np.array([1, 1, 1, 0]),
        np.array([0.7, 0.9, 0.99, 0.7]),
    )
    assert [(held.paths[one.row], one.error) for one in mistakes(held)] == [
        ("c", 0.9),
        ("a", 0.7),
        ("d", 0.7),
    ]


def test_the_most_confidently_wrong_label_of_an_image_counts() -> None:
    truth = np.array([[True, False], [True, True]])
    chances = np.array([[0.2, 0.9], [0.8, 0.6]])
    held = HeldOut(("a", "b"), ("x", "y"), truth, chances >= 0.5, chances)
    (one,) = mistakes(held)
    assert (one.row, one.label, one.error) == (0, 1, 0.9)


def test_the_page_shows_each_measure_beside_its_baselines(fitted: FittedPredictors) -> None:
    page, pictures = fit_page(fitted, "cells.parquet", shown)
    text = text_of(page)
    for name, measures in fitted.report["attributes"].items():
        assert name in text
        for key in ("accuracy", "map", "r2"):
            if key in measures["measures"]:
                one = measures["measures"][key]
                assert f"{one['value']:.3f} {one['low']:.3f} to {one['high']:.3f}" in text
                assert f"{measures['majority'][key]:.3f}" in text
                assert f"{measures['shuffled'][key]:.3f}" in text
    elements = [tag for tag, _ in Page(page).elements]
    assert elements.count("figure") == elements.count("img") >= len(pictures) > 24
    # The calibration of two kinds, the numbers, and a line for each attribute.
    assert elements.count("svg") == 3 + 3
    assert re.search(r"The 24 images that are farthest off", text)
    assert re.search(r"most confidently wrong of \d+ wrong images|wrong images, the most", text)


def test_the_same_predictors_give_the_same_page(fitted: FittedPredictors) -> None:
    first, second = (
        fit_page(one, "x", shown)[0] for one in (fitted, fitted_to(["cat", "dog", "owl"]))
    )
    assert first == second


def test_the_page_counts_the_pictures_that_cannot_be_shown(fitted: FittedPredictors) -> None:
    page, _ = fit_page(fitted, "x", lambda paths: dict.fromkeys(paths, "it is not in the source."))
    assert "img" not in {tag for tag, _ in Page(page).elements}
    text = text_of(page)
    assert "24 of these 24 pictures cannot be shown" in text
    assert "it is not in the source." in text


def test_predictors_loaded_from_a_file_have_only_measures(
    fitted: FittedPredictors, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "a.safetensors")
    loaded = load_predictors(tmp_path / "a.safetensors")
    assert loaded.held_out == {}
    text = text_of(fit_page(loaded, "x", shown)[0])
    assert text.count("The predictions for single images are not known here.") == 3


def test_a_class_only_in_the_test_part_is_a_row_of_the_matrix() -> None:
    points, truth = clusters(60, 4, 2)
    names = [f"{row}.png" for row in range(60)]
    kinds = ["new" if row == 59 else "ab"[one] for row, one in enumerate(truth)]
    part = ["test" if row >= 40 else "train" for row in range(60)]
    table = {"path": names, "kind": kinds, "part": part}
    fitted = fit_predictors(points, table, paths=names, split_column="part", **QUICK)
    assert fitted.held_out["kind"].classes == ("a", "b", "new")
    assert "labelled new" in text_of(fit_page(fitted, "x", shown)[0])


@pytest.mark.slow
def test_many_classes_are_shown_as_a_list_of_confusions() -> None:
    page = text_of(fit_page(fitted_to([f"class {at}" for at in range(35)]), "x", shown)[0])
    assert "A matrix of 35 classes would be too large." in page


def renamed(fitted: FittedPredictors, end: str) -> FittedPredictors:
    """Return predictors with a text appended to every name."""
    report = dict(fitted.report)
    report["attributes"] = {
        key + end: {**one, "notes": [end]} for key, one in report["attributes"].items()
    }
    report["skipped"] = {f"other{end}": f"all 3 labels are {end!r}"}
    held = {
        key + end: replace(
            one,
            paths=tuple(path + end for path in one.paths),
            classes=tuple(name + end for name in one.classes),
        )
        for key, one in fitted.held_out.items()
    }
    attributes = tuple(replace(one, name=one.name + end) for one in fitted.attributes)
    encoder = {"name": end}
    return replace(fitted, attributes=attributes, report=report, held_out=held, encoder=encoder)


@pytest.mark.parametrize("end", HOSTILE, ids=range(len(HOSTILE)))
def test_no_name_adds_an_element_or_an_attribute(fitted: FittedPredictors, end: str) -> None:
    def gone(paths: Sequence[str]) -> dict[str, Image.Image | str]:
        return {path: end if row % 2 else RED for row, path in enumerate(paths)}

    plain = Page(fit_page(renamed(fitted, "x"), "x", gone)[0])
    page, _ = fit_page(renamed(fitted, end), end, gone)
    found = Page(page)
    assert found.elements == plain.elements
    assert page.isascii()
    assert not {one for one in "".join(found.text) if not one.isprintable()} - {"\n"}


def test_the_page_fetches_nothing_and_has_no_script_or_inline_style(
    fitted: FittedPredictors,
) -> None:
    elements = Page(fit_page(renamed(fitted, HOSTILE[0]), "x", shown)[0]).elements
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in elements}
    attributes = [(key, value) for _, found in elements for key, value in found]
    assert "style" not in {key for key, _ in attributes}
    assert not [key for key, _ in attributes if key.startswith("on")]
    addresses = [str(value) for key, value in attributes if key in {"src", "href"}]
    assert all(one.startswith(("data:image/jpeg;base64,", "#attribute-")) for one in addresses)


def test_scrolling_parts_take_the_focus_and_charts_have_labels(
    fitted: FittedPredictors,
) -> None:
    elements = [(tag, dict(found)) for tag, found in Page(fit_page(fitted, "x", shown)[0]).elements]
    scrolling = [found for _, found in elements if found.get("class") == "scroll"]
    assert scrolling
    assert all(one["tabindex"] == "0" and one["aria-label"] for one in scrolling)
    drawn = [found for tag, found in elements if tag == "svg"]
    assert all(one.get("aria-label") or one.get("aria-hidden") for one in drawn)
    targets = {found.get("id") for _, found in elements}
    assert all(found["href"][1:] in targets for tag, found in elements if tag == "a")


needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium or Chrome here")


@needs_browser
def test_a_browser_applies_the_style_and_contacts_no_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        classes = [f'{at}"><img src={address}><link rel=stylesheet href={address}>' for at in "abc"]
        page, _ = fit_page(fitted_to(classes), address, shown)
        write_page(tmp_path / "page.html", page)
        screen = tmp_path / "screen.png"
        options = (f"--screenshot={screen}", "--window-size=360,6000", "--hide-scrollbars")
        browse(tmp_path / "page.html", tmp_path / "profile", *options)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    pixels = np.asarray(Image.open(screen).convert("RGB"), int)
    red = (np.abs(pixels - (250, 10, 20)).max(axis=-1) < 12).sum()
    assert red > 30 * 20


@needs_browser
def test_a_browser_finds_the_same_elements_with_hostile_names(
    fitted: FittedPredictors, tmp_path: Path
) -> None:
    def dumped(end: str) -> Page:
        write_page(tmp_path / "page.html", fit_page(renamed(fitted, end), "x", shown)[0])
        return Page(browse(tmp_path / "page.html", tmp_path / "profile", "--dump-dom"))

    assert dumped("".join(HOSTILE)).elements == dumped("x").elements
