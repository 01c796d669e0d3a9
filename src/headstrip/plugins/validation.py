"""Check what pluggy does not check: the contract of a plugin, and the return values of its hooks.

A check imports torch only if it needs a type of torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from headstrip import hookspecs
from headstrip.images.preprocessing import Preprocessing
from headstrip.spec import LAWS, BackboneSpec, WeightsEntry
from headstrip.system.arguments import type_of, with_article

HOOKS = tuple(name for name in vars(hookspecs.HeadStripper) if not name.startswith("_"))

REQUIRED = frozenset(
    {
        "build_model",
        "strip_head",
        "adapt_state_dict",
        "resize_state_dict",
        "load_model",
        "reference",
    }
)
"""The hooks that must return something when they are called."""


def contract_problem(target: Any) -> str | None:
    """Return how a plugin's object breaks the contract in a way that pluggy accepts, or None."""
    if inspect.isclass(target):
        return f"it is the class {target.__name__}; its entry point must name an instance"
    api, this = stated_version(target), hookspecs.API_VERSION
    if type(api) is not int or api != this:
        return f"it was built for version {api!r} of the plugin API, and this is {this}"
    hooks = {hook: found for hook in HOOKS if callable(found := getattr(target, hook, None))}
    problems = (
        _unknown_hook(target),
        *(_hook_problem(hook, function) for hook, function in hooks.items()),
        None if hooks else "it implements no hook",
        _families_problem(getattr(target, "FAMILIES", ()), "strip_head" in hooks),
        _input_options_problem(getattr(target, "INPUT_OPTIONS", {})),
    )
    return next((problem for problem in problems if problem), None)


def stated_version(target: Any) -> Any:
    """Return the version of the plugin API that a plugin states, 1 if it states none."""
    return getattr(target, "API_VERSION", 1)


def _unknown_hook(target: Any) -> str | None:
    """Name a marked function that is not a hook, such as a misspelt one."""
    for name in dir(target):
        options = _options(getattr(target, name, None))
        if options is None or name in HOOKS:
            continue
        if options.get("specname"):
            return (
                f"{name} is marked with a specname, but a hook's function must have the hook's name"
            )
        from difflib import get_close_matches

        similar = get_close_matches(name, HOOKS, n=1)
        hint = f"; did you mean {similar[0]}?" if similar else ""
        return f"it marks {name} as a hook, and there is no hook of that name{hint}"
    return None


def _hook_problem(hook: str, function: Callable[..., Any]) -> str | None:
    options = _options(function)
    if options is None:
        return f"it defines {hook} without headstrip's @hookimpl"
    for option in ("wrapper", "hookwrapper", "optionalhook", "specname"):
        if options.get(option):
            return f"{hook} is marked {option}, which headstrip does not support"
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            return f"{hook} takes {parameter}, and hooks must have plain arguments only"
        if parameter.default is not parameter.empty:
            return f"{hook} gives {parameter.name!r} a default value, which hooks must not have"
    return None


def _families_problem(families: Any, strips: bool) -> str | None:
    if not isinstance(families, tuple) or not all(
        isinstance(family, str) and family and ":" not in family for family in families
    ):
        return f"FAMILIES is {families!r}, and must be a tuple of names"
    if bool(families) != strips:
        return "it defines only one of FAMILIES and strip_head, and must define both or neither"
    return None


def _input_options_problem(options: Any) -> str | None:
    known = ("in_chans", "img_size")
    if isinstance(options, dict) and all(
        key in known and isinstance(value, str) and value for key, value in options.items()
    ):
        return None
    return (
        f"INPUT_OPTIONS is {options!r:.200}, and must be a dict from {' and '.join(known)} to "
        "names of constructor options"
    )


def _options(function: Any) -> dict[str, Any] | None:
    """Return what headstrip's marker stored on a function, None without the marker."""
    options = getattr(function, "headstrip_impl", None)
    return options if isinstance(options, dict) else None


