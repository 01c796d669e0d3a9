"""The smallest network of each model type, and its files as transformers writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from headstrip.testing import perturb
from headstrip_transformers.configs import config_of
from headstrip_transformers.towers import TOWERS, network_class

Serve = Callable[..., AbstractContextManager[str]]
"""The type of the fixture ``serve``."""

_TOKENS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
_MLP = {**_TOKENS, "intermediate_size": 48}
_CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "image_size": 64}
_SWIN = {
    "embed_dim": 8,
    "depths": [1, 2],
    "num_heads": [1, 2],
    "window_size": 4,
    "image_size": 32,
}

OPTIONS: dict[str, dict[str, Any]] = {
    "aimv2_vision_model": _MLP,
    "clip_vision_model": _MLP,
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "dinov2": _TOKENS,
    "dinov2_with_registers": _TOKENS,
    "dinov3_convnext": _CONVNEXT,
    "dinov3_vit": {**_MLP, "num_register_tokens": 4},
    "ijepa": _MLP,
    "siglip_vision_model": _MLP,
    "swin": _SWIN,
    "swinv2": _SWIN,
    "vit": _MLP,
}
"""Constructor options of the smallest network of each model type."""

WIDTHS = {
    "aimv2_vision_model": 32,
    "clip_vision_model": 32,
    "convnext": 32,
    "convnextv2": 32,
    "dinov2": 64,
    "dinov2_with_registers": 64,
    "dinov3_convnext": 32,
    "dinov3_vit": 32,
    "ijepa": 32,
    "siglip_vision_model": 32,
    "swin": 16,
    "swinv2": 16,
    "vit": 32,
}
"""Embedding width of the smallest network of each model type."""

CLASSIFIERS = sorted(kind for kind, tower in TOWERS.items() if tower.output == "logits")
HEADLESS = sorted(set(TOWERS) - set(CLASSIFIERS))

PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "resample": 3,
}


def network_of(kind: str, classes: int = 5, **more: Any) -> Any:
    """Build one of transformers' own networks with perturbed values."""
    torch.manual_seed(0)
    config = config_of(TOWERS[kind], {**OPTIONS[kind], "num_classes": classes, **more})
    network = network_class(TOWERS[kind])(config).eval()
    perturb(network)
    return network


def tower_of(network: Any) -> Any:
    """Return a classifier's tower: the part below the classification layer."""
    (name,) = [name for name, _ in network.named_children() if name != "classifier"]
    part = network.get_submodule(name)
    if isinstance(part, transformers.PreTrainedModel):
        return part
    # Before 5.6 the towers of CLIP and SigLIP were in a separate module.
    alone = getattr(transformers, type(part).__name__.replace("Transformer", "Model"))(part.config)
    alone.vision_model = part
    return alone.eval()


def pixels(kind: str, count: int = 2) -> Tensor:
    """Return a batch of the input size of the smallest network."""
    side = OPTIONS[kind]["image_size"]
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def files_of(
    network: nn.Module, processor: dict[str, Any] | None = PROCESSOR, **save: Any
) -> dict[str, bytes]:
    """Return the files that ``save_pretrained`` writes for a network."""
    with TemporaryDirectory() as folder:
        network.save_pretrained(folder, **save)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    extra = {"preprocessor_config.json": json.dumps(processor).encode()} if processor else {}
    return files | extra


def processor(kind: str) -> dict[str, Any]:
    """An image processor with the input size of the smallest network."""
    side = OPTIONS[kind]["image_size"]
    return {**PROCESSOR, "size": {"height": side, "width": side}}


def folder_of(folder: Path, files: dict[str, bytes]) -> Path:
    """Write the files of a repository into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def whole(kind: str) -> Any:
    """Build the pair of an image tower and a text tower for a model type."""
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 20,
        "intermediate_size": 16,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    names = {"clip_vision_model": "CLIP", "siglip_vision_model": "Siglip"}
    name = names.get(kind, "Aimv2")
    config = getattr(transformers, f"{name}Config")(
        vision_config=dict(OPTIONS[kind]), text_config=text
    )
    torch.manual_seed(0)
    pair = getattr(transformers, f"{name}Model")(config).eval()
    perturb(pair)
    return pair
