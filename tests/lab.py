"""A distribution with a catalog of weights from every kind of location."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.distributions import catalog_of, install_distribution, weights_of

from headstrip import BackboneSpec, WeightsEntry

NET = b"the weights of a net" * 50
PACKED = b"the weights in a package" * 50


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def named(data: bytes = NET) -> str:
    """Return a file name that contains the hash of the file's bytes."""
    return f"net-{sha256(data)[:8]}.pth"


def install_lab(site: Path, url: str) -> None:
    """Install the source ``lab``, with one backbone and weights from every kind of location.

    Args:
        site: A folder on the path.
        url: The server of its URLs. The environment determines the hub.
    """
    entries = [
        WeightsEntry("named", (f"{url}/{named()}",), metrics=(("file size (MB)", 0.001),)),
        WeightsEntry("plain", (f"{url}/plain.pth",)),
        WeightsEntry("whole", (f"{url}/whole.pth",), sha256=sha256(NET)),
        WeightsEntry("hub", ("hf:lab/net",)),
        WeightsEntry("both", ("hf:lab/both", f"{url}/both.pth")),
        WeightsEntry("packed", ("dist:the-lab/the_lab/net.bin",)),
        WeightsEntry("own", (str(site / "own.pth"),)),
        WeightsEntry("loaded"),
    ]
    spec = BackboneSpec("net", "lab", "resnet", "lab", "image", (3, 8, 8), 4, 100, "named")
    files: dict[str, str | bytes] = {
        "the_lab/__init__.py": "raise ImportError('nobody needs this plugin')\n",
        "the_lab/catalog.tsv": catalog_of(spec),
        "the_lab/weights.tsv": weights_of(*[("net", entry) for entry in entries]),
        "the_lab/net.bin": PACKED,
    }
    install_distribution(site, "the-lab", {"lab": "the_lab"}, files)
