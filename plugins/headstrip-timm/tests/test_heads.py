"""Removing the head of any kind of timm network loses nothing."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import timm
import torch
from tests.sampling import mostly_slow
from torch import nn

from headstrip.errors import HeadNotFoundError
from headstrip.network.head import Stripped
from headstrip.network.width import probe_width
from headstrip.testing import perturb
from headstrip_timm.heads import FAMILIES, family_of, reference, strip


def mlp_head(num_classes, **options):
    """A network of ``metaformer`` with a hidden layer in its classifier."""
    return timm.models.MetaFormer(
        depths=(1, 1, 1, 1),
        dims=(8, 16, 24, 32),
        use_mlp_head=True,
        num_classes=num_classes,
        **options,
    )


def with_convolution(num_classes, **options):
    """A network of ``resnetv2``."""
    return timm.models.ResNetV2(
        layers=(1, 1, 1, 1),
        channels=(16, 16, 32, 32),
        norm_layer=timm.layers.BatchNormAct2d,
        num_classes=num_classes,
        **options,
    )


def volo(num_classes, **options):
    """A small network of ``volo``."""
    return timm.models.VOLO(
        layers=(1, 1, 1, 1),
        embed_dims=(24, 48, 48, 48),
        num_heads=(1, 2, 2, 2),
        img_size=64,
        num_classes=num_classes,
        **options,
    )


def attention_pooling(num_classes, **options):
    """A network of ``byobnet`` with the pooling of CLIP's ResNets."""
    blocks = [timm.models.ByoBlockCfg(type="bottle", d=1, c=c, s=2) for c in (32, 64, 128)]
    config = timm.models.ByoModelCfg(
        blocks=tuple(blocks), stem_chs=16, stem_type="tiered", head_hidden_size=128, **options
    )
    return timm.models.ByobNet(config, num_classes=num_classes, img_size=96)


ONE_LAYER = [
    ("resnet10t", {}, 96),
    ("test_vit", {}, 160),
    ("convnext_atto", {}, 64),
    ("efficientvit_b0", {}, 64),
    ("hgnetv2_b0", {}, 64),
    (mlp_head, {}, 64),
    ("test_vit", {"global_pool": "map"}, 160),
    ("resnet10t", {"global_pool": "catavgmax", "in_chans": 1}, 96),
]
WHOLE_HEAD_NAMED = [
    ("sequencer2d_s", {"layers": [1, 1, 1, 1]}, 224),
    ("samvit_base_patch16_224", {"depth": 1, "global_attn_indexes": ()}, 224),
]
CONVOLUTION = [
    (with_convolution, {}, 64),
    ("dla46_c", {}, 64),
    ("dpn48b", {"k_sec": (1, 1, 1, 1)}, 64),
]
NORM_IN_HEAD = [
    ("efficientvit_m0", {}, 224),
    ("shvit_s1", {}, 64),
    ("levit_256d", {"depth": (1, 1, 1)}, 224),
    ("repvit_m0_9", {}, 64),
    ("iformer_t", {}, 64),
]
TWO_HEADS = [
    ("efficientformer_l1", {}, 224),
    ("efficientformerv2_s0", {}, 224),
    ("efficientformerv2_s0", {"distillation": False}, 224),
    ("levit_128s", {}, 224),
    ("swiftformer_xs", {}, 64),
]
MANY_HEADS = [
    ("crossvit_tiny_240", {}, 240),
    ("efficientvim_m1", {}, 224),
    ("efficientvim_m1_dist", {}, 224),
]
WITHOUT_DISTILLATION = [
    ("pit_ti_224", {}, 224),
    (volo, {"use_aux_head": False}, 64),
]
EXACT = [
    *ONE_LAYER,
    *WHOLE_HEAD_NAMED,
    *CONVOLUTION,
    *NORM_IN_HEAD,
    *TWO_HEADS,
    *MANY_HEADS,
    *WITHOUT_DISTILLATION,
]
DISTILLED = [
    ("deit_tiny_distilled_patch16_224", {"depth": 1}, 224),
    ("pit_ti_distilled_224", {}, 224),
]
ENCODERS = [
    ("gemma4_vit_167m_enc", {"depth": 1, "embed_dim": 48, "num_heads": 2, "head_dim": 24}, 96),
    ("qwen3_vit_88m_enc", {"depth": 1, "embed_dim": 48, "num_heads": 2, "out_features": 40}, 96),
    (
        "qwen3_vit_88m_enc",
        {"depth": 1, "embed_dim": 48, "num_heads": 2, "global_pool": ""},
        96,
    ),
]


