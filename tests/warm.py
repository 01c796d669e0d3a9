"""Python processes that start fast: each is forked from a process that has imported torch.

Importing torch, torchvision and pyarrow takes seconds in each process that a test starts. Use
``run`` to test what a program does. To test what a program imports, or what Python does when it
starts, start a new process instead.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import site
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PRELOADED = ("torchvision", "pandas", "pyarrow.parquet", "rich.progress", "headstrip.cli")
"""No library of a plugin, because the program may use another version of it."""

_LARGEST_ORDER = 1 << 17


class Interpreter:
    """A Python process that forks others, each of which runs a program."""

    def __init__(self, python: Path | str = sys.executable) -> None:
        """Start the process; it imports its modules while the caller continues."""
        self._channel, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there:
            self._process = subprocess.Popen(
                [str(python), __file__, str(there.fileno())], pass_fds=[there.fileno()]
            )

    def run(
        self,
        *arguments: object,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        stdin: str = "",
        prefix: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments: a script, ``-m MODULE`` or ``-c CODE``.

        Args:
            arguments: The arguments of Python.
            cwd: Working folder; by default, that of this process.
            environment: All variables; by default, those of this process.
            stdin: The standard input of the program.
            prefix: The folder of a virtual environment; its packages have priority.
        """
        order = {
            "arguments": [str(each) for each in arguments],
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
            "prefix": str(prefix or ""),
        }
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            files[0].write(stdin.encode())
            files[0].seek(0)
            socket.send_fds(
                self._channel, [json.dumps(order).encode()], [each.fileno() for each in files]
            )
            code = int(self._channel.recv(_LARGEST_ORDER) or b"1")
            for each in files:
                each.seek(0)
            _, stdout, stderr = (each.read().decode() for each in files)
        return subprocess.CompletedProcess(order["arguments"], code, stdout, stderr)

    def close(self) -> None:
        """End the process. Programs that it started have ended already."""
        self._channel.close()
        self._process.wait()


@functools.cache
def _interpreter() -> Interpreter:
    interpreter = Interpreter()
    atexit.register(interpreter.close)
    return interpreter


def run(*arguments: object, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a program in a separate process; see ``Interpreter.run``."""
    return _interpreter().run(*arguments, **how)


def _paths(variable: str | None) -> list[str]:
    return [os.path.abspath(path) for path in (variable or "").split(os.pathsep) if path]


def _next_program(channel: socket.socket) -> Sequence[str]:
    """Fork a process for each order, and return its arguments in the child."""
    started_with = {*_paths(os.environ.get("PYTHONPATH")), sys.path[0]}
    own = [path for path in sys.path if path not in started_with]
    while True:
        message, files, *_ = socket.recv_fds(channel, _LARGEST_ORDER, 3)
        if not message:
            # Exit without cleaning up, which would take seconds.
            os._exit(0)
        child = os.fork()
        if child == 0:
            break
        for each in files:
            os.close(each)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        channel.send(str(code).encode())
    channel.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    order = json.loads(message)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.path[:] = own
    if order["prefix"]:
        _enter(Path(order["prefix"]))
    sys.path[:0] = _paths(os.environ.get("PYTHONPATH"))
    importlib.invalidate_caches()
    arguments: Sequence[str] = order["arguments"]
    return arguments


def _enter(prefix: Path) -> None:
    """Turn this process into the Python of a virtual environment."""
    before = list(sys.path)
    (packages,) = prefix.glob("lib/python*/site-packages")
    site.addsitedir(str(packages))
    at = next(number for number, path in enumerate(before) if path.endswith("site-packages"))
    sys.path[:] = [*before[:at], *sys.path[len(before) :], *before[at:]]
    sys.prefix = sys.exec_prefix = str(prefix)
    sys.executable = str(prefix / "bin" / "python")


def _code_of(arguments: Sequence[str]) -> int:
    """Run a program to its end, as Python does, and return its exit status.

    Python would then free every object of every module, and copy the shared memory for that.
    """
    code = 0
    try:
        _run(arguments)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _run(arguments: Sequence[str]) -> None:
    """Run the program that Python's arguments name."""
    if arguments[0] == "-m":
        sys.argv[:] = arguments[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv[:] = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), vars(main))
    else:
        sys.argv[:] = arguments
        sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import headstrip

    for name in headstrip.__all__:
        getattr(headstrip, name)
    # The garbage collector does not write to frozen objects, so the processes share their memory.
    gc.freeze()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = _next_program(socket.socket(fileno=int(sys.argv[1])))
    code = 1
    try:
        code = _code_of(arguments)
    finally:
        os._exit(code)
