"""Processes that call a function and may die in it, forked from a small process without torch::

    with Children() as children:
        for at in itertools.count():
            ended = children.run("headstrip.registry.catalog:write_catalog", path, [], at=at)
            if ended.code != DIED:
                break

The arguments that choose a failing call are those of ``tests.failing``.
"""

from __future__ import annotations

import errno as errnos
import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.failing import DIED as DIED
from tests.failing import dying, failing

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ended:
    """How a call in a separate process ended.

    Attributes:
        code: Exit status: 0, ``DIED``, or the signal's number with a minus.
        value: The function's return value, as text.
        error: Its exception, ``"KIND: message"``.
        seen: The chosen calls that the process made, if it did not die.
        stderr: The output of the process on standard error.
    """

    code: int
    value: str | None = None
    error: str | None = None
    seen: tuple[str, ...] = ()
    stderr: str = ""


class Children:
    """Processes that call a function, each forked from one small process without torch."""

    def __init__(self, **environment: str) -> None:
        """Set variables for all children, which override those of this process."""
        path = os.pathsep.join([str(_ROOT / "src"), str(_ROOT), *filter(None, sys.path)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.children"],
            cwd=_ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, function: str, *args: object, **how: Any) -> Ended:
        """Call ``"module:function"`` in one child, and wait for the child; see ``run_many``."""
        return self.run_many(function, *args, processes=1, **how)[0]

    def run_many(
        self,
        function: str,
        *args: object,
        processes: int,
        at: int | None = None,
        names: tuple[str, ...] = (),
        after: bool = False,
        error: int | None = None,
        environment: dict[str, str] | None = None,
        before: str | None = None,
        **named: object,
    ) -> list[Ended]:
        """Call ``"module:function"`` in several children at once, and wait for all.

        Args:
            function: The function to call.
            args: Its arguments: JSON values and paths.
            processes: The number of children.
            at: The number of the chosen call at which the child dies, or fails with ``error``.
            names: The names of the chosen calls; all calls if empty.
            after: Whether the child dies after the call instead of before it.
            error: A number of ``errno``: the call fails instead of ending the process.
            environment: Variables of the children.
            before: ``"module:function"`` that the children call first, without arguments.
            named: Its arguments by name.
        """
        order = {
            "function": function,
            "args": args,
            "named": named,
            "at": at,
            "names": names,
            "after": after,
            "error": error,
            "environment": environment or {},
            "before": before,
            "processes": processes,
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(
            json.dumps(order, default=lambda path: {"path": str(path)}) + "\n"
        )
        self._process.stdin.flush()
        return [Ended(**each) for each in json.loads(self._process.stdout.readline())]


def lying_locks() -> None:
    """Make every file lock succeed immediately."""
    import fcntl

    fcntl.flock = lambda *_: None


def no_locks() -> None:
    """Make every file lock fail, as on file systems without locks."""
    import fcntl

    def flock(*_: object) -> None:
        raise OSError(errnos.ENOLCK, os.strerror(errnos.ENOLCK))

    fcntl.flock = flock


def small_files_only() -> None:
    """Limit files to 64 KiB."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


def _resolve(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _with_paths(item: dict[str, Any]) -> Any:
    return Path(item["path"]) if item.keys() == {"path"} else item


def _work(order: dict[str, Any], answer: int) -> None:
    """Carry out an order in a child."""
    os.environ.update(order["environment"])
    sys.stdout = sys.stderr = output = io.StringIO()
    if order["before"]:
        _resolve(order["before"])()
    function, names, at = _resolve(order["function"]), tuple(order["names"]), order["at"]
    if order["error"] is None:
        faults = dying(*names, at=at, after=order["after"])
    else:
        faults = failing(*names, at=at, error=order["error"])
    ended: dict[str, Any] = {"code": 0}
    with faults as calls:
        try:
            ended["value"] = str(function(*order["args"], **order["named"]))
        except BaseException as error:
            ended["error"] = f"{type(error).__name__}: {error}"
    text = json.dumps({**ended, "seen": calls.seen, "stderr": output.getvalue()})
    with os.fdopen(answer, "w") as pipe:
        pipe.write(text)


def _fork(order: dict[str, Any]) -> tuple[int, int]:
    there, here = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(there)
            _work(order, here)
            code = 0
        finally:
            os._exit(code)
    os.close(here)
    return child, there


def _serve() -> None:
    """Fork children for the orders on standard input."""
    for line in sys.stdin:
        order = json.loads(line, object_hook=_with_paths)
        # This process imports each module once. No module may start a thread.
        _resolve(order["function"])
        ended = []
        for child, answer in [_fork(order) for _ in range(order["processes"])]:
            with os.fdopen(answer) as pipe:
                output = pipe.read()
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            ended.append(json.loads(output) if code == 0 else {"code": code})
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    _serve()
