"""A real environment to install plugins into, which also sees this environment's packages."""

from __future__ import annotations

import subprocess
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

Ran = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Environment:
    """A separate virtual environment with priority over this environment's packages."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Environment:
        """Create an environment in a new folder; it uses this environment's pip."""
        venv.create(folder, symlinks=True, with_pip=False)
        environment = cls(folder)
        (packages,) = folder.glob("lib/python*/site-packages")
        # `addsitedir`, so that the new environment also sees editable installations of this one.
        line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        (packages / "the_other_environment.pth").write_text(line, encoding="utf-8")
        return environment

    def run(self, *arguments: object, cwd: Path | None = None) -> Ran:
        """Run the Python of the environment."""
        return subprocess.run(
            [str(self.folder / "bin" / "python"), *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )

    def pip(self, verb: str, *arguments: object, cwd: Path | None = None) -> Ran:
        """Install or build folders offline, with the build backend of this environment."""
        return self.run(
            "-m",
            "pip",
            verb,
            "--quiet",
            "--disable-pip-version-check",
            "--no-index",
            "--no-deps",
            "--no-build-isolation",
            *arguments,
            cwd=cwd,
        )

    def install(self, *arguments: object, cwd: Path | None = None) -> None:
        """Install folders as users do."""
        done = self.pip("install", *arguments, cwd=cwd)
        assert done.returncode == 0, done.stderr

    def headstrip(self, *arguments: object, cwd: Path | None = None) -> Ran:
        """Run headstrip's command line in the environment."""
        return self.run("-m", "headstrip.cli", *arguments, cwd=cwd)
