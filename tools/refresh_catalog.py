"""Write headstrip's own catalog from the installed torchvision: names, widths, weights, labels.

Run it after a release of torchvision. The tests compare the catalog with the installed library.

    python tools/refresh_catalog.py
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from torchvision import models

import headstrip
from headstrip.families import BUILT_IN
from headstrip.families.family import LABELS, TorchvisionFamily
from headstrip.plugin_api import measure
from headstrip.registry.catalog import write_catalog, write_weights
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.system.atomic import write_atomically

PACKAGE = Path(headstrip.__file__).parent


def live_specs() -> list[BackboneSpec]:
    """Return the spec of every classification architecture of torchvision, images and video."""
    families = live_families()
    names = sorted(models.list_models(module=models) + models.list_models(module=models.video))
    specs = []
    for name in names:
        found = [spec for family in families if (spec := live_spec(family, name)) is not None]
        if len(found) != 1:
            raise SystemExit(
                f"{name} belongs to {len(found)} families, not to one. Correct families/."
            )
        print(f"{name:20s} {found[0].dim:6d}", file=sys.stderr)
        specs += found
    return specs


def live_spec(family: TorchvisionFamily, name: str) -> BackboneSpec | None:
    """Measure one architecture, None where it is of another family."""
    spec = family.find_backbone(name)
    if spec is None:
        return None
    demanded = next((dict(entry.options) for entry in family.weights(spec)), {})
    return measure(spec, demanded, sizes=True, maps=True)


def live_families() -> list[TorchvisionFamily]:
    """Import the built-in plugins."""
    return [importlib.import_module(f"headstrip.families.{name}").plugin for name in BUILT_IN]


def live_weights(specs: list[BackboneSpec]) -> list[tuple[str, WeightsEntry]]:
    """Return every set of weights of the architectures."""
    families = {family.FAMILIES[0]: family for family in live_families()}
    return [(spec.name, entry) for spec in specs for entry in families[spec.family].weights(spec)]


def live_labels() -> dict[str, tuple[str, ...]]:
    """Return torchvision's class names by set. The number of classes identifies the set."""
    labels: dict[str, tuple[str, ...]] = {}
    for name in models.list_models(module=models) + models.list_models(module=models.video):
        for member in models.get_model_weights(name):
            categories = tuple(member.meta.get("categories") or ())
            if not categories:
                continue
            known = labels.setdefault(LABELS[len(categories)], categories)
            if known != categories:
                raise SystemExit(
                    f"The labels of {name} differ from {LABELS[len(categories)]}. Add a new set of "
                    "labels."
                )
    return labels


def main() -> None:
    """Write the files into the package."""
    specs = live_specs()
    write_catalog(PACKAGE / "catalog.tsv", specs)
    write_weights(PACKAGE / "weights.tsv", live_weights(specs))
    (PACKAGE / "labels").mkdir(exist_ok=True)
    for name, categories in live_labels().items():
        text = "\n".join(categories) + "\n"
        write_atomically(PACKAGE / "labels" / f"{name}.txt", text.encode())


if __name__ == "__main__":
    main()
