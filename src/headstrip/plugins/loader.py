"""Plugins: found in metadata, loaded alone on first need, asked only for what they own.

A plugin that fails becomes a record with its reason; nobody else notices. This isolates faults,
it is not a sandbox: a plugin's code runs with all rights of the process.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pluggy

from headstrip.contract import contract_problem, stated_version
from headstrip.errors import HeadstripError, PluginError
from headstrip.hookspecs import ENTRY_POINT_GROUP, HeadStripper
from headstrip.plugins.metadata_folders import without_damage
from headstrip.plugins.returns import REQUIRED, check_return
from headstrip.spec import is_source
from headstrip.system.os_errors import explain_exhaustion

_LOGGER = logging.getLogger("headstrip.plugins")

Status = Literal["found", "loaded", "blocked", "failed", "damaged"]

DISABLED = "disabled by HEADSTRIP_DISABLE_PLUGINS or --no-plugin"
"""Why a plugin is blocked that the user does not want."""

HOMES = {"timm": "headstrip-timm", "hf": "headstrip-transformers"}
"""Sources that one distribution alone may bring: bare names are timm's after torchvision's, and a
hub id must not mean another network because of what is installed."""

FIRST_PARTY = {**HOMES, "efficientnet-lite": "headstrip-efficientnet-lite"}
"""The distributions that headstrip's own projects bring sources with."""


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """What is known of one plugin.

    Attributes:
        name: Entry-point name; also the source of its backbones, the built-ins' aside.
        origin: ``built-in``, ``registered``, or distribution and version.
        module: Module that holds it.
        api: Version of the contract it was built for, None before it is loaded.
        status: ``found`` in metadata, ``loaded``, ``blocked`` before import, ``failed``, or
            ``damaged`` where the distribution's own folder does not say what it has.
        rows: Number of backbones it lists.
        seconds: How long its import took, None before it is loaded.
        error: Why it is blocked or failed, what of it was refused, or what went wrong in a trial.
    """

    name: str
    origin: str
    module: str
    api: int | None
    status: Status
    rows: int
    seconds: float | None
    error: str | None


@dataclass
class Plugin:
    """One plugin and its own plugin manager."""

    name: str
    origin: str
    module: str
    target: Any
    package: Path | None = None
    status: Status = "found"
    rows: int = 0
    api: int | None = None
    seconds: float | None = None
    error: str | None = None
    families: tuple[str, ...] = ()
    _manager: pluggy.PluginManager = field(init=False, repr=False)

    @property
    def record(self) -> PluginRecord:
        """What is known of it now."""
        return PluginRecord(
            self.name, self.origin, self.module, self.api, self.status, self.rows, self.seconds,
            self.error,
        )  # fmt: skip

    def fail(self, reason: str, status: Status = "failed") -> None:
        """Keep the reason for which it is not used."""
        self.status, self.error = status, reason

    def load(self) -> None:
        """Import and validate it, once.

        Raises:
            PluginError: It is blocked, or it failed, now or before.
        """
        if self.status == "loaded":
            return
        if self.status == "found":
            started = time.perf_counter()
            try:
                self._register(self._import())
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                # SystemExit at import must not end the caller's program either.
                self.fail(_reason(error))
                self.seconds = time.perf_counter() - started
                raise PluginError(self._unusable()) from error
            self.seconds = time.perf_counter() - started
            self.status = "loaded"
            _LOGGER.debug("loaded the plugin %s in %.2f s", self.label, self.seconds)
            return
        raise PluginError(self._unusable())

    def implements(self, hook: str) -> bool:
        """Whether this loaded plugin has the hook."""
        return bool(getattr(self._manager.hook, hook).get_hookimpls())

    def call(self, hook: str, backbone: str, **arguments: Any) -> Any:
        """Call one hook of this plugin and check the type of what it returns.

        Args:
            hook: Name of the hook.
            backbone: What the call is about, for the message.
            arguments: The hook's arguments.

        Returns:
            What the hook returned; None where the plugin need not implement it and does not.

        Raises:
            HeadstripError: What the hook itself raised of these.
            PluginError: The hook raised anything else, returned what it must not, or is missing.
        """
        self.load()
        if not self.implements(hook):
            if hook in REQUIRED:
                raise PluginError(
                    f"The plugin {self.label} does not implement {hook}, which {backbone!r} needs. "
                    "Report it to the plugin's author."
                )
            return None
        try:
            value = getattr(self._manager.hook, hook)(**arguments)
        except (KeyboardInterrupt, HeadstripError):
            raise
        except BaseException as error:
            raise PluginError(
                f"The plugin {self.label} raised {_reason(error)} in {hook} for {backbone!r}. "
                "Check the arguments, or report it to the plugin's author."
            ) from error
        problem = check_return(hook, value)
        if problem:
            raise PluginError(
                f"The plugin {self.label} returned {problem} from {hook} for {backbone!r}. "
                "Report it to the plugin's author."
            )
        return value

    @property
    def label(self) -> str:
        """Name and origin, for messages."""
        return f"{self.name!r} ({self.origin})"

    def _unusable(self) -> str:
        advice = "allow it" if self.error == DISABLED else "install another version or remove it"
        return (
            f"The plugin {self.label} cannot be used: {(self.error or '').rstrip('.')}. "
            f"`headstrip plugins` lists all of them; {advice}."
        )

    def _import(self) -> Any:
        if isinstance(self.target, metadata.EntryPoint):
            return self.target.load()
        return self.target

    def _register(self, target: Any) -> None:
        api = stated_version(target)
        self.api = api if isinstance(api, int) else None
        problem = contract_problem(target)
        if problem:
            raise PluginError(problem)
        manager = pluggy.PluginManager("headstrip")
        manager.add_hookspecs(HeadStripper)
        manager.register(target, name=self.name)
        manager.check_pending()
        self._manager = manager
        self.families = tuple(getattr(target, "FAMILIES", ()))


