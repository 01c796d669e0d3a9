"""A minimal plugin: one tiny network, and how to remove its head."""

from collections.abc import Mapping

from torch import nn

from headstrip import BackboneSpec, Stripped, detach, hookimpl

API_VERSION, FAMILIES = 1, ("tiny",)


@hookimpl
def backbones() -> tuple[BackboneSpec, ...]:
    """List the backbones. `headstrip catalog write` measures their width and parameters."""
    return (BackboneSpec("tiny", "example", "example:tiny", "example", "image", (3, 32, 32), 0, 0),)


@hookimpl
def build_model(spec: BackboneSpec, options: Mapping[str, int]) -> nn.Module:
    """Build the network with random values and with its head."""
    if options.keys() - {"num_classes"}:
        raise TypeError(f"{spec.name} has no options {sorted(options)}. It has only num_classes.")
    stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(stem, nn.Linear(32, options.get("num_classes", 10)))


@hookimpl
def strip_head(model: nn.Module) -> Stripped:
    """Remove the head."""
    return detach(model, "1")
