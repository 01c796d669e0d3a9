"""Find plugins in metadata, load each when it is needed, and call its hooks.

A plugin that fails becomes a record with the reason, and all other plugins work as before. This
isolates faults, but it is not a sandbox: a plugin's code has all rights of the process.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy

from headstrip.errors import HeadstripError, PluginError
from headstrip.hookspecs import HeadStripper
from headstrip.plugins import ENTRY_POINT_GROUP
from headstrip.plugins.entry_points import Declared, EntryPoint, declared, reason_of
from headstrip.plugins.records import DISABLED as DISABLED
from headstrip.plugins.records import PluginRecord as PluginRecord
from headstrip.plugins.records import Status, remedy_for
from headstrip.plugins.validation import REQUIRED, check_return, contract_problem, stated_version
from headstrip.spec import is_source
from headstrip.system.packages import package_folder

HOMES = {"timm": "headstrip-timm", "hf": "headstrip-transformers"}
"""Sources that only one distribution may provide: timm's names need no prefix, and a hub id must
name the same network whatever else is installed."""

FIRST_PARTY = {**HOMES, "efficientnet-lite": "headstrip-efficientnet-lite"}
"""The sources that headstrip's own distributions provide."""


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
    input_options: dict[str, str] = field(default_factory=dict)
    _manager: pluggy.PluginManager = field(init=False, repr=False)

    @property
    def record(self) -> PluginRecord:
        """The current record of the plugin."""
        return PluginRecord(
            name=self.name,
            origin=self.origin,
            module=self.module,
            api=self.api,
            status=self.status,
            rows=self.rows,
            seconds=self.seconds,
            error=self.error,
        )

    @property
    def label(self) -> str:
        """Name and origin, for messages."""
        return f"{self.name!r} ({self.origin})"

    def fail(self, reason: str, status: Status = "failed") -> None:
        """Record why the plugin is not used."""
        self.status, self.error = status, reason

    def load(self) -> None:
        """Import and validate the plugin, once.

        Raises:
            PluginError: The plugin is blocked, or loading it failed now or earlier.
        """
        if self.status == "loaded":
            return
        if self.status != "found":
            raise PluginError(self._unusable())
        started = time.perf_counter()
        try:
            self._register(self._import())
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # A SystemExit at import must not end the program either.
            self.fail(reason_of(error))
            raise PluginError(self._unusable()) from error
        finally:
            self.seconds = time.perf_counter() - started
        self.status = "loaded"
        # Imported here, because commands such as `list` must start fast.
        import logging

        logging.getLogger("headstrip.plugins").debug(
            "loaded the plugin %s in %.2f s", self.label, self.seconds
        )

    def implements(self, hook: str) -> bool:
        """Whether this loaded plugin has the hook."""
        return bool(getattr(self._manager.hook, hook).get_hookimpls())

    def call(self, hook: str, backbone: str, **arguments: Any) -> Any:
        """Call one hook of this plugin and check the type of what it returns.

        Args:
            hook: Name of the hook.
            backbone: The backbone or family of the call, for messages.
            arguments: The hook's arguments.

        Returns:
            The hook's return value; None if the hook is optional and the plugin lacks it.

        Raises:
            HeadstripError: The hook raised it.
            PluginError: The hook raised another error, returned a wrong value, or is missing.
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
                f"The plugin {self.label} raised {reason_of(error)} in {hook} for {backbone!r}. "
                "Check the arguments that you passed, or report the error to the plugin's author."
            ) from error
        problem = check_return(hook, value)
        if problem:
            raise PluginError(
                f"The plugin {self.label} returned {problem} from {hook} for {backbone!r}. "
                "Report it to the plugin's author."
            )
        return value

    def _unusable(self) -> str:
        return (
            f"The plugin {self.label} cannot be used: {(self.error or '').rstrip('.')}. "
            f"{remedy_for(self.error)}; `headstrip plugins` lists all plugins."
        )

    def _import(self) -> Any:
        if isinstance(self.target, EntryPoint):
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
        self.input_options = dict(getattr(target, "INPUT_OPTIONS", {}))


def built_in(name: str, package: Path) -> Plugin:
    """Return one of headstrip's own plugins, with an entry point like any other plugin's."""
    module = f"headstrip.families.{name}"
    return Plugin(name, "built-in", module, EntryPoint(name, f"{module}:plugin"), package)


def find_plugins(disabled: Collection[str], reserved: Collection[str]) -> list[Plugin]:
    """List the plugins of other distributions without importing them.

    Args:
        disabled: Names to block; ``*`` blocks all.
        reserved: Names that belong to headstrip.
    """
    plugins = []
    for one in declared(ENTRY_POINT_GROUP, disabled, reserved):
        plugin = Plugin(one.name, one.origin, one.module, one.point, package_folder(one.module))
        problem = one.problem or _source_problem(one)
        if problem:
            plugin.fail(problem, "blocked")
        plugins.append(plugin)
    return plugins


def _source_problem(one: Declared) -> str | None:
    """Return why the name of a plugin cannot be the name of a source, or None."""
    home = HOMES.get(one.name)
    if home and one.origin.partition(" ")[0].lower().replace("_", "-") != home:
        return f"the name {one.name!r} belongs to {home}"
    if not is_source(one.name):
        return f"the name {one.name!r} cannot be a source: use only letters, digits, - and _"
    return None
