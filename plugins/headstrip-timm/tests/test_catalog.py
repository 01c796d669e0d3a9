"""The catalog matches timm's architectures."""

from __future__ import annotations

import random

import pytest
import timm
import torch
from tests.sampling import mostly_slow

from headstrip import build_encoder
from headstrip.factory.measure import measure
from headstrip.network.meta_ops import without_memory
from headstrip.registry.index import row_problem
from headstrip.registry.registry import Registry, get_registry
from headstrip.testing.perturb import FastRandom
from headstrip_timm.describe import has_tag, unmeasured_spec
from headstrip_timm.families import FAMILIES, family_of

SPECS = {spec.name: spec for spec in get_registry().specs() if spec.source == "timm"}
INSTALLED = [name for name in SPECS if timm.is_model(name)]
REFUSED: frozenset[str] = frozenset()
"""Architectures of timm that are not encoders; at present, none."""
SMALL = [name for name in INSTALLED if SPECS[name].params < 40_000_000]


def width(name):
    """Return the width of the pooled features that a timm network states."""
    tag = SPECS[name].default_weights
    options = {"pretrained_cfg": tag} if tag and has_tag(name, tag) else {}
    try:
        with without_memory():
            model = timm.create_model(name, **options)
    except RuntimeError:
        # In the oldest timm, some constructors compute with tensors.
        model = timm.create_model(name, **options)
    return getattr(model, "head_hidden_size", None) or model.num_features


def sample(names, count, seed):
    return random.Random(seed).sample(names, count)


def test_the_names_are_sorted():
    assert [*SPECS] == sorted(SPECS)


def test_every_row_is_valid():
    assert [problem for spec in SPECS.values() if (problem := row_problem(spec, "timm"))] == []
    assert all(record.error is None for record in Registry().records() if record.name == "timm")


def test_the_catalog_has_every_architecture_of_the_installed_timm():
    assert set(timm.list_models()) - REFUSED <= SPECS.keys()


def test_families_match_the_modules_of_timm():
    assert {SPECS[name].family for name in INSTALLED} == {
        f"timm:{family_of(name)}" for name in INSTALLED
    }
    assert {SPECS[name].family.removeprefix("timm:") for name in INSTALLED} <= set(FAMILIES)


def test_families_and_default_weights_match_the_installed_timm():
    if len(INSTALLED) < len(SPECS):
        pytest.skip("the catalog was written from a newer timm")
    for name in INSTALLED:
        live = unmeasured_spec(name)
        assert (SPECS[name].family, SPECS[name].default_weights) == (
            live.family,
            live.default_weights,
        )


@pytest.mark.parametrize("name", mostly_slow(sample(SMALL, 25, seed=4)))
def test_a_row_matches_its_network_and_its_width_matches_timms(name):
    spec = SPECS[name]
    if spec.default_weights and not has_tag(name, spec.default_weights):
        pytest.skip("this timm has not the default weights of the catalog")
    assert measure(spec) == spec
    assert width(name) == spec.dim


@pytest.mark.slow
@pytest.mark.parametrize("name", sample(SMALL, 100, seed=4))
def test_the_embedding_has_the_width_of_the_catalog(name):
    # The width does not depend on the values.
    with FastRandom():
        encoder = build_encoder(f"timm:{name}", weights=None, strict=True)
    shape = encoder.input_shape
    with torch.inference_mode():
        embedding = encoder(torch.randn(1, *shape))
    assert embedding.shape == (1, SPECS[name].dim)