def title(case):
    name = case[0]
    return "-".join([name.__name__ if callable(name) else name, *case[1]])


class Pair(NamedTuple):
    untouched: nn.Module
    parts: Stripped
    logits: torch.Tensor
    reference: torch.Tensor
    embedding: torch.Tensor


def build(name, options, classes=7):
    if callable(name):
        return name(num_classes=classes, **options)
    if not timm.is_model(name):
        pytest.skip(f"this timm has not {name}")
    return timm.create_model(name, num_classes=classes, **options)


def without_memory(name, options, **classes):
    """A network on the meta device, unless timm's constructor computes with tensors."""
    try:
        with torch.device("meta"):
            return build(name, options, **classes)
    except RuntimeError as error:
        if "meta tensor" not in str(error):
            raise
        return build(name, options, **classes)


def family(model):
    return type(model).__module__.rpartition(".")[2]


def twins(name, options, classes=7):
    """Two separately built networks with the same perturbed values."""
    torch.manual_seed(0)
    untouched, twin = (build(name, options, classes).eval() for _ in range(2))
    perturb(untouched)
    twin.load_state_dict(untouched.state_dict())
    return untouched, twin


def images(options, side, count=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, options.get("in_chans", 3), side, side, generator=generator)


def width_of(model):
    """The width that timm states, corrected for older releases that ignore joined poolings."""
    joined = getattr(getattr(model, "global_pool", None), "pool_type", "") == "catavgmax"
    before = joined and model.head_hidden_size == model.layer4[-1].conv2.out_channels
    return model.head_hidden_size * (2 if before else 1)


def runs(model, x):
    """Whether timm's own network accepts an input."""
    try:
        with torch.no_grad():
            model(x)
    except TypeError:
        return False
    return True


def differ(values):
    return bool(values.isfinite().all()) and not torch.equal(values[0], values[1])


@pytest.fixture(scope="module", params=EXACT, ids=title)
def pair(request):
    """An untouched network and the parts of its twin, with their outputs for the same images."""
    name, options, side = request.param
    untouched, twin = twins(name, options)
    x = images(options, side)
    if options.get("distillation") is False and not runs(untouched, x):
        pytest.skip("this timm itself cannot run it without its second head")
    parts = strip(twin, family(twin), built=True)
    with torch.no_grad():
        return Pair(untouched, parts, untouched(x), reference(untouched, x), parts.backbone(x))


def test_the_kept_head_computes_the_logits_of_the_untouched_network_exactly(pair):
    logits = pair.parts.head(pair.embedding)
    assert pair.parts.law == "exact"
    assert torch.equal(logits, pair.logits)
    assert differ(logits)


def test_the_embedding_equals_timms_pre_logits(pair):
    assert torch.equal(pair.embedding, pair.reference)
    assert pair.embedding.shape == (2, width_of(pair.untouched))


def test_another_embedding_gives_other_logits(pair):
    """The comparison of logits can fail: both halves of the embedding affect the logits."""
    half = pair.embedding.shape[1] // 2
    for changed in (slice(half), slice(half, None)):
        other = pair.embedding.clone()
        other[:, changed] *= 1.01
        assert not torch.equal(pair.parts.head(other), pair.logits)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["max", "avgmax"])
