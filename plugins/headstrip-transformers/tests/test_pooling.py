"""The embedding is the input of the classifier's last layer in transformers."""

from __future__ import annotations

import copy

import pytest
import torch
from hf_checkpoints import CLASSIFIERS, HEADLESS, WIDTHS, network_of, pixels, tower_of
from torch import Tensor, nn

from headstrip import HeadNotFoundError, strip_head
from headstrip_transformers.towers import TOWERS


def tokens_of(kind: str) -> Tensor:
    """Return the last tokens of the tower below the classifier."""
    return tower_of(network_of(kind))(pixels(kind)).last_hidden_state


# The table in the README, written as code.
POOLED = {
    "clip_vision_model": lambda tokens: tokens[:, 1:].mean(1),
    "dinov2": lambda tokens: torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1),
    "dinov2_with_registers": lambda tokens: torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], 1),
    "ijepa": lambda tokens: tokens.mean(1),
    "siglip_vision_model": lambda tokens: tokens.mean(1),
    "swin": lambda tokens: tokens.mean(1),
    "swinv2": lambda tokens: tokens.mean(1),
    "vit": lambda tokens: tokens[:, 0],
}


@torch.inference_mode()
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_the_head_computes_the_classifiers_logits_bit_for_bit(kind: str) -> None:
    network = network_of(kind)
    expected = copy.deepcopy(network)(pixels(kind)).logits
    parts = strip_head(network, family=f"hf:{kind}")
    embedding = parts.backbone(pixels(kind))
    assert embedding.shape == (2, WIDTHS[kind])
    assert (parts.law, parts.paths) == ("exact", ("classifier",))
    assert expected.isfinite().all()
    assert not torch.equal(expected[0], expected[1])
    assert torch.equal(parts.head(embedding), expected)


@torch.inference_mode()
@pytest.mark.parametrize("kind", POOLED)
def test_the_embedding_is_pooled_as_the_readme_says(kind: str) -> None:
    embedding = strip_head(network_of(kind), family=f"hf:{kind}").backbone(pixels(kind))
    torch.testing.assert_close(embedding, POOLED[kind](tokens_of(kind)), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["convnext", "convnextv2"])
def test_convnext_is_pooled_over_positions_and_then_normalised(kind: str) -> None:
    embedding = strip_head(network_of(kind), family=f"hf:{kind}").backbone(pixels(kind))
    tower = tower_of(network_of(kind))
    expected = tower.layernorm(tower(pixels(kind)).last_hidden_state.mean((2, 3)))
    torch.testing.assert_close(embedding, expected, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("kind", HEADLESS)
def test_a_tower_without_a_classifier_returns_its_pooled_output(kind: str) -> None:
    network = network_of(kind)
    expected = network(pixels(kind)).pooler_output
    parts = strip_head(network, family=f"hf:{kind}")
    assert (parts.law, parts.head, parts.paths) == ("headless", None, ())
    assert torch.equal(parts.backbone(pixels(kind)), expected)


@torch.inference_mode()
def test_aimv2_without_attention_pooling_returns_the_mean_of_its_tokens() -> None:
    network = network_of("aimv2_vision_model", use_head=False)
    tokens = network(pixels("aimv2_vision_model")).last_hidden_state
    parts = strip_head(network, family="hf:aimv2_vision_model")
    assert torch.equal(parts.backbone(pixels("aimv2_vision_model")), tokens.mean(1))


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["swin", "swinv2"])
def test_the_embedding_does_not_depend_on_earlier_inputs(kind: str) -> None:
    backbone = strip_head(network_of(kind), family=f"hf:{kind}").backbone
    larger = torch.randn(1, 3, 64, 64)
    before = backbone(larger)
    backbone(pixels(kind))
    assert torch.equal(backbone(larger), before)


@pytest.mark.parametrize("kind", TOWERS)
def test_a_network_of_another_family_is_refused_and_left_unchanged(kind: str) -> None:
    other = "swin" if kind != "swin" else "vit"
    network = network_of(other)
    with pytest.raises(HeadNotFoundError, match=f"is not {TOWERS[kind].network}"):
        strip_head(network, family=f"hf:{kind}")
    assert isinstance(network.classifier, nn.Linear)


def test_removing_the_head_twice_is_refused() -> None:
    network = network_of("vit")
    network.classifier = nn.Identity()
    with pytest.raises(HeadNotFoundError, match="already been removed"):
        strip_head(network, family="hf:vit")
