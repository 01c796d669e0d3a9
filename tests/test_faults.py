"""The faults of ``tools/faults.py`` can be applied, and name existing tests."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("faults", ROOT / "tools" / "faults.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks up its module.
    sys.modules["faults"] = module
    spec.loader.exec_module(module)
    return module


def test_every_fault_fits_one_place_and_leaves_valid_python() -> None:
    for fault in loaded().FAULTS:
        text = (ROOT / "src" / "headstrip" / fault.file).read_text(encoding="utf-8")
        assert text.count(fault.old) == 1, f"{fault.name!r} does not fit {fault.file}"
        assert fault.new != fault.old
        ast.parse(text.replace(fault.old, fault.new))


def test_every_fault_has_a_unique_name_and_existing_tests() -> None:
    faults = loaded().FAULTS
    assert len({fault.name for fault in faults}) == len(faults)
    for fault in faults:
        for path in fault.tests.split():
            assert (ROOT / path).exists(), f"{fault.name!r} names {path}"


def test_every_path_to_copy_for_the_tests_exists() -> None:
    assert all((ROOT / name).exists() for name in loaded().COPIED)
