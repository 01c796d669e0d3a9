"""The catalog lists the model types as the installed transformers builds them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from tests.distributions import run_python

import headstrip_transformers
from headstrip import UnknownBackboneError
from headstrip.registry.catalog import read_catalog
from headstrip.registry.registry import Registry
from headstrip_transformers.towers import TOWERS

PACKAGE = Path(headstrip_transformers.__file__).parent
FOLDER = Path(__file__).parents[1]


def test_the_catalog_lists_every_tower() -> None:
    names = [spec.name for spec in read_catalog(PACKAGE / "catalog.tsv")]
    assert names == sorted(TOWERS)


@pytest.mark.slow
def test_the_catalog_matches_the_built_networks(tmp_path: Path) -> None:
    runpy.run_path(str(FOLDER / "tools/refresh_catalog.py"))["write"](tmp_path)
    for name in ("catalog.tsv", "weights.tsv"):
        assert (tmp_path / name).read_bytes() == (PACKAGE / name).read_bytes()


def test_listing_and_missing_weights_do_not_import_torch_or_transformers() -> None:
    code = """
import sys
from headstrip.registry.registry import get_registry
registry = get_registry()
assert len([spec for spec in registry.specs() if spec.source == "hf"]) == 13
spec, _ = registry.resolve("hf:dinov2")
assert registry.weights(spec) == ()
print(sorted({"torch", "transformers", "headstrip_transformers"} & set(sys.modules)))
"""
    assert run_python("-c", code).stdout.strip() == "[]"


def test_the_plugin_is_found_without_an_error() -> None:
    (record,) = [one for one in Registry().records() if one.name == "hf"]
    assert (record.status, record.rows, record.error) == ("found", 13, None)
    assert record.origin == f"headstrip-transformers {headstrip_transformers.__version__}"


def test_the_error_for_a_bare_model_type_has_the_qualified_name() -> None:
    with pytest.raises(UnknownBackboneError, match="hf:dinov2"):
        Registry(disabled=["timm"]).resolve("dinov2")
