"""Options reach timm's networks, and headstrip knows their effects."""

from __future__ import annotations

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from headstrip import (
    HeadNotFoundError,
    OptionError,
    PluginError,
    Preprocessing,
    PreprocessingError,
    WeightsError,
    build_encoder,
)
from headstrip.factory.measure import measure
from headstrip.network.head_check import logits_without_memory
from headstrip.network.meta_ops import without_memory
from headstrip.registry.registry import get_registry
from headstrip.testing import perturb

VIT = "timm:vit_tiny_patch16_224"
RESNET = "timm:resnet10t"


def encoder_of(name, **options):
    """An encoder with random weights, and with a single block if it is the ViT."""
    depth = {"depth": 1} if name == VIT else {}
    return build_encoder(name, weights=None, options={**depth, **options})


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options", "shape", "dim"),
    [
        (VIT, {}, (3, 224, 224), 192),
        (VIT, {"img_size": 96}, (3, 96, 96), 192),
        (VIT, {"img_size": [96, 64]}, (3, 96, 64), 192),
        (VIT, {"img_size": (32, 64), "in_chans": 5}, (5, 32, 64), 192),
        (VIT, {"global_pool": "avg"}, (3, 224, 224), 192),
        (VIT, {"global_pool": "map"}, (3, 224, 224), 192),
        (VIT, {"dynamic_img_size": True}, (3, 224, 224), 192),
        (VIT, {"embed_dim": 48, "num_heads": 2}, (3, 224, 224), 48),
        (RESNET, {"in_chans": 1}, (1, 176, 176), 512),
        (RESNET, {"global_pool": "catavgmax"}, (3, 176, 176), 1024),
        (RESNET, {"in_chans": None}, (3, 176, 176), 512),
        ("timm:swinv2_cr_tiny_ns_224", {"img_size": 64, "window_size": 2}, (3, 64, 64), 768),
        ("timm:mixer_s32_224", {"img_size": 64}, (3, 64, 64), 512),
    ],
)
def test_options_determine_the_input_shape_and_the_width(name, options, shape, dim):
    encoder = encoder_of(name, **options)
    assert (encoder.input_shape, encoder.output_dim) == (shape, dim)
    assert encoder(torch.zeros(2, *shape)).shape == (2, dim)


@torch.no_grad()
def test_a_network_with_dynamic_sizes_accepts_other_sizes():
    encoder = encoder_of(VIT, dynamic_img_size=True)
    assert encoder(torch.zeros(2, 3, 64, 96)).shape == (2, 192)


@pytest.mark.parametrize(
    "options",
    [
        {"pretrained_cfg_overlay": {"input_size": (1, 64, 32), "fixed_input_size": True}},
        {"pretrained_cfg": {"input_size": (1, 64, 32), "fixed_input_size": True}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_custom_configuration_determines_the_input_shape(options):
    assert encoder_of(VIT, **options).input_shape == (1, 64, 32)


@torch.no_grad()
def test_a_file_loads_losslessly_into_a_network_with_options(tmp_path):
    options = {"img_size": 64, "in_chans": 1, "depth": 1, "global_pool": "avg"}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, **options).eval()
    perturb(model)
    torch.save(model.state_dict(), tmp_path / "file.pth")
    pixels = Preprocessing((64, 64), 64, (0.5,), (0.5,))
    encoder = build_encoder(
        VIT, weights=tmp_path / "file.pth", options=options, preprocessing=pixels
    )
    x = torch.randn(2, 1, 64, 64)
    assert torch.equal(encoder.head(encoder(x)), model(x))
    assert encoder.input_shape == (1, 64, 64)


def test_a_network_of_other_channels_needs_its_own_preprocessing(tmp_path):
    state = encoder_of(RESNET, in_chans=1).backbone.state_dict()
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"takes \(1, 176, 176\).*Pass preprocessing="):
        build_encoder(RESNET, weights=tmp_path / "file.pth", options={"in_chans": 1})


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [(RESNET, "img_size", 96), (VIT, "colour", "red"), ("timm:mixer_s32_224", "num_blocks", 1)],
)
def test_an_option_that_the_architecture_does_not_accept_is_refused(name, option, value):
    with pytest.raises(PluginError, match=r"cannot build .*Leave out the option that") as info:
        encoder_of(name, **{option: value})
    assert f"keyword argument {option!r}" in str(info.value)


@torch.no_grad()
def test_the_pixels_at_another_size_equal_those_of_timm(tmp_path):
    state = timm.create_model("vit_tiny_patch16_224", img_size=384, depth=1).state_dict()
    torch.save(state, tmp_path / "file.pth")
    options = {"img_size": 384, "depth": 1}
    encoder = build_encoder(VIT, weights=tmp_path / "file.pth", options=options)
    config = timm.get_pretrained_cfg("vit_tiny_patch16_224").to_dict()
    asked = resolve_data_config({"img_size": 384}, pretrained_cfg=config)
    image = Image.fromarray(torch.randint(0, 256, (500, 430, 3), dtype=torch.uint8).numpy())
    assert encoder.preprocessing.resize == 426
    assert torch.equal(encoder.preprocess(image), create_transform(**asked)(image))


