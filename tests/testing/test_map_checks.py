"""The checks prove correct levels of a plugin, and say what is wrong with incorrect ones."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from tests.testing.networks import Lab, Tiny
from torch import nn

from headstrip import Level, LevelError, build_encoder, hookimpl


class Levelled(Tiny):
    """Two stages, so that levels can be in the wrong order."""

    def __init__(self, num_classes=5):
        super().__init__(num_classes)
        self.down = nn.Conv2d(6, 6, 3, 2, 1)
        self.side = nn.Conv2d(6, 6, 3, padding=1)

    def features(self, x):
        found = super().features(x)
        return self.down(found + self.side(found))


class Tokens(nn.Module):
    """A class token before patches of 4 pixels; the embedding is the mean of all tokens."""

    def __init__(self, num_classes=5):
        super().__init__()
        self.cut = nn.Conv2d(3, 6, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.positions = nn.Parameter(torch.randn(1, 17, 6))
        self.norm = nn.LayerNorm(6)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x):
        patches = self.cut(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], 1)
        return self.fc(self.norm(tokens + self.positions).mean(1))


def plugin_of(network, levels):
    class Stating(Lab):
        NETWORK = network

        @hookimpl
        def levels(self, model):
            return levels(model) if callable(levels) else levels

    params = sum(one.numel() for one in network().parameters())
    Stating.SPEC = type(Lab.SPEC)(
        **{name: getattr(Lab.SPEC, name) for name in Lab.SPEC.__slots__} | {"params": params}
    )
    return Stating()


class Whole(nn.Module):
    """A module that computes the maps of a network, optionally with a defect."""

    def __init__(self, network, wrong=""):
        super().__init__()
        self.network, self.wrong = network, wrong

    def forward(self, x, levels, norm):
        found = self.network.features(x)
        embedding = self.network.pool(found).flatten(1) * (2 if self.wrong == "embedding" else 1)
        if self.wrong == "hook":
            self.network.stem.register_forward_hook(lambda *_: None)
        return embedding, [found + (levels is None and self.wrong == "map")], [None]


TOKENS = {"layout": "NLC", "stride": 4}


@pytest.mark.parametrize(
    ("network", "levels", "seen"),
    [
        (Levelled, ("norm", "down"), "2 maps, the embedding follows from each, the grid proven by"),
        (Tokens, (Level("norm", prefix=1, **TOKENS),), "1 maps, .* the grid proven by locality"),
        (
            Levelled,
            Whole,
            "1 maps, from a module .* follows from 1 of 1, the grid proven",
        ),
    ],
)
def test_right_levels_pass(judge, network, levels, seen):
    result = judge(plugin_of(network, levels))["maps"]
    assert result.status == "passed", result.seen
    assert re.match(seen, result.seen)


@pytest.mark.parametrize(
    ("network", "levels", "problem"),
    [
        (Levelled, ("stem", "side"), "with the map of another picture at 'side', the network does"),
        (Levelled, ("norm", "norm"), "the plugin states the level 'norm' twice"),
        (Levelled, ("nowhere",), "the network has no module at 'nowhere'"),
        (Levelled, ("down", "norm"), "the maps do not come the finest first"),
        (Tokens, (Level("norm", **TOKENS),), "the network has 17 tokens after 0 at 'norm', which"),
        (Tokens, ("norm",), "the network has 3 axes at 'norm', where NCHW has 4"),
        (Levelled, lambda model: Whole(model, "embedding"), "the embedding beside the maps is not"),
        (Levelled, lambda model: Whole(model, "map"), "level 0 alone is another map than among"),
        (
            Levelled,
            lambda model: Whole(model, "hook"),
            "reading the maps changes the module 'stem'",
        ),
    ],
)
def test_wrong_levels_fail(judge, network, levels, problem):
    result = judge(plugin_of(network, levels))["maps"]
    assert (result.status, result.seen[: len(problem)]) == ("failed", problem)


@pytest.mark.parametrize(
    ("channels", "strides", "levels", "problem"),
    [
        ((6, 7), (1, 2), ("norm", "down"), "the catalog claims the channels (6, 7), but the maps"),
        ((6, 6), (1, 4), ("norm", "down"), "the catalog claims the strides (1, 4), but the maps"),
        (
            (6,),
            (1,),
            None,
            "the catalog claims maps of the channels (6,), but the plugin",
        ),
    ],
)
def test_wrong_claims_of_a_catalog_fail(judge, channels, strides, levels, problem):
    plugin = plugin_of(Levelled, levels)
    type(plugin).SPEC = replace(plugin.SPEC, channels=channels, strides=strides)
    result = judge(plugin)["maps"]
    assert (result.status, result.seen[: len(problem)]) == ("failed", problem)


def test_right_claims_of_a_catalog_pass(judge):
    plugin = plugin_of(Levelled, ("norm", "down"))
    type(plugin).SPEC = replace(plugin.SPEC, channels=(6, 6), strides=(1, 2))
    assert judge(plugin)["maps"].status == "passed"


@pytest.mark.parametrize("levels", [None, ()])
def test_a_plugin_without_levels_skips_the_check(judge, levels):
    assert judge(plugin_of(Levelled, levels))["maps"].status == "skipped"


class One(nn.Module):
    """A module that returns only a tensor."""

    def forward(self, x, levels, norm):
        return x


WRONG = {
    "the coarsest first": (("down", "side"), "and the finest must come first"),
    "one twice": (("down", "down"), "states the level 'down' twice"),
    "a module that gives a tensor": (lambda model: One(), "returns a Tensor from the module of"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_encoder_refuses_wrong_levels_of_its_plugin(registry, kind):
    levels, message = WRONG[kind]
    registry.register(plugin_of(Levelled, levels), "lab")
    encoder = build_encoder("lab:tiny", weights=None)
    x = torch.zeros(1, *encoder.input_shape)
    for call in (encoder.maps, encoder.with_maps, lambda x: encoder.pyramid()(x)):
        with pytest.raises(LevelError, match=message) as caught:
            call(x)
        assert "'lab'" in str(caught.value)
