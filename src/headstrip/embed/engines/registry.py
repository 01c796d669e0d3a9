"""Which engines there are: those of headstrip, and those of installed plugins.

Importing this module, and listing the names, imports neither torch nor an engine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from headstrip.embed.settings import AUTO
from headstrip.errors import HeadstripError, PluginError
from headstrip.plugins import ENGINE_GROUP
from headstrip.plugins.entry_points import Declared, EntryPoint, declared
from headstrip.plugins.records import DISABLED, disabled_by_environment, remedy_for
from headstrip.registry.distributions import versions_required_by

if TYPE_CHECKING:
    from headstrip.embed.engines.engine import Engine

_BUILT_IN = {
    "torch": "headstrip.embed.engines.pytorch:Eager",
    "compile": "headstrip.embed.engines.pytorch:Compiled",
    "openvino": "headstrip.embed.engines.openvino:OpenVINO",
    "onnxruntime": "headstrip.embed.engines.onnxruntime:ONNXRuntime",
}

_RESERVED = (AUTO, *_BUILT_IN)
"""Names that an engine of a plugin cannot have."""

_disabled: ContextVar[Collection[str]] = ContextVar("disabled engines", default=())


@contextmanager
def engines_disabled(names: Collection[str]) -> Iterator[None]:
    """Disable engines of plugins in addition to those in ``HEADSTRIP_DISABLE_PLUGINS``.

    Args:
        names: Names of engines; ``*`` is all but those of headstrip.
    """
    token = _disabled.set(names)
    try:
        yield
    finally:
        _disabled.reset(token)


def engine_names() -> tuple[str, ...]:
    """Return the names of all engines: those of headstrip, then those of plugins, sorted.

    An engine that the user disabled is not among them.

    Example:
        >>> engine_names()[:2]
        ('torch', 'compile')
    """
    return tuple(name for name, one in _engines().items() if one.problem != DISABLED)


def plugin_engine_names() -> set[str]:
    """Return the names of the engines of installed plugins, those that the user disabled too."""
    return {one.name for one in _engines_of_plugins()}


def blocked_engines() -> dict[str, HeadstripError]:
    """Return why each engine of a plugin whose name belongs to headstrip cannot be used.

    Returns:
        The errors, by name and distribution, such as ``torch (acme-engines 1.0)``. An engine that
        the user disabled is not among them.
    """
    return {
        f"{one.name} ({one.origin})": _unusable(one, one.problem)
        for one in _engines_of_plugins()
        if one.name in _RESERVED and one.problem not in (None, DISABLED)
    }


def check_engine(name: str | None) -> None:
    """Check that an engine has this name and is not disabled, without importing it.

    Args:
        name: The name; "auto" and None, which name no engine, pass.

    Raises:
        ValueError: No engine has the name.
        HeadstripError: The engine is disabled, or more than one distribution has the name.
    """
    if name not in (None, AUTO):
        _find(str(name))


def load_engine(name: str) -> type[Engine]:
    """Import the class of an engine.

    Raises:
        ValueError: No engine has the name.
        HeadstripError: The engine cannot be used, or the plugin that has it is broken.
    """
    from headstrip.embed.engines.engine import Engine

    engine = _find(name)
    try:
        found = engine.load()
    except PluginError as error:
        raise _unusable(engine, str(error)) from error.__cause__
    if not (isinstance(found, type) and issubclass(found, Engine)):
        raise _unusable(engine, f"{engine.point.value} is not a class derived from Engine")
    return found


def engine_versions(name: str) -> dict[str, str]:
    """Return the installed versions of the distributions that an engine computes with.

    They are what the extra of headstrip with this name requires, or the distribution of the plugin
    that has the engine, and what that requires. "torch" and "compile" have none here: the
    environment of a run always names torch.

    Raises:
        ValueError: No engine has the name.
    """
    distribution = _find(name).point.distribution
    if distribution is None:
        return versions_required_by("headstrip", extra=name)
    owner, version = distribution
    return {**versions_required_by(owner), owner: version}


def _find(name: str) -> Declared:
    # To list the engines of plugins takes as long as a small run.
    if name in _BUILT_IN:
        return _built_in(name)
    engines = _engines()
    if name not in engines:
        raise ValueError(f"There is no engine {name!r}. Use one of {', '.join(engine_names())}.")
    if problem := engines[name].problem:
        raise _unusable(engines[name], problem)
    return engines[name]


def _engines() -> dict[str, Declared]:
    # A plugin cannot replace an engine of headstrip.
    others = {one.name: one for one in _engines_of_plugins() if one.name not in _RESERVED}
    return {name: _built_in(name) for name in _BUILT_IN} | others


def _built_in(name: str) -> Declared:
    return Declared(name, EntryPoint(name, _BUILT_IN[name]), "headstrip", None)


def _engines_of_plugins() -> list[Declared]:
    disabled = {*disabled_by_environment(), *_disabled.get()}
    return declared(ENGINE_GROUP, disabled, _RESERVED)


def _unusable(engine: Declared, reason: str) -> HeadstripError:
    return HeadstripError(
        f"The engine {engine.name!r} ({engine.origin}) cannot be used: {reason.rstrip('.')}. "
        f"{remedy_for(reason)}, or use another engine."
    )
