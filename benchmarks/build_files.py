"""The five architectures of `build.py`, and their weights files in the format of each library.

The values are random with a fixed seed; the measurements do not depend on them. A separate process
writes the files of one architecture once:

    python benchmarks/build_files.py resnet50 FOLDER
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SEED = 0


@dataclass(frozen=True)
class Architecture:
    """One architecture, under its name in each library.

    Attributes:
        name: Name in torchvision and headstrip.
        head: Module that WBCAtt's code replaces by ``nn.Identity()``.
        size: Side of the input of torchvision's default weights.
        timm: Name in timm, and the arguments that give the same network.
        transformers: Configuration class in transformers, and the values that differ from its
            defaults; None if transformers has no such network.
        auto: Arguments with which ``AutoModel.from_pretrained`` creates no layer that the file
            lacks.
    """

    name: str
    head: str
    size: int
    timm: tuple[str, Mapping[str, Any]]
    transformers: tuple[str, Mapping[str, Any]] | None
    auto: Mapping[str, Any]


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("resnet50", "fc", 224, ("resnet50", {}), ("ResNetConfig", {}), {}),
        Architecture("vgg16", "classifier.6", 224, ("vgg16", {}), None, {}),
        Architecture(
            "vit_b_16",
            "heads",
            224,
            ("vit_base_patch16_224", {}),
            ("ViTConfig", {}),
            {"add_pooling_layer": False},
        ),
        Architecture(
            "convnext_large",
            "classifier.2",
            224,
            ("convnext_large", {}),
            ("ConvNextConfig", {"depths": [3, 3, 27, 3], "hidden_sizes": [192, 384, 768, 1536]}),
            {},
        ),
        Architecture(
            "vit_h_14",
            "heads",
            518,
            ("vit_huge_patch14_224", {"img_size": 518}),
            (
                "ViTConfig",
                {
                    "hidden_size": 1280,
                    "num_hidden_layers": 32,
                    "num_attention_heads": 16,
                    "intermediate_size": 5120,
                    "patch_size": 14,
                    "image_size": 518,
                },
            ),
            {"add_pooling_layer": False},
        ),
    )
}


@dataclass(frozen=True)
class Files:
    """The files of one architecture. Apart from heads, they contain the same parameters.

    Attributes:
        torchvision: File in torch hub's cache with the name of torchvision's default weights.
            torchvision checks only the name of an existing file.
        headstrip: A link to the same file, with its hash in the name, which headstrip checks.
        tag: Tag of torchvision's default weights.
        timm: A safetensors file.
        transformers: A folder with configuration and safetensors file, None without one.
    """

    torchvision: str
    headstrip: str
    tag: str
    timm: str
    transformers: str | None

    def of(self, way: str) -> Path:
        """Return the file that a way of building reads."""
        if way == "transformers":
            return Path(self.transformers or "", "model.safetensors")
        return Path({"timm": self.timm, "headstrip": self.headstrip}.get(way, self.torchvision))

    def remove(self) -> None:
        """Delete all files."""
        for path in (self.torchvision, self.headstrip, self.timm):
            Path(path).unlink(missing_ok=True)
        if self.transformers:
            shutil.rmtree(self.transformers, ignore_errors=True)


def torch_home(folder: Path) -> Path:
    """Return the folder for `TORCH_HOME`."""
    return folder / "torch"


def record(name: str, folder: Path) -> Path:
    """Return the path of the JSON file that lists the files of an architecture."""
    return folder / f"{name}.json"


def read_record(name: str, folder: Path) -> Files | None:
    """Return the files of an architecture, or None if one of them is missing."""
    if not record(name, folder).is_file():
        return None
    files = Files(**json.loads(record(name, folder).read_text(encoding="utf-8")))
    ways = ["torchvision", "headstrip", "timm"] + ["transformers"] * bool(files.transformers)
    return files if all(files.of(way).is_file() for way in ways) else None


def write(architecture: Architecture, folder: Path) -> None:
    """Write the files of one architecture."""
    import torch
    from torchvision import models

    from headstrip.testing.perturb import FastRandom

    torch.manual_seed(SEED)
    default = models.get_model_weights(architecture.name).DEFAULT
    checkpoints = torch_home(folder) / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    path = checkpoints / default.url.rpartition("/")[2]
    # Do not pass `DEFAULT`, which would read the file. Only its input size is needed.
    size = {} if architecture.size == 224 else {"image_size": architecture.size}
    with FastRandom():
        model = models.get_model(architecture.name, weights=None, **size)
    torch.save(model.state_dict(), path)
    del model
    linked = checkpoints / f"{path.stem.partition('-')[0]}-{_sha256(path)[:8]}.pth"
    linked.unlink(missing_ok=True)
    os.link(path, linked)
    files = Files(
        str(path),
        str(linked),
        default.name,
        _write_timm(architecture, folder),
        _write_transformers(architecture, folder),
    )
    record(architecture.name, folder).write_text(json.dumps(asdict(files)), encoding="utf-8")


def _write_timm(architecture: Architecture, folder: Path) -> str:
    import timm
    from safetensors.torch import save_file

    from headstrip.testing.perturb import FastRandom

    name, options = architecture.timm
    with FastRandom():
        model = timm.create_model(name, **options)
    path = folder / "timm" / f"{architecture.name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(model.state_dict(), path, metadata={"format": "pt"})
    return str(path)


def _write_transformers(architecture: Architecture, folder: Path) -> str | None:
    if architecture.transformers is None:
        return None
    import transformers

    from headstrip.testing.perturb import FastRandom

    name, options = architecture.transformers
    config = getattr(transformers, name)(**options)
    with FastRandom():
        model = transformers.AutoModelForImageClassification.from_config(config)
    path = folder / "transformers" / architecture.name
    # Write one file, like the repositories of these networks on the hub.
    model.save_pretrained(path, max_shard_size="10GB")
    return str(path)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


if __name__ == "__main__":
    write(ARCHITECTURES[sys.argv[1]], Path(sys.argv[2]))
