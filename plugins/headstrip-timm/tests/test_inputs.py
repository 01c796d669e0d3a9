"""timm's networks accept images of other channels and sizes as timm allows."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from headstrip import (
    OptionError,
    Preprocessing,
    PreprocessingError,
    build_encoder,
    get_backbone,
)
from headstrip.plugin_api import measure
from headstrip.registry.registry import get_registry

SMALL = ["resnet10t", "test_vit", "test_efficientnet"]


@pytest.fixture
def arguments(name, tmp_path):
    """The name and the file of a network with random weights."""
    torch.manual_seed(1)
    torch.save(timm.create_model(name, pretrained=False).state_dict(), tmp_path / "file.pth")
    return {"name": f"timm:{name}", "weights": tmp_path / "file.pth"}


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.* filters that no training made")
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [("R", "G", "B", None), ("N", "R")])
def test_other_channels_and_another_size_can_be_combined(arguments, channels):
    resized = build_encoder(**arguments, img_size=96)
    both = build_encoder(**arguments, img_size=96, in_chans=channels, new_channels="zero")
    assert both.input_shape == (len(channels), 96, 96)
    x = torch.zeros(2, 3, 96, 96)
    x[:, 0] = torch.randn(2, 96, 96)
    known = ("R", "G", "B")
    planes = [x[:, known.index(one)] if one in known else x[:, 2] for one in channels]
    torch.testing.assert_close(both(torch.stack(planes, 1)), resized(x), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_grey_and_named_channels_give_the_embeddings_of_rgb(arguments):
    colour, grey = build_encoder(**arguments), build_encoder(**arguments, in_chans=1)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (290, 280), dtype=np.uint8))
    x = colour.preprocess(picture.convert("RGB"))[None]
    assert torch.equal(grey(grey.preprocess(picture)[None]), colour(x))
    four = build_encoder(**arguments, in_chans=("N", "B", "G", "R"), new_channels="zero")
    found = four(torch.cat([torch.randn_like(x[:, :1]), x.flip(1)], dim=1))
    torch.testing.assert_close(found, colour(x), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", [96, 192, (96, 160)], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_the_network_and_the_preprocessing_take_the_requested_size(arguments, size):
    sides = (size, size) if isinstance(size, int) else size
    encoder = build_encoder(**arguments, img_size=size)
    x = encoder.preprocess(np.zeros((150, 160, 3), np.uint8))[None]
    assert tuple(x.shape[1:]) == encoder.input_shape == (3, *sides)
    assert encoder(x).isfinite().all()


@pytest.mark.parametrize("name", ["levit_128s"])
def test_the_error_names_biases_that_timm_cannot_interpolate(name, tmp_path):
    with pytest.raises(PreprocessingError, match=r"attention_biases.*such as 224 x 224"):
        build_encoder(f"timm:{name}", weights=tmp_path / "missing.pth", img_size=192)


@pytest.mark.parametrize("name", ["csatv2", "resnetv2_50x1_bit"])
def test_other_channels_are_refused_for_computed_first_filters(name, tmp_path):
    if not timm.is_model(name):
        pytest.skip("this timm lacks it")
    with pytest.raises(OptionError, match="not read by one convolution alone"):
        build_encoder(f"timm:{name}", weights=tmp_path / "missing.pth", in_chans=("R", "N"))


def test_setting_the_channels_twice_is_refused():
    with pytest.raises(OptionError, match="both set the channels"):
        build_encoder("timm:resnet10t", weights=None, options={"in_chans": 5}, in_chans=5)


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("name", ["resnet10t", "test_vit"])
def test_a_checkpoint_trained_with_other_channels_loads_unchanged(name, channels, tmp_path):
    torch.manual_seed(1)
    network = timm.create_model(name, in_chans=channels, num_classes=2).eval()
    state = {f"model.{key}": tensor for key, tensor in network.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "run.ckpt")
    own = get_backbone(f"timm:{name}").spec.input_shape
    steps = Preprocessing(own[1:], own[1], mean=(0.4,) * channels, std=(0.2,) * channels)
    encoder = build_encoder(
        f"timm:{name}",
        weights=tmp_path / "run.ckpt",
        weights_key="model",
        in_chans=channels,
        preprocessing=steps,
        labels=["cat", "dog"],
    )
    assert (encoder.weights_key, encoder.labels) == ("state_dict.model", ("cat", "dog"))
    x = torch.randn(2, *encoder.input_shape)
    assert torch.equal(encoder.logits(x), network(x))


@pytest.mark.skipif(
    not hasattr(timm.models.dla.DLA, "forward_intermediates"),
    reason="this timm has other image sizes",
)
def test_sizes_are_measured_even_if_patches_do_not_divide_the_default_size():
    spec, _ = get_registry().resolve("timm:vit_so400m_patch14_siglip_384")
    assert measure(spec, sizes=True).sizes == spec.sizes == "multiple"
