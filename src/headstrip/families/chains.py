"""Levels of networks whose features are one chain of layers."""

from __future__ import annotations

from torch import nn


def ends_of_strides(features: nn.Sequential) -> list[str]:
    """Return the path of each layer before one that halves the map, and of the last layer."""
    halves = [
        any(isinstance(one, nn.Conv2d) and one.stride[0] > 1 for one in layer.modules())
        for layer in features
    ]
    ends = [number - 1 for number, halved in enumerate(halves) if halved and number]
    return [f"features.{number}" for number in (*ends, len(halves) - 1)]


def before_poolings(features: nn.Sequential) -> list[str]:
    """Return the levels at the input of each pooling, and at the output of the last layer."""
    poolings = [number for number, one in enumerate(features) if isinstance(one, nn.MaxPool2d)]
    return [*(f">features.{number}" for number in poolings), f"features.{len(features) - 1}"]
