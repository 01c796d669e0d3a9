"""Checkpoints as training programs write them, made of the state dict of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.weights.files import State


def prefixed(state: State, *prefixes: str) -> State:
    """Put a state dict under the first prefix, and zeros of its shapes under the others."""
    return {
        f"{prefix}{name}": tensor if prefix == prefixes[0] else torch.zeros_like(tensor)
        for prefix in prefixes
        for name, tensor in state.items()
    }


def adam(state: State) -> dict[str, Any]:
    """The state of an optimizer."""
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
        "dino_loss": {"center": torch.zeros(1, 8)},
    }


def moco(state: State) -> Any:
    both = prefixed(state, "module.encoder_q.", "module.encoder_k.")
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
        }
    }


def wbcatt(state: State) -> Any:
    return {
        **prefixed(state, "image_encoder."),
        "attribute_predictors.0.weight": torch.zeros(12, 8),
        "attribute_predictors.0.bias": torch.zeros(12),
    }


LAYOUTS: dict[str, tuple[Callable[[State], Any], str | None, str]] = {
    "plain": (plain, None, ""),
    "state_dict": (state_dict, None, "state_dict"),
    "lightning": (lightning, None, "state_dict.model"),
    "ddp": (ddp, None, "model.module"),
    "fsdp": (fsdp, None, "model"),
    "compiled": (compiled, None, ""),
    "compiled lightning": (compiled_lightning, None, "state_dict.model"),
    "state_dict_ema": (timm_ema, "state_dict_ema", "state_dict_ema"),
    "model_ema": (model_ema, "model_ema", "model_ema"),
    "dino": (dino, "teacher", "teacher.module.backbone"),
    "moco": (moco, "encoder_q", "state_dict.module.encoder_q"),
    "simclr": (lightly_simclr, None, "state_dict.backbone"),
    "byol": (lightly_byol, "backbone", "state_dict.backbone"),
    "vissl": (vissl, None, "classy_state_dict.base_model.model.trunk._feature_blocks"),
    "mae": (mae, None, "model"),
    "wbcatt": (wbcatt, None, "image_encoder"),
}
"""Each layout, the weights_key that it needs, and where the state dict is in it."""
