"""Write this plugin's catalog from the installed timm: names, widths, head fidelity and weights.

Run it after a release of timm. The tests compare the catalog with the installed timm. The script
builds networks on the meta device, and makes no network call.

    python plugins/headstrip-timm/tools/refresh_catalog.py

Where the numbers come from:

- Width, parameters and head fidelity: the built network without its head.
- Input size, preprocessing, number of classes, licence and locations of the weights: timm's
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
from headstrip_timm.describe import describe_weights, unmeasured_spec

PACKAGE = Path(headstrip_timm.__file__).parent


def live_spec(name: str) -> BackboneSpec | str:
    """Return the measured spec of an architecture, or why its head cannot be removed."""
    try:
        return measure(unmeasured_spec(name), sizes=True, maps=True)
    except HeadstripError as error:
        return str(error)


def live_specs(names: list[str]) -> tuple[list[BackboneSpec], dict[str, str]]:
    """Return the specs of architectures, and the reasons for those that are refused."""
    found = {}
    with ProcessPoolExecutor(2) as pool:
        for name, spec in zip(names, pool.map(live_spec, names, chunksize=8), strict=True):
            found[name] = spec
            print("\t".join(row_of_spec(spec)) if isinstance(spec, BackboneSpec) else name)
    refused = {name: spec for name, spec in found.items() if isinstance(spec, str)}
    return [spec for spec in found.values() if not isinstance(spec, str)], refused


def write(folder: Path, names: list[str]) -> dict[str, str]:
    """Write both files into ``folder``. Return the refused architectures with the reasons."""
    specs, refused = live_specs(names)
    write_catalog(folder / "catalog.tsv", specs)
    entries = [(spec.name, entry) for spec in specs for entry in describe_weights(spec.name)]
    write_weights(folder / "weights.tsv", entries)
    print(f"{len(specs)} architectures, {len(entries)} sets of weights", file=sys.stderr)
    print(dict(Counter(spec.law for spec in specs)), file=sys.stderr)
    return refused


if __name__ == "__main__":
    for name, reason in write(PACKAGE, timm.list_models()).items():
        print(f"refused: {name}: {reason}", file=sys.stderr)
