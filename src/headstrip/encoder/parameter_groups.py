"""Groups of parameters for an optimizer: a learning rate by depth, and weight decay of matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from headstrip.network.decay import is_matrix, names_without_decay
from headstrip.network.depth import layers_of

BACKBONE = "backbone."
_REST = -1
"""The layer number of parameters outside the backbone: predictors, and modules of the user."""


def parameter_groups(
    encoder: nn.Module,
    shape: tuple[int, ...],
    *,
    lr: float,
    backbone_lr: float | None,
    layer_decay: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Divide the parameters that train into groups; see ``Encoder.parameter_groups``.

    Args:
        encoder: A module whose part ``backbone`` maps a batch (N, *shape) to embeddings.
        shape: Input of the backbone without the batch axis.
        lr: As for ``Encoder.parameter_groups``.
        backbone_lr: As for ``Encoder.parameter_groups``.
        layer_decay: As for ``Encoder.parameter_groups``.
        weight_decay: As for ``Encoder.parameter_groups``.
    """
    _check_number("lr", lr, "0.001")
    _check_number("weight_decay", weight_decay, "0.05")
    if not _is_number(layer_decay) or not 0 < layer_decay <= 1:
        raise ValueError(
            f"layer_decay must be above 0 and at most 1, got {layer_decay!r:.60}. Pass for example "
            "0.75; 1 gives all layers one learning rate."
        )
    if backbone_lr is None:
        backbone_lr = lr * layer_decay
    _check_number("backbone_lr", backbone_lr, "0.0001")
    trained = {name: one for name, one in encoder.named_parameters() if one.requires_grad}
    if not trained:
        raise ValueError(
            "No parameter of the encoder trains, so there is nothing to optimise. Call "
            "encoder.unfreeze(), or build the encoder with predictors={'colour': 12}."
        )
    layers: Mapping[str, int] = {}
    count = 1
    if layer_decay != 1 and any(name.startswith(BACKBONE) for name in trained):
        found = layers_of(encoder.get_submodule("backbone"), shape)
        layers = {name: number for number, names in enumerate(found) for name in names}
        count = len(found)
    owners = {
        id(one): module for module in encoder.modules() for one in module._parameters.values()
    }
    exempt = set(names_without_decay(encoder))
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in trained.items():
        is_backbone = name.startswith(BACKBONE)
        layer = layers.get(name.removeprefix(BACKBONE), 0) if is_backbone else _REST
        decays = name not in exempt and is_matrix(name, parameter, owners[id(parameter)])
        group = groups.setdefault(
            (layer, decays),
            {
                "name": _shown(layer, count, decays),
                "params": [],
                "lr": backbone_lr * layer_decay ** (count - 1 - layer) if is_backbone else lr,
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    # The order is from the input to the predictors; in each layer matrices come first.
    order = sorted(groups, key=lambda key: (key[0] == _REST, key[0], not key[1]))
    return [groups[key] for key in order]


def _shown(layer: int, count: int, decays: bool) -> str:
    part = "predictors" if layer == _REST else "backbone"
    number = f".layer{layer}" if layer != _REST and count > 1 else ""
    return f"{part}{number}{'' if decays else '.no_decay'}"


def _check_number(name: str, value: object, example: str) -> None:
    if not _is_number(value) or not 0 <= value < math.inf:  # type: ignore[operator]
        raise ValueError(
            f"{name} must be a number of 0 or more, got {value!r:.60}. Pass for example {example}."
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
