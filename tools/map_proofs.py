"""Prove that feature maps of encoders are what their networks compute, and lie as the picture.

The tool builds each network with random values that all matter, and checks

- *cut*: with the map of one picture in the place of another's, the network gives the embedding of
  the first, bit for bit. Where a library gives its maps itself, as timm does, the tool looks for
  modules that give or read a map of the same values;
- *grid*: a picture rolled on a torus has rolled maps, or another picture under one cell changes the
  map most there;
- *tail*: the mean of the last map, or the class token, is the embedding;
- *depth*: after a map, no layer of its stage follows, where headstrip states the levels;
- *written*: no later layer writes into a map;
- *untouched*: the encoder gives the same embedding after its maps were read, and consists of the
  same modules, hooks and tensors;
- *sizes*: each map grows by one cell where the image grows by one stride, at three sizes, and has
  the channels that the encoder states.

It takes every architecture of torchvision for images, every one of timm, and a small network of
every model type of transformers.

    python tools/map_proofs.py                       print one line per architecture
    python tools/map_proofs.py 'resnet*' 'timm:*'    only these
    python tools/map_proofs.py --write --minutes 60  continue benchmarks/map_proofs.json, and write
                                                     it and docs/reference/map-proofs.md
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from proving import ProofTool, Results

from headstrip import BackboneSpec, Encoder, HeadstripError, Level, LevelError, build_encoder
from headstrip.encoder.maps import map_sizes, maps_module
from headstrip.network.levels import as_levels
from headstrip.registry.registry import get_registry
from headstrip.testing import map_grids, map_proofs, perturb
from headstrip.testing.footprint import changes, footprint
from headstrip.testing.perturb import FastRandom

ROOT = Path(__file__).parents[1]
TOWERS = ROOT / "plugins" / "headstrip-transformers" / "tests"
RESULTS = ROOT / "benchmarks" / "map_proofs.json"
PAGE = ROOT / "docs" / "reference" / "map-proofs.md"

REFUSALS = (AssertionError, IndexError, RuntimeError, ValueError, HeadstripError)
"""What networks raise for an image of a size that they do not take."""

BYTES = 4 * 5 * 1.25
"""Peak memory of a proof per parameter: the network, a copy, and activations."""

LARGE = 40_000_000
"""Parameters from which on an architecture of timm does not come before smaller ones."""

GIB = 12
"""Memory for all proofs together."""

SECONDS = 60
"""Time limit for one proof."""

SIDES = {"maxvit": (224, 224), "swin": (128, 192)}
"""Sizes of images for families of torchvision that do not take every size."""

SMALL = (96, 128)
"""The size for all others of torchvision, whatever their weights were trained with."""

CELLS = 4
"""Side of the coarsest map in cells, for the small images that architectures of timm get."""

TAILS = {
    "alexnet": None,
    "convnext": None,
    "maxvit": None,
    "mobilenet_v3": None,
    "vgg": None,
    "vit": "token",
}
"""What of the last map the embedding is in families of torchvision, if not the mean."""

DOCUMENT = """\
# Feature maps, architecture by architecture

This page is for readers who want to check the [feature maps](../how-to/use-feature-maps.md) of a
backbone. `make map-proofs` writes it, with networks of random values that all matter, on the CPU,
with {versions}.

- maps: the channels of each map, and the pixels between two neighbouring cells.
- cut: at how many maps the network gives the embedding of one picture if its map replaces that of
  another picture, bit for bit. So the embedding depends on nothing else.
- grid: how rows, columns and the first cell were proven. `shift`: a picture that is rolled on a
  torus has rolled maps. `locality`: another picture under one cell changes the map most there.
- embedding: whether it is the mean of the last map or its class token.
- sizes: whether channels and strides are the stated ones at three sizes of images, of which two are
  not square, or the network takes one size only.

The images have the size that an architecture takes by default, or less.

The command also refuses an architecture whose encoder differs after its maps were read. Where
headstrip states the levels, for torchvision and transformers, it refuses one in which a layer with
weights follows a map in its stage. For timm it compares channels and strides with those that timm
states.

