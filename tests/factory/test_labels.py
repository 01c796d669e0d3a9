"""The class names that a user passes for the head of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.weights.files import save_zip, state_of

from headstrip import ManifestError, build_encoder

NAME = "shufflenet_v2_x0_5"
NAMES = ("cat", "dog", "horse")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_zip(state_of(NAME, num_classes=3), tmp_path_factory.mktemp("own") / "run")


CONTENTS = {
    "classes.txt": "cat\ndog\nhorse\n",
    "windows.txt": "\ufeffcat\r\ndog\r\nhorse",
    "classes.json": json.dumps(NAMES),
    "id2label.json": json.dumps({str(at): name for at, name in enumerate(NAMES)}),
    "class_to_idx.json": json.dumps({"horse": 2, "cat": 0, "dog": 1}),
    "label2id.json": json.dumps({"label2id": {"horse": 2, "cat": 0, "dog": 1}}),
    "coco.names": "cat\ndog\nhorse",
    "config.json": json.dumps({"id2label": {"2": "horse", "0": "cat", "1": "dog"}, "depth": 3}),
}


@pytest.mark.parametrize("file", CONTENTS)
def test_labels_come_from_a_file(file: str, path: Path, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(CONTENTS[file].encode())
    assert build_encoder(NAME, weights=path, labels=tmp_path / file).labels == NAMES


def test_a_number_in_a_name_is_not_an_index(path: Path, tmp_path: Path) -> None:
    (tmp_path / "coins.txt").write_text("1 euro\n2 euro\n50 cent\n")
    found = build_encoder(NAME, weights=path, labels=tmp_path / "coins.txt").labels
    assert found == ("1 euro", "2 euro", "50 cent")


@pytest.mark.parametrize("labels", [[*NAMES], NAMES, dict(enumerate(NAMES))])
def test_labels_come_from_a_list_or_a_mapping_of_indices(labels: object, path: Path) -> None:
    assert build_encoder(NAME, weights=path, labels=labels).labels == NAMES


def test_two_classes_may_have_the_same_name(path: Path) -> None:
    labels = ("crane", "crane", "cat")
    assert build_encoder(NAME, weights=path, labels=labels).labels == labels


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (["cat", "dog"], "has 2 names, and the encoder of .* has 3 classes"),
        ([1, 2, 3], "has 1 for the class 0. Pass a name"),
        (["cat", "", "dog"], "has '' for the class 1"),
        (3, "labels=3 is not a list of names"),
        ({1: "cat", 2: "dog", 3: "horse"}, "its indices must be 0 to 2, each once"),
        ("missing.txt", "labels='missing.txt' cannot be read as names of classes"),
    ],
)
def test_labels_that_do_not_fit_the_head_are_refused(labels: object, why: str, path: Path) -> None:
    with pytest.raises(ValueError, match=why):
        build_encoder(NAME, weights=path, labels=labels)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.txt", "", "has 0 names"),
        ("a.txt", "cat\n\nhorse\n", "has '' for the class 1"),
        ("a.txt", "\xff\xfe", "cannot be read as names of classes"),
        ("a.json", '{"0": "cat", "2": "dog"}', "its indices must be 0 to 1, each once"),
        ("a.json", '{"cat": 0, "dog": 0}', "its indices must be 0 to 1, each once"),
        ("a.json", '[["n01", "cat"], ["n02", "dog"], ["n03", "horse"]]', "for the class 0"),
        ("a.json", "{", "is not valid JSON"),
        ("a.json", '{"0": "cat", "0": "dog", "1": "horse"}', "the key '0' is twice"),
        (
            "a.json",
            '{"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 1, "dog": 0}}',
            "its id2label and label2id differ",
        ),
        ("a.txt", "2 cat\n0 dog\n1 horse\n", "its lines have indices beside the names"),
        ("a.txt", "1: cat\n2: dog\n3: horse\n", "its lines have indices beside the names"),
        ("a.txt", "cat,2\ndog,0\nhorse,1\n", "its lines have indices beside the names"),
        ("a.txt", '["cat",\n"dog",\n"horse"]', "it holds JSON, and its name does not"),
        ("a.csv", "name\ncat\ndog\n", r"from \.json and \.txt, not from \.csv"),
        ("a.yaml", "0: cat\n1: dog\n2: horse\n", r"from \.json and \.txt, not from \.yaml"),
        ("a.json", '"cat"', "is not a list of names"),
    ],
)
def test_a_file_without_a_name_for_each_class_is_refused(
    name: str, content: str, why: str, path: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=why):
        build_encoder(NAME, weights=path, labels=tmp_path / name)


def test_an_encoder_without_a_head_takes_no_labels(tmp_path: Path) -> None:
    state = {key: one for key, one in state_of(NAME).items() if not key.startswith("fc.")}
    with pytest.raises(ValueError, match=r"has no head\. Leave labels out"):
        build_encoder(NAME, weights=save_zip(state, tmp_path / "own"), labels=NAMES)


def test_a_manifest_keeps_the_labels(path: Path) -> None:
    manifest = build_encoder(NAME, weights=path, labels=NAMES).manifest()
    assert manifest["labels"] == [*NAMES]
    assert build_encoder(manifest, weights=path).labels == NAMES
    others = ("a", "b", "c")
    assert build_encoder(manifest, weights=path, labels=others).labels == others
    with pytest.raises(ManifestError, match="labels has 1 names"):
        build_encoder({**manifest, "labels": ["cat"]}, weights=path)


def test_a_manifest_without_labels_builds_an_encoder_without_labels(path: Path) -> None:
    manifest = build_encoder(NAME, weights=path).manifest()
    assert manifest.pop("labels") is None
    assert build_encoder(manifest, weights=path).labels is None
