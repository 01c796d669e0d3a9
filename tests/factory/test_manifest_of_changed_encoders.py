"""The manifest of an encoder that changed after building is refused or gives a warning."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models

from headstrip import EmbedOptions, Encoder, ManifestError, build_encoder
from headstrip.embed.output.loading import open_embeddings
from headstrip.embed.rebuild_encoder import build_encoder_of
from headstrip.embed.run import embed_source
from headstrip.search.neighbors import find_neighbors

NAME = "shufflenet_v2_x0_5"
ATTRIBUTES = {"shape": 3, "colour": 3}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    torch.manual_seed(0)
    torch.save(models.get_model(NAME, weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def built(file: Path) -> Encoder:
    return build_encoder(NAME, weights=file, predictors=ATTRIBUTES)


@pytest.fixture
def encoder(built: Encoder) -> Encoder:
    return copy.deepcopy(built)


def train_a_step(encoder: Encoder) -> None:
    assert encoder.predictors is not None
    encoder.freeze().train()
    optimizer = torch.optim.SGD(encoder.predictors.parameters(), lr=0.1)
    encoder.predict(torch.rand(2, 3, 64, 64))["colour"].square().sum().backward()
    optimizer.step()
    encoder.unfreeze().eval()


def load_values(encoder: Encoder) -> None:
    assert encoder.predictors is not None
    other = copy.deepcopy(encoder.predictors.state_dict())
    encoder.predictors.load_state_dict({key: value + 1 for key, value in other.items()})


def assign_values(encoder: Encoder) -> None:
    assert encoder.predictors is not None
    encoder.predictors["shape"].weight = nn.Parameter(torch.zeros(3, encoder.output_dim))


def replace_predictor(encoder: Encoder) -> None:
    assert encoder.predictors is not None
    encoder.predictors[1] = nn.Linear(encoder.output_dim, 3)


@pytest.mark.parametrize("trained", [train_a_step, load_values, assign_values, replace_predictor])
def test_trained_predictors_give_a_warning_and_are_never_built_at_random(
    encoder: Encoder, file: Path, trained: Callable[[Encoder], None], tmp_path: Path
) -> None:
    trained(encoder)
    with pytest.warns(UserWarning, match=r"were trained.*Save the encoder with encoder\.save\("):
        manifest = json.loads(json.dumps(encoder.manifest()))
    assert [one["trained"] for one in manifest["predictors"]] == [True, True]
    with pytest.raises(ManifestError, match=r"2 predictors that were, or may have been, trained"):
        build_encoder(manifest, weights=file)

    assert encoder.predictors is not None
    torch.save(encoder.predictors.state_dict(), tmp_path / "predictors.pth")
    again = build_encoder(manifest, weights=file, predictors={"colour": 3, "shape": 3})
    assert again.predictors is not None
    again.predictors.load_state_dict(torch.load(tmp_path / "predictors.pth"))
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected, found = encoder.predict(x), again.predict(x)
    assert all(torch.equal(found[name], expected[name]) for name in ATTRIBUTES)
    assert build_encoder(manifest, weights=file, predictors={}).predictors is None


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64])
def test_untrained_predictors_are_built_again(file: Path, dtype: torch.dtype | None) -> None:
    encoder = build_encoder(NAME, weights=file, predictors=ATTRIBUTES, dtype=dtype)
    again = build_encoder(encoder.manifest(), weights=file)
    assert again.predictors is not None
    assert again.predictors.names == list(ATTRIBUTES)
    assert not again.predictors.trained
    assert {one.dtype for one in again.predictors.parameters()} == {dtype or torch.float32}


def test_a_manifest_that_does_not_say_whether_predictors_were_trained_is_refused(
    encoder: Encoder, file: Path
) -> None:
    manifest = {**encoder.manifest(), "predictors": [["colour", 3]]}
    with pytest.raises(ManifestError, match=r"may have been, trained.*predictors=\{'colour': 3\}"):
        build_encoder(manifest, weights=file)


def move_statistics(encoder: Encoder) -> None:
    encoder.backbone.train()(torch.rand(2, 3, 64, 64))
    encoder.backbone.eval()


def move_a_weight(encoder: Encoder) -> None:
    next(iter(encoder.backbone.parameters())).data.flatten()[0] += 1


def move_the_head(encoder: Encoder) -> None:
    assert encoder.head is not None
    encoder.head.bias.data += 1


def replace_the_head(encoder: Encoder) -> None:
    encoder.head = nn.Linear(encoder.output_dim, 7)


def take_the_head_off(encoder: Encoder) -> None:
    encoder.head = None


def round_and_return(encoder: Encoder) -> None:
    encoder.half().float()


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (move_statistics, "identity"),
        (move_a_weight, "identity"),
        (round_and_return, "identity"),
        (move_the_head, "head"),
        (replace_the_head, "head"),
        (take_the_head_off, "head"),
    ],
)
def test_the_manifest_of_an_encoder_changed_after_building_is_refused(
    encoder: Encoder, file: Path, changed: Callable[[Encoder], None], what: str
) -> None:
    changed(encoder)
    with pytest.raises(ManifestError, match=rf"{what} is .* in the manifest and .* here"):
        build_encoder(encoder.manifest(), weights=file)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_manifest_restores_a_cast_after_building(
    encoder: Encoder, file: Path, dtype: torch.dtype
) -> None:
    manifest = encoder.to(dtype).manifest()
    again = build_encoder(manifest, weights=file)
    assert again.dtype == dtype
    assert again.manifest() == manifest


def test_a_manifest_restores_whether_the_encoder_is_frozen(encoder: Encoder, file: Path) -> None:
    assert not build_encoder(encoder.manifest(), weights=file).frozen
    assert build_encoder(encoder.freeze().manifest(), weights=file).frozen


def test_an_older_manifest_without_the_newer_fields_is_built(encoder: Encoder, file: Path) -> None:
    later = ("head", "frozen", "labels")
    manifest = {key: value for key, value in encoder.manifest().items() if key not in later}
    assert build_encoder(manifest, weights=file).fingerprint == encoder.fingerprint


def test_embeddings_of_an_encoder_with_trained_predictors_can_be_searched(
    encoder: Encoder, file: Path, tmp_path: Path
) -> None:
    load_values(encoder)
    (tmp_path / "photos").mkdir()
    image = tmp_path / "photos" / "a.png"
    Image.fromarray(np.full((80, 80, 3), 90, np.uint8)).save(image)
    out = tmp_path / "out.parquet"
    embed_source(encoder, tmp_path / "photos", out, options=EmbedOptions(workers=0))
    move_the_head(encoder)
    ((nearest,),) = find_neighbors(out, [image], encoder=encoder)
    assert nearest.path == "a.png"

    again = build_encoder_of(open_embeddings(out), weights=file)
    assert again.fingerprint.identity == encoder.fingerprint.identity
    assert again.predictors is None


def test_embeddings_of_a_changed_backbone_do_not_rebuild_an_encoder(
    encoder: Encoder, file: Path, tmp_path: Path
) -> None:
    move_statistics(encoder)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 80)).save(tmp_path / "photos" / "a.png")
    out = tmp_path / "out.parquet"
    embed_source(encoder, tmp_path / "photos", out, options=EmbedOptions(workers=0))
    with pytest.raises(ManifestError, match=r"identity is .*changed after it was built"):
        build_encoder_of(open_embeddings(out), weights=file)
