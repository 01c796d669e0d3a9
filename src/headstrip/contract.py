"""What the contract of a plugin asks beyond what pluggy checks."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from headstrip.hookspecs import API_VERSION, HeadStripper

HOOKS = tuple(name for name in vars(HeadStripper) if not name.startswith("_"))


def contract_problem(target: Any) -> str | None:
    """Say how a plugin's object breaks the contract where pluggy would let it pass, or None."""
    if inspect.isclass(target):
        return f"it is the class {target.__name__}; its entry point must name an instance"
    api = stated_version(target)
    if type(api) is not int or api != API_VERSION:
        return f"it was built for version {api!r} of the plugin API, and this is {API_VERSION}"
    hooks = {hook: found for hook in HOOKS if callable(found := getattr(target, hook, None))}
    problems = (
        _unknown_hook(target),
        *(_hook_problem(hook, function) for hook, function in hooks.items()),
        None if hooks else "it implements no hook",
        _families_problem(getattr(target, "FAMILIES", ()), "strip_head" in hooks),
    )
    return next((problem for problem in problems if problem), None)


def stated_version(target: Any) -> Any:
    """Return the version of the plugin API that a plugin states; one that states none has 1."""
    return getattr(target, "API_VERSION", 1)


def _unknown_hook(target: Any) -> str | None:
    """Name a marked function that is no hook, a misspelt one for example."""
    for name in dir(target):
        options = _options(getattr(target, name, None))
        if options is None or name in HOOKS:
            continue
        if options.get("specname"):
            return f"{name} is marked with a specname, and a hook's function has the hook's name"
        near = difflib.get_close_matches(name, HOOKS, n=1)
        return f"it marks {name} as a hook, and there is none of that name" + (
            f"; {near[0]} may be meant" if near else ""
        )
    return None


def _hook_problem(hook: str, function: Callable[..., Any]) -> str | None:
    options = _options(function)
    if options is None:
        return f"it defines {hook} without headstrip's @hookimpl"
    for option in ("wrapper", "hookwrapper", "optionalhook", "specname"):
        if options.get(option):
            return f"{hook} is marked {option}, and a plugin answers for itself alone"
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            return f"{hook} takes {parameter}, and hooks have plain arguments only"
        if parameter.default is not parameter.empty:
            return f"{hook} gives {parameter.name!r} a default, which would always be used"
    return None


def _families_problem(families: Any, strips: bool) -> str | None:
    if not isinstance(families, tuple) or not all(
        isinstance(family, str) and family and ":" not in family for family in families
    ):
        return f"FAMILIES is {families!r}, and must be a tuple of names"
    if bool(families) != strips:
        return "FAMILIES and strip_head go together, and it has only one of them"
    return None


def _options(function: Any) -> dict[str, Any] | None:
    """Return what headstrip's marker noted on a function, None without it."""
    options = getattr(function, "headstrip_impl", None)
    return options if isinstance(options, dict) else None
