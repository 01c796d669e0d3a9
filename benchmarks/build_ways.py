"""One way of building one encoder, measured in this process; `build.py` starts it.

    python benchmarks/build_ways.py WAY ARCHITECTURE FOLDER scout|measure|hold

`scout` prints the modules that the way imports, `measure` imports them first and prints seconds and
bytes, `hold` prints "ready" after embedding an image and keeps the encoder until stdin ends.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from build_files import ARCHITECTURES, Architecture, Files, read_record

Build = Callable[[Architecture, Files], Any]
IMAGES = 5
"""Batch size with which WBCAtt's code runs a network to find its width."""


def headstrip_way(architecture: Architecture, files: Files) -> Any:
    """Build with headstrip by name."""
    import headstrip

    return headstrip.build_encoder(architecture.name)


def path_way(architecture: Architecture, files: Files) -> Any:
    """Build with headstrip from a path. The file is read into memory, so it may be overwritten.

    The tag is part of the argument, because vit_h_14 is built at the size of its default weights.
    """
    import headstrip

    return headstrip.build_encoder(architecture.name, weights=f"DEFAULT={files.torchvision}")


def notes_way(architecture: Architecture, files: Files) -> Any:
    """Build like WBCAtt's code: in train mode, with a batch of five to find the width.

    vit_h_14 runs at 518 pixels, the size of its default weights. At 224 pixels it fails.
    """
    import torch
    import torchvision

    model = getattr(torchvision.models, architecture.name)(weights="DEFAULT")
    _behead(model, architecture.head)
    with torch.inference_mode():
        output = model(torch.randn(IMAGES, 3, architecture.size, architecture.size))
    assert output.ndim == 2
    assert output.shape[0] == IMAGES
    return model


def torchvision_way(architecture: Architecture, files: Files) -> Any:
    """Build by hand: remove the head, set eval mode, and run one image to find the width."""
    import torch
    from torchvision import models

    model = models.get_model(architecture.name, weights="DEFAULT").eval()
    _behead(model, architecture.head)
    with torch.inference_mode():
        assert model(torch.randn(1, 3, architecture.size, architecture.size)).ndim == 2
    return model


def timm_way(architecture: Architecture, files: Files) -> Any:
    """Build as timm's documentation recommends. timm states the width."""
    import timm

    name, options = architecture.timm
    # Some default weights have an old format with a special loader; do not use it.
    overlay = {"file": files.timm, "custom_load": False}
    model = timm.create_model(
        name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay, **options
    )
    return model.eval()


def transformers_way(architecture: Architecture, files: Files) -> Any:
    """Build with transformers, without memory for random values."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(
        files.transformers, low_cpu_mem_usage=True, **architecture.auto
    )


def map_floor(architecture: Architecture, files: Files) -> Any:
    """Map the file and create its tensors without reading their bytes. No network is built."""
    import torch

    return torch.load(files.torchvision, map_location="cpu", weights_only=True, mmap=True)


def read_floor(architecture: Architecture, files: Files) -> Any:
    """Map the file and read every byte. No network is built."""
    import numpy as np

    with open(files.torchvision, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    words = np.frombuffer(mapped, np.uint64, len(mapped) // 8)
    assert int(np.bitwise_or.reduce(words))
    return mapped


def copy_floor(architecture: Architecture, files: Files) -> Any:
    """Read the whole file into memory. No network is built."""
    import numpy as np

    path = Path(files.torchvision)
    memory = np.empty(path.stat().st_size, np.uint8)
    view, done = memory.data, 0
    with open(path, "rb", buffering=0) as file:
        while done < len(view):
            done += file.readinto(view[done:])
    return memory


WAYS: dict[str, tuple[Build, str]] = {
    "headstrip": (headstrip_way, "headstrip.factory"),
    "path": (path_way, "headstrip.factory"),
    "notes": (notes_way, "torchvision"),
    "torchvision": (torchvision_way, "torchvision"),
    "timm": (timm_way, "timm"),
    "transformers": (transformers_way, "transformers"),
    "map": (map_floor, "torch"),
    "read": (read_floor, "numpy"),
    "copy": (copy_floor, "numpy"),
}
"""The function of each way, and the module that its user imports."""

FLOORS = ("map", "read", "copy")


def _behead(model: Any, path: str) -> None:
    from torch import nn

    *parents, name = path.split(".")
    parent = model.get_submodule(".".join(parents))
    setattr(parent, name, nn.Identity())


def trust_generated(files: Files) -> None:
    """Make headstrip's catalog state the name and the hash of the generated file.

    headstrip finds, hashes, parses and assigns the file like the published one.
    """
    from headstrip.registry.registry import Registry

    listed = Registry.weights
    name = Path(files.headstrip).name
    sha256 = Path(name).stem.rpartition("-")[2]
    locations = (f"https://download.pytorch.org/models/{name}",)

    def weights(registry: Any, spec: Any) -> Any:
        return tuple(
            dataclasses.replace(entry, locations=locations, sha256=sha256)
            if entry.tag == files.tag
            else entry
            for entry in listed(registry, spec)
        )

    Registry.weights = weights  # type: ignore[method-assign]


def embed(encoder: Any, size: int) -> None:
    """Run an encoder on one image."""
    import torch

    with torch.inference_mode():
        encoder(torch.full((1, 3, size, size), 0.5))


def memory(field: str) -> int:
    """Return a value from /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}")


