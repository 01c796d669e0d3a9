"""Compute the tensors that transformers would load from a file, with its renaming of old keys.

This module copies no code of transformers. It passes the tensors that headstrip has read to
``from_pretrained``, and reads the loaded tensors back.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import CRITICAL
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from headstrip import WeightsError
from headstrip.plugin_api import one_line, plain_state_dict
from headstrip_transformers.towers import VisionTower

_TOWER = "vision_model."

_NOT_IN_TOWER = re.compile(
    # The text tower, and the layers that join both towers.
    r"text_model\.|text_projection\b|visual_projection\b|logit_scale$|logit_bias$"
    # Layers after the tokens that a classifier reads, and layers for masked pretraining.
    r"|(\w+\.)?pooler\.|decoder\.|(\w+\.)?embeddings\.mask_token$"
    # Tables in files of older releases, which are computed from the configuration.
    r"|.*\.(position_ids|relative_position_index|relative_coords_table)$"
)

_lock = threading.Lock()


def adapted(loaded: object, model: VisionTower) -> dict[str, Tensor]:
    """Return the state dict that transformers would load into a network from a file's content.

    Tensors whose shape differs from the network's are kept, so that headstrip reports them.

    Args:
        loaded: The content of the file, which may be nested.
        model: The network. Its tensors may be on the meta device.

    Raises:
        WeightsError: The file contains no named tensors, or transformers cannot read them.
    """
    network: Any = model.network
    state = _of_tower(plain_state_dict(loaded), network)
    try:
        with _lock, _silence():
            filled, report = type(network).from_pretrained(
                None,
                config=network.config,
                state_dict=dict(state),
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:
        raise WeightsError(
            f"transformers cannot read the file as weights of a {type(network).__name__} "
            f"({type(error).__name__}: {one_line(error, 200)}). "
            "Pass the name of the backbone that it was saved from."
        ) from error
    found = _loaded_tensors(filled.state_dict(), report, state)
    return {f"network.{key}": value for key, value in found.items()}


def _loaded_tensors(
    own: Mapping[str, Tensor], report: Mapping[str, Any], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors that came from the file and belong to the tower."""
    reshaped = {key: shape for key, shape, _ in report["mismatched_keys"]}
    absent = {*report["missing_keys"], *reshaped}
    found = {key: value for key, value in own.items() if key not in absent}
    # If a tensor has another name in the file, only its shape matters: headstrip refuses it, or
    # builds a head that fits it. A wider first convolution keeps its name, and so its values.
    found |= {
        key: state[key] if key in state else torch.empty(tuple(shape), device="meta")
        for key, shape in reshaped.items()
    }
    unknown = [key for key in report["unexpected_keys"] if not _NOT_IN_TOWER.match(key)]
    return found | {key: state.get(key, torch.empty(0)) for key in unknown}


def _of_tower(state: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Rename tensors as in the network: with the prefix ``vision_model`` or without."""
    prefixed = any(key.startswith(_TOWER) for key in state)
    wanted = any(key.startswith(_TOWER) for key in network.state_dict())
    if prefixed and not wanted and hasattr(network.config, "use_head"):
        return {
            key.removeprefix(_TOWER): value
            for key, value in state.items()
            if key.startswith(_TOWER)
        }
    if wanted and not prefixed:
        return {
            key if key.startswith("classifier.") else f"{_TOWER}{key}": value
            for key, value in state.items()
        }
    return state


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress transformers' load report, which headstrip replaces, and its progress bars."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
