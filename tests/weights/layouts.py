"""Checkpoints in the layouts that training programs write, built from a state dict."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.weights.files import State, save_safetensors, save_zip

from headstrip import Encoder


def prefixed(state: State, *prefixes: str) -> State:
    """Put a state dict under the first prefix, and zeros with its shapes under the others."""
    return {
        f"{prefix}{name}": tensor if prefix == prefixes[0] else torch.zeros_like(tensor)
        for prefix in prefixes
        for name, tensor in state.items()
    }


def adam(state: State) -> dict[str, Any]:
    """Return the state of an Adam optimizer."""
    moments = {"step": torch.tensor(1.0), "exp_avg": next(iter(state.values()))}
    return {"state": {0: moments}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def plain(state: State) -> Any:
    return state


def state_dict(state: State) -> Any:
    return {"state_dict": state, "epoch": 3, "optimizer": adam(state)}


def lightning(state: State) -> Any:
    return {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {**prefixed(state, "model."), "loss.weight": torch.ones(3)},
        "optimizer_states": [adam(state)],
        "callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": {"lr": 0.1},
    }


def ddp(state: State) -> Any:
    return {"model": prefixed(state, "module."), "args": {"lr": 0.1}}


def fsdp(state: State) -> Any:
    def inside(name: str) -> str:
        first, dot, rest = name.partition(".")
        return f"_fsdp_wrapped_module.{first}.{f'_fsdp_wrapped_module.{rest}' if dot else ''}"

    return {"model": {inside(name).rstrip("."): one for name, one in state.items()}}


def compiled(state: State) -> Any:
    return prefixed(state, "_orig_mod.")


def compiled_lightning(state: State) -> Any:
    return {"state_dict": prefixed(state, "model._orig_mod.")}


def timm_ema(state: State) -> Any:
    other = {name: torch.zeros_like(one) for name, one in state.items()}
    return {"arch": "x", "state_dict": other, "state_dict_ema": state, "optimizer": adam(state)}


def model_ema(state: State) -> Any:
    other = {name: torch.zeros_like(one) for name, one in state.items()}
    return {"model": other, "model_ema": state}


def dino(state: State) -> Any:
    student = {name: torch.zeros_like(one) for name, one in state.items()}
    head = {
        "module.head.mlp.0.weight": torch.zeros(8, 8),
        "module.head.last_layer.weight_g": torch.ones(8, 1),
    }
    return {
        "student": {**prefixed(student, "module.backbone."), **head},
        "teacher": {**prefixed(state, "module.backbone."), **head},
        "optimizer": adam(state),
        "epoch": 3,
        "args": Namespace(arch="x", lr=0.1, local_crops_scale=(0.05, 0.4)),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }


def with_two_layers(state: State) -> State:
    """Replace a head with 1,000 classes by the two layers of MoCo v2."""
    head = [name for name, one in state.items() if one.shape[:1] == (1000,)]
    if not head:
        return state
    path = head[0].rpartition(".")[0]
    layers = {
        f"{path}.{at}.{part}": torch.zeros(8 - at) for at in (0, 2) for part in ("weight", "bias")
    }
    return {**{name: one for name, one in state.items() if name not in head}, **layers}


def moco(state: State) -> Any:
    both = prefixed(with_two_layers(state), "module.encoder_q.", "module.encoder_k.")
    return {
        "arch": "x",
        "state_dict": {
            **both,
            "module.queue": torch.zeros(8, 16),
            "module.queue_ptr": torch.zeros(1),
        },
    }


def lightly_simclr(state: State) -> Any:
    return {
        "state_dict": {
            **prefixed(state, "backbone."),
            "projection_head.layers.0.weight": torch.zeros(8, 8),
        }
    }


def lightly_byol(state: State) -> Any:
    return {
        "state_dict": {
            **prefixed(state, "backbone.", "backbone_momentum."),
            "projection_head.layers.0.weight": torch.zeros(8, 8),
            "prediction_head.layers.0.weight": torch.zeros(8, 8),
        }
    }


def vissl(state: State) -> Any:
    trunk = prefixed(state, "_feature_blocks.")
    heads = {"0.clf.0.weight": torch.zeros(8, 8)}
    model = {"trunk": trunk, "heads": heads}
    return {"classy_state_dict": {"base_model": {"model": model, "meta": {}}}, "iteration": 3}


def mae(state: State) -> Any:
    return {
        "model": {
            **state,
            "mask_token": torch.zeros(1, 1, 8),
            "decoder_embed.weight": torch.zeros(8, 8),
            "decoder_blocks.0.norm1.weight": torch.zeros(8),
        },
        "args": Namespace(lr=0.1),
    }


def wbcatt(state: State) -> Any:
    return {
        **prefixed(state, "image_encoder."),
        "attribute_predictors.0.weight": torch.zeros(12, 8),
        "attribute_predictors.0.bias": torch.zeros(12),
    }


@dataclass(frozen=True)
class Layout:
    """The layout of a checkpoint.

    Attributes:
        make: Builds a checkpoint from a state dict.
        place: The position of the state dict in the checkpoint, as in ``encoder.weights_key``.
        key: The ``weights_key`` that selects it, or None if no other state dict fits.
        has_head: Whether the program that writes this layout saves a head with the backbone.
    """

    make: Callable[[State], Any]
    place: str
    key: str | None = None
    has_head: bool = True


LAYOUTS = {
    "plain": Layout(plain, ""),
    "`state_dict`": Layout(state_dict, "state_dict"),
    "Lightning": Layout(lightning, "state_dict.model"),
    "DDP": Layout(ddp, "model.module"),
    "FSDP, gathered": Layout(fsdp, "model"),
    "torch.compile": Layout(compiled, ""),
    "Lightning and torch.compile": Layout(compiled_lightning, "state_dict.model"),
    "EMA, `state_dict_ema`": Layout(timm_ema, "state_dict_ema", "state_dict_ema"),
    "EMA, `model_ema`": Layout(model_ema, "model_ema", "model_ema"),
    "DINO": Layout(dino, "teacher.module.backbone", "teacher", has_head=False),
    "MoCo v2": Layout(moco, "state_dict.module.encoder_q", "encoder_q"),
    "SimCLR of lightly": Layout(lightly_simclr, "state_dict.backbone", has_head=False),
    "BYOL of lightly": Layout(lightly_byol, "state_dict.backbone", "backbone", has_head=False),
    "VISSL": Layout(
        vissl, "classy_state_dict.base_model.model.trunk._feature_blocks", has_head=False
    ),
    "MAE": Layout(mae, "model", has_head=False),
    "WBCAtt": Layout(wbcatt, "image_encoder", has_head=False),
}
"""The layouts by the name of the training program or wrapper that writes them."""


def flat(content: Any, prefix: str = "") -> State:
    """Flatten nested dicts into tensors with dotted names, as in a safetensors file."""
    if isinstance(content, torch.Tensor):
        return {prefix.removesuffix("."): content.clone()}
    inner = content.items() if isinstance(content, dict) else ()
    return {key: one for name, part in inner for key, one in flat(part, f"{prefix}{name}.").items()}


def save_sharded(content: State, folder: Path, shards: int = 2) -> Path:
    """Save a state dict as several safetensors files, and return the path of their index."""
    shard_of = {name: f"{at % shards}" for at, name in enumerate(content)}
    for shard in sorted(set(shard_of.values())):
        part = {name: one for name, one in content.items() if shard_of[name] == shard}
        save_safetensors(part, folder / shard)
    index = folder / "model.safetensors.index.json"
    files = {name: f"{shard}.safetensors" for name, shard in shard_of.items()}
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return index


FORMATS: dict[str, Callable[[Any, Path], Path]] = {
    "torch.save": lambda content, folder: save_zip(content, folder / "run"),
    "safetensors": lambda content, folder: save_safetensors(flat(content), folder / "run"),
    "sharded": lambda content, folder: save_sharded(flat(content), folder),
}
"""Functions that save a layout in each format and return the path to pass as ``weights``."""


def holds(encoder: Encoder, state: State) -> bool:
    """Return whether the backbone's tensors equal those of a state dict."""
    own = encoder.backbone.state_dict()
    # headstrip wraps the networks of transformers in a module with a `network` attribute.
    names = {name: name.removeprefix("network.") for name in own}
    return all(torch.equal(own[mine], state[name]) for mine, name in names.items())
