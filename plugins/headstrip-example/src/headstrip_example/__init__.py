"""The smallest plugin: a network of its own, and how its head comes off."""

from collections.abc import Mapping

from torch import nn

from headstrip import BackboneSpec, Stripped, detach, hookimpl

API_VERSION, FAMILIES = 1, ("tiny",)


@hookimpl
def backbones() -> tuple[BackboneSpec, ...]:
    """List all that there is; `headstrip catalog write` measures width and parameters."""
    return (BackboneSpec("tiny", "example", "example:tiny", "example", "image", (3, 32, 32), 0, 0),)


@hookimpl
def build_model(spec: BackboneSpec, options: Mapping[str, int]) -> nn.Module:
    """Build the network with random values, its head included."""
    if options.keys() - {"num_classes"}:
        raise TypeError(f"{spec.name} has the option num_classes alone, and not {sorted(options)}")
    stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(stem, nn.Linear(32, options.get("num_classes", 10)))


@hookimpl
def strip_head(model: nn.Module) -> Stripped:
    """Take the head off."""
    return detach(model, "1")
