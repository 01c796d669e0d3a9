"""The plugin reads a repository's configuration as transformers does, or refuses it clearly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hf_checkpoints import PROCESSOR, Serve, files_of, network_of, processor, whole
from transformers import CLIPConfig

from headstrip import (
    HeadstripError,
    PluginError,
    Preprocessing,
    PreprocessingError,
    UnknownBackboneError,
)
from headstrip import build_encoder as build
from headstrip_transformers.towers import TOWERS

SIZES = {"size": {"height": 64, "width": 64}}
COMPARED = ("hidden_act", "layer_norm_eps", "image_size", "hidden_size", "num_hidden_layers")


CODE = b"raise SystemExit('executed')\n"


def with_code(**stated: object) -> dict[str, bytes]:
    """A repository that contains code, with fields added to its configuration."""
    files = files_of(network_of("vit"), processor("vit"))
    config = json.loads(files["config.json"]) | stated
    return files | {
        "config.json": json.dumps(config).encode(),
        "modeling_own.py": CODE,
        "configuration_own.py": CODE,
    }


@pytest.mark.parametrize("model_type", ["own", "vit"])
def test_code_in_a_repository_is_refused_and_never_downloaded(
    model_type: str, serve: Serve
) -> None:
    auto_map = {"AutoConfig": "configuration_own.Own", "AutoModel": "modeling_own.Own"}
    asked: list[str] = []
    files = with_code(auto_map=auto_map, model_type=model_type)
    with (
        serve({"lab/code": files}, asked=asked),
        pytest.raises(UnknownBackboneError, match=r"code in the repository \(auto_map"),
    ):
        build("hf:lab/code")
    assert asked
    assert all(request.endswith("/config.json") for request in asked)


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        ({"model_type": "bert"}, "is a 'bert', which this plugin does not support"),
        ({"model_type": None}, "has no model_type"),
        ({"model_type": ["vit"]}, "has no model_type"),
        ({"model_type": "siglip2"}, "variable resolution"),
        # The message depends on the release of transformers.
        ({"hidden_size": "wide"}, r"cannot read the config\.json|build_model for 'hf:lab/net'"),
    ],
)
def test_an_unsupported_or_invalid_configuration_gives_a_clear_error(
    stated: dict, sentence: str, serve: Serve
) -> None:
    with (
        serve({"lab/net": with_code(**stated)}),
        pytest.raises((UnknownBackboneError, PluginError), match=sentence),
    ):
        build("hf:lab/net")


def test_an_unsupported_step_is_named_and_a_custom_preprocessing_works(serve: Serve) -> None:
    steps = {**processor("vit"), "do_pad": True}
    own = Preprocessing((32, 32), (32, 32), (0.5,) * 3, (0.5,) * 3)
    with serve({"lab/net": files_of(network_of("vit"), steps)}):
        with pytest.raises(PreprocessingError, match=r"lab/net pads images .*\(do_pad\)"):
            build("hf:lab/net")
        assert build("hf:lab/net", preprocessing=own).preprocessing == own


def test_the_error_says_that_a_repository_has_no_image_processor(serve: Serve) -> None:
    with (
        serve({"lab/net": files_of(network_of("vit"), None)}),
        pytest.raises(PreprocessingError, match="does not state its preprocessing"),
    ):
        build("hf:lab/net")


@pytest.mark.parametrize("kind", sorted(kind for kind in TOWERS if TOWERS[kind].one_size))
def test_a_processor_with_another_size_than_the_network_is_refused(kind: str, serve: Serve) -> None:
    own = Preprocessing((32, 32), (32, 32), (0.5,) * 3, (0.5,) * 3)
    with serve({"lab/net": files_of(network_of(kind), {**PROCESSOR, **SIZES})}):
        with pytest.raises(PreprocessingError, match=r"gives input of 3x64x64, .* takes 3x32x32"):
            build("hf:lab/net")
        encoder = build("hf:lab/net", preprocessing=own)
    assert encoder.input_shape == encoder.spec.input_shape == (3, 32, 32)


def test_a_processor_of_other_channels_than_the_network_is_refused(serve: Serve) -> None:
    files = files_of(network_of("convnext", num_channels=1), processor("convnext"))
    with (
        serve({"lab/grey": files}),
        pytest.raises(PreprocessingError, match=r"gives input of 3x64x64, .* takes 1x64x64"),
    ):
        build("hf:lab/grey")


def test_aimv2_with_variable_resolution_takes_the_size_of_its_processor(serve: Serve) -> None:
    network = network_of("aimv2_vision_model", is_native=True)
    with serve({"lab/net": files_of(network, {**PROCESSOR, **SIZES})}):
        encoder = build("hf:lab/net")
    assert encoder.input_shape == (3, 64, 64)
    with torch.inference_mode():
        x = torch.ones(1, 3, 64, 64)
        assert torch.equal(encoder(x), network(x).pooler_output)


def test_the_image_processor_may_be_in_processor_config_json(serve: Serve) -> None:
    files = files_of(network_of("vit"), None)
    steps = {"image_processor": processor("vit"), "processor_class": "CLIPProcessor"}
    with serve({"lab/net": files | {"processor_config.json": json.dumps(steps).encode()}}):
        assert build("hf:lab/net").preprocessing.crop == (32, 32)


@pytest.mark.parametrize("beside", [{}, None, {"hidden_act": "relu", "layer_norm_eps": 0.1}])
def test_an_early_clip_is_configured_as_in_transformers(beside: dict | None, serve: Serve) -> None:
    files = files_of(whole("clip_vision_model"), processor("clip_vision_model"))
    stated = json.loads(files["config.json"])
    stated["vision_config_dict"] = stated["vision_config"] | {"hidden_act": "gelu"}
    stated["vision_config"] = beside
    theirs = CLIPConfig.from_dict(stated).vision_config
    with serve({"lab/pair": files | {"config.json": json.dumps(stated).encode()}}):
        own = build("hf:lab/pair").backbone.network.config.vision_config
    assert theirs.hidden_act == "gelu"
    assert [getattr(own, key) for key in COMPARED] == [getattr(theirs, key) for key in COMPARED]


def test_the_input_shape_comes_from_the_image_processor(serve: Serve) -> None:
    # DINOv2 was published for 518 pixels, but its image processor gives 224.
    with serve({"lab/net": files_of(network_of("dinov2"), {**PROCESSOR, **SIZES})}):
        encoder = build("hf:lab/net")
        assert build("hf:lab/net", options={"image_size": 16}, weights=None).input_shape[1] == 16
    assert encoder.input_shape == encoder.spec.input_shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        ({"num_hidden_layers": 10**9}, "the number 1000000000 is out of range"),
        ({"num_labels": 10**12, "id2label": None}, "the number 1000000000000 is out of range"),
        ({"hidden_size": 10**6, "intermediate_size": 10**6}, "more than 20,000,000,000 param"),
        ({"image_size": 10**6, "patch_size": 1}, "more than 20,000,000,000 parameters"),
    ],
)
def test_an_oversized_configuration_is_refused(stated: dict, sentence: str, tmp_path: Path) -> None:
    files = files_of(network_of("vit"), processor("vit"))
    config = json.loads(files["config.json"]) | stated
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(HeadstripError, match=sentence):
        build(f"hf:{tmp_path}", weights=None)


def test_a_deeply_nested_configuration_gives_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a":' * 10**6)
    with pytest.raises(HeadstripError, match="more than 64 lists and objects inside each other"):
        build(f"hf:{tmp_path}", weights=None)
