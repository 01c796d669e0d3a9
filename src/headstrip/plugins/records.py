"""Records of plugins, and the settings that disable plugins."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from headstrip.errors import PluginError

Status = Literal["found", "loaded", "blocked", "failed", "damaged"]

DISABLED = "disabled by HEADSTRIP_DISABLE_PLUGINS or --no-plugin"
"""The reason in the record of a plugin that the user disabled."""

SHARED = "more than one distribution uses the name"
"""The start of the reason in the record of a plugin whose name two distributions use."""

_DISABLE = "HEADSTRIP_DISABLE_PLUGINS"
_STRICT = "HEADSTRIP_STRICT_PLUGINS"


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """What headstrip knows about one plugin.

    Attributes:
        name: Entry-point name, which is also the source of the backbones of a third party's plugin;
            ``headstrip NAME`` for a command.
        origin: ``built-in``, ``registered``, or distribution and version.
        module: Module that contains it.
        api: Version of the plugin API that it was built for, None before it is loaded.
        status: ``found`` in metadata, ``loaded``, ``blocked`` before import, ``failed``, or
            ``damaged`` if the folder of an installed distribution is damaged.
        rows: Number of backbones in its catalog.
        seconds: How long its import took, None before it is loaded.
        error: Why it is blocked or failed, which of its rows are refused, or what its smoke test
            found.
    """

    name: str
    origin: str
    module: str
    api: int | None
    status: Status
    rows: int
    seconds: float | None
    error: str | None


def disabled_by_environment() -> frozenset[str]:
    """Return the names in ``HEADSTRIP_DISABLE_PLUGINS``; ``*`` means all but the built-in ones."""
    names = (name.strip() for name in os.environ.get(_DISABLE, "").split(","))
    return frozenset(filter(None, names))


def is_strict() -> bool:
    """Whether ``HEADSTRIP_STRICT_PLUGINS=1`` makes an unusable plugin an error."""
    return os.environ.get(_STRICT, "") == "1"


def remedy_for(reason: str | None) -> str:
    """Return what to do about a plugin that cannot be used, without a full stop."""
    if reason == DISABLED:
        return "Allow it"
    if reason and reason.startswith(SHARED):
        return "Uninstall all of these distributions but one"
    return "Install another version or remove it"


def unusable(record: PluginRecord) -> PluginError:
    """Return the error for an unusable plugin if ``HEADSTRIP_STRICT_PLUGINS=1`` is set."""
    return PluginError(
        f"The plugin {record.name!r} ({record.origin}) is unusable: "
        f"{str(record.error).rstrip('.')}. This is an error because {_STRICT}=1 is set. Uninstall "
        f"the plugin, or unset {_STRICT}."
    )
