"""Each set of weights has the constructor options that torchvision uses for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.sampling import mostly_slow
from torch import nn
from torchvision import models
from torchvision.models import WeightsEnum

from headstrip import BackboneSpec, WeightsEntry
from headstrip.registry.registry import get_registry

SETS = [
    (spec, entry)
    for spec in get_registry().specs()
    if spec.source == "torchvision" and spec.family != "regnet"
    for entry in get_registry().weights(spec)
]
AUXILIARY = ("aux", "Aux")


def plain_values(model: nn.Module) -> dict[tuple[str, str], Any]:
    """Collect the plain attributes of a network's modules, without auxiliary heads."""
    return {
        (path, key): value
        for path, module in model.named_modules()
        for key, value in vars(module).items()
        if not key.startswith(("_", *AUXILIARY)) and not path.startswith(AUXILIARY)
        if isinstance(value, (bool, int, float, str, tuple, list))
    }


@pytest.mark.parametrize(
    ("spec", "entry"), mostly_slow(SETS), ids=[f"{spec.name}-{entry.tag}" for spec, entry in SETS]
)
def test_each_set_of_weights_builds_the_same_network_as_torchvision(
    spec: BackboneSpec, entry: WeightsEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device builds both networks without memory, and the test skips loading.

    RegNets cannot be built on the meta device. The next test checks that they have no options.
    """
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *_, **__: {})
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda self, *_, **__: None)
    options = {**dict(spec.options), **dict(entry.options)}
    with torch.device("meta"):
        theirs = models.get_model(spec.name, weights=entry.tag)
        mine = get_registry().owner(spec).call("build_model", spec.name, spec=spec, options=options)
    assert plain_values(mine) == plain_values(theirs)
    assert {key: value.shape for key, value in mine.state_dict().items()} == {
        key: value.shape
        for key, value in theirs.state_dict().items()
        if not key.startswith(AUXILIARY)
    }


def test_the_weights_of_regnets_need_no_options() -> None:
    registry = get_registry()
    regnets = [spec for spec in registry.specs() if spec.family == "regnet"]
    assert len(regnets) == 15
    assert all(spec.options == () for spec in regnets)
    assert all(entry.options == () for spec in regnets for entry in registry.weights(spec))


def test_the_comparison_detects_a_changed_option() -> None:
    with torch.device("meta"):
        plain = models.googlenet(aux_logits=False, init_weights=False)
        transforming = models.googlenet(aux_logits=False, init_weights=False, transform_input=True)
    assert plain_values(plain) != plain_values(transforming)
