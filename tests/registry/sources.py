"""Install sources for one test: distributions with catalogs, some with a live plugin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.distributions import catalog_of, install_distribution, weights_of

from headstrip import BackboneSpec, WeightsEntry

LIVE = """
from headstrip import BackboneSpec, WeightsEntry, hookimpl

asked = []


def describe(name, **changes):
    facts = dict(name=name, source="acme", family="resnet", plugin="acme", task="image")
    return BackboneSpec(**{**facts, **changes}, input_shape=(3, 8, 8), dim=8, params=1)


@hookimpl
def find_backbone(name):
    asked.append(name)
    if name == "impostor":
        return describe("resnet18", source="torchvision")
    if name == "alias":
        return describe("newest")
    return describe(name) if name.startswith("new") else None


@hookimpl
def weights(spec):
    asked.append(spec)
    return [WeightsEntry("LIVE")]
"""


def spec_of(source: str, name: str, **changes: Any) -> BackboneSpec:
    """Describe a backbone of a source, in the core's family ``resnet``."""
    facts = {"family": "resnet", "plugin": source, "default_weights": "V1", **changes}
    return BackboneSpec(name, source, task="image", input_shape=(3, 8, 8), dim=8, params=1, **facts)


def install_source(
    site: Path,
    source: str,
    names: Sequence[str | BackboneSpec] = (),
    weights: Sequence[tuple[str, WeightsEntry]] | None = None,
    code: str = "raise AssertionError('imported')",
    **files: str,
) -> str:
    """Install the distribution ``headstrip-SOURCE``, and return the name of its package."""
    package = f"{source}_of_a_test"
    specs = [spec_of(source, name) if isinstance(name, str) else name for name in names]
    contents = {
        "__init__.py": code,
        **{key.replace("__", "."): text for key, text in files.items()},
    }
    if specs:
        contents["catalog.tsv"] = catalog_of(*specs)
    if weights is not None:
        contents["weights.tsv"] = weights_of(*weights)
    install_distribution(
        site,
        f"headstrip-{source}",
        {source: package},
        {f"{package}/{path}": text for path, text in contents.items()},
    )
    return package


def hide_timm(site: Path) -> None:
    """Hide the environment's timm plugin behind a distribution without a plugin."""
    install_distribution(site, "headstrip-timm", {}, {})
