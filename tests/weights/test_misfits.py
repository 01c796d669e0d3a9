"""What an error says of a file that does not fit: which tensors, their shapes, and the size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.weights.files import save_zip, state_of
from torchvision import models

from headstrip import WeightsError, build_encoder
from headstrip.factory.misfits import does_not_fit
from headstrip.network.state_dicts import Fit

TEXT = "x.pth does not fit lab:net: "


def said(fit: Fit, about: str = "lab:net", shape: tuple[int, ...] | None = (3, 224, 224)) -> str:
    return str(does_not_fit(Path("x.pth"), about, fit, ("fc",), shape))


def reshaped(file: tuple[int, ...], network: tuple[int, ...], name: str = "pos_embed") -> Fit:
    return Fit((), (), (name,), ((file, network),))


def test_one_is_one_and_many_are_many() -> None:
    assert said(Fit(("a",), (), ())).startswith(f"{TEXT}1 tensor is missing ('a'). Name the")
    assert said(Fit(("a", "b", "c"), ("d",), ())).startswith(
        f"{TEXT}3 tensors are missing ('a', 'b' ...), 1 tensor is unknown ('d')."
    )
    assert said(Fit((), ("d", "e"), ())).startswith(f"{TEXT}2 tensors are unknown ('d', 'e').")
    assert said(reshaped((2, 3), (), "w")).startswith(
        f"{TEXT}1 tensor has another shape ('w' is 2x3 in the file and one number in the network)."
    )


def test_the_head_is_not_counted() -> None:
    fit = Fit(("fc.weight", "a"), ("fc.other",), ("fc.bias",), (((2,), (3,)),))
    assert said(fit).startswith(f"{TEXT}1 tensor is missing ('a'). ")


@pytest.mark.parametrize(
    ("file", "network", "size"),
    [
        ((1, 577, 768), (1, 197, 768), 384),  # a class token, patches of 16
        ((197, 768), (50, 768), 448),  # patches of 32: 14 of them in a row
        ((1, 1024, 768), (1, 196, 768), 512),  # no class token
        ((1, 1370, 384), (1, 257, 384), 518),  # patches of 14
        ((1, 581, 384), (1, 201, 384), 384),  # a class token and four registers
    ],
)
def test_the_size_of_image_that_a_file_was_made_for_is_told(
    file: tuple[int, ...], network: tuple[int, ...], size: int
) -> None:
    for source in ("torchvision", "timm"):
        message = said(reshaped(file, network), f"{source}:vit")
        assert f"made for images of {size}x{size}, and the network is for 224x224" in message
        assert message.endswith(f"Pass img_size={size} (--img-size {size}).")
    assert "Build the network for that size" in said(reshaped(file, network))


@pytest.mark.parametrize(
    ("fit", "shape"),
    [
        (reshaped((1, 500, 768), (1, 197, 768)), (3, 224, 224)),
        (reshaped((1, 577, 768), (1, 197, 768)), None),
        (reshaped((1, 577, 768), (1, 197, 768)), (3, 224, 112)),
        (reshaped((1, 577, 768), (1, 197, 384)), (3, 224, 224)),
    ],
)
def test_a_size_that_does_not_follow_is_not_guessed(
    fit: Fit, shape: tuple[int, ...] | None
) -> None:
    assert "another size of image, or of patch" in said(fit, shape=shape)


def test_no_size_is_told_where_more_than_positions_differ() -> None:
    fit = Fit((), (), ("pos_embed", "w"), (((1, 577, 8), (1, 197, 8)), ((2,), (3,))))
    assert "Name the backbone" in said(fit)


def test_a_vision_transformer_of_another_size_is_explained(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = models.vit_b_16(image_size=384).state_dict()
    # A file of a few bytes: each tensor is one number, expanded.
    state = {name: torch.zeros(()).expand(one.shape) for name, one in shapes.items()}
    path = save_zip(state, tmp_path / "own")
    with pytest.raises(WeightsError) as caught:
        build_encoder("vit_b_16", weights=path)
    assert str(caught.value) == (
        f"{path} does not fit torchvision:vit_b_16: 1 tensor has another shape "
        "('encoder.pos_embedding' is 1x577x768 in the file and 1x197x768 in the network). The "
        "file was made for images of 384x384, and the network is for 224x224. Pass "
        "img_size=384 (--img-size 384)."
    )


def test_another_architectures_file_names_some_of_each(tmp_path: Path) -> None:
    path = save_zip(state_of("squeezenet1_1"), tmp_path / "own")
    with pytest.raises(WeightsError, match=r"tensors are missing \(.*tensors are unknown \("):
        build_encoder("resnet18", weights=path)
