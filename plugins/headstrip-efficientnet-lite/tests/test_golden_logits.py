"""The logits match those of the code that was published with the weights."""

from __future__ import annotations

import timm
import torch
from efficientnet_lite_pytorch import EfficientNet

from headstrip_efficientnet_lite import plugin


@torch.inference_mode()
def original_logits(variant, state, batch):
    model = EfficientNet.from_name(f"efficientnet-{variant}").eval()
    model.load_state_dict(state)
    return model(batch)


@torch.inference_mode()
def test_the_logits_of_photographs_match_the_original_package(
    variant, encoder, batch, original_state
):
    expected = original_logits(variant, original_state, batch)
    torch.testing.assert_close(encoder.logits(batch), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.5
    assert not torch.allclose(expected[0], expected[1], atol=1)


@torch.inference_mode()
def test_timms_network_without_the_prefix_tf_gives_other_logits(variant, batch, original_state):
    wrong = timm.create_model(f"efficientnet_{variant}", pretrained=False).eval()
    wrong.load_state_dict(plugin.adapt_state_dict(original_state, wrong, None))
    expected = original_logits(variant, original_state, batch)
    assert (wrong(batch) - expected).abs().max() > 1


@torch.inference_mode()
def test_photographs_of_a_cat_and_of_coffee_are_classified_correctly(encoder, batch):
    _, cat, coffee, *_ = encoder.logits(batch).argmax(dim=1)
    assert encoder.labels[cat] in {"tabby", "tiger cat", "Egyptian cat"}
    assert encoder.labels[coffee] == "espresso"
