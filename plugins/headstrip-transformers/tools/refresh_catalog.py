"""Write this plugin's catalog from the installed transformers: model types, widths and laws.

Run it when a tower is added, or transformers changes a default; the tests compare the catalog with
the live library. Networks are built without memory, and nothing is asked of a network.

    python plugins/headstrip-transformers/tools/refresh_catalog.py

Where the numbers come from:

- Width, parameters and law: of the built network, its head taken off.
- Input size: of the configuration's defaults.
- Weights: none. A model type is an architecture; a repository of the hub has weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import headstrip_transformers
from headstrip.plugin_api import measure, write_catalog, write_weights
from headstrip_transformers.plugin import claim
from headstrip_transformers.towers import TOWERS

PACKAGE = Path(headstrip_transformers.__file__).parent


def write(folder: Path) -> None:
    """Write both files into ``folder``."""
    specs = [measure(claim(kind)) for kind in TOWERS]
    write_catalog(folder / "catalog.tsv", specs)
    # With a table nobody has to import the plugin to learn that a model type has no weights.
    write_weights(folder / "weights.tsv", [])
    print(f"{len(specs)} model types", file=sys.stderr)


if __name__ == "__main__":
    write(PACKAGE)
