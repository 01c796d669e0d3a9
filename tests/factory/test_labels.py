"""The names of classes that a user gives for the head of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.weights.files import save_zip, state_of

from headstrip import build_encoder

NAMES = ["cat", "dog", "horse"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = state_of("shufflenet_v2_x0_5", num_classes=3)
    return save_zip(state, tmp_path_factory.mktemp("own") / "run")


CONTENTS = {
    "classes.txt": "cat\ndog\nhorse\n",
    "classes.json": json.dumps(NAMES),
    "id2label.json": json.dumps({str(at): name for at, name in enumerate(NAMES)}),
    "config.json": json.dumps({"id2label": {"2": "horse", "0": "cat", "1": "dog"}}),
}


@pytest.mark.parametrize("file", CONTENTS)
def test_labels_come_from_a_file(file: str, path: Path, tmp_path: Path) -> None:
    (tmp_path / file).write_text(CONTENTS[file])
    encoder = build_encoder("shufflenet_v2_x0_5", weights=path, labels=tmp_path / file)
    assert encoder.labels == tuple(NAMES)


def test_labels_come_from_a_list(path: Path) -> None:
    assert build_encoder("shufflenet_v2_x0_5", weights=path, labels=NAMES).labels == (*NAMES,)


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (["cat", "dog"], "has 2 names, and the encoder of .* has 3 classes"),
        ([1, 2, 3], "is not a list of names"),
        ("missing.txt", "'missing.txt' cannot be read as names of classes"),
    ],
)
def test_labels_that_do_not_fit_the_head_are_refused(labels: object, why: str, path: Path) -> None:
    with pytest.raises(ValueError, match=why):
        build_encoder("shufflenet_v2_x0_5", weights=path, labels=labels)
