"""After stripping the head, its network gives a feature map, not an embedding."""

from torch import nn

from headstrip import Stripped, hookimpl

FAMILIES = ("net",)


@hookimpl
def build_model(spec, options):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


@hookimpl
def strip_head(model, family, spec, entry):
    return Stripped(model[:1], model[3], ("3",))
