"""Read the index of a checkpoint in several files, which the hub's libraries write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from headstrip.errors import WeightsError, one_line
from headstrip.system import bounded_json
from headstrip.system.arguments import type_of
from headstrip.weights.folders import lies_in_a_cache

# headstrip does not trust the index, so its names must stay in its folder.
_SHARD = re.compile(r"\w[\w.-]*\.safetensors")


def is_index(path: Path) -> bool:
    """Return whether a file is the index of a checkpoint in several files."""
    return path.name.endswith(".index.json")


def read_index(path: Path) -> dict[str, str]:
    """Return the name of the file that contains each tensor, by the tensor's name.

    The files are in the folder of the index ``path``.

    Raises:
        WeightsError: The file is not an index, or it does not name ``.safetensors`` files in its
            folder.
    """
    shards = read_object(path).get("weight_map")
    if isinstance(shards, dict) and any(str(one).endswith(".bin") for one in shards.values()):
        raise WeightsError(
            f"{path} is the index of a checkpoint in several .bin files, and headstrip reads only "
            "checkpoints in several .safetensors files. Save the model again with "
            "model.save_pretrained(folder, safe_serialization=True)."
        )
    if not isinstance(shards, dict) or not shards or not all(map(_is_shard, shards.values())):
        raise WeightsError(
            f"{path} is not the index of a checkpoint: its 'weight_map' does not name "
            ".safetensors files in the same folder. Get the file again, or pass a weights file."
        )
    return shards


def _is_shard(name: object) -> bool:
    return isinstance(name, str) and _SHARD.fullmatch(name) is not None


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        WeightsError: The file cannot be read, or does not contain a JSON object.
    """
    try:
        content = bounded_json.read(path, "it")
        if not isinstance(content, dict):
            raise ValueError(f"it contains {type_of(content)} instead of an object")
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"headstrip cannot read the JSON file {path} ({one_line(error).removesuffix('.')}). "
            f"{_remedy(path)}"
        ) from error
    return content


def _remedy(path: Path) -> str:
    """Return what to do about a damaged file, which depends on whether it is in a cache."""
    if lies_in_a_cache(path):
        return f"Remove {path.resolve()} from the cache, and headstrip downloads it again."
    return "Correct it, or save it again with save_pretrained."
