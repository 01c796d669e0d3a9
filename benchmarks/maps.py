"""Measure what feature maps cost beside the forward pass, with headstrip and in other ways.

The ways of one network alternate in one process, and the result is the median over the runs,
relative to headstrip's plain forward. Quote the ratios. timm's `features_only` and torchvision's
extractor compute no embedding. The memory is what the operations of one call hold at most, and what
the results of the call keep, beside the parameters.

    python benchmarks/maps.py [--runs 15] [--batch 4] [--out benchmarks/maps.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import weakref
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.models.feature_extraction import create_feature_extractor

from headstrip import build_encoder

NETWORKS: dict[str, tuple[str, list[int], list[str]]] = {
    "resnet50": ("resnet50", [0, 1, 2, 3, 4], ["relu", "layer1", "layer2", "layer3", "layer4"]),
    "vit_b_16": (
        "vit_base_patch16_224",
        [1, 3, 6, 8, 11],
        [f"encoder.layers.encoder_layer_{number}" for number in (1, 3, 6, 8)] + ["encoder.ln"],
    ),
    "convnext_tiny": ("convnext_tiny", [0, 1, 2, 3], [f"features.{n}" for n in (1, 3, 5, 7)]),
}
"""Of each network: its name in timm, the numbers of its levels, and torchvision's paths."""

Call = Callable[[], Any]


class Memory(TorchDispatchMode):
    """A torch mode that counts the bytes of the tensors that operations make."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """Leave out the tensors that exist before."""
        super().__init__()
        self.now = self.peak = 0
        self._sizes = {one.untyped_storage()._cdata: 0 for one in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count the new tensors of its result."""
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            storage = one.untyped_storage() if isinstance(one, Tensor) else None
            if storage is not None and storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, storage._cdata)
        return result

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def ways(name: str, batch: int) -> tuple[dict[str, Call], list[Tensor]]:
    """Return what to measure for a network, and the tensors that exist before."""
    other, levels, paths = NETWORKS[name]
    encoder = build_encoder(name, weights=None)
    pyramid = encoder.pyramid(levels=levels)
    extractor = create_feature_extractor(encoder.backbone, paths)
    whole = timm.create_model(other, num_classes=0).eval()
    features = timm.create_model(other, features_only=True, out_indices=levels).eval()
    x = torch.randn(batch, *encoder.input_shape)
    modules: tuple[nn.Module, ...] = (encoder, extractor, whole, features)
    known = [x, *(one for module in modules for one in module.state_dict().values())]
    calls: dict[str, Call] = {
        "headstrip forward": lambda: encoder(x),
        "headstrip with_maps": lambda: encoder.with_maps(x, levels=levels),
        "headstrip pyramid": lambda: pyramid(x),
        "torchvision create_feature_extractor": lambda: extractor(x),
        "timm forward": lambda: whole(x),
        "timm features_only": lambda: features(x),
    }
    return calls, known


def measure(name: str, runs: int, batch: int) -> dict[str, dict[str, float]]:
    """Time all ways of a network alternately, after one warm-up each, and count their memory."""
    calls, known = ways(name, batch)
    times: dict[str, list[float]] = {way: [] for way in calls}
    for turn in range(runs + 1):
        for way, call in calls.items():
            started = time.perf_counter()
            call()
            if turn:
                times[way].append(time.perf_counter() - started)
    base = statistics.median(times["headstrip forward"])
    found = {}
    for way, call in calls.items():
        with Memory(known) as memory:
            result = call()
        seconds = statistics.median(times[way])
        found[way] = {
            "seconds": round(seconds, 4),
            "ratio": round(seconds / base, 3),
            "peak_mb": round(memory.peak / 1e6, 2),
            "kept_mb": round(memory.now / 1e6, 2),
        }
        del result
    return found


def main() -> None:
    """Measure, print the tables, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--note", default="", help="what else the machine did")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {}
    with torch.inference_mode():
        for name in NETWORKS:
            results[name] = measure(name, arguments.runs, arguments.batch)
            print(f"{name:38} {'seconds':>8} {'ratio':>6} {'peak MB':>8} {'kept MB':>8}")
            for way, row in results[name].items():
                cells = f"{row['seconds']:8.3f} {row['ratio']:6.2f}"
                print(f"  {way:36} {cells} {row['peak_mb']:8.1f} {row['kept_mb']:8.1f}")
    libraries = ("headstrip", "torch", "torchvision", "timm")
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "versions": {
            "python": platform.python_version(),
            **{one: version(one) for one in libraries},
        },
        "runs": arguments.runs,
        "batch": arguments.batch,
        "threads": arguments.threads,
        "note": arguments.note,
        "networks": results,
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
