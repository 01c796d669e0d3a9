"""A saved folder restores an identical encoder, or an error says what differs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import warm
from tests.sampling import mostly_slow
from torch import Tensor
from torchvision import models

from headstrip import (
    Attribute,
    Encoder,
    HeadstripError,
    ManifestError,
    Preprocessing,
    UnknownBackboneError,
    build_encoder,
)

NAME = "shufflenet_v2_x0_5"
NARROW = {
    "width_mult": 0.25,
    "inverted_residual_setting": ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 1)),
}
SMALL = Preprocessing(crop=(64, 64), resize=72, mean=(0.5,) * 3, std=(0.25,) * 3)
ATTRIBUTES = [
    Attribute("colour", "class", ("red", "b|ue", "😀")),
    Attribute("type", "labels", ("a.b", "")),
    Attribute("age", "number"),
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADSTRIP_OFFLINE", "1")
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    network = models.shufflenet_v2_x0_5(weights=None, num_classes=7)
    torch.save({"ema": network.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def folder(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of a checkpoint and trained predictors."""
    torch.manual_seed(1)
    encoder = build_encoder(NAME, weights=file, predictors=ATTRIBUTES, preprocessing=SMALL)
    with torch.no_grad():
        encoder.predictors[0].bias += 1
    path = tmp_path_factory.mktemp("saved") / "cells"
    encoder.save(path)
    return path


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / "cells"))


def batch_for(encoder: Encoder) -> Tensor:
    device, dtype = encoder.device, encoder.dtype
    generator = torch.Generator().manual_seed(2)
    return torch.rand(2, *encoder.input_shape, generator=generator).to(device, dtype)


def assert_equal(one: Encoder, other: Encoder) -> None:
    """Check that two encoders have the same bits, and give the same bits."""
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert one.fingerprint == other.fingerprint
    for key in ("preprocessing", "labels", "input_shape", "law", "output_dim", "frozen", "inputs"):
        assert getattr(one, key) == getattr(other, key)
    for key in ("weights", "weights_sha256", "weights_file", "weights_key", "options"):
        assert getattr(one, key) == getattr(other, key)
    x = batch_for(one)
    with one.evaluating(), other.evaluating():
        assert torch.equal(one(x), other(x))
        if one.head is not None:
            assert torch.equal(one.logits(x), other.logits(x))


