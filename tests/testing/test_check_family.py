"""``check_family`` checks a plugin's family with networks from a function."""

from __future__ import annotations

import pytest
from tests.testing.networks import LateRelu, Tiny
from torch import nn

from headstrip import PluginError, Stripped, detach, hookimpl
from headstrip.testing import ConformanceError, check_family

SHAPE = (3, 16, 16)


class Stripping:
    """A plugin that removes heads and has no backbones."""

    FAMILIES = ("mine", "pooled", "hidden")

    @hookimpl
    def strip_head(self, model, family):
        parts = detach(model, "stem" if family == "hidden" else "fc", kind=nn.Module)
        if family == "pooled":
            model.pool = nn.AdaptiveMaxPool2d(1)
        return parts


class Declaring:
    FAMILIES = ("late",)

    @hookimpl
    def strip_head(self, model):
        detach(model, "fc", kind=nn.Conv2d)
        return Stripped(model, None, ("fc",), "declared")

    @hookimpl
    def reference(self, model, x, family):
        return model.features(x).relu().mean((2, 3))


@pytest.fixture(autouse=True)
def _plugins(registry):
    registry.register(Stripping(), "x")
    registry.register(Declaring(), "y")


@pytest.mark.parametrize("factory", [Tiny, lambda: Tiny(num_classes=9)])
def test_a_family_that_loses_nothing_passes(factory):
    check_family(factory, "x:mine", input_shape=SHAPE)


def test_a_family_with_the_law_declared_passes():
    check_family(LateRelu, "y:late", input_shape=SHAPE)


def test_a_built_in_family_passes():
    from torchvision.models import squeezenet1_1

    check_family(lambda: squeezenet1_1(num_classes=3), "squeezenet", input_shape=(3, 64, 64))


class ZeroHead(Tiny):
    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.fc.weight)


@pytest.mark.parametrize("factory", [Tiny, ZeroHead])
def test_another_pooling_fails(factory):
    with pytest.raises(ConformanceError, match="x:pooled: lossless: the logits differ"):
        check_family(factory, "x:pooled", input_shape=SHAPE)


def test_a_layer_that_is_not_the_head_fails():
    with pytest.raises(ConformanceError, match="x:hidden: "):
        check_family(Tiny, "x:hidden", input_shape=SHAPE)


def test_an_input_that_the_network_does_not_accept_fails():
    with pytest.raises(ConformanceError, match="x:mine: build: "):
        check_family(Tiny, "x:mine", input_shape=(4, 16, 16))


def test_a_factory_that_returns_no_network_fails():
    with pytest.raises(ConformanceError, match=r"x:mine: build: the factory returned a dict"):
        check_family(dict, "x:mine", input_shape=SHAPE)


@pytest.mark.parametrize("factory", [Tiny(), None, "Tiny"])
def test_a_factory_that_is_not_a_function_is_refused(factory):
    with pytest.raises(ValueError, match="Pass a function that makes a new network"):
        check_family(factory, "x:mine", input_shape=SHAPE)


@pytest.mark.parametrize("shape", [16, (3, 0, 16), (3, "16", 16), None])
def test_an_invalid_input_shape_is_refused(shape):
    with pytest.raises(ValueError, match="is not an input shape"):
        check_family(Tiny, "x:mine", input_shape=shape)


def test_a_factory_that_returns_one_network_twice_is_refused():
    model = Tiny()
    with pytest.raises(ValueError, match="returned the same network twice"):
        check_family(lambda: model, "x:mine", input_shape=SHAPE)


def test_an_unknown_family_is_refused():
    with pytest.raises(PluginError, match="has no family 'other'"):
        check_family(Tiny, "x:other", input_shape=SHAPE)