def scout(way: str, architecture: Architecture, files: Files) -> dict[str, Any]:
    """Build once, embed, and return the modules that this imported."""
    build, module = WAYS[way]
    importlib.import_module(module)
    before = set(sys.modules)
    encoder = build(architecture, files)
    if way not in FLOORS:
        embed(encoder.eval(), architecture.size)
    return {"modules": [name for name in sys.modules if name not in before]}


def import_all(way: str, modules: list[str]) -> float:
    """Import the modules of a way, and return the seconds."""
    started = time.perf_counter()
    importlib.import_module(WAYS[way][1])
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            # Some modules are created while others are imported, and have no file.
            continue
    return time.perf_counter() - started


def measure(
    way: str, architecture: Architecture, files: Files, modules: list[str]
) -> dict[str, float]:
    """Build and embed once, and return seconds and the bytes beyond those of the imports."""
    imports = import_all(way, modules)
    if way == "headstrip":
        trust_generated(files)
    build = WAYS[way][0]
    # Reset the peak of the resident set.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    base = memory("VmRSS")
    started = time.perf_counter()
    encoder = build(architecture, files)
    taken = time.perf_counter() - started
    seen = {"imports_s": imports, "build_s": taken, "build_bytes": memory("VmHWM") - base}
    if way in FLOORS:
        return seen
    started = time.perf_counter()
    embed(encoder.eval(), architecture.size)
    first = time.perf_counter() - started
    seen["first_bytes"] = memory("VmHWM") - base
    seen["held_bytes"] = memory("VmRSS") - base
    warm = []
    for _ in range(3):
        started = time.perf_counter()
        embed(encoder, architecture.size)
        warm.append(time.perf_counter() - started)
    seen["warm_s"] = statistics.median(warm)
    return {**seen, "first_s": taken + first}


def hold(way: str, architecture: Architecture, files: Files) -> None:
    """Build, embed one image, print "ready", and keep the encoder until stdin ends."""
    if way == "headstrip":
        trust_generated(files)
    encoder = WAYS[way][0](architecture, files)
    embed(encoder.eval(), architecture.size)
    print("ready", flush=True)
    sys.stdin.read()


def main() -> None:
    """Run the action on the command line, and print JSON."""
    way, name, folder, task = sys.argv[1:5]
    architecture = ARCHITECTURES[name]
    files = read_record(name, Path(folder))
    assert files is not None
    # Libraries may print, so keep their output out of the result.
    answers, sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8"), sys.stderr
    if task == "scout":
        if way == "headstrip":
            trust_generated(files)
        result: dict[str, Any] = scout(way, architecture, files)
    elif task == "measure":
        result = measure(way, architecture, files, json.loads(sys.stdin.read()))
    else:
        sys.stdout = answers
        hold(way, architecture, files)
        return
    print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
