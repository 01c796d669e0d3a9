"""What transformers would load from a file: its own renaming of keys, old layouts included.

Nothing of it is copied here. transformers' own ``from_pretrained`` does the work on the tensors
that core has read, and what it put into the network is taken out again.
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
from headstrip.plugin_api import plain_state_dict
from headstrip_transformers.towers import VisionTower

_TOWER = "vision_model."

_NO_PART = re.compile(
    # The other half of a pair, and what joins the two.
    r"text_model\.|text_projection\b|visual_projection\b|logit_scale$|logit_bias$"
    # What a network without a head has after the tokens that a classifier reads, and what
    # pretraining by masks adds.
    r"|(\w+\.)?pooler\.|decoder\.|(\w+\.)?embeddings\.mask_token$"
    # Tables that are computed from the configuration, in files of older releases.
    r"|.*\.(position_ids|relative_position_index|relative_coords_table)$"
)

_lock = threading.Lock()


def adapted(loaded: object, model: VisionTower) -> dict[str, Tensor]:
    """Return the state dict that transformers would load into a network from what a file holds.

    Tensors of another shape than the network's are kept, for core to see.

    Args:
        loaded: The object as read, perhaps nested.
        model: The network; its tensors may be on the meta device.

    Raises:
        WeightsError: The file holds no tensors under names, or transformers cannot read them.
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
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}). "
            "Name the backbone that it was made for."
        ) from error
    found = _taken(filled.state_dict(), report, state)
    return {f"network.{key}": value for key, value in found.items()}


def _taken(
    own: Mapping[str, Tensor], report: Mapping[str, Any], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return what came out of the file: neither what is missing in it, nor what is no part."""
    reshaped = {key: shape for key, shape, _ in report["mismatched_keys"]}
    absent = {*report["missing_keys"], *reshaped}
    found = {key: value for key, value in own.items() if key not in absent}
    # Only their shape is looked at: core refuses them, or builds the head anew that they fit.
    found |= {key: torch.empty(tuple(shape), device="meta") for key, shape in reshaped.items()}
    unknown = [key for key in report["unexpected_keys"] if not _NO_PART.match(key)]
    return found | {key: state.get(key, torch.empty(0)) for key in unknown}


def _of_tower(state: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Put the image tower's tensors where the network has it: under ``vision_model`` or bare."""
    prefixed = any(key.startswith(_TOWER) for key in state)
    wanted = any(key.startswith(_TOWER) for key in network.state_dict())
    if prefixed and not wanted and hasattr(network.config, "use_head"):
        return {
            key.removeprefix(_TOWER): value for key, value in state.items()
            if key.startswith(_TOWER)
        }  # fmt: skip
    if wanted and not prefixed:
        return {
            key if key.startswith("classifier.") else f"{_TOWER}{key}": value
            for key, value in state.items()
        }
    return state


@contextmanager
def _silence() -> Iterator[None]:
    """Keep transformers from reporting what core reports, and from drawing bars."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
