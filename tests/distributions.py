"""Write real distributions into a folder, as an installer does in site-packages."""

from __future__ import annotations

import base64
import hashlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests import warm

import headstrip
from headstrip.registry.catalog import write_catalog, write_weights
from headstrip.spec import BackboneSpec, WeightsEntry

SOURCES = Path(headstrip.__file__).parents[1]


def install_distribution(
    site: Path,
    name: str,
    entry_points: Mapping[str, str],
    files: Mapping[str, str | bytes],
    version: str = "1.0",
    commands: Mapping[str, str] | None = None,
    group: str = "headstrip",
) -> Path:
    """Install a distribution into the folder ``site``.

    Args:
        site: Folder that is, or will be, on the path.
        name: Name of the distribution.
        entry_points: Entry points of ``group``: the name of each plugin and its ``module:object``.
        files: Contents of its files, by path relative to ``site``.
        version: Version of the distribution.
        commands: Entry points of the group ``headstrip.commands``.
        group: Entry-point group.

    Returns:
        Its ``dist-info`` folder.
    """
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    groups = {group: entry_points, "headstrip.commands": commands or {}}
    lines = [
        line
        for header, points in groups.items()
        if points or header == group
        for line in (f"[{header}]", *(f"{key} = {value}" for key, value in points.items()))
    ]
    everything = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/INSTALLER": "pip\n",
        f"{info}/entry_points.txt": "\n".join([*lines, ""]),
    }
    record = [_write(site, path, content) for path, content in everything.items()]
    _write(site, f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))
    importlib.invalidate_caches()
    return site / info


def _write(site: Path, path: str, content: str | bytes) -> str:
    """Write one file, and return its line of RECORD."""
    data = content.encode() if isinstance(content, str) else content
    target = site / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(data)}"


@contextmanager
def on_path(site: Path, *, last: bool = False) -> Iterator[Path]:
    """Put ``site`` on the path of this process, first or last; unload its modules afterwards."""
    sys.path.insert(len(sys.path) if last else 0, str(site))
    importlib.invalidate_caches()
    try:
        yield site
    finally:
        sys.path.remove(str(site))
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(str(site)):
                del sys.modules[name]
        importlib.invalidate_caches()


def run_python(
    *arguments: str,
    site: Path | None = None,
    input: str | None = None,
    ready: bool = False,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run Python in a separate process, with ``site`` and headstrip's sources on its path.

    With ``ready``, the process has imported torch and headstrip already: see ``tests.warm``.
    """
    path = [str(site)] if site else []
    path += [str(SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(path)}
    if ready:
        return warm.run(*arguments, environment=environment, stdin=input or "")
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        input=input,
    )


def catalog_of(*specs: BackboneSpec) -> str:
    """Return the text of a ``catalog.tsv``."""
    return _written(write_catalog, specs)


def weights_of(*pairs: tuple[str, WeightsEntry]) -> str:
    """Return the text of a ``weights.tsv``, from pairs of architecture and weights."""
    return _written(write_weights, pairs)


def _written(write: Callable[[Path, Any], None], rows: Any) -> str:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.tsv"
        write(path, rows)
        return path.read_text(encoding="utf-8")
