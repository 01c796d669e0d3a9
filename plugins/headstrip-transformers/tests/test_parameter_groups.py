"""Learning rates by layer and weight decay, for the towers of transformers."""

from __future__ import annotations

import pytest
import torch
from hf_checkpoints import OPTIONS

from headstrip import Encoder, build_encoder
from headstrip_transformers.towers import TOWERS

BLOCKS = {"num_hidden_layers": 3}
WITH_BLOCKS = [kind for kind in TOWERS if "num_hidden_layers" in OPTIONS[kind]]
POOLED = {"aimv2_vision_model", "siglip_vision_model"}


def made(kind: str) -> Encoder:
    torch.manual_seed(0)
    more = BLOCKS if "num_hidden_layers" in OPTIONS[kind] else {}
    options = {**OPTIONS[kind], **more}
    return build_encoder(f"hf:{kind}", weights=None, options=options, predictors={"colour": 2})


@pytest.mark.parametrize("kind", TOWERS)
def test_each_parameter_is_in_one_group(kind: str) -> None:
    encoder = made(kind)
    groups = encoder.parameter_groups(lr=1e-3, layer_decay=0.5, weight_decay=0.1)
    grouped = [id(one) for group in groups for one in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(one) for one in encoder.parameters() if one.requires_grad}
    names = {id(one): name for name, one in encoder.named_parameters()}
    for group in groups:
        if group["weight_decay"]:
            for name in (names[id(one)] for one in group["params"]):
                assert "norm" not in name
                # An MLP, which has matrices, may compute positions.
                assert not {"token", "position", "bias"} & {*name.rpartition(".")[2].split("_")}


@pytest.mark.parametrize("kind", WITH_BLOCKS)
def test_each_block_is_one_layer(kind: str) -> None:
    groups = made(kind).parameter_groups(lr=1.0, layer_decay=0.5)
    rates = sorted({group["lr"] for group in groups if group["name"].startswith("backbone")})
    # The patch embedding, the blocks, and the attention pooling.
    assert len(rates) == 1 + BLOCKS["num_hidden_layers"] + (kind in POOLED)
