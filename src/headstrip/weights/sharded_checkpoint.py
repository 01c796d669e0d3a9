"""Checkpoints in several files, as the libraries of the Hugging Face hub write them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from headstrip.errors import WeightsError, one_line
from headstrip.system import bounded_json
from headstrip.system.arguments import type_of
from headstrip.weights.folders import lies_in_a_cache

# The index came from elsewhere: it must not lead to files outside its folder.
_SHARD = re.compile(r"\w[\w.-]*\.safetensors")


def is_index(path: Path) -> bool:
    """Whether a file is the index of a checkpoint in several files."""
    return path.name.endswith(".index.json")


def read_index(path: Path) -> dict[str, str]:
    """Return which file beside the index ``path`` each tensor is in.

    Raises:
        WeightsError: It is not an index, or names anything but ``.safetensors`` files beside it.
    """
    shards = read_object(path).get("weight_map")
    if isinstance(shards, dict) and any(str(one).endswith(".bin") for one in shards.values()):
        raise WeightsError(
            f"{path} is the index of a checkpoint in several .bin files, and headstrip reads "
            "several files only as .safetensors. Save it again with "
            "model.save_pretrained(folder, safe_serialization=True)."
        )
    if not isinstance(shards, dict) or not shards or not all(map(_is_shard, shards.values())):
        raise WeightsError(
            f"{path} is not the index of a checkpoint: its 'weight_map' does not name "
            ".safetensors files beside it. Get the file again, or pass a file of weights."
        )
    return shards


def _is_shard(name: object) -> bool:
    return isinstance(name, str) and _SHARD.fullmatch(name) is not None


def read_object(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds.

    Raises:
        WeightsError: It cannot be read, or holds no JSON object.
    """
    try:
        content = bounded_json.read(path, "it")
        if not isinstance(content, dict):
            raise ValueError(f"it holds {type_of(content)} instead of an object")
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is not the JSON file it should be ({one_line(error).removesuffix('.')}). "
            f"{_remedy(path)}"
        ) from error
    return content


def _remedy(path: Path) -> str:
    """Say what to do about a damaged file: one in a cache is fetched again, a user's own is not."""
    if lies_in_a_cache(path):
        return f"Remove {path.resolve()} from the cache, and headstrip fetches it again."
    return "Correct it, or save it again with save_pretrained."