def check_return(hook: str, value: Any) -> str | None:
    """Return what is wrong with a hook's return value, or None.

    Args:
        hook: Name of the hook.
        value: Its return value.
    """
    if value is None:
        return "None" if hook in REQUIRED else None
    if hook in {"weights", "backbones"}:
        return _check_items(value, WeightsEntry if hook == "weights" else BackboneSpec)
    if hook == "levels":
        return _check_levels(value)
    expected = _expected_type(hook)
    if not isinstance(value, expected):
        return f"{type_of(value)} instead of {with_article(expected.__name__)}"
    if hook == "strip_head":
        return _check_stripped(value)
    if isinstance(value, dict):
        return _check_state_dict(value)
    return _check_entry(value) if isinstance(value, WeightsEntry) else None


def _expected_type(hook: str) -> type:
    if hook == "find_backbone":
        return BackboneSpec
    if hook == "describe_file":
        return WeightsEntry
    if hook == "preprocessing":
        return Preprocessing
    if hook in {"adapt_state_dict", "resize_state_dict"}:
        return dict
    from torch import Tensor, nn

    from headstrip.network.head import Stripped

    return {
        "build_model": nn.Module,
        "load_model": nn.Module,
        "strip_head": Stripped,
        "reference": Tensor,
    }[hook]


def _check_levels(value: Any) -> str | None:
    from torch import nn

    from headstrip.network.levels import problem_of

    if isinstance(value, nn.Module):
        return None
    if not isinstance(value, (tuple, list)):
        return f"{type_of(value)} instead of a tuple of Level or a Module"
    return next((problem for one in value if (problem := problem_of(one))), None)


def _check_items(value: Any, item_type: type) -> str | None:
    if not isinstance(value, (tuple, list)):
        return f"{type_of(value)} instead of a tuple of {item_type.__name__}"
    for item in value:
        if not isinstance(item, item_type):
            return f"{type_of(item)} among its {item_type.__name__} items"
        problem = _check_entry(item) if isinstance(item, WeightsEntry) else None
        if problem:
            return problem
    return None


def _check_entry(entry: WeightsEntry) -> str | None:
    """Name a field of a set of weights that has a wrong type, or return None."""
    shape = entry.input_shape
    fits = {
        "tag": isinstance(entry.tag, str) and bool(entry.tag),
        "locations": _are_all(entry.locations, str),
        "sha256": isinstance(entry.sha256, str),
        "options": _are_pairs(entry.options) and not dict(entry.options).get("num_classes"),
        "num_classes": entry.num_classes is None or _is_count(entry.num_classes),
        "input_shape": shape is None or (isinstance(shape, tuple) and all(map(_is_count, shape))),
        "labels": isinstance(entry.labels, (str, type(None))),
        "preprocessing": isinstance(entry.preprocessing, (Preprocessing, type(None))),
        "license": isinstance(entry.license, (str, type(None))),
        "metrics": _are_pairs(entry.metrics),
        "class_names": _are_all(entry.class_names, str),
    }
    wrong = next((name for name, is_right in fits.items() if not is_right), None)
    if wrong is None:
        return None
    return f"a WeightsEntry with the wrong {wrong} {getattr(entry, wrong)!r:.100}"


def _are_all(values: object, kind: type) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, kind) for value in values)


def _are_pairs(pairs: object) -> bool:
    return isinstance(pairs, tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_state_dict(value: dict[Any, Any]) -> str | None:
    from torch import Tensor

    for key, tensor in value.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            return f"{type_of(tensor)} with the key {key!r} instead of a tensor with a name"
    return None


def _check_stripped(value: Any) -> str | None:
    from torch import nn

    if not isinstance(value.backbone, nn.Module):
        return f"a backbone that is {type_of(value.backbone)} instead of a Module"
    if value.law not in LAWS:
        return f"the unknown head fidelity law={value.law!r}"
    if value.head is not None and not isinstance(value.head, nn.Module):
        return f"a head that is {type_of(value.head)} instead of a Module"
    if (value.head is not None) != (value.law in {"exact", "rounding"}):
        return f"law={value.law!r} {'with' if value.head is not None else 'without'} a head"
    if not _are_all(value.paths, str):
        return f"the paths {value.paths!r} instead of a tuple of dotted paths"
    return None