@pytest.mark.parametrize("name", [VIT, RESNET])
@pytest.mark.parametrize(
    ("option", "value", "advice"),
    [
        ("features_only", True, "one vector per image. Leave it out"),
        ("in_chans", 0, "not a number of channels. Pass an integer above zero"),
        ("in_chans", -1, "not a number of channels"),
        ("in_chans", "rgb", "not a number of channels"),
    ],
)
def test_an_option_that_does_not_build_an_encoder_is_refused(name, option, value, advice):
    with pytest.raises(PluginError, match=f"^{option}={value!r} .*{advice}"):
        encoder_of(name, **{option: value})


def test_a_network_without_pooling_is_refused():
    with pytest.raises(HeadNotFoundError, match=r"no pooling.*global_pool='avg'"):
        encoder_of(VIT, global_pool="")


def test_an_unknown_tag_is_refused():
    with pytest.raises(PluginError, match="no weights 'a_tag' of 'resnet10t'"):
        encoder_of(RESNET, pretrained_cfg="a_tag")


def test_checkpoint_path_is_refused(tmp_path):
    """timm would execute code from the file."""
    torch.save(encoder_of(RESNET).backbone.state_dict(), tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"checkpoint_path.*Pass weights= to build_encoder"):
        encoder_of(RESNET, checkpoint_path=str(tmp_path / "file.pth"))


def test_a_file_that_does_not_match_the_options_is_refused(tmp_path):
    torch.save(encoder_of(RESNET).backbone.state_dict(), tmp_path / "file.pth")
    with pytest.raises(WeightsError, match="does not fit timm:resnet10t"):
        build_encoder(
            RESNET, weights=tmp_path / "file.pth", options={"channels": (32, 64, 128, 256)}
        )


@pytest.mark.skipif(not timm.is_model("vitamin_xlarge_336"), reason="this timm lacks it")
def test_the_networks_own_input_overrides_a_wrong_configuration_of_timm():
    spec, _ = get_registry().resolve("timm:vitamin_xlarge_336")
    assert measure(spec) == spec
    assert spec.input_shape == (3, 336, 336)


@pytest.mark.skipif(not timm.is_model("deepseek_vit_412m_enc"), reason="this timm lacks it")
def test_the_weights_determine_the_input_if_the_network_accepts_any_size():
    registry = get_registry()
    spec, _ = registry.resolve("timm:deepseek_vit_412m_enc")
    entry = next(one for one in registry.weights(spec) if one.input_shape != spec.input_shape)
    with without_memory():
        model = registry.owner(spec).call(
            "build_model", spec.name, spec=spec, options=dict(entry.options)
        )
    stripped = registry.owner(spec).call(
        "strip_head",
        spec.name,
        model=model,
        family=spec.family.partition(":")[2],
        spec=spec,
        entry=entry,
    )
    assert stripped.input_shape == entry.input_shape == (3, 392, 392)


@pytest.mark.parametrize("size", ["96", 96.0, True, -32, 0, (96,), (96, 0), [32, 32, 32], {}])
def test_an_invalid_image_size_is_refused(size):
    with pytest.raises(OptionError, match="is not an image size"):
        encoder_of(VIT, img_size=size)


@pytest.mark.parametrize(
    ("name", "size", "near"),
    [
        ("timm:vit_tiny_r_s16_p8_224", 70, "64 x 64 or 96 x 96"),
        ("timm:levit_128s", (230, 200), "224 x 192 or 256 x 224"),
        ("timm:hiera_tiny_224", 230, "224 x 224 or 256 x 256"),
        ("timm:xcit_nano_12_p16_224", 120, "96 x 96 or 128 x 128"),
        ("timm:twins_svt_small", 50, "32 x 32 or 64 x 64"),
    ],
)
def test_the_error_for_a_size_the_network_refuses_suggests_near_sizes(name, size, near):
    network = name.removeprefix("timm:")
    if logits_without_memory(lambda: timm.create_model(network), (3, 224, 224)) is None:
        pytest.skip("this timm cannot build it without memory, so no sizes can be tried")
    with pytest.raises(PreprocessingError, match=f"does not accept images of .* such as {near}"):
        encoder_of(name, img_size=size)


def test_an_error_with_another_cause_than_the_size_is_not_blamed_on_it():
    with pytest.raises(PluginError, match="keyword argument 'colour'") as caught:
        encoder_of("timm:levit_128s", img_size=224, colour="red")
    assert caught.value.__cause__ is not caught.value
