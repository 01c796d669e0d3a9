"""The error for a file that does not fit names the tensors, shapes and image size."""

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


def message_for(
    fit: Fit, about: str = "lab:net", shape: tuple[int, ...] | None = (3, 224, 224)
) -> str:
    return str(does_not_fit(Path("x.pth"), about, fit, ("fc",), shape))


def reshaped(file: tuple[int, ...], network: tuple[int, ...], name: str = "pos_embed") -> Fit:
    return Fit((), (), (name,), ((file, network),))


def test_the_message_uses_singular_and_plural_forms() -> None:
    assert message_for(Fit(("a",), (), ())).startswith(f"{TEXT}1 tensor is missing ('a'). Name the")
    assert message_for(Fit(("a", "b", "c"), ("d",), ())).startswith(
        f"{TEXT}3 tensors are missing ('a', 'b' ...), 1 tensor is unknown ('d')."
    )
    assert message_for(Fit((), ("d", "e"), ())).startswith(
        f"{TEXT}2 tensors are unknown ('d', 'e')."
    )
    assert message_for(reshaped((2, 3), (), "w")).startswith(
        f"{TEXT}1 tensor has another shape ('w' is 2x3 in the file and one number in the network)."
    )


def test_the_message_does_not_count_tensors_of_the_head() -> None:
    fit = Fit(("fc.weight", "a"), ("fc.other",), ("fc.bias",), (((2,), (3,)),))
    assert message_for(fit).startswith(f"{TEXT}1 tensor is missing ('a'). ")


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
def test_the_message_names_the_image_size_that_the_file_was_made_for(
    file: tuple[int, ...], network: tuple[int, ...], size: int
) -> None:
    for source in ("torchvision", "timm"):
        message = message_for(reshaped(file, network), f"{source}:vit")
        assert f"made for images of {size}x{size}, and the network is for 224x224" in message
        assert message.endswith(f"Pass img_size={size} (--img-size {size}).")
    assert "Build the network for that size" in message_for(reshaped(file, network))


@pytest.mark.parametrize(
    ("fit", "shape"),
    [
        (reshaped((1, 500, 768), (1, 197, 768)), (3, 224, 224)),
        (reshaped((1, 577, 768), (1, 197, 768)), None),
        (reshaped((1, 577, 768), (1, 197, 768)), (3, 224, 112)),
        (reshaped((1, 577, 768), (1, 197, 384)), (3, 224, 224)),
    ],
)
def test_the_message_names_no_image_size_that_cannot_be_derived(
    fit: Fit, shape: tuple[int, ...] | None
) -> None:
    assert "another size of image, or of patch" in message_for(fit, shape=shape)


def test_the_message_names_no_image_size_if_other_tensors_differ_too() -> None:
    fit = Fit((), (), ("pos_embed", "w"), (((1, 577, 8), (1, 197, 8)), ((2,), (3,))))
    assert "Name the backbone" in message_for(fit)


def test_the_error_explains_a_vision_transformer_of_another_image_size(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = models.vit_b_16(image_size=384).state_dict()
    # The file has only a few bytes, because each tensor is one number, expanded.
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


def test_the_error_for_another_architecture_lists_missing_and_unknown_tensors(
    tmp_path: Path,
) -> None:
    path = save_zip(state_of("squeezenet1_1"), tmp_path / "own")
    with pytest.raises(WeightsError, match=r"tensors are missing \(.*tensors are unknown \("):
        build_encoder("resnet18", weights=path)
