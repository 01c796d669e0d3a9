"""``compare_backbones`` on folders and lists of pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.compare.lab import lab_in, picture, png, write_pictures

from headstrip import (
    Comparison,
    EmbedOptions,
    HeadstripError,
    OptionError,
    compare_backbones,
    get_backbone,
)
from headstrip.attributes.labels import read_labels
from headstrip.compare.embedding import Run
from headstrip.compare.folds import tasks_of
from headstrip.compare.labelled import read_images
from headstrip.compare.presets import PRESETS, candidates_of, preset_backbones
from headstrip.embed.settings import EmbedSettings
from headstrip.embed.sources import source_of

HERE = EmbedOptions(workers=0)


def compare(data: Path, *names: str, **more: Any) -> Comparison:
    return compare_backbones(data, [f"lab:{name}" for name in names], options=HERE, **more)


def without_costs(found: Comparison) -> str:
    values = found.to_json()
    for one in values["backbones"]:
        one["costs"] = None
    # The recommendation depends on the measured speed.
    values["recommended"], values["confusions"] = None, None
    return json.dumps(values, sort_keys=True)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comparison]:
    """Compare backbones, some of them broken, on pictures, some of them broken too."""
    folder = tmp_path_factory.mktemp("compared")
    pictures = folder / "pictures"
    write_pictures(pictures, 48)
    (pictures / "red" / "torn.png").write_bytes(png(picture(0, 999))[:60])
    (pictures / "alone").mkdir()
    (pictures / "alone" / "one.png").write_bytes(png(picture(1, 555)))
    with lab_in(folder):
        yield compare(pictures, "noise", "broken", "hungry", "picky", "wide", "nobody")


def test_the_better_backbone_is_best_and_one_that_ignores_its_input_is_worse(
    found: Comparison,
) -> None:
    best, worse = found.backbones[:2]
    assert (best.name, worse.name) == ("lab:wide", "lab:noise")
    assert best.verdict is not None
    assert worse.verdict is not None
    assert (best.verdict.kind, worse.verdict.kind) == ("best", "worse")
    assert found.recommended == "lab:wide"
    assert (found.images, found.copies) == (49, 0)
    assert best.costs is not None
    assert (best.costs.dim, best.costs.bytes_per_row, best.costs.license) == (96, 384, "MIT")
    assert best.costs.images_per_second


def test_an_unusable_backbone_is_a_row_with_a_reason_and_the_others_are_compared(
    found: Comparison,
) -> None:
    rows = {one.name: one for one in found.backbones}
    assert {name: row.status for name, row in rows.items()} == {
        "lab:wide": "compared",
        "lab:noise": "compared",
        "lab:broken": "failed",
        "lab:hungry": "failed",
        "lab:picky": "failed",
        "lab:nobody": "failed",
    }
    assert "build_model" in str(rows["lab:broken"].reason)
    assert "memory" in str(rows["lab:hungry"].reason)
    assert rows["lab:picky"].reason == "AssertionError: the input has the wrong height"
    assert "no backbone" in str(rows["lab:nobody"].reason)
    assert list(found.bad_images) == ["red/torn.png"]
    assert found.notes == (
        "class: Left out, because a class needs two different images: 'alone' (1 images).",
    )


def test_controls_are_measured_and_a_warning_names_the_backbones_that_they_beat(
    found: Comparison,
) -> None:
    assert [one.name for one in found.controls] == [
        "always the most frequent",
        "raw 16 x 16 pixels",
        "lab:wide with shuffled labels",
        "lab:wide with random weights",
    ]
    assert all(one.score is not None for one in found.controls)
    assert found.warnings[0].startswith("The control 'raw 16 x 16 pixels' scores higher than lab:n")


@pytest.mark.slow
@pytest.mark.usefixtures("lab")
def test_folders_are_classes_under_any_name(tmp_path: Path) -> None:
    """More than 20 numbers in a table are an attribute of kind number."""
    write_pictures(tmp_path / "drawn", 44)
    for number, file in enumerate(sorted((tmp_path / "drawn").rglob("*.png"))):
        folder = tmp_path / "pictures" / ("None" if number < 2 else str(number // 2))
        folder.mkdir(parents=True, exist_ok=True)
        file.rename(folder / file.name)
    found = compare(tmp_path / "pictures", "small", random=[])
    (attribute,) = found.backbones[0].attributes
    assert (attribute.kind, attribute.images, found.notes) == ("class", 44, ())


@pytest.mark.slow
@pytest.mark.usefixtures("lab")
def test_notes_report_the_rows_and_cells_that_are_left_out_of_a_list(
    pictures: Path, tmp_path: Path
) -> None:
    rows = [("file", "error", "path")]
    for number, image in enumerate(sorted(pictures.rglob("*.png"))):
        name = str(image.relative_to(tmp_path))
        label = ("n/a", "", image.parent.name)[min(number, 2)]
        # The same row twice, with two spellings of the path.
        rows += [(path, label, f"{number % 2}") for path in (name, f"./{name}")]
    with open(tmp_path / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    found = compare(tmp_path / "labels.csv", "small", random=[], path_column="file")
    assert (found.images, found.copies) == (48, 0)
    assert [one.name for one in found.backbones[0].attributes] == ["error", "path"]
    shown = repr(str(tmp_path / "labels.csv"))
    assert found.notes == (
        f"{shown}: 48 repeated rows of labels.",
        f"{shown}: 2 cells such as NaN, read as missing.",
        "error: 2 of the 48 images have no label.",
    )


@pytest.mark.slow
@pytest.mark.usefixtures("lab")
def test_a_work_folder_supports_other_settings_and_damaged_files(
    pictures: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    first = compare(pictures, "small", work=work, random=[])
    files = {*work.glob("*.parquet")}
    compare(pictures, "small", work=work, random=[], settings=EmbedSettings(batch_size=4))
    assert len({*work.glob("*.parquet")} - files) == len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:200])
        file.with_suffix(".costs.json").write_text(
            '{"images": "x", "seconds": 1, "peak_memory": 1}'
        )
    again = compare(pictures, "small", work=work, random=[])
    assert without_costs(again) == without_costs(first)


@pytest.mark.slow
@pytest.mark.usefixtures("lab")
def test_several_attributes_of_a_list_with_missing_labels_are_measured_at_once(
    pictures: Path, tmp_path: Path
) -> None:
    rows = [("path", "tone", "number", "empty", "marks")]
    for at, path in enumerate(sorted(pictures.rglob("*.png"))):
        tone = "NaN" if at % 4 == 0 else path.parent.name
        marks = "|".join(["a"] * (path.parent.name != "red") + ["b"] * (at % 2)) or "|"
        rows.append((f"./{path.relative_to(tmp_path)}", tone, str(at * 1.5), "", marks))
    with open(tmp_path / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    found = compare(tmp_path / "labels.csv", "wide", "small")
    kinds = [(one.name, one.kind, one.images) for one in found.backbones[0].attributes]
    assert kinds == [("tone", "class", 36), ("number", "number", 48), ("marks", "labels", 48)]
    assert found.skipped == {"empty": "no image has a label"}


def test_copied_and_resaved_images_are_always_in_one_fold(tmp_path: Path) -> None:
    """200 files are copied, 200 are saved again as PNG, and 200 as JPEG."""
    folder = tmp_path / "pictures"
    write_pictures(folder, 600)
    files = sorted(folder.rglob("*.png"))
    for number, file in enumerate(files):
        again = file.with_name(f"z{file.name}")
        with Image.open(file) as image:
            if number % 3 == 0:
                again.write_bytes(file.read_bytes())
            elif number % 3 == 1:
                again.write_bytes(png(image, compress_level=0))
            else:
                image.resize((96, 96), Image.Resampling.BICUBIC).save(
                    again.with_suffix(".jpg"), quality=92
                )
    run = Run(source_of(folder), tmp_path, EmbedSettings(), HERE)
    table = read_labels(folder)
    exact = read_images(run, table, ["class"], False)
    near = read_images(run, table, ["class"], True)
    twins = {
        path: f"{Path(path).parent}/z{Path(path).stem}" for path in exact.paths if "z" not in path
    }
    for images, expected in ((exact, 400), (near, 600)):
        groups = images.groups
        (task,), _ = tasks_of(images.columns, {}, groups, images.paths, 0)
        row_of = {str(Path(path).with_suffix("")): row for row, path in enumerate(images.paths)}
        together = [
            (row_of[str(Path(one).with_suffix(""))], row_of[other]) for one, other in twins.items()
        ]
        same = [pair for pair in together if groups[pair[0]] == groups[pair[1]]]
        assert len(same) == expected
        assert all(task.folds[one] == task.folds[other] for one, other in same)
        assert len(set(groups.tolist())) == 1200 - expected


@pytest.mark.slow
@pytest.mark.usefixtures("lab")
def test_copies_are_reported_if_they_change_the_score(tmp_path: Path) -> None:
    """Each picture has a random label and four copies: only copies can be predicted."""
    folder = tmp_path / "pictures"
    for number in range(40):
        kind = ("a", "b")[number * 7919 % 13 % 2]
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for copy in range(4):
            (folder / kind / f"{number}-{copy}.png").write_bytes(png(picture(0, number)))
    found = compare(folder, "wide")
    assert found.copies == 120
    (note,) = found.notes
    assert note.startswith("With copies in different folds lab:wide would score ")


@pytest.mark.slow
@pytest.mark.usefixtures("lab")
def test_a_stopped_comparison_resumes_and_gives_the_same_result(
    pictures: Path, tmp_path: Path
) -> None:
    names = ("wide", "twin")
    plain = compare(pictures, *names)
    seen: list[str] = []

    def stop(name: str, done: int, total: int) -> None:
        seen.append(name)
        if name == "lab:twin":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(pictures, *names, work=tmp_path / "work", progress=stop)
    computed: dict[str, int] = {}

    def count(name: str, done: int, total: int) -> None:
        computed.setdefault(name, done)

    again = compare(pictures, *names, work=tmp_path / "work", progress=count)
    # A complete file is not opened for work again.
    assert "lab:wide" not in computed
    assert computed["lab:twin"] == 0
    assert without_costs(again) == without_costs(plain)


@pytest.mark.slow
@pytest.mark.usefixtures("lab")
def test_a_time_limit_drops_the_worse_half_and_states_its_images_and_reason(
    tmp_path: Path,
) -> None:
    pictures, work = tmp_path / "pictures", tmp_path / "work"
    write_pictures(pictures, 260)
    compare(pictures, "wide", work=work)
    names = ("wide", "twin", "small", "noise")
    computed: dict[str, int] = {}

    def count(name: str, done: int, total: int) -> None:
        computed.setdefault(name, done)

    found = compare(pictures, *names, minutes=30, work=work, progress=count)
    # A run with fewer images keeps the embeddings of the others.
    assert "lab:wide" not in computed
    again = compare(pictures, *names, minutes=30, work=work)
    assert without_costs(found) == without_costs(again)
    assert [one.status for one in found.backbones] == ["compared"] * 2 + ["dropped"] * 2
    assert [one.images for one in found.backbones] == [260, 260, 128, 128]
    last = found.backbones[-1]
    assert (last.name, last.verdict) == ("lab:noise", None)
    assert str(last.reason).startswith(
        "Dropped after 128 images, where it was number 4 of 4: worse by "
    )


@pytest.mark.slow
@pytest.mark.usefixtures("lab")
def test_no_backbone_is_dropped_by_images_that_cannot_measure_every_attribute(
    tmp_path: Path,
) -> None:
    """Only four of 256 images have a label of one attribute, too few of the first 128."""
    write_pictures(tmp_path / "pictures", 256)
    rows = [("path", "tone", "rare")]
    for number, file in enumerate(sorted((tmp_path / "pictures").rglob("*.png"))):
        rare = f"{number % 2}" if number % 65 == 0 else ""
        rows.append((str(file.relative_to(tmp_path)), f"{number % 2}", rare))
    with open(tmp_path / "labels.csv", "w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows(rows)
    names = ("noise", "small", "twin")
    found = compare(tmp_path / "labels.csv", *names, random=[], minutes=30)
    assert [(one.status, one.images) for one in found.backbones] == [("compared", 256)] * 3


@pytest.mark.usefixtures("lab")
def test_when_the_time_is_up_the_compared_backbones_are_kept(pictures: Path) -> None:
    found = compare(pictures, "wide", "twin", minutes=1e-9)
    assert [(one.name, one.status, one.reason) for one in found.backbones] == [
        ("lab:wide", "compared", None),
        ("lab:twin", "left out", "The time was up before its turn."),
    ]


@pytest.mark.usefixtures("lab")
def test_filters_leave_backbones_out_with_the_reason() -> None:
    small, wide = candidates_of(["lab:small", "lab:wide"], None, 1_000, ["mit"])
    assert (small.left_out, wide.left_out) == (None, "It has 1,661 parameters.")
    wide, _ = candidates_of(["lab:wide", "lab:nobody"], None, None, ["apache-2.0", "BSD-3-Clause"])
    assert wide.left_out == "Its library states the licence MIT."
    resnet, _ = candidates_of(["resnet18", "lab:wide"], None, None, ["mit"])
    assert resnet.left_out == "Its library states no licence."
    with pytest.raises(OptionError, match=r"every backbone\. lab:wide: It has 1,661 par"):
        candidates_of(["lab:wide"], None, 1_000, [])


def test_invalid_arguments_give_a_clear_error(pictures: Path) -> None:
    with pytest.raises(OptionError, match="nothing to compare"):
        compare_backbones(pictures)
    with pytest.raises(HeadstripError, match="no column 'size'"):
        compare_backbones(pictures, "lab:wide", attributes="size")
    with pytest.raises(OptionError, match="no preset 'tiny'"):
        compare_backbones(pictures, preset="tiny")
    with pytest.raises(OptionError, match="max_params must be a number above 0"):
        compare(pictures, "wide", max_params="30M")
    with pytest.raises(OptionError, match=r"licenses must be names, such as .*, got \[3\]"):
        compare(pictures, "wide", licenses=[3])
    with pytest.raises(OptionError, match="kinds must map names of attributes"):
        compare(pictures, "wide", kinds="class=class")
    with pytest.raises(OptionError, match=r"backbones must be names, such as .*, got \[None\]"):
        compare_backbones(pictures, [None])  # type: ignore[list-item]
    with pytest.raises(OptionError, match=r"attributes must be names, .* got 3"):
        compare(pictures, "wide", attributes=3)
    with pytest.raises(OptionError, match="device='abacus' cannot be used here"):
        compare(pictures, "wide", device="abacus")
    for asked in ({"batch_size": 3}, {}):
        with pytest.raises(OptionError, match=r"settings must be an EmbedSettings or None, got \{"):
            compare_backbones(pictures, "lab:wide", settings=asked)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"options must be an EmbedOptions or None, got \[\]"):
        compare_backbones(pictures, "lab:wide", options=[])  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="progress must be a function or None, got 3"):
        compare_backbones(pictures, "lab:wide", progress=3)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="work must be a string or a path object, got 3"):
        compare_backbones(pictures, "lab:wide", work=3)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="minutes must be a number above 0"):
        compare(pictures, "wide", minutes=0)
    with pytest.raises(HeadstripError, match="no column 'size'"):
        compare(pictures, "wide", attributes=["size"])
    for file in pictures.rglob("*.png"):
        if file.parent.name != "red":
            file.unlink()
    with pytest.raises(HeadstripError, match="No attribute can be measured: 'class': all 16"):
        compare(pictures, "wide")


def test_the_presets_name_backbones_that_the_catalogs_have() -> None:
    listed = preset_backbones()
    assert {one.preset for one in listed} == set(PRESETS)
    for one in listed:
        params = get_backbone(one.name).spec.params
        stated = float(one.reason.partition("M parameters")[0])
        assert stated == pytest.approx(params / 1e6, rel=0.02)
