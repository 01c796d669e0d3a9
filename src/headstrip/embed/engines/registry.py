"""Which engines there are: those of headstrip, and those of installed plugins.

Importing this module, and listing the names, imports neither torch nor an engine.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from headstrip.errors import HeadstripError, one_line

if TYPE_CHECKING:
    from headstrip.embed.engines.engine import Engine

ENTRY_POINT_GROUP = "headstrip.engines"
"""The group in which a distribution names its engines, each a class derived from ``Engine``."""

_HERE = "headstrip.embed.engines"
_BUILT_IN = {
    name: metadata.EntryPoint(name, f"{_HERE}.{value}", ENTRY_POINT_GROUP)
    for name, value in {
        "torch": "eager:Eager",
        "compile": "compiled:Compiled",
        "openvino": "openvino:OpenVINO",
        "onnxruntime": "onnxruntime:ONNXRuntime",
    }.items()
}


def engine_names() -> tuple[str, ...]:
    """Return the names of all engines: those of headstrip, then those of plugins, sorted.

    Example:
        >>> engine_names()[:2]
        ('torch', 'compile')
    """
    return tuple(_entry_points())


def check_engine(name: str) -> None:
    """Check that an engine has this name, without importing it.

    Raises:
        ValueError: No engine has the name.
    """
    names = engine_names()
    if name not in names:
        raise ValueError(f"There is no engine {name!r}. Use one of {', '.join(names)}.")


def load_engine(name: str) -> type[Engine]:
    """Import the class of an engine.

    Raises:
        ValueError: No engine has the name.
        HeadstripError: The plugin that has the engine is broken.
    """
    check_engine(name)
    point = _entry_points()[name]
    try:
        found = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # Importing a plugin runs its code, which can raise anything, SystemExit too.
        raise _broken(point, f"{type(error).__name__}: {one_line(error)}") from error
    from headstrip.embed.engines.engine import Engine

    if not (isinstance(found, type) and issubclass(found, Engine)):
        raise _broken(point, f"{point.value} is not a class derived from Engine")
    return found


def _entry_points() -> dict[str, metadata.EntryPoint]:
    try:
        found = list(metadata.entry_points(group=ENTRY_POINT_GROUP))
    except Exception:
        # Damaged metadata of any distribution make this fail. Read one distribution at a time.
        found = [point for one in metadata.distributions() for point in _entry_points_of(one)]
    # A plugin cannot replace an engine of headstrip, nor one of a plugin earlier on the path.
    return _BUILT_IN | {
        point.name: point
        for point in sorted(reversed(found), key=lambda point: point.name)
        if point.name not in _BUILT_IN
    }


def _entry_points_of(distribution: metadata.Distribution) -> list[metadata.EntryPoint]:
    try:
        return list(distribution.entry_points.select(group=ENTRY_POINT_GROUP))
    except Exception:
        # `headstrip doctor` names distributions whose metadata are damaged.
        return []


def _broken(point: metadata.EntryPoint, reason: str) -> HeadstripError:
    package = point.dist.name if point.dist else point.value.partition(".")[0]
    return HeadstripError(
        f"headstrip cannot load the engine {point.name!r} of {package}: {reason.rstrip('.')}. "
        f"Install another version of {package}, or use another engine."
    )
