"""A model type is an architecture without weights; its options are configuration fields."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hf_checkpoints import OPTIONS, WIDTHS, network_of, pixels
from safetensors.torch import save_file

from headstrip import PluginError, UnknownBackboneError, WeightsError, build_encoder
from headstrip_transformers.towers import TOWERS


@pytest.mark.parametrize("kind", TOWERS)
def test_a_model_type_builds_random_weights_without_network_access(
    kind: str, no_sockets: Callable[[], None]
) -> None:
    no_sockets()
    encoder = build_encoder(f"hf:{kind}", weights=None, options=OPTIONS[kind])
    side = OPTIONS[kind]["image_size"]
    assert encoder.output_dim == WIDTHS[kind]
    assert encoder.input_shape == (3, side, side)
    assert encoder(pixels(kind)).shape == (2, WIDTHS[kind])


@pytest.mark.parametrize("kind", [kind for kind in TOWERS if TOWERS[kind].output == "logits"])
def test_a_random_head_has_the_two_default_classes_of_transformers(kind: str) -> None:
    encoder = build_encoder(f"hf:{kind}", weights=None, options=OPTIONS[kind])
    assert encoder.head is not None
    assert encoder.head(encoder(pixels(kind))).shape == (2, 2)


def test_the_attention_of_transformers_can_be_chosen() -> None:
    for attention in ("eager", "sdpa"):
        options = {**OPTIONS["clip_vision_model"], "attn_implementation": attention}
        encoder = build_encoder("hf:clip_vision_model", weights=None, options=options)
        assert encoder.backbone.network.vision_model.config._attn_implementation == attention


def test_the_option_num_channels_sets_the_input_channels() -> None:
    encoder = build_encoder("hf:vit", weights=None, options={**OPTIONS["vit"], "num_channels": 1})
    assert encoder.input_shape == (1, 32, 32)


def test_the_error_for_a_mistyped_option_suggests_similar_ones() -> None:
    with pytest.raises(PluginError, match=r"no field 'image_sise'. Similar fields: image_size"):
        build_encoder("hf:vit", weights=None, options={"image_sise": 32})


def test_a_value_that_transformers_refuses_gives_a_clear_error() -> None:
    with pytest.raises(PluginError, match="build_model for 'hf:vit'"):
        build_encoder("hf:vit", weights=None, options={"hidden_size": "wide"})


def test_a_model_type_has_no_pretrained_weights() -> None:
    with pytest.raises(WeightsError, match="hf:vit has no pretrained weights"):
        build_encoder("hf:vit")


@pytest.mark.parametrize("kind", TOWERS)
def test_a_weights_file_loads_into_a_model_type_with_options(kind: str, tmp_path) -> None:
    network = network_of(kind, classes=7)
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    encoder = build_encoder(
        f"hf:{kind}", weights=tmp_path / "own.safetensors", options=OPTIONS[kind]
    )
    with torch.inference_mode():
        found = network(pixels(kind))
        if TOWERS[kind].output == "logits":
            assert torch.equal(encoder.logits(pixels(kind)), found.logits)
        else:
            assert torch.equal(encoder(pixels(kind)), found.pooler_output)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("hf:dinov22", "dinov2"),
        ("hf:clip_vision", "clip_vision_model"),
        ("hf:no_such_thing_at_all", "headstrip"),
    ],
)
def test_a_mistyped_model_type_gives_a_clear_error(name: str, near: str) -> None:
    with pytest.raises(UnknownBackboneError, match=near):
        build_encoder(name, weights=None)