def built_in(name: str, package: Path) -> Plugin:
    """Return one of the core's own plugins: an entry point as others have, named here."""
    module = f"headstrip.families.{name}"
    point = metadata.EntryPoint(name, f"{module}:plugin", ENTRY_POINT_GROUP)
    return Plugin(name, "built-in", module, point, package)


def find_plugins(disabled: Iterable[str], reserved: Iterable[str]) -> list[Plugin]:
    """List the third parties' plugins that metadata names; imports none of them.

    Args:
        disabled: Names to block; ``*`` blocks all.
        reserved: Names that are headstrip's own.
    """
    groups: dict[str, list[Plugin]] = {}
    for entry_point in _entry_points():
        groups.setdefault(entry_point.name, []).append(_plugin_of(entry_point))
    plugins = []
    for _, group in sorted(groups.items()):
        plugin = group[0]
        plugin.origin = ", ".join(sorted(other.origin for other in group))
        reason = _block_reason(plugin, len(group), set(disabled), set(reserved))
        if reason:
            plugin.fail(reason, "blocked")
        plugins.append(plugin)
    return plugins


def _block_reason(plugin: Plugin, count: int, disabled: set[str], reserved: set[str]) -> str | None:
    name = plugin.name
    if disabled & {name, "*"}:
        return DISABLED
    if name in reserved:
        return f"the name {name!r} belongs to headstrip itself"
    home = HOMES.get(name)
    if home and plugin.origin.partition(" ")[0].lower().replace("_", "-") != home:
        return f"the name {name!r} belongs to {home}"
    if not is_source(name):
        return f"the name {name!r} cannot be a source: it has more than letters, digits, - and _"
    if count > 1:
        return f"more than one distribution names a plugin {name!r}; uninstall all but one"
    return None


def _entry_points() -> list[metadata.EntryPoint]:
    try:
        found = list(metadata.entry_points(group=ENTRY_POINT_GROUP))
    except Exception:
        # One distribution whose metadata cannot be read, anybody's, hides all the others.
        found = [point for distribution in metadata.distributions() for point in _of(distribution)]
    found = without_damage(found)
    # A distribution may be on the path twice; the first is the one in force.
    unique: dict[tuple[str, str, str], metadata.EntryPoint] = {}
    for point in found:
        unique.setdefault((point.name, point.value, _distribution(point)[0]), point)
    return list(unique.values())


def _of(distribution: metadata.Distribution) -> list[metadata.EntryPoint]:
    try:
        return list(distribution.entry_points.select(group=ENTRY_POINT_GROUP))
    except Exception:
        return []


def _plugin_of(entry_point: metadata.EntryPoint) -> Plugin:
    module, _, _ = entry_point.value.partition(":")
    origin = " ".join(_distribution(entry_point))
    plugin = Plugin(entry_point.name, origin, module.strip(), entry_point)
    plugin.package = package_folder(plugin.module)
    return plugin


def _distribution(entry_point: metadata.EntryPoint) -> tuple[str, str]:
    """Name and version; how a missing file of metadata shows differs between Pythons."""
    try:
        described: Any = entry_point.dist.metadata if entry_point.dist else {}
        return str(described["Name"] or "unnamed"), str(described["Version"] or "unknown")
    except Exception:
        return "unnamed", "unknown"


def package_folder(module: str) -> Path | None:
    """Find the folder of a module's top-level package without importing anything.

    Only the top level is asked for: of a dotted name ``find_spec`` would execute the parent.
    """
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return None
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return Path(locations[0]) if locations else None


def _reason(error: BaseException) -> str:
    if isinstance(error, PluginError):
        return str(error)
    text = " ".join(str(error).split())
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return explain_exhaustion(error, reason) or reason