def test_another_pooling_gives_other_logits(pooling):
    untouched, twin = twins("resnet10t", {})
    x = images({}, 96)
    parts = strip(twin, "resnet", built=True)
    parts.backbone.reset_classifier(0, pooling)
    assert not torch.allclose(parts.head(parts.backbone(x)), untouched(x), atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("head_type", ["attn_abs", "attn_rot"])
def test_the_head_after_attention_pooling_matches_within_rounding(head_type):
    untouched, twin = twins(attention_pooling, {"head_type": head_type})
    x = images({}, 96)
    parts = strip(twin, "byobnet", built=True)
    logits, expected = parts.head(parts.backbone(x)), untouched(x)
    assert parts.law == "rounding"
    assert (logits - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert differ(logits)


@torch.no_grad()
@pytest.mark.parametrize(("name", "options", "side"), DISTILLED)
def test_the_embedding_of_a_distilled_network_is_the_mean_of_its_two_tokens(name, options, side):
    untouched, twin = twins(name, options)
    x = images(options, side)
    parts = strip(twin, family(twin), built=True)
    tokens = untouched.forward_features(x)
    embedding = parts.backbone(x)
    assert (parts.law, parts.head, parts.paths) == ("declared", None, ("head", "head_dist"))
    assert torch.equal(embedding, reference(untouched, x))
    if torch.equal(embedding, tokens[:, 0]):
        pytest.skip("this timm itself takes the first token twice")
    assert torch.equal(embedding, (tokens[:, 0] + tokens[:, 1]) / 2)
    assert differ(embedding)


@torch.no_grad()
def test_the_embedding_of_volo_is_its_class_token():
    untouched, twin = twins(volo, {})
    x = images({}, 64)
    parts = strip(twin, "volo", built=True)
    embedding = parts.backbone(x)
    assert (parts.law, parts.head, parts.paths) == ("declared", None, ("head", "aux_head"))
    assert torch.equal(embedding, untouched.forward_features(x)[:, 0])
    assert torch.equal(embedding, reference(untouched, x))
    assert differ(embedding)


@torch.no_grad()
@pytest.mark.parametrize(("name", "options", "side"), ENCODERS)
def test_an_encoder_with_positions_in_its_output_returns_their_mean(name, options, side):
    untouched, twin = twins(name, options)
    x = images(options, side)
    parts = strip(twin, family(twin), built=True)
    embedding, output = parts.backbone(x), untouched(x)
    assert (parts.law, parts.head) == ("headless", None)
    assert output.ndim > 2
    assert torch.equal(embedding, reference(untouched, x))
    torch.testing.assert_close(embedding, output.reshape(2, -1, output.shape[-1]).mean(1))
    assert differ(embedding)


@torch.no_grad()
def test_an_encoder_with_pooling_options_is_left_unchanged():
    name, options, side = ENCODERS[0]
    untouched, twin = twins(name, {**options, "global_pool": "avg"})
    x = images(options, side)
    assert torch.equal(strip(twin, "gemma4_vit", built=True).backbone(x), untouched(x))


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["test_vit", "resnet10t", "efficientvit_m0", "levit_128s", "repvit_m0_9", "iformer_t"]
)
def test_a_network_that_timm_builds_without_a_head_is_headless(name):
    untouched, twin = twins(name, {}, classes=0)
    x = images({}, untouched.pretrained_cfg["input_size"][-1])
    parts = strip(twin, family(twin), built=True)
    assert (parts.law, parts.head, parts.paths) == ("headless", None, ())
    assert torch.equal(parts.backbone(x), untouched(x))


@pytest.mark.parametrize("case", [*EXACT, *DISTILLED, (volo, {}, 64)], ids=title)
def test_strip_removes_exactly_the_tensors_of_the_head(case):
    model = without_memory(*case[:2])
    named = [*model.named_parameters(), *model.named_buffers()]
    parts = strip(model, family(model), built=True)
    under = {
        tensor for key, tensor in named if any(f"{key}.".startswith(f"{p}.") for p in parts.paths)
    }
    left = {*parts.backbone.parameters(), *parts.backbone.buffers()}
    assert under
    assert left == {tensor for _, tensor in named} - under
    if parts.head is not None:
        assert {*parts.head.parameters(), *parts.head.buffers()} == under


@pytest.mark.parametrize("name", mostly_slow(sorted(timm.list_models())[7::110]))
def test_a_timm_network_returns_a_vector_of_the_width_that_timm_states(name):
    try:
        with torch.device("meta"):
            model = timm.create_model(name).eval()
    except RuntimeError as error:
        pytest.skip(f"this timm cannot build it without memory: {error}")
    classes = model.num_classes
    parts = strip(model, family(model), built=True)
    width = probe_width(parts.backbone, model.pretrained_cfg["input_size"])
    assert width == model.head_hidden_size
    if parts.law in {"exact", "rounding"}:
        assert parts.head.eval()(torch.empty(2, width, device="meta")).shape == (2, classes)
    else:
        assert parts.head is None


def test_every_architecture_belongs_to_a_family():
    assert {family_of(name) for name in timm.list_models()} <= set(FAMILIES)
    assert family_of("deit_tiny_patch16_224") == "deit"


@pytest.mark.parametrize(
    "name", ["test_vit", "resnet10t", "convnext_atto", "resnetv2_50", "hieradet_small"]
)
def test_a_network_without_pooling_is_refused(name):
    model = without_memory(name, {"global_pool": ""}, classes=0)
    with pytest.raises(HeadNotFoundError, match="no pooling"):
        strip(model, family(model), built=True)


def test_the_probe_and_the_input_follow_img_size():
    model = timm.create_model("test_vit", num_classes=3, img_size=96)
    parts = strip(model, "vision_transformer", built=True, input_shape=(3, 96, 96))
    assert parts.input_shape == (3, 96, 96)
    assert probe_width(parts.backbone, parts.input_shape) == model.head_hidden_size
    assert isinstance(parts.head, nn.Linear)
