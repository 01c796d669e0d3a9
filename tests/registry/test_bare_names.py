"""A bare name has the same meaning whatever plugins are installed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.distributions import on_path, run_python
from tests.hostile.install import install_hostile

from headstrip import UnknownBackboneError, build_encoder
from headstrip.registry.registry import BARE_SOURCES, Registry, use_registry

PLUGINS = Path(__file__).parents[2] / "plugins"
ALONE = Registry(disabled=["*"])
NAMES = [spec.name for spec in ALONE.specs()]
SMALL = ("squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "mnasnet0_5", "resnet18")
MISTYPED = """
import json, sys
from headstrip import UnknownBackboneError
from headstrip.registry.registry import get_registry
for name in ("resnet_50", "vit_b_61", "tiny", "net", "resnet50.IMAGENET1K_V1x", "Resnet50"):
    try:
        get_registry().resolve(name)
    except UnknownBackboneError:
        pass
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the twelve hostile plugins."""
    site = tmp_path_factory.mktemp("hostile")
    install_hostile(site)
    return site


@pytest.fixture(scope="module")
def crowded(hostile: Path) -> Iterator[Registry]:
    """A registry with all the plugins of this repository and the twelve hostile ones."""
    with on_path(hostile):
        yield Registry()


def entry_points() -> set[str]:
    """Return the names of the plugins in this repository."""
    texts = [path.read_text(encoding="utf-8") for path in PLUGINS.glob("*/pyproject.toml")]
    section = re.compile(r"^\[project\.entry-points\.headstrip\]\n([\w-]+) = ", re.MULTILINE)
    return {name for text in texts for name in section.findall(text)}


def test_the_repositorys_and_the_hostile_plugins_are_installed(crowded):
    records = {r.name: r for r in crowded.records() if r.origin != "built-in"}
    assert records.keys() >= entry_points() >= {"example", "efficientnet-lite"}
    hostile = [r for r in records.values() if r.origin.startswith("hostile-")]
    assert len(hostile) == 12
    assert {r.status for r in records.values() if r not in hostile} == {"found"}


def test_every_torchvision_name_still_means_the_same_backbone(crowded):
    for name in NAMES:
        assert crowded.resolve(name) == ALONE.resolve(name)
        assert crowded.resolve(name)[0].source == "torchvision"


def test_every_torchvision_backbone_keeps_its_weights_and_preprocessing(crowded):
    for name in NAMES:
        entries = ALONE.weights(ALONE.resolve(name)[0])
        assert crowded.weights(crowded.resolve(name)[0]) == entries
        for entry in entries:
            tagged = f"{name}.{entry.tag}"
            assert crowded.resolve(tagged) == ALONE.resolve(tagged)


def test_every_torchvision_backbone_keeps_its_plugins(crowded):
    for spec in ALONE.specs():
        assert crowded.owner(spec).record.module == ALONE.owner(spec).record.module
        assert crowded.owner(spec).origin == "built-in"
        assert crowded.stripper(spec.family)[0].module == ALONE.stripper(spec.family)[0].module


def built(registry, name):
    """Build an encoder with random weights from a fixed seed."""
    use_registry(registry)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return build_encoder(name, weights=None, preprocessing="DEFAULT")
    finally:
        use_registry(None)


@pytest.mark.parametrize("name", SMALL)
def test_small_torchvision_backbones_build_the_same_network(crowded, name):
    encoder, other = built(crowded, name), built(ALONE, name)
    assert repr(encoder) == repr(other)
    assert encoder.preprocessing == other.preprocessing is not None
    states = encoder.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(*pair) for pair in zip(*(s.values() for s in states), strict=True))


def test_a_bare_name_resolves_only_to_torchvision_or_timm(crowded):
    owned = {spec.name: spec.source for spec in crowded.specs() if spec.source == "timm"}
    owned |= dict.fromkeys(NAMES, "torchvision")
    others = {spec.name for spec in crowded.specs() if spec.source not in BARE_SOURCES}
    for name, source in owned.items():
        assert crowded.resolve(name)[0].source == source
    assert others >= {"tiny", "net", "efficientnet_lite0"}
    for name in others - owned.keys():
        with pytest.raises(UnknownBackboneError):
            crowded.resolve(name)
    assert BARE_SOURCES == ("torchvision", "timm")


def test_a_mistyped_bare_name_imports_nothing(hostile):
    modules = json.loads(run_python("-c", MISTYPED, site=hostile).stdout)
    heavy = {"torch", "torchvision", "timm", "transformers", "huggingface_hub", "numpy"}
    assert "headstrip.registry" in modules
    assert not heavy & set(modules)
    assert not [name for name in modules if name.startswith(("hostile_", "headstrip_"))]
