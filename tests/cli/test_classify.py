"""``headstrip classify``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.cli.conftest import Run

from headstrip import build_encoder

NAME = "mobilenet_v3_small"
WeightsOf = Callable[[str], Path]


@pytest.fixture
def published(weights_of: WeightsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the file of the default weights into torch hub's cache, as a download does."""
    from headstrip.registry.registry import get_registry

    registry = get_registry()
    spec, _ = registry.resolve(NAME)
    (entry, *_) = registry.weights(spec)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / entry.locations[0].rpartition("/")[2]).write_bytes(weights_of(NAME).read_bytes())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr("headstrip.weights.trust.hash_of", lambda file: entry.sha256 + "0" * 56)


@pytest.mark.usefixtures("published")
def test_labels_come_from_the_weights(run: Run, photos: Path) -> None:
    result = run("classify", photos / "a.png", photos / "z.png", "-b", NAME, "-k", 3)
    assert (result.exit_code, result.stderr) == (0, "")
    encoder = build_encoder(NAME)
    with torch.inference_mode():
        ready = encoder.preprocess(Image.open(photos / "a.png"))
        best = encoder.logits(ready[None]).softmax(1).topk(3)
    assert encoder.labels is not None
    expected = [
        f"  {probability:.4f}  {encoder.labels[index]}"
        for probability, index in zip(
            best.values[0].tolist(), best.indices[0].tolist(), strict=True
        )
    ]
    lines = result.stdout.splitlines()
    assert lines[:4] == [str(photos / "a.png"), *expected]
    assert lines[4] == str(photos / "z.png")
    assert len(lines) == 8


def test_a_class_without_a_label_is_shown_by_its_number(
    run: Run, photos: Path, weights_of: WeightsOf
) -> None:
    result = run("classify", photos / "a.png", "-b", NAME, "--weights", weights_of(NAME), "-k", 1)
    label = result.stdout.split()[-1]
    assert 0 <= int(label) < 1000


def test_labels_reads_the_names_of_classes_from_a_file(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    states = [build_encoder(NAME, weights=None).backbone.state_dict() for _ in range(2)]
    head = {"classifier.3.weight": torch.rand(2, 1024), "classifier.3.bias": torch.rand(2)}
    both = {
        key: {**state, **head} for key, state in zip(("student", "teacher"), states, strict=True)
    }
    torch.save(both, tmp_path / "run.pth")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    command = ["classify", photos / "a.png", "-b", NAME, "--weights", tmp_path / "run.pth"]
    assert "(--weights-key teacher)" in run(*command).stderr
    result = run(*command, "--weights-key", "teacher", "--labels", tmp_path / "classes.txt")
    assert sorted(line.split()[-1] for line in result.stdout.splitlines()[1:]) == ["cat", "dog"]
    wrong = run(*command, "--weights-key", "teacher", "--labels", tmp_path / "none.txt")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "cannot be read as names of classes" in wrong.stderr


def test_a_k_beyond_the_number_of_classes_shows_all_classes(
    run: Run, photos: Path, weights_of: WeightsOf
) -> None:
    result = run(
        "classify",
        photos / "a.png",
        "-b",
        NAME,
        "--weights",
        weights_of(NAME),
        "-k",
        9999,
        "--json",
    )
    (found,) = json.loads(result.stdout)
    probabilities = [guess["probability"] for guess in found["classes"]]
    assert len(probabilities) == 1000
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_bad_image_is_reported_and_the_others_are_classified(
    run: Run, photos: Path, weights_of: WeightsOf
) -> None:
    Image.new("F", (8, 8)).save(photos / "float.tif")
    images = [photos / name for name in ("torn.jpg", "a.png", "none.png", "float.tif")]
    result = run("classify", *images, "-b", NAME, "--weights", weights_of(NAME), "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [entry["image"] for entry in found] == list(map(str, images))
    assert [entry["classes"] is None for entry in found] == [True, False, True, True]
    assert len(found[1]["classes"]) == 5
    assert [line.split(": ")[:2] for line in result.stderr.splitlines()] == [
        ["Error", str(images[0])],
        ["Error", str(images[2])],
        ["Error", str(images[3])],
    ]


def test_a_name_that_would_move_the_cursor_is_escaped(
    run: Run, photos: Path, weights_of: WeightsOf
) -> None:
    odd = photos / os.fsdecode(b"\x1b[2J\xff.png")
    (photos / "a.png").rename(odd)
    options = ["-b", NAME, "--weights", weights_of(NAME)]
    assert run("classify", odd, *options).stdout.splitlines()[0].endswith("\\x1b[2J\\xff.png")
    (found,) = json.loads(run("classify", odd, *options, "--json").stdout)
    assert found["image"] == str(odd)


def test_a_backbone_without_a_head_gives_a_clear_error(
    run: Run, photos: Path, weights_of: WeightsOf
) -> None:
    weights = weights_of("squeezenet1_1")
    result = run("classify", photos / "a.png", "-b", "squeezenet1_1", "--weights", weights)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "has no head that gives logits" in result.stderr


def test_a_network_for_video_clips_is_a_usage_error(run: Run, photos: Path) -> None:
    result = run("classify", photos / "a.png", "-b", "s3d")
    assert result.exit_code == 2
    assert "Run `headstrip list --task image`" in result.stderr


def test_an_output_that_is_not_finite_is_reported(
    run: Run, photos: Path, weights_of: WeightsOf, tmp_path: Path
) -> None:
    state = torch.load(weights_of(NAME))
    state["classifier.3.weight"].fill_(torch.nan)
    torch.save(state, tmp_path / "nan.pth")
    result = run("classify", photos / "a.png", "-b", NAME, "--weights", tmp_path / "nan.pth")
    assert result.exit_code == 1
    assert "the network's output for this image is not finite" in result.stderr


def test_no_image_is_a_usage_error(run: Run) -> None:
    assert run("classify", "-b", NAME).exit_code == 2
