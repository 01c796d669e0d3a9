"""timm's architectures keep headstrip's contract."""

from __future__ import annotations

import pytest
import timm

from headstrip.registry.registry import get_registry
from headstrip.testing import parametrize_with_backbones
from headstrip.testing.subject import Subject
from headstrip.testing.suite import report_of, run_check
from headstrip_timm.adapters import MeanOverPositions

CHUNKS = 16
# The oldest timm lacks names of the catalog, which was written with the newest.
SPECS = {
    spec.name: spec
    for spec in get_registry().specs()
    if spec.source == "timm" and timm.is_model(spec.name)
}
IS_OLDER = not hasattr(timm.models.dla.DLA, "forward_intermediates")
"""Whether this timm has fewer feature maps and image sizes than the catalog's timm."""

DISTINCT = ("test_resnet", "test_vit", "levit_128s", "mobilenetv3_small_050")
"""Small networks with different kinds of heads."""

LARGER = ("efficientvit_m0", "repvit_m0_9", "dla46_c", "deit_tiny_distilled_patch16_224")
"""Larger networks with different kinds of heads."""


BY_SIZE = sorted(SPECS, key=lambda name: SPECS[name].params)
SMALLEST = {SPECS[name].family: name for name in reversed(BY_SIZE)}
"""The smallest architecture of each family."""


# One real forward pass of the smallest network of the family deepseek_vit takes minutes.
RUN = [name for name in SMALLEST.values() if SPECS[name].params < 400_000_000]
REST = [name for name in BY_SIZE if name not in SMALLEST.values()]
PROVEN = [*RUN, *REST[: 310 - len(RUN)]]
SEEN = sorted({*SMALLEST.values(), *BY_SIZE[::4]})


def stated_width(backbone) -> int:
    """Return the width of pooled features that a timm network states, with or without a head."""
    model = backbone.model if isinstance(backbone, MeanOverPositions) else backbone
    return getattr(model, "head_hidden_size", None) or model.num_features


def passes(check):
    if IS_OLDER and check.check in ("maps", "sizes"):
        pytest.skip("the catalog states what a newer timm does")
    check()


@parametrize_with_backbones("timm", backbones=[name for name in DISTINCT if name in SPECS])
def test_small_networks_pass_all_checks(check):
    passes(check)


@pytest.mark.slow
@parametrize_with_backbones("timm", backbones=[name for name in LARGER if name in SPECS])
def test_larger_networks_pass_all_checks(check):
    passes(check)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_many_networks_pass_the_checks_without_memory_and_have_timms_width(chunk):
    wrong, widths = [], {}
    for name in SEEN[chunk::CHUNKS]:
        subject = Subject(get_registry(), SPECS[name], "meta")
        wrong += [result.sentence for result in report_of(subject).wrong]
        widths[name] = stated_width(subject.light.stripped.backbone)
    assert wrong == []
    assert widths == {name: SPECS[name].dim for name in widths}


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_real_forward_pass_is_lossless(chunk):
    wrong = []
    for name in PROVEN[chunk::CHUNKS]:
        subject = Subject(get_registry(), SPECS[name], "real")
        results = [run_check(subject, check) for check in ("lossless", "width")]
        wrong += [result.sentence for result in results if result.status != "passed"]
    assert not wrong


def test_at_least_300_networks_of_nearly_every_family_are_proven():
    families = {spec.family for spec in SPECS.values()}
    assert families - {SPECS[name].family for name in PROVEN} <= {"timm:deepseek_vit"}
    assert len(set(PROVEN)) >= 300