{passed} of {count} architectures pass: {sources}. Of timm's {timm} the smallest ones of the
families come first, then the others by size. {large} of them need more than {gib} GiB for the
proof, and {slow} take longer than {seconds:g} s{missing}.

The next table has all exceptions. timm's maps are those of timm's `forward_intermediates`, bit for
bit, so a map that the embedding does not follow from is an exception there and a failure in the
other sources.

| exception | reason | architectures |
|---|---|---|
{exceptions}

## Results

| architecture | maps | cut | grid | embedding | sizes |
|---|---|---|---|---|---|
{rows}
"""


@dataclass
class Proof:
    """The result for one architecture.

    Attributes:
        name: The architecture, with its source.
        maps: What the table shows of channels and strides.
        cells: What it shows for each proof.
        exceptions: Proofs that fail or cannot be run, and why.
        problems: What is wrong; nothing for an architecture that passes.
    """

    name: str
    maps: str = ""
    cells: dict[str, str] = field(default_factory=dict)
    exceptions: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def check(self, what: str, holds: bool) -> None:
        """Note a problem unless a statement holds."""
        if not holds:
            self.problems.append(what)


@torch.no_grad()
def prove(name: str) -> Proof:
    """Check one architecture.

    Args:
        name: A name such as ``torchvision:resnet18``, or ``hf:`` and a model type.
    """
    encoder, shape = made(name)
    proof = _proof(name, encoder, shape)
    if "grid" in proof.exceptions and encoder.input_shape != encoder.spec.input_shape:
        # Where changes spread over the few cells of a small image, they may not in a larger one.
        return _proof(name, *made(name, 2 * CELLS))
    return proof


def _proof(name: str, encoder: Encoder, shape: tuple[int, ...]) -> Proof:
    proof = Proof(name)
    try:
        sizes = map_sizes(encoder)
    except LevelError as error:
        proof.exceptions["maps"] = str(error).partition(".")[0].partition(": ")[2]
        return proof
    channels, strides = [size.channels for size in sizes], [size.stride for size in sizes]
    proof.maps = shown(channels, strides)
    proof.check(f"the strides {strides} do not rise", strides == sorted(strides))
    x, y = two(shape)
    alone = encoder(x)
    # Only now, because the first forward pass of some networks prepares tensors.
    before = footprint(encoder)
    embedding, maps = encoder.with_maps(x)
    encoder.pyramid()(x)
    changed = changes(before, footprint(encoder))
    proof.check(f"reading the maps changes {', '.join(changed[:3])}", not changed)
    proof.check("the embedding beside the maps is another", torch.equal(embedding, alone))
    proof.check("the encoder gives another embedding after it", torch.equal(encoder(x), alone))
    _prove_cut(proof, encoder, maps, x, y)
    _prove_tail(proof, encoder, x)
    _prove_sizes(proof, encoder, shape, channels, strides)
    _prove_library(proof, encoder, x)
    # Last, because it may leave the encoder in float64.
    _prove_grid(proof, encoder, shape, strides)
    return proof


def made(name: str, cells: int = CELLS) -> tuple[Encoder, tuple[int, ...]]:
    """Return an encoder whose every parameter matters, and the shape of an input for it.

    Args:
        name: The architecture.
        cells: Side of the coarsest map of an architecture of timm. One that takes no such image,
            or takes smaller ones by default, gets the image size that it has by default.
    """
    source, _, kind = name.partition(":")
    options: dict[str, Any] = {}
    if source == "hf":
        sys.path.insert(0, str(TOWERS))
        from hf_checkpoints import OPTIONS

        deeper = {"num_hidden_layers": 3} if "num_hidden_layers" in OPTIONS[kind] else {}
        options = {**OPTIONS[kind], **deeper}
    spec = get_registry().resolve(name)[0]
    family, side = spec.family, 0
    if source == "timm":
        side = cells * max(spec.strides or (0,))
        with suppress(*REFUSALS):
            if 0 < side < min(spec.input_shape[1:]):
                return _random(name, img_size=side)
        return _random(name)
    if family == "vit":
        side = 4 * int(kind.rpartition("_")[2])
        options = {"image_size": side}
    encoder, shape = _random(name, options=options)
    if source == "torchvision":
        size = (side, side) if side else SIDES.get(family, SMALL)
        return encoder, (3, *size)
    return encoder, shape


def _random(name: str, **changes: Any) -> tuple[Encoder, tuple[int, ...]]:
    torch.manual_seed(0)
    with FastRandom():
        encoder = build_encoder(name, weights=None, **changes)
        perturb(encoder.backbone)
    return encoder, encoder.input_shape


def two(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return two pictures, as batches of one."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 1, *shape, generator=generator)
    return x, y


def levels_of(encoder: Encoder) -> tuple[Level, ...] | None:
    """Return the levels of an encoder, None where its plugin returns a module instead."""
    plugin, family = get_registry().stripper(encoder.spec.family)
    backbone, spec = encoder.backbone, encoder.spec
    stated = plugin.call("levels", spec.name, model=backbone, family=family, spec=spec)
    return None if isinstance(stated, nn.Module) else as_levels(stated)


def maps_of(encoder: Encoder) -> nn.Module:
    """Return a module that gives embedding, maps and prefix tokens."""
    levels = tuple(range(len(map_sizes(encoder))))
    return maps_module(encoder.backbone, encoder.spec, levels, True)


def shown(channels: Sequence[int], strides: Sequence[int]) -> str:
    """Return channels and strides in a few words."""
    pairs = list(zip(channels, strides, strict=True))
    if len(pairs) > 1 and len(set(pairs)) == 1:
        return f"{len(pairs)} of {channels[0]} at {strides[0]}"
    return ", ".join(f"{count} at {stride}" for count, stride in pairs)


def _prove_library(proof: Proof, encoder: Encoder, x: Tensor) -> None:
    """Compare the maps of timm's networks, their channels and their strides with timm's own."""
    network = getattr(encoder.backbone, "model", encoder.backbone)
    if not hasattr(network, "forward_intermediates"):
        return
    _, theirs = network.forward_intermediates(x)
    ours = encoder.maps(x, norm=False)
    same = len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))
    proof.check("the maps differ from those of forward_intermediates", same)
    stated = getattr(network.feature_info, "info", network.feature_info)
    sizes = map_sizes(encoder)
    channels = [level["num_chs"] for level in stated]
    proof.check(
        f"timm states the channels {channels}", channels == [size.channels for size in sizes]
    )
    strides = [level["reduction"] for level in stated]
    if strides == [size.stride for size in sizes]:
        return
    if proof.cells["sizes"] == "three":
        proof.exceptions["strides"] = f"timm states {strides}, which images of three sizes disprove"
    else:
        proof.problems.append(f"timm states the strides {strides}")


def _prove_cut(proof: Proof, encoder: Encoder, maps: list[Tensor], x: Tensor, y: Tensor) -> None:
    levels, count = levels_of(encoder), len(maps)
    if levels is not None:
        missed = map_proofs.cut_misses(encoder.backbone, levels, x, y)
        proof.check(f"the embedding depends on more than the maps {missed}", not missed)
        early = map_proofs.too_early(encoder.backbone, levels, x, y)
        proof.check(f"later layers of the same stage end at {early}", not early)
        changed = map_proofs.overwritten(encoder.backbone, levels, x)
        proof.check(f"a later layer writes into the maps {changed}", not changed)
        proof.cells["cut"] = f"{count - len(missed)} of {count}"
        return
    chosen = [maps[number] for number in map_proofs.some_of(count)]
    found = map_proofs.cut_by_value(encoder.backbone, chosen, x, y)
    counts = Counter(found)
    proof.cells["cut"] = f"{counts['proven']} of {len(found)}"
    if counts["partial"]:
        proof.exceptions["cut"] = "the embedding depends on more than a map of the library"
    elif counts["unseen"]:
        proof.exceptions["cut"] = "no module gives or reads a map of the library"


def _prove_tail(proof: Proof, encoder: Encoder, x: Tensor) -> None:
    tail = map_proofs.tail_of(maps_of(encoder)(x))
    proof.cells["embedding"] = {"token": "class token"}.get(tail or "", tail or "-")
    if encoder.spec.source == "torchvision":
        wanted = TAILS.get(encoder.spec.family, "mean")
        proof.check(f"the embedding is {tail}, not {wanted}, of the last map", tail == wanted)


def _prove_grid(
    proof: Proof, encoder: Encoder, shape: tuple[int, ...], strides: Sequence[int]
) -> None:
    found = grid_proof(encoder, maps_of(encoder), shape, strides)
    if found is not None and found.wrong and encoder.spec.source == "timm":
        found = _in_float64(encoder, shape, strides) or found
    if found is None:
        proof.cells["grid"] = "-"
        proof.exceptions["grid"] = "the last map has one cell"
        return
    right = len(strides) - len(found.wrong)
    proof.cells["grid"] = (
        found.way if not found.wrong else f"{found.way}, {right} of {len(strides)}"
    )
    if not found.wrong:
        return
    if encoder.spec.family == "maxvit" and found.wrong == (4,):
        proof.exceptions["grid"] = "attention of the last block reaches every position"
    elif found.misplaced or encoder.spec.source != "timm":
        proof.problems.append(f"the grids {found.wrong} {found.misplaced or 'are not proven'}")
    else:
        proof.exceptions["grid"] = "changes spread in a network of random values"


def _in_float64(
    encoder: Encoder, shape: tuple[int, ...], strides: Sequence[int]
) -> map_grids.GridProof | None:
    """Prove the grids by shift without the rounding of float32; None if that does not apply."""
    encoder.double()
    try:
        whole = _whole(shape, max(strides))
        found = map_grids.grid_by_shift(maps_of(encoder), whole, strides, torch.float64)
    except REFUSALS:
        return None
    return None if found.wrong else found


def _whole(shape: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Return a shape near another one with sides of at least three whole strides."""
    return (shape[0], *(max(3, side // most) * most for side in shape[1:]))


def grid_proof(
    encoder: Encoder, module: nn.Module, shape: tuple[int, ...], strides: Sequence[int]
) -> map_grids.GridProof | None:
    """Prove the grids by shift where that applies, else by locality; None for one cell."""
    most, family = max(strides), encoder.spec.family
    if family == "vit":
        # A shift meets no border where all positions have the same vector.
        positions = encoder.backbone.get_parameter("encoder.pos_embedding")
        kept = positions.clone()
        positions.zero_()
        proof = map_grids.grid_by_shift(module, shape, strides)
        positions.copy_(kept)
        return proof
    if family not in SIDES:
        try:
            proof = map_grids.grid_by_shift(module, _whole(shape, most), strides)
        except REFUSALS:
            # The network takes another size only.
            proof = None
        if encoder.spec.source == "torchvision" or (proof and not proof.wrong):
            return proof
    if min(side // most for side in shape[1:]) < 2:
        return None
    return map_grids.grid_by_locality(module, shape, most)


def _prove_sizes(
    proof: Proof,
    encoder: Encoder,
    shape: tuple[int, ...],
    channels: Sequence[int],
    strides: Sequence[int],
) -> None:
    """Compare maps of images that are larger by whole strides with what the encoder states."""
    most, (height, width) = max(strides), shape[1:]
    before: list[tuple[int, int]] | None = None
    for rows, columns in ((0, 0), (1, 2), (3, 1)):
        size = (height + rows * most, width + columns * most)
        try:
            maps = encoder.maps(torch.zeros(1, shape[0], *size))
        except REFUSALS:
            if before is None:
                raise
            proof.cells["sizes"] = "one size"
            proof.check(f"the encoder takes {size}, its maps do not", not _takes(encoder, size))
            # A network that does not pad loses a cell.
            fits = all(
                abs(side / stride - cells) <= 1
                for one, stride in zip(before, strides, strict=True)
                for cells, side in zip(one, shape[1:], strict=True)
            )
            proof.check(f"the maps have {before} cells at {size}, not by {strides}", fits)
            return
        found = [(one.shape[2], one.shape[3]) for one in maps]
        if found == before:
            proof.cells["sizes"] = "resized"
            proof.exceptions["sizes"] = "the network resizes every image to one size"
            return
        proof.check(f"channels at {size}", [one.shape[1] for one in maps] == list(channels))
        if before is None:
            before = found
        grown = [
            (old[0] + rows * most // stride, old[1] + columns * most // stride)
            for old, stride in zip(before, strides, strict=True)
        ]
        if found != grown and _is_even(found, grown):
            proof.exceptions["sizes"] = "the network enlarges maps of odd sides by one cell"
        else:
            proof.check(f"the maps at {size} have {found} cells, not {grown}", found == grown)
    proof.cells["sizes"] = "three"


def _is_even(found: Sequence[tuple[int, int]], grown: Sequence[tuple[int, int]]) -> bool:
    """Return whether maps have the expected sides, or a side more by one where that is odd."""
    return all(
        side in (expected, expected + expected % 2)
        for one, other in zip(found, grown, strict=True)
        for side, expected in zip(one, other, strict=True)
    )


def _takes(encoder: Encoder, size: tuple[int, int]) -> bool:
    """Return whether an encoder embeds images of a size."""
    try:
        encoder(torch.zeros(1, encoder.input_shape[0], *size))
    except REFUSALS:
        return False
    return True


def subjects() -> Iterator[BackboneSpec]:
    """Yield the architectures to check: torchvision's, then timm's, the smallest first.

    The smallest one of each of timm's families comes before all others, unless it is large.
    """
    specs = [spec for spec in get_registry().specs() if spec.task == "image"]
    yield from (spec for spec in specs if spec.source == "torchvision")
    timm = [spec for spec in specs if spec.source == "timm" and spec.input_shape[0] == 3]
    timm.sort(key=lambda spec: (spec.params, spec.name))
    ranks: Counter[str] = Counter()
    first, others = [], []
    for spec in timm:
        (others if ranks[spec.family] or spec.params > LARGE else first).append(spec)
        ranks[spec.family] += 1
    yield from (*first, *others)
    yield from (spec for spec in specs if spec.source == "hf")


def page(results: Results) -> str:
    """Return the page."""
    proofs: list[Proof] = results.proofs
    reasons: dict[tuple[str, str], list[str]] = {}
    rows = []
    for proof in proofs:
        for law, reason in proof.exceptions.items():
            reasons.setdefault((law, reason), []).append(f"`{proof.name}`")
        cells = [proof.cells.get(column, "-") for column in ("cut", "grid", "embedding", "sizes")]
        rows.append(f"| {' | '.join([f'`{proof.name}`', proof.maps or 'none', *cells])} |")
    timm = [spec for spec in subjects() if spec.source == "timm"]
    large = {spec.qualified_name for spec in timm if spec.params * BYTES > GIB * 2**30}
    known = {*large, *results.slow, *(proof.name for proof in proofs)}
    missing = sum(spec.qualified_name not in known for spec in timm)
    return DOCUMENT.format(
        versions=results.versions,
        slow=len(results.slow),
        seconds=max(results.slow.values(), default=SECONDS),
        passed=sum(not proof.problems and "maps" not in proof.exceptions for proof in proofs),
        timm=f"{len(timm):,}",
        large=len(large),
        missing=f"; {missing} were not run yet" if missing else "",
        gib=GIB,
        count=len(proofs),
        sources=", ".join(
            f"{count} of {source}"
            for source, count in Counter(proof.name.partition(":")[0] for proof in proofs).items()
        ),
        exceptions="\n".join(
            f"| {law} | {reason} | {', '.join(names)} |"
            for (law, reason), names in sorted(reasons.items())
        ),
        rows="\n".join(rows),
    )


TOOL = ProofTool(
    file=__file__,
    description=__doc__.partition("\n")[0],
    kind=Proof,
    prove=prove,
    subjects=subjects,
    line=lambda proof: f"{proof.cells} {proof.exceptions or ''}",
    page=page,
    results=RESULTS,
    page_path=PAGE,
    bytes_each=BYTES,
    seconds=SECONDS,
    gib=GIB,
)


if __name__ == "__main__":
    TOOL.run()
