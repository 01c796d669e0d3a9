"""A plugin that keeps the contract, and the parts of plugins with defects.

The networks live in a module, so that they can be pickled as any plugin's can.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from headstrip import (
    BackboneSpec,
    HeadNotFoundError,
    Preprocessing,
    Stripped,
    WeightsEntry,
    detach,
    hookimpl,
)

PREPROCESSING = Preprocessing(crop=(16, 16), resize=18, mean=(0.5,) * 3, std=(0.25,) * 3)
WEIGHTS = WeightsEntry(
    "V1",
    ("https://weights.example/tiny.pth",),
    num_classes=5,
    input_shape=(3, 16, 16),
    preprocessing=PREPROCESSING,
    license="apache-2.0",
)
TINY = BackboneSpec(
    "tiny", "lab", "lab:tiny", "lab", "image", (3, 16, 16), 6, 221, "V1", sizes="any"
)
"""Parameters: 168 in the stem, 12 in its norm, 6 unused, 35 in the head."""


class Tiny(nn.Module):
    """A stem, a norm, a global mean and a linear head, and a parameter that nothing uses."""

    def __init__(self, num_classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.unused = nn.Parameter(torch.zeros(6))
        self.fc = nn.Linear(6, num_classes)

    def features(self, x):
        return self.norm(self.stem(x)).relu()

    def forward(self, x):
        return self.fc(self.pool(self.features(x)).flatten(1))


class Lab:
    """A plugin with one network, its family and its weights."""

    FAMILIES = ("tiny",)
    NETWORK = Tiny
    SPEC = TINY
    ENTRIES = (WEIGHTS,)
    PREPROCESSING = PREPROCESSING

    @hookimpl
    def backbones(self):
        return (self.SPEC,)

    @hookimpl
    def build_model(self, spec, options):
        return self.NETWORK(**options)

    @hookimpl
    def strip_head(self, model, family, spec, entry):
        return self.strip(model)

    def strip(self, model):
        return detach(model, "fc")

    @hookimpl
    def weights(self, spec):
        return self.ENTRIES

    @hookimpl
    def preprocessing(self, spec):
        return self.PREPROCESSING


class Headless(Tiny):
    """Without classes, it returns the mean of the map."""

    def __init__(self, num_classes=0):
        super().__init__(num_classes or 1)
        self.fc = nn.Linear(6, num_classes) if num_classes else nn.Identity()


class HeadlessLab(Lab):
    """A plugin with a family that has no head."""

    NETWORK = Headless
    SPEC = replace(TINY, law="headless", params=186)
    ENTRIES = (replace(WEIGHTS, num_classes=None),)

    def strip(self, model):
        if not isinstance(model, Tiny):
            raise HeadNotFoundError("no network of this family")
        if isinstance(model.fc, nn.Linear):
            return detach(model, "fc")
        return Stripped(model, None, (), "headless")


class LateRelu(Tiny):
    """The head is a convolution on the map, and the mean comes after it."""

    def __init__(self, num_classes=5):
        super().__init__(num_classes)
        self.fc = nn.Conv2d(6, num_classes, 1)

    def forward(self, x):
        return self.pool(self.fc(self.features(x)).relu()).flatten(1)


class DeclaredLab(Lab):
    """A plugin with logits that a pooled embedding does not determine."""

    NETWORK = LateRelu
    SPEC = replace(TINY, law="declared")

    def strip(self, model):
        if not isinstance(model, LateRelu):
            raise HeadNotFoundError("no network of this family")
        model.fc = nn.Identity()
        return Stripped(model, None, ("fc",), "declared")

    @hookimpl
    def reference(self, model, x, family):
        return model.features(x).relu().mean((2, 3))


class Clip(nn.Module):
    """A network for clips."""

    def __init__(self, num_classes=5):
        super().__init__()
        self.stem = nn.Conv3d(3, 6, 3)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x):
        return self.fc(self.stem(x).mean((2, 3, 4)))


CLIPS = replace(PREPROCESSING, frames=4)


class ClipLab(Lab):
    """A plugin for clips."""

    NETWORK = Clip
    SPEC = replace(TINY, task="video", input_shape=(3, 4, 16, 16), params=527)
    ENTRIES = (replace(WEIGHTS, input_shape=(3, 4, 16, 16), preprocessing=CLIPS),)
    PREPROCESSING = CLIPS


class Computing(Tiny):
    """Its constructor reads values of a tensor, which fails on the meta device."""

    def __init__(self, num_classes=5):
        super().__init__(num_classes)
        self.rates = torch.linspace(0, 1, 6).tolist()


class ComputingLab(Lab):
    """A plugin with a network that headstrip builds for real at every level."""

    NETWORK = Computing


class Branching(Tiny):
    """Its forward reads a value, which fails on the meta device."""

    def features(self, x):
        return super().features(x if float(self.stem.weight.abs().max()) < 100 else x / 100)


class BranchingLab(Lab):
    """A plugin with a network that headstrip runs for real at every level."""

    NETWORK = Branching