@pytest.mark.parametrize(
    "options",
    mostly_slow(
        [
            {"weights": None},
            {"weights": None, "preprocessing": SMALL, "dtype": torch.float64},
            {"weights": None, "dtype": torch.bfloat16, "predictors": ATTRIBUTES},
            {"weights": None, "in_chans": 1},
            {"weights": None, "in_chans": ("R", "G", "B", "N"), "img_size": 96},
            {"weights": None, "img_size": 64},
            {"name": "mobilenet_v2", "weights": None, "options": NARROW},
            {"name": "squeezenet1_1", "weights": None},
        ],
        every=2,
    ),
    ids=lambda options: ", ".join(options),
)
def test_a_folder_restores_encoders_built_with_any_options(
    options: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(options.pop("name", NAME), **options)
    encoder.save(tmp_path / "cells")
    assert_equal(encoder, build_encoder(tmp_path / "cells"))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"labels": list("abcdefg")},
        {"in_chans": 1},
        {"in_chans": ("R", "G", "B", None), "new_channels": "zero"},
        {"preprocessing": SMALL},
    ],
    ids=str,
)
def test_a_folder_restores_a_checkpoint_with_other_classes(
    file: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    encoder = build_encoder(NAME, weights=file, **more)
    encoder.save(tmp_path / "cells")
    again = build_encoder(tmp_path / "cells")
    assert_equal(encoder, again)
    assert again.weights_key == "ema"


def test_a_folder_restores_a_checkpoint_trained_on_grey_images(tmp_path: Path) -> None:
    network = models.shufflenet_v2_x0_5(weights=None)
    network.conv1[0] = torch.nn.Conv2d(1, 24, 3, 2, 1, bias=False)
    torch.save(network.state_dict(), tmp_path / "grey.pth")
    steps = Preprocessing(crop=(64, 64), resize=72, mean=(0.5,), std=(0.25,))
    encoder = build_encoder(NAME, weights=tmp_path / "grey.pth", in_chans=1, preprocessing=steps)
    encoder.save(tmp_path / "cells")
    assert_equal(encoder, build_encoder(tmp_path / "cells"))


def test_a_folder_restores_a_checkpoint_without_a_head(tmp_path: Path) -> None:
    state = models.shufflenet_v2_x0_5(weights=None).state_dict()
    path = tmp_path / "own.pth"
    torch.save({key: one for key, one in state.items() if not key.startswith("fc.")}, path)
    encoder = build_encoder(NAME, weights=path)
    encoder.save(tmp_path / "cells")
    again = build_encoder(tmp_path / "cells")
    assert_equal(encoder, again)
    assert again.law == "headless"


def test_a_copied_folder_gives_identical_predictions_in_another_process(
    folder: Path, file: Path, tmp_path: Path
) -> None:
    encoder = build_encoder(folder)
    x = batch_for(encoder)
    torch.save(x, tmp_path / "x.pt")
    with encoder.evaluating():
        torch.save(encoder.predict(x), tmp_path / "there.pt")
    copied(folder, tmp_path)
    code = (
        "import torch; from headstrip import build_encoder; encoder = build_encoder('cells/');\n"
        "with encoder.evaluating(): predicted = encoder.predict(torch.load('x.pt'))\n"
        "torch.save(predicted, 'here.pt'); print(encoder.predictors.attributes)"
    )
    ended = warm.run(
        "-c",
        code,
        cwd=tmp_path,
        environment={
            **os.environ,
            "HEADSTRIP_CACHE": str(tmp_path / "none"),
            "HOME": str(tmp_path),
        },
    )
    assert ended.returncode == 0, ended.stderr
    here, there = torch.load(tmp_path / "here.pt"), torch.load(tmp_path / "there.pt")
    assert all(torch.equal(here[name], there[name]) for name in there)
    assert ended.stdout.strip() == str(tuple(ATTRIBUTES))


def test_a_string_means_a_folder_only_if_it_looks_like_a_path(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(folder, tmp_path)
    (tmp_path / "cells").rename(tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    for name in (f"{NAME}/", f"./{NAME}", str(tmp_path / NAME), Path(NAME)):
        assert build_encoder(name, predictors={}).weights_file == "own.pth"
    assert build_encoder(NAME, weights=None).weights_file is None
    (tmp_path / NAME).rename(tmp_path / "cells")
    with pytest.raises(UnknownBackboneError, match="For the folder of that name, write 'cells/'"):
        build_encoder("cells")


def test_new_predictors_and_labels_replace_those_of_the_folder(folder: Path) -> None:
    assert build_encoder(folder, predictors={}).predictors is None
    again = build_encoder(folder, predictors={"shape": 2}, labels=list("abcdefg"))
    assert again.predictors is not None
    assert (again.predictors.names, again.labels) == (["shape"], tuple("abcdefg"))


@pytest.mark.parametrize(
    "argument",
    [
        {"weights": None},
        {"weights": "IMAGENET1K_V1"},
        {"weights_key": "ema"},
        {"preprocessing": SMALL},
        {"options": {"num_classes": 3}},
        {"dtype": torch.float16},
        {"in_chans": 1},
        {"img_size": 96},
    ],
    ids=lambda argument: next(iter(argument)),
)
def test_an_argument_that_the_folder_states_already_is_refused(
    folder: Path, argument: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=f"states {next(iter(argument))} already"):
        build_encoder(folder, **argument)


def test_building_from_a_folder_leaves_the_random_generator_unchanged(folder: Path) -> None:
    state = torch.get_rng_state()
    build_encoder(folder)
    assert torch.equal(state, torch.get_rng_state())


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "encoder.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def one_file(folder: Path, kind: str) -> Path:
    return next(folder.glob(f"{kind}-*.safetensors"))


def set_metadata(folder: Path, **values: Any) -> None:
    edited(folder, lambda content: content.update(values))


def set_manifest(folder: Path, **values: Any) -> None:
    edited(folder, lambda content: content["manifest"].update(values))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4)


def flip_last_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


CODE = "__import__('os').system('touch pwned')"
DAMAGE: list[tuple[str, Callable[[Path], object]]] = [
    ("has no encoder.json", lambda at: (at / "encoder.json").unlink()),
    ("lacks its file weights-", lambda at: one_file(at, "weights").unlink()),
    ("lacks its file predictors-", lambda at: one_file(at, "predictors").unlink()),
    ("is damaged", lambda at: truncate(one_file(at, "weights"))),
    ("is damaged", lambda at: truncate(one_file(at, "predictors"))),
    ("cannot be read", lambda at: truncate(at / "encoder.json")),
    ("head is", lambda at: flip_last_bit(one_file(at, "weights"))),
    ("its tensors are not those", lambda at: flip_last_bit(one_file(at, "predictors"))),
    ("Install the headstrip that wrote it", lambda at: set_metadata(at, format=2, headstrip="9.1")),
    ("cannot be read", lambda at: set_metadata(at, files={"weights": "../x.safetensors"})),
    ("do not belong together", lambda at: set_metadata(at, files={})),
    ("labels has 1 names", lambda at: set_metadata(at, labels=["one"])),
    ("'manifest' is", lambda at: set_metadata(at, manifest=CODE)),
    ("its network cannot be read", lambda at: set_metadata(at, network={"backbone": CODE})),
    ("format 9 of manifests", lambda at: set_manifest(at, format=9)),
    ("identity is '0000", lambda at: set_manifest(at, identity="0" * 64)),
    ("dtype is 'float16'", lambda at: set_manifest(at, dtype="float16")),
    ("output_dim is 3", lambda at: set_manifest(at, output_dim=3)),
    ("plain words", lambda at: set_manifest(at, options={"stages_repeats": CODE})),
    ("largest number", lambda at: set_manifest(at, options={"width": 10**9})),
    ("", lambda at: set_manifest(at, options={"num_classes": 5})),
    ("", lambda at: set_manifest(at, inputs={"in_chans": 5})),
    ("identity is", lambda at: set_manifest(at, preprocessing=None)),
]


@pytest.mark.parametrize(("words", "damage"), DAMAGE)
def test_a_damaged_folder_is_refused_with_a_one_line_error(
    folder: Path, tmp_path: Path, words: str, damage: Callable[[Path], object]
) -> None:
    broken = copied(folder, tmp_path)
    damage(broken)
    with pytest.raises(HeadstripError) as caught:
        build_encoder(broken)
    message = str(caught.value)
    assert words in message, message
    assert "\n" not in message


def test_code_in_a_folder_is_not_executed(folder: Path, tmp_path: Path) -> None:
    broken = copied(folder, tmp_path)
    set_manifest(broken, name=f"torchvision:{CODE}")
    with pytest.raises(HeadstripError):
        build_encoder(broken)
    assert not Path("pwned").exists()
    assert not (broken / "pwned").exists()


def test_another_version_of_a_library_is_refused_unless_the_caller_accepts_it(
    folder: Path, tmp_path: Path
) -> None:
    broken = copied(folder, tmp_path)
    edited(broken, lambda content: content["manifest"]["versions"].update(torch="1.0"))
    with pytest.raises(ManifestError, match=r"versions\.torch is '1\.0' in the manifest"):
        build_encoder(broken)
    assert_equal(build_encoder(folder), build_encoder(broken, allow_versions=True))


def test_predictors_of_another_encoder_are_refused(folder: Path, tmp_path: Path) -> None:
    broken = copied(folder, tmp_path)
    other = build_encoder(NAME, weights=None, predictors=ATTRIBUTES)
    other.save(tmp_path / "other")
    foreign = shutil.copy(one_file(tmp_path / "other", "predictors"), broken)
    edited(broken, lambda content: content["files"].update(predictors=Path(foreign).name))
    with pytest.raises(HeadstripError, match=r"has predictors for another encoder.*weights\.sha"):
        build_encoder(broken)


def test_the_error_for_a_missing_or_foreign_folder_is_clear(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="does not exist"):
        build_encoder(f"{tmp_path}/none/")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"For a folder of transformers, write 'hf:/"):
        build_encoder(tmp_path)


def test_an_encoder_that_was_built_from_a_folder_can_be_saved_again(
    folder: Path, tmp_path: Path
) -> None:
    encoder = build_encoder(folder)
    encoder.save(tmp_path / "again")
    assert_equal(encoder, build_encoder(tmp_path / "again"))
    assert {one.name for one in folder.iterdir()} == {
        one.name for one in (tmp_path / "again").iterdir()
    }


def test_the_order_of_keys_in_encoder_json_does_not_matter(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path)
    edited(other, lambda content: content.update(dict(reversed(content.items()))))
    assert build_encoder(other).fingerprint == build_encoder(folder).fingerprint
