"""headstrip refuses an input size if the network's patches leave out its last pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from headstrip import BackboneSpec, Preprocessing, PreprocessingError, build_encoder
from headstrip.factory.measure import embedding_width
from headstrip.network.head import Stripped
from headstrip.network.patches import PatchWatch, unseen
from headstrip.network.width import run_once

STEPS = Preprocessing(crop=(224, 224), resize=None, mean=(0.5,) * 3, std=(0.5,) * 3)


class Cutting(nn.Module):
    """A network that cuts its input into patches, optionally after padding it."""

    def __init__(self, layer: nn.Module, pads: bool = False) -> None:
        super().__init__()
        self.layer, self.pads = layer, pads

    def forward(self, x: Tensor) -> Tensor:
        if self.pads:
            step = self.layer.stride[0]
            x = functional.pad(x, (0, -x.shape[3] % step, 0, -x.shape[2] % step))
        return self.layer(x).flatten(2).mean(2)


def problem(network: nn.Module, *shape: int) -> str | None:
    watch = PatchWatch(shape)
    run_once(network, shape, watch=watch)
    return unseen(watch, shape)


def sees_all(network: nn.Module, height: int, width: int) -> bool:
    """Whether every pixel of an input has a gradient."""
    image = torch.rand(1, 3, height, width, requires_grad=True)
    network(image).sum().backward()
    assert image.grad is not None
    return bool((image.grad != 0).any(dim=1).all())


@given(st.integers(1, 12), st.integers(0, 6), st.integers(0, 5), st.integers(24, 60), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_size_is_refused_if_the_end_of_the_image_has_no_gradient(
    stride: int, more: int, padding: int, size: int, pads: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, stride + more, stride, min(padding, (stride + more) // 2))
    network = Cutting(layer, pads)
    message = problem(network, 3, size, 30)
    if stride > 2:
        assert (message is None) == sees_all(network, size, 30)
    else:
        assert message is None


def test_the_error_names_the_lost_pixels_and_the_nearest_good_sizes() -> None:
    network = Cutting(nn.Conv2d(3, 4, 16, 16))
    assert problem(network, 3, 352, 640) is None
    message = problem(network, 3, 360, 641)
    assert message is not None
    assert "patches of 16 x 16 pixels" in message
    assert "never see the last 8 rows and the last column of an input of 360 x 641" in message
    assert "Choose 352 x 640 or 368 x 656 where the size is set" in message


def test_unfolded_patches_and_patches_of_clips_are_checked_too() -> None:
    class Unfolding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.unfold(x, 8, stride=8).mean(2)

    assert "the last 4 rows" in str(problem(Unfolding(), 3, 20, 16))
    clips = Cutting(nn.Conv3d(3, 4, (2, 8, 8), (2, 8, 8)))
    assert problem(clips, 3, 4, 16, 16) is None
    assert "the last 3 columns" in str(problem(clips, 3, 4, 16, 19))


def test_the_native_size_of_a_network_is_never_refused() -> None:
    # As in SigLIP: 384 pixels, and patches of 14.
    parts = Stripped(Cutting(nn.Conv2d(3, 4, 14, 14)), None, (), "headless", None)
    spec = BackboneSpec(
        name="made",
        source="tests",
        family="tests:made",
        plugin="tests",
        task="image",
        input_shape=(3, 384, 384),
        dim=4,
        params=1,
        law="headless",
    )
    assert embedding_width(parts, spec, (3, 384, 384), lambda: None) == 4
    with pytest.raises(PreprocessingError, match="Choose 392 x 378 or 406 x 392"):
        embedding_width(parts, spec, (3, 400, 384), lambda: None)


@pytest.mark.parametrize(
    ("name", "arguments", "near"),
    [
        ("vit_b_16", {"options": {"image_size": 230}}, "224 x 224 or 240 x 240"),
        ("swin_t", {"preprocessing": replace(STEPS, crop=(226, 224))}, "224 x 224 or 228 x 224"),
        ("convnext_tiny", {"preprocessing": replace(STEPS, crop=(230, 222))}, "228 x 220 or"),
        ("timm:vit_tiny_patch16_224", {"options": {"img_size": (360, 640)}}, "352 x 640 or"),
        (
            "timm:vit_tiny_patch16_224",
            {"options": {"img_size": (360, 640), "dynamic_img_size": True}},
            "368 x 640",
        ),
        ("timm:pit_ti_224", {"options": {"img_size": 230}}, "224 x 224 or 232 x 232"),
        ("hf:vit", {"options": {"image_size": 230}}, "224 x 224 or 240 x 240"),
    ],
)
def test_every_source_refuses_lost_pixels_and_suggests_the_nearest_sizes(
    name: str, arguments: dict[str, Any], near: str
) -> None:
    with pytest.raises(PreprocessingError, match="would never see the last") as caught:
        build_encoder(name, weights=None, **arguments)
    assert near in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_b_16", {"options": {"image_size": 240}}),
        ("resnet18", {"preprocessing": replace(STEPS, crop=(227, 225))}),
        (
            "timm:vit_tiny_patch16_224",
            {
                "options": {
                    "img_size": (360, 640),
                    "dynamic_img_size": True,
                    "dynamic_img_pad": True,
                }
            },
        ),
        ("hf:swin", {"preprocessing": replace(STEPS, crop=(226, 226))}),
    ],
)
def test_a_size_that_is_divisible_or_padded_is_built(name: str, arguments: dict[str, Any]) -> None:
    assert build_encoder(name, weights=None, **arguments).output_dim
