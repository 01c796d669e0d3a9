"""What each hook may return; checked without importing torch where torch is not loaded."""

from __future__ import annotations

from typing import Any

from headstrip.images.preprocessing import Preprocessing
from headstrip.spec import LAWS, BackboneSpec, WeightsEntry

REQUIRED = frozenset({"build_model", "strip_head", "adapt_state_dict", "load_model", "reference"})
"""The hooks that must give something when they are called."""


def check_return(hook: str, value: Any) -> str | None:
    """Say what is wrong with a hook's return value, or None.

    Args:
        hook: Name of the hook.
        value: What it returned.
    """
    if value is None:
        return "None" if hook in REQUIRED else None
    if hook in {"weights", "backbones"}:
        return _check_items(value, WeightsEntry if hook == "weights" else BackboneSpec)
    expected = _expected_type(hook)
    if not isinstance(value, expected):
        return f"a {type(value).__name__} instead of a {expected.__name__}"
    if hook == "strip_head":
        return _check_stripped(value)
    if isinstance(value, dict):
        return _check_state(value)
    return _check_entry(value) if isinstance(value, WeightsEntry) else None


def _check_items(value: Any, item_type: type) -> str | None:
    if not isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} instead of a tuple of {item_type.__name__}"
    for item in value:
        if not isinstance(item, item_type):
            return f"a {type(item).__name__} among its {item_type.__name__} items"
        problem = _check_entry(item) if isinstance(item, WeightsEntry) else None
        if problem:
            return problem
    return None


def _check_entry(entry: WeightsEntry) -> str | None:
    """Say which field of a set of weights is of the wrong kind, or None."""
    fits = {
        "tag": isinstance(entry.tag, str) and bool(entry.tag),
        "locations": _are_all(entry.locations, str),
        "sha256": isinstance(entry.sha256, str),
        "options": _are_options(entry.options) and not dict(entry.options).get("num_classes"),
        "num_classes": entry.num_classes is None or _is_count(entry.num_classes),
        "input_shape": entry.input_shape is None or (
            isinstance(entry.input_shape, tuple) and all(map(_is_count, entry.input_shape))
        ),
        "labels": isinstance(entry.labels, (str, type(None))),
        "preprocessing": isinstance(entry.preprocessing, (Preprocessing, type(None))),
        "license": isinstance(entry.license, (str, type(None))),
        "metrics": _are_options(entry.metrics),
    }  # fmt: skip
    wrong = next((name for name, is_right in fits.items() if not is_right), None)
    if wrong is None:
        return None
    return f"a WeightsEntry whose {wrong} cannot be {getattr(entry, wrong)!r:.100}"


def _are_all(values: object, kind: type) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, kind) for value in values)


def _are_options(pairs: object) -> bool:
    return isinstance(pairs, tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _expected_type(hook: str) -> type:
    if hook == "find_backbone":
        return BackboneSpec
    if hook == "describe_file":
        return WeightsEntry
    if hook == "preprocessing":
        return Preprocessing
    if hook == "adapt_state_dict":
        return dict
    from torch import Tensor, nn

    from headstrip.network.head import Stripped

    return {
        "build_model": nn.Module,
        "load_model": nn.Module,
        "strip_head": Stripped,
        "reference": Tensor,
    }[hook]


def _check_state(value: dict[Any, Any]) -> str | None:
    from torch import Tensor

    for key, tensor in value.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            return f"a {type(tensor).__name__} under {key!r} instead of a tensor under a name"
    return None


def _check_stripped(value: Any) -> str | None:
    from torch import nn

    if not isinstance(value.backbone, nn.Module):
        return f"a backbone that is a {type(value.backbone).__name__} instead of a Module"
    if value.law not in LAWS:
        return f"the unknown law {value.law!r}"
    if value.head is not None and not isinstance(value.head, nn.Module):
        return f"a head that is a {type(value.head).__name__} instead of a Module"
    if (value.head is not None) != (value.law in {"exact", "rounding"}):
        return f"the law {value.law!r} {'with' if value.head is not None else 'without'} a head"
    if not isinstance(value.paths, tuple) or not all(isinstance(p, str) for p in value.paths):
        return f"the paths {value.paths!r} instead of a tuple of dotted paths"
    return None
