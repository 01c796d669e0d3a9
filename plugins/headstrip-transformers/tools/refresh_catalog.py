"""Write this plugin's catalog from the installed transformers: types, widths, head fidelity.

Run it after adding a tower, or when transformers changes a default. The tests compare the catalog
with the installed library. The script builds on the meta device, and makes no network call.

    python plugins/headstrip-transformers/tools/refresh_catalog.py

Where the numbers come from:

- Width, parameters and head fidelity: the built network without its head.
- Input size: the defaults of the configuration.
- Weights: none. A model type is an architecture; a repository of the hub has weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import headstrip_transformers
from headstrip.plugin_api import measure, write_catalog, write_weights
from headstrip_transformers.plugin import unmeasured_spec
from headstrip_transformers.towers import TOWERS

PACKAGE = Path(headstrip_transformers.__file__).parent


def write(folder: Path) -> None:
    """Write both files into ``folder``."""
    specs = [measure(unmeasured_spec(kind), sizes=True, maps=True) for kind in TOWERS]
    write_catalog(folder / "catalog.tsv", specs)
    # With an empty table, headstrip need not import the plugin to find out that there are none.
    write_weights(folder / "weights.tsv", [])
    print(f"{len(specs)} model types", file=sys.stderr)


if __name__ == "__main__":
    write(PACKAGE)
