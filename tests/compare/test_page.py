"""The page of a comparison: no name of a file or label changes its structure."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.embed.pages import BROWSER, Page, browse

from headstrip import ComparedBackbone, Comparison
from headstrip.attributes.measures import Interval
from headstrip.compare.costs import Costs
from headstrip.compare.page import comparison_page, write_comparison
from headstrip.compare.results import AttributeMeasures, Confusions, Control
from headstrip.compare.verdicts import Verdict

RED = Image.new("RGB", (30, 20), (250, 10, 20))
HOSTILE = '"><img src=x onerror=document.title=1><script>document.title=1</script>\u202e'


def backbone(name: str, score: float, speed: float | None, verdict: Verdict) -> ComparedBackbone:
    interval = Interval(score, score - 0.03, score + 0.03)
    attributes = tuple(
        AttributeMeasures(attribute, kind, 200, {key: interval}, {key: interval}, (1.0,), True)
        for attribute, kind, key in (("kind", "class", "accuracy"), ("size", "number", "r2"))
    )
    costs = Costs(speed, 1 << 30, 4_650_000, 1280, 5120, "MIT", 18_000_000)
    return ComparedBackbone(name, "compared", None, 200, interval, verdict, attributes, costs)


def comparison(name: str = "birds") -> Comparison:
    tied, worse = Verdict("tied", -1, 2, 0.5), Verdict("worse", 20.0, 30.0, 0.001)
    rows = (
        backbone("slow", 0.9, 3.0, Verdict("best", 0, 0, 1)),
        backbone(name, 0.89, 40.0, tied),
        backbone("bad", 0.6, 20.0, worse),
        backbone("unknown", 0.5, None, worse),
        ComparedBackbone("gone", "failed", f"It is missing: {name}."),
    )
    worst = ((f"{name}.png", "a", name, 0.97), ("none.png", "a", name, 0.9))
    return Comparison(
        data=name,
        images=200,
        copies=3,
        bad_images={f"{name}.jpg": "image file is truncated."},
        backbones=rows,
        controls=(Control("always the most frequent", Interval(0.2, 0.1, 0.3)),),
        recommended=name,
        images_to_separate=5_000,
        warnings=(f"A control beats {name}.",),
        notes=(f"A note about {name}.",),
        skipped={name: "no image has a label"},
        confusions=(Confusions("kind", ("a", name), np.array([[90, 2], [0, 108]]), worst),),
        seed=0,
    )


def page_of(name: str) -> str:
    return comparison_page(comparison(name), {f"{name}.png": RED, "none.png": "it is torn."})


def test_the_page_has_the_verdicts_the_chart_the_matrix_and_the_photographs() -> None:
    page = Page(page_of("fast"))
    text = " ".join("".join(page.text).split())
    assert "Recommended: fast, the one with most images/s of the 2 that cannot be" in text
    assert "not distinguishable from the best on these 200 images" in text
    assert "worse by 20.0 to 30.0 points" in text
    assert "a, predicted as fast (97 %)" in text
    assert "it is torn." in text
    assert "gone was not compared: It is missing: fast." in text
    tags = [tag for tag, _ in page.elements]
    # The backbone without a speed is not in the chart.
    assert tags.count("circle") == 3
    assert tags.count("img") == 1
    assert "script" not in tags


def test_the_table_is_written_once_in_each_order() -> None:
    bodies = re.findall(r"<tbody class=\"ordered order\d\">(.*?)</tbody>", page_of("fast"), re.S)
    names = [re.findall(r"<td>\d <bdi>(\w+)</bdi>", body) for body in bodies]
    assert names[0] == ["slow", "fast", "bad", "unknown"]
    assert names[2] == ["fast", "bad", "slow", "unknown"]
    assert len(names) == 6


def test_the_front_connects_the_backbones_that_no_other_beats_in_score_and_speed() -> None:
    page = Page(page_of("fast"))
    (front,) = [dict(a)["points"] for tag, a in page.elements if tag == "polyline"]
    assert len(str(front).split()) == 2


def test_many_classes_are_shown_as_a_list_of_the_most_frequent_confusions() -> None:
    table = np.eye(200, dtype=int)
    table[3, 7] = 5
    classes = tuple(f"class {number}" for number in range(200))
    found = replace(comparison(), confusions=(Confusions("kind", classes, table, ()),))
    page = Page(comparison_page(found, {}))
    text = " ".join("".join(page.text).split())
    assert "The 1 most frequent of 1 confusions. A matrix of 200 classes" in text
    assert len(page.elements) < 1_000


def test_no_name_adds_an_element_or_an_attribute() -> None:
    plain, hostile = Page(page_of("plain")), Page(page_of(HOSTILE))
    assert hostile.elements == plain.elements
    assert len(hostile.text) == len(plain.text)
    assert page_of(HOSTILE).isascii()


def test_a_page_without_compared_backbones_says_so() -> None:
    nothing = replace(comparison(), backbones=(), recommended=None, confusions=())
    assert "No backbone could be compared." in comparison_page(nothing, {})


def test_the_photographs_are_read_from_the_data(tmp_path: Path) -> None:
    RED.save(tmp_path / "birds.png")
    missing = write_comparison(
        tmp_path / "page.html",
        replace(
            comparison(),
            data=str(tmp_path),
            confusions=(
                Confusions(
                    "kind",
                    ("a", "b"),
                    np.eye(2, dtype=int),
                    (("birds.png", "a", "b", 0.9), ("gone.png", "b", "a", 0.8)),
                ),
            ),
        ),
    )
    assert list(missing) == ["gone.png"]
    assert (tmp_path / "page.html").read_text(encoding="ascii").count("data:image/jpeg") == 1


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_runs_no_script_and_loads_nothing(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page_of(HOSTILE), encoding="ascii")
    shown = browse(file, tmp_path / "profile", "--dump-dom")
    assert "<title>Comparison of backbones</title>" in shown
