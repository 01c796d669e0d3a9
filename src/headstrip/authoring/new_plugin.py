"""Create the project of a new plugin, which can be installed and passes all checks unchanged."""

from __future__ import annotations

import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from headstrip._version import __version__
from headstrip.families import BUILT_IN, SOURCE
from headstrip.spec import is_source

TEMPLATES = Path(__file__).parent / "templates"

_PUBLISHED = ("efficientnet-lite", "example", "hf", "timm", "transformers")
"""Names of existing plugins, or of distributions without ``headstrip-``."""

_FILES = (
    "pyproject.toml",
    "README.md",
    "src/{package}/__init__.py",
    "src/{package}/catalog.tsv",
    "src/{package}/weights.tsv",
    "src/{package}/py.typed",
    "tests/test_contract.py",
)


@dataclass(frozen=True, slots=True)
class NewPlugin:
    """The names of a new plugin.

    Attributes:
        name: Name of its entry point, which is also the source of its backbones.
    """

    name: str

    @property
    def distribution(self) -> str:
        """Name of the distribution, as ``pip install`` takes it."""
        return f"headstrip-{self.name}"

    @property
    def package(self) -> str:
        """Name of its Python package."""
        return self.distribution.replace("-", "_").lower()

    def files(self) -> dict[str, str]:
        """Return the text of each file, by path in the project folder."""
        return {path.format(package=self.package): self._text(path) for path in _FILES}

    def _text(self, path: str) -> str:
        template = TEMPLATES / f"{Path(path).name}.txt"
        text = template.read_text(encoding="utf-8")
        values = {"name": self.name, "package": self.package, "range": _compatible(__version__)}
        for key, value in values.items():
            text = text.replace(f"{{{{{key}}}}}", value)
        return text


def _compatible(version: str) -> str:
    """Return the range of releases with the same plugin API: those with the same minor version."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return f">={major}.{minor},<{major}.{minor + 1}"


def name_problem(name: str) -> str | None:
    """Return why a new plugin cannot have a name, or None if it can."""
    if not is_source(name) or not name[-1].isalnum():
        return (
            "a name consists of letters, digits, '-' and '_', and begins and ends with a letter or "
            "a digit"
        )
    # Package indexes ignore case, so `Timm` is the same as `timm`.
    plain = re.sub("[-_]+", "-", name.lower())
    if plain in {*(family.replace("_", "-") for family in BUILT_IN), SOURCE, "headstrip"}:
        return "headstrip itself uses that name"
    if plain in _PUBLISHED:
        return "another plugin or distribution has that name"
    return None


def write_plugin(plugin: NewPlugin, folder: Path) -> tuple[Path, ...]:
    """Write the project of a new plugin; a failure leaves no partial project.

    Returns:
        Paths of the files.

    Raises:
        FileExistsError: The folder exists already.
        OSError: The folder cannot be written.
    """
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(folder)
    beside = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    try:
        for path, text in plugin.files().items():
            file = beside / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return tuple(folder / path for path in plugin.files())
