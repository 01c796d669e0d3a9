"""A plugin that keeps the contract passes every check."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.sampling import smallest_of_families
from tests.testing.networks import (
    BranchingLab,
    ClipLab,
    ComputingLab,
    DeclaredLab,
    HeadlessLab,
    Lab,
)

from headstrip import UnknownBackboneError, build_encoder, register_plugin
from headstrip.factory.measure import measure
from headstrip.registry.registry import get_registry
from headstrip.testing import CHECKS, Result, check_plugin, parametrize_with_backbones, verify
from headstrip.testing.subject import Subject

SMALL = [
    "efficientnet_b0",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
]


@pytest.mark.parametrize(
    "plugin", [Lab, HeadlessLab, DeclaredLab, ClipLab, ComputingLab, BranchingLab]
)
def test_a_plugin_that_keeps_the_contract_passes_all_checks(judge, plugin):
    results = judge(plugin())
    assert list(results) == list(CHECKS)
    assert {one.status for one in results.values()} <= {"passed", "skipped"}, results
    skipped = {name for name, one in results.items() if one.status == "skipped"}
    assert skipped == {"maps"} | (set() if plugin.SPEC.law == "exact" else {"head"})


def test_the_level_meta_runs_only_the_first_checks(judge):
    results = judge(Lab(), "meta")
    assert list(results) == list(CHECKS)[:9]
    assert {one.status for one in results.values()} == {"passed"}


def test_a_result_says_what_the_check_found(judge):
    result = judge(Lab())["lossless"]
    assert result == Result(
        "lab:tiny", "lossless", "passed", "5 logits equal bit for bit", result.seconds
    )
    assert result.seconds > 0


def test_verify_leaves_the_callers_random_generators_unchanged(judge):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    judge(Lab())
    assert before == (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
    )


def test_a_name_with_a_tag_is_refused(registry):
    with pytest.raises(UnknownBackboneError, match=r"Pass 'torchvision:resnet18'\."):
        verify("resnet18.IMAGENET1K_V1")


@parametrize_with_backbones("torchvision", backbones=SMALL)
def test_built_in_backbones_keep_the_contract(check):
    check()


@pytest.mark.parametrize("name", [*SMALL, "vit_b_32", "swin_t"])
def test_a_backbone_on_the_meta_device_matches_headstrips_measurement(name):
    spec, _ = get_registry().resolve(name)
    light, measured = Subject(get_registry(), spec, "meta").light, measure(spec)
    seen = light.shape, light.dim, light.params, light.stripped.law
    assert seen == (measured.input_shape, measured.dim, measured.params, measured.law)


def test_a_large_network_with_values_from_a_pool_passes(judge, monkeypatch):
    monkeypatch.setattr("headstrip.testing.subject.LARGE", 100)
    results = judge(Lab())
    assert [name for name, one in results.items() if one.status != "passed"] == ["maps"], results


def test_a_verified_plugin_can_still_be_built(registry):
    register_plugin(Lab(), "lab")
    verify("lab:tiny")
    assert build_encoder("lab:tiny", weights=None).output_dim == 6


def test_the_table_of_checks_in_the_docs_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "reference" / "conformance.md"
    text = page.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.+) \|$", text, re.MULTILINE))
    assert {name: rows[name] for name in CHECKS} == {
        name: demand.rstrip(".").replace("``", "`") for name, demand in CHECKS.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", [spec.name for spec in smallest_of_families("torchvision")])
def test_the_smallest_backbone_of_each_family_keeps_the_contract(name):
    check_plugin("torchvision", backbones=[name], real=15_000_000)


@pytest.mark.slow
def test_all_built_in_backbones_pass_the_checks_without_memory():
    check_plugin("torchvision", real=False)
