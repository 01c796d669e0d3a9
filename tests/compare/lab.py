"""A plugin with small networks that have weights, and labelled pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from headstrip import BackboneSpec, Preprocessing, WeightsEntry, detach, hookimpl, register_plugin
from headstrip.registry.registry import use_registry

SIDE = 8
_STEPS = Preprocessing(crop=(SIDE, SIDE), resize=(SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3)
_WIDTHS = {"wide": 24, "twin": 24, "small": 8, "noise": 24, "hungry": 24, "picky": 24}


def spec_of(name: str) -> BackboneSpec:
    dim = 4 * _WIDTHS.get(name, 24)
    return BackboneSpec(
        name, "lab", "lab:net", "lab", "image", (3, SIDE, SIDE), dim, 0, default_weights="v1"
    )


class Hungry(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_meta and len(x) > 0 and x.device.type == "cpu" and x.abs().sum() > 0:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: tried 9 bytes.")
        return x


class Picky(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Networks check their input by `assert`, and images are not all zeros.
        assert x.is_meta or not x.any(), "the input has the wrong height"
        return x


class Lab:
    """Small networks; ``noise`` ignores its input, and the last ones are broken."""

    API_VERSION = 1
    FAMILIES = ("net",)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for seed, name in enumerate(_WIDTHS):
            torch.manual_seed(seed)
            model = self.network(name)
            if name == "noise":
                for parameter in model.parameters():
                    nn.init.zeros_(parameter)
            torch.save(model.state_dict(), folder / f"{name}.pth")

    def network(self, name: str, classes: int = 5) -> nn.Sequential:
        width = _WIDTHS[name]
        first = {"hungry": Hungry(), "picky": Picky()}.get(name, nn.Identity())
        layers = first, nn.Conv2d(3, width, 4, 4), nn.ReLU(), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(4 * width, classes))

    @hookimpl
    def backbones(self) -> tuple[BackboneSpec, ...]:
        return tuple(map(spec_of, [*_WIDTHS, "broken"]))

    @hookimpl
    def build_model(self, spec: BackboneSpec, options: Any) -> nn.Module:
        return self.network(spec.name, dict(options).get("num_classes", 5))

    @hookimpl
    def strip_head(self, model: nn.Module, family: str) -> Any:
        return detach(model, "4")

    @hookimpl
    def weights(self, spec: BackboneSpec) -> tuple[WeightsEntry, ...]:
        file = str(self.folder / f"{spec.name}.pth")
        return (WeightsEntry("v1", (file,), num_classes=5, preprocessing=_STEPS, license="MIT"),)


@contextmanager
def lab_in(folder: Path) -> Iterator[None]:
    """Register the plugin, with its weights below a folder."""
    weights = folder / "weights"
    weights.mkdir()
    use_registry(None)
    with torch.random.fork_rng(devices=[]):
        register_plugin(Lab(weights), "lab")
    yield
    use_registry(None)


def picture(kind: int, seed: int) -> Image.Image:
    """Return a picture of noise in a colour."""
    generator = np.random.default_rng([kind, seed])
    pixels = generator.integers(0, 160, (24, 24, 3))
    pixels[..., kind] += 60
    return Image.fromarray(pixels.astype(np.uint8))


def png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "png", **options)
    return file.getvalue()


def write_pictures(folder: Path, count: int) -> None:
    """Write a folder per class."""
    for number in range(count):
        kind = ("red", "green", "blue")[number % 3]
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / f"{number:03d}.png").write_bytes(png(picture(number % 3, number)))
