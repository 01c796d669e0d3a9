"""A user's own file gets the options of published weights only if the user names their tag."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.weights.files import save_zip
from torch import Tensor, nn
from torchvision import models

from headstrip import (
    BackboneSpec,
    Preprocessing,
    Stripped,
    WeightsEntry,
    WeightsError,
    WeightsWarning,
    build_encoder,
    detach,
    hookimpl,
    register_plugin,
)
from headstrip.registry.registry import use_registry

NORMAL = Preprocessing(crop=(8, 8), resize=8, mean=(0.5,) * 3, std=(0.5,) * 3)
OTHER = Preprocessing(crop=(8, 8), resize=10, mean=(0.0,) * 3, std=(1.0,) * 3)


class Scaling(nn.Module):
    """A network with an option that changes numbers, and one that changes shapes."""

    def __init__(self, scale: float = 1.0, width: int = 4, tag: str = "", classes: int = 3) -> None:
        super().__init__()
        self.scale, self.tag = scale, tag
        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x * self.scale))


class Lab:
    FAMILIES = ("scaling",)
    options: tuple[tuple[str, Any], ...] = (("scale", 2.0), ("tag", "V1"))

    @hookimpl
    def backbones(self) -> tuple[BackboneSpec, ...]:
        return (BackboneSpec("net", "lab", "lab:scaling", "lab", "image", (3, 8, 8), 0, 0, "V1"),)

    @hookimpl
    def weights(self, spec: BackboneSpec) -> tuple[WeightsEntry, ...]:
        there = ("https://example.invalid/x.pth",)
        return (WeightsEntry("V1", there, options=self.options, preprocessing=NORMAL),)

    @hookimpl
    def build_model(self, spec: BackboneSpec, options: Mapping[str, Any]) -> nn.Module:
        own = {"classes" if key == "num_classes" else key: value for key, value in options.items()}
        return Scaling(**own)

    @hookimpl
    def strip_head(self, model: nn.Module) -> Stripped:
        return detach(model, "fc")


class Describing(Lab):
    """A plugin whose files state their own settings."""

    @hookimpl
    def describe_file(self, loaded: object, spec: BackboneSpec) -> WeightsEntry | None:
        stated = loaded.get("settings") if isinstance(loaded, dict) else None
        if stated is None:
            return None
        options = (("scale", stated["scale"]), ("width", stated.get("width", 4)))
        return WeightsEntry("own", options=options, preprocessing=OTHER, num_classes=3)


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    use_registry(None)
    yield
    use_registry(None)


def save(path: Path, **options: Any) -> Path:
    torch.manual_seed(1)
    return save_zip(Scaling(**options).state_dict(), path)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_plain_file_does_not_get_the_options_of_the_default_weights(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, aux_logits=False, init_weights=False).eval()
    path = save_zip(model.state_dict(), tmp_path / "own")
    with pytest.warns(WeightsWarning, match="trained with transform_input=True.*IMAGENET1K_V1="):
        encoder = build_encoder(name, weights=path)
    assert encoder.options["transform_input"] is False
    x = torch.randn(1, 3, 80, 80)
    with torch.inference_mode():
        assert torch.equal(encoder.logits(x), model(x))


def test_the_warning_points_at_the_file_of_the_caller(tmp_path: Path) -> None:
    register_plugin(Lab(), "lab")
    with pytest.warns(WeightsWarning, match="builds it with its own defaults") as caught:
        build_encoder("lab:net", weights=save(tmp_path / "own"))
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("weights", "options", "scale"),
    [
        ("V1={}", None, 2.0),
        ("DEFAULT={}", None, 2.0),
        ("{}", {"scale": 2.0}, 2.0),
        ("{}", {"scale": 3.0}, 3.0),
    ],
)
def test_a_named_tag_or_explicit_options_give_no_warning(
    weights: str, options: dict[str, float] | None, scale: float, tmp_path: Path
) -> None:
    register_plugin(Lab(), "lab")
    path = save(tmp_path / "own")
    encoder = build_encoder("lab:net", weights=weights.format(path), options=options)
    assert encoder.backbone.scale == scale
    assert encoder.preprocessing == NORMAL


def test_an_option_that_is_the_tag_itself_is_kept(tmp_path: Path) -> None:
    lab = Lab()
    lab.options = (("tag", "V1"),)
    register_plugin(lab, "lab")
    assert build_encoder("lab:net", weights=save(tmp_path / "own")).options == {"tag": "V1"}


def test_an_option_is_used_if_the_shapes_in_the_file_require_it(tmp_path: Path) -> None:
    lab = Lab()
    lab.options = (("width", 6),)
    register_plugin(lab, "lab")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        widths = [
            build_encoder("lab:net", weights=save(tmp_path / str(width), width=width)).output_dim
            for width in (4, 6)
        ]
    assert widths == [4, 6]
    with pytest.raises(WeightsError, match="does not fit"):
        build_encoder("lab:net", weights=save(tmp_path / "5", width=5))


def test_a_manifest_of_a_plain_file_builds_the_same_encoder(tmp_path: Path) -> None:
    register_plugin(Lab(), "lab")
    path = save(tmp_path / "own")
    with pytest.warns(WeightsWarning):
        encoder = build_encoder("lab:net", weights=path)
    manifest = json.loads(json.dumps(encoder.manifest()))
    with pytest.warns(WeightsWarning):
        again = build_encoder(manifest, weights=path)
    assert again.backbone.scale == 1.0
    assert again.fingerprint.identity == encoder.fingerprint.identity


def test_a_file_can_state_its_own_options_and_preprocessing(tmp_path: Path) -> None:
    register_plugin(Describing(), "lab")
    state = Scaling(width=5).state_dict()
    content = {"model": state, "settings": {"scale": 4.0, "width": 5}}
    path = save_zip(content, tmp_path / "own")
    encoder = build_encoder("lab:net", weights=path)
    assert (encoder.backbone.scale, encoder.output_dim) == (4.0, 5)
    assert encoder.preprocessing == OTHER
    manifest = json.loads(json.dumps(encoder.manifest()))
    assert build_encoder(manifest, weights=path).backbone.scale == 4.0
    assert build_encoder("lab:net", weights=path, options={"scale": 5.0}).backbone.scale == 5.0


def test_a_named_tag_takes_precedence_over_what_the_file_states(tmp_path: Path) -> None:
    register_plugin(Describing(), "lab")
    content = {"model": Scaling().state_dict(), "settings": {"scale": 4.0}}
    path = save_zip(content, tmp_path / "own")
    encoder = build_encoder("lab:net", weights=f"V1={path}")
    assert (encoder.backbone.scale, encoder.preprocessing) == (2.0, NORMAL)


def test_a_file_that_states_no_settings_is_treated_as_a_plain_file(tmp_path: Path) -> None:
    register_plugin(Describing(), "lab")
    with pytest.warns(WeightsWarning, match=r"scale=2\.0"):
        encoder = build_encoder("lab:net", weights=save(tmp_path / "own"))
    assert (encoder.backbone.scale, encoder.preprocessing) == (1.0, NORMAL)


def test_stated_labels_are_used_only_if_the_head_has_as_many_classes(tmp_path: Path) -> None:
    class Labelled(Lab):
        options = ()

        @hookimpl
        def describe_file(self, loaded: object, spec: BackboneSpec) -> WeightsEntry:
            return WeightsEntry("own", labels="imagenet-1k", num_classes=1000)

    register_plugin(Labelled(), "lab")
    for classes, labels in ((1000, 1000), (3, 0)):
        path = save_zip(Scaling(classes=classes).state_dict(), tmp_path / str(classes))
        assert len(build_encoder("lab:net", weights=path).labels or ()) == labels


@pytest.mark.parametrize("wrong", ["V1", {"scale": 2.0}, 3])
def test_the_error_names_a_hook_that_returns_the_wrong_type(wrong: object, tmp_path: Path) -> None:
    from headstrip import PluginError

    class Wrong(Lab):
        @hookimpl
        def describe_file(self, loaded: object, spec: BackboneSpec) -> Any:
            return wrong

    register_plugin(Wrong(), "lab")
    with pytest.raises(PluginError, match="instead of a WeightsEntry from describe_file"):
        build_encoder("lab:net", weights=save(tmp_path / "own"))
