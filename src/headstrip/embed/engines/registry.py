"""Which engines there are: those of headstrip, and those of installed plugins.

Importing this module, and listing the names, imports neither torch nor an engine.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from headstrip.embed.settings import AUTO
from headstrip.errors import HeadstripError, one_line
from headstrip.plugins.entry_points import installed_entry_points

if TYPE_CHECKING:
    from headstrip.embed.engines.engine import Engine

ENTRY_POINT_GROUP = "headstrip.engines"
"""The group in which a distribution names its engines, each a class derived from ``Engine``."""

_HERE = "headstrip.embed.engines"
_BUILT_IN = {
    name: metadata.EntryPoint(name, f"{_HERE}.{value}", ENTRY_POINT_GROUP)
    for name, value in {
        "torch": "pytorch:Eager",
        "compile": "pytorch:Compiled",
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


def check_engine(name: str | None) -> None:
    """Check that an engine has this name, without importing it.

    Args:
        name: The name; "auto" and None, which name no engine, pass.

    Raises:
        ValueError: No engine has the name.
    """
    if name not in (None, AUTO):
        _entry_point(str(name))


def load_engine(name: str) -> type[Engine]:
    """Import the class of an engine.

    Raises:
        ValueError: No engine has the name.
        HeadstripError: The plugin that has the engine is broken.
    """
    point = _entry_point(name)
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


def _entry_point(name: str) -> metadata.EntryPoint:
    points = _entry_points()
    if name not in points:
        raise ValueError(f"There is no engine {name!r}. Use one of {', '.join(points)}.")
    return points[name]


def _entry_points() -> dict[str, metadata.EntryPoint]:
    found = installed_entry_points(ENTRY_POINT_GROUP)
    # A plugin cannot replace an engine of headstrip, nor one of a plugin earlier on the path.
    return _BUILT_IN | {
        point.name: point
        for point in sorted(reversed(found), key=lambda point: point.name)
        if point.name not in _BUILT_IN
    }


def _broken(point: metadata.EntryPoint, reason: str) -> HeadstripError:
    package = point.dist.name if point.dist else point.value.partition(".")[0]
    return HeadstripError(
        f"headstrip cannot load the engine {point.name!r} of {package}: {reason.rstrip('.')}. "
        f"Install another version of {package}, or use another engine."
    )
