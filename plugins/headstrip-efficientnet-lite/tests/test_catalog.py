"""The catalog matches the installed packages, and reading it imports nothing heavy."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import headstrip_efficientnet_lite
from headstrip import UnknownBackboneError
from headstrip.authoring.smoke_test import smoke_test
from headstrip.registry.registry import Registry

PACKAGE = Path(headstrip_efficientnet_lite.__file__).parent
TOOL = Path(__file__).parents[1] / "tools" / "refresh_catalog.py"
NAMES = {f"efficientnet-lite:efficientnet_lite{number}" for number in range(3)}

LIST = """
import sys
from headstrip.registry.registry import get_registry
registry = get_registry()
for spec in registry.specs():
    if spec.source == "efficientnet-lite":
        print(spec.qualified_name, *(entry.tag for entry in registry.weights(spec)))
assert not {"torch", "timm", "headstrip_efficientnet_lite"} & set(sys.modules)
"""


def test_the_catalog_matches_the_built_networks(tmp_path):
    runpy.run_path(str(TOOL))["write"](tmp_path)
    for file in ("catalog.tsv", "weights.tsv"):
        assert (tmp_path / file).read_text() == (PACKAGE / file).read_text()


def test_listing_does_not_import_torch_timm_or_the_plugin():
    listed = subprocess.run(
        [sys.executable, "-c", LIST], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert set(listed) == {f"{name} IMAGENET1K" for name in NAMES}


def test_the_plugin_loads_without_an_error():
    record = smoke_test(Registry(), "efficientnet-lite")
    assert (record.status, record.rows, record.error) == ("loaded", 3, None)
    assert record.origin.startswith("headstrip-efficientnet-lite ")


def test_the_error_for_a_bare_name_has_the_qualified_name():
    with pytest.raises(UnknownBackboneError, match="Write efficientnet-lite:efficientnet_lite0"):
        Registry(disabled=["timm"]).resolve("efficientnet_lite0")
