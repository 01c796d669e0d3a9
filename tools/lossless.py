"""Prove that torchvision's architectures lose nothing with their head, and print a table.

For each architecture, the script builds a network with torchvision and perturbs every parameter and
running statistic (new heads may be zero, and then every embedding would pass). It saves the state
dict, builds an encoder from the file, and compares ``encoder.head(encoder(x))`` with the logits of
the untouched network, bit for bit.

    python tools/lossless.py                    every architecture
    python tools/lossless.py 'vit*' 'resnet18'
"""

from __future__ import annotations

import argparse
import fnmatch
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from headstrip import BackboneSpec, build_encoder
from headstrip.registry.registry import get_registry
from headstrip.testing import perturb

SMALL = 128
"""Side of the input for networks that take any size: head fidelity does not depend on it."""

SMALL_CLIP = 8
"""Frames of a clip, for networks that take any number."""

FIXED_SIZE = {"vit", "maxvit", "mvit", "s3d"}
"""Families whose networks take only the input size of their weights."""

LIGHT_WEIGHTS = {"vit_h_14": "IMAGENET1K_SWAG_LINEAR_V1"}
"""Weights with a smaller input size than the default: 518 pixels take six times as long."""


@dataclass(frozen=True)
class Proof:
    """The result for one architecture.

    Attributes:
        name: The architecture.
        dim: Width of the embedding.
        claimed: Width that the catalog claims.
        law: Head fidelity that the encoder states.
        input_shape: Input of the comparison, without the batch axis.
        equal: Whether logits, or the declared embedding, were equal bit for bit.
        finite: Whether they were finite.
        differ: Whether two inputs gave two results.
    """

    name: str
    dim: int
    claimed: int
    law: str
    input_shape: tuple[int, ...]
    equal: bool
    finite: bool
    differ: bool

    @property
    def lossless(self) -> bool:
        """Whether the architecture passes."""
        return self.equal and self.finite and self.differ and self.dim == self.claimed


def prove(name: str, folder: Path, seed: int = 0) -> Proof:
    """Compare the encoder of one architecture with torchvision's untouched network.

    Args:
        name: The architecture.
        folder: Folder for the temporary weights file.
        seed: Seed of the parameters and of the input.
    """
    torch.manual_seed(seed)
    registry = get_registry()
    spec, _ = registry.resolve(name)
    entries = {entry.tag: entry for entry in registry.weights(spec)}
    entry = entries[LIGHT_WEIGHTS.get(name, spec.default_weights or "")]
    untouched = models.get_model(name, weights=None, **_constructor(spec), **dict(entry.options))
    perturb(untouched)
    untouched.eval()
    path = folder / f"{name}.pth"
    torch.save(untouched.state_dict(), path)
    encoder = build_encoder(name, weights=f"{entry.tag}={path}")
    path.unlink()
    x = torch.randn(2, *input_shape(spec, encoder.input_shape))
    with torch.inference_mode():
        embedding = encoder(x)
        if encoder.law == "declared":
            expected, found = reference(untouched, x), embedding
        else:
            expected, found = untouched(x), encoder.logits(x)
    return Proof(
        name=name,
        dim=embedding.shape[1],
        claimed=encoder.output_dim if encoder.output_dim == spec.dim else -1,
        law=encoder.law,
        input_shape=tuple(x.shape[1:]),
        equal=torch.equal(expected, found),
        finite=bool(torch.isfinite(found).all()),
        differ=not torch.equal(found[0], found[1]),
    )


def reference(untouched: nn.Module, x: Tensor) -> Tensor:
    """Compute SqueezeNet's declared embedding: the spatial mean of its feature map."""
    features: Tensor = untouched.get_submodule("features")(x)
    return features.mean((2, 3))


def input_shape(spec: BackboneSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the input shape of the comparison, which is small if the network allows it."""
    if spec.family in FIXED_SIZE:
        return shape
    frames = (min(shape[1], SMALL_CLIP),) if spec.task == "video" else ()
    return (shape[0], *frames, min(shape[-2], SMALL), min(shape[-1], SMALL))


def _constructor(spec: BackboneSpec) -> dict[str, object]:
    # Without this argument, torchvision's two oldest constructors warn about its default.
    return {"init_weights": True} if spec.family in {"googlenet", "inception"} else {}


def names(patterns: list[str]) -> Iterator[str]:
    """Yield torchvision's architectures that match any of the patterns."""
    for spec in get_registry().specs():
        if spec.source == "torchvision" and any(fnmatch.fnmatch(spec.name, p) for p in patterns):
            yield spec.name


def main() -> None:
    """Print one row per architecture, and exit with code 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--markdown", action="store_true", help="print rows of Markdown")
    arguments = parser.parse_args()
    row = "| `{}` | {} | {} | {} | {} |" if arguments.markdown else "{:22} {:>6} {:9} {:>14} {:>9}"
    print(row.format("architecture", "width", "law", "input", "lossless").replace("`", ""))
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in names(arguments.patterns):
            proof = prove(name, Path(folder))
            failed += not proof.lossless
            size = "x".join(map(str, proof.input_shape))
            verdict = "yes" if proof.lossless else "no"
            print(row.format(name, proof.dim, proof.law, size, verdict), flush=True)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
