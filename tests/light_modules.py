"""The modules that must not import heavy packages, from a contract in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="the standard library has it from 3.11 on")

ROOT = Path(__file__).parents[1]
_TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
(_CONTRACT,) = [one for one in _TOOLS["importlinter"]["contracts"] if one["type"] == "forbidden"]

HEAVY = frozenset(_CONTRACT["forbidden_modules"])
"""The packages that are slow to import."""


def light_modules() -> list[str]:
    """Return the modules of the contract, with ``headstrip.room.*`` replaced by its modules."""
    return [module for name in _CONTRACT["source_modules"] for module in _modules(name)]


def _modules(name: str) -> list[str]:
    room, star, _ = name.partition(".*")
    if not star:
        return [name]
    folder = ROOT / "src" / room.replace(".", "/")
    return sorted(f"{room}.{file.stem}" for file in folder.glob("*.py") if file.stem[:2] != "__")
