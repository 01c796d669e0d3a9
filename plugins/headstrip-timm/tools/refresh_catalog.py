"""Write this plugin's catalog from the installed timm: names, widths, laws and weights.

Run it when timm has a release; the tests compare the catalog with the live library. Networks are
built without memory, and nothing is asked of a network.

    python plugins/headstrip-timm/tools/refresh_catalog.py

Where the numbers come from:

- Width, parameters and law: of the built network, its head taken off.
- Input size, preprocessing, number of classes, licence and places of the weights: of timm's
  pretrained configurations.
"""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import timm

import headstrip_timm
from headstrip import BackboneSpec, HeadstripError
from headstrip.plugin_api import measure, write_catalog, write_weights
from headstrip.registry.catalog import row_of_spec
from headstrip_timm.describe import claim, describe_weights

PACKAGE = Path(headstrip_timm.__file__).parent


def live_spec(name: str) -> BackboneSpec | str:
    """Build one architecture and write down what it shows, or why its head cannot be taken off."""
    try:
        return measure(claim(name))
    except HeadstripError as error:
        return str(error)


def live_specs(names: list[str]) -> tuple[list[BackboneSpec], dict[str, str]]:
    """Describe architectures, printing each; those that are refused come with their reason."""
    found = {}
    with ProcessPoolExecutor(2) as pool:
        for name, spec in zip(names, pool.map(live_spec, names, chunksize=8), strict=True):
            found[name] = spec
            print("\t".join(row_of_spec(spec)) if isinstance(spec, BackboneSpec) else name)
    refused = {name: spec for name, spec in found.items() if isinstance(spec, str)}
    return [spec for spec in found.values() if not isinstance(spec, str)], refused


def write(folder: Path, names: list[str]) -> dict[str, str]:
    """Write both files into ``folder``; return the architectures that are refused, and why."""
    specs, refused = live_specs(names)
    # The weights of an architecture stand in its plugin's table before the row can be measured.
    write_catalog(folder / "catalog.tsv", specs)
    entries = [(spec.name, entry) for spec in specs for entry in describe_weights(spec.name)]
    write_weights(folder / "weights.tsv", entries)
    print(f"{len(specs)} architectures, {len(entries)} sets of weights", file=sys.stderr)
    print(dict(Counter(spec.law for spec in specs)), file=sys.stderr)
    return refused


if __name__ == "__main__":
    for refused, why in write(PACKAGE, timm.list_models()).items():
        print(f"refused: {refused}: {why}", file=sys.stderr)
