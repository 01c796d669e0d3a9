"""Prove that encoders of other channels and sizes compute what their networks compute.

The tool builds each network with its library and random values that all matter, saves its state
dict, and builds encoders from the file. It compares

- an encoder with ``in_chans=1`` on a grey picture with the RGB encoder on the same picture in RGB,
  each through its own ``preprocess``, and the logits of both;
- the tensors of an encoder with ``in_chans=("R", "G", "B", None)`` with those of the RGB encoder;
- the logits of encoders with a smaller, a larger and an oblong ``img_size`` with those of the
  untouched network that its library builds for this size.

It takes every architecture of torchvision for images, the smallest ones of every family of timm,
and a small network of every model type of transformers.

    python tools/input_proofs.py                       print one line per architecture
    python tools/input_proofs.py 'resnet*' 'timm:*'    only these
    python tools/input_proofs.py --write --minutes 60  continue benchmarks/inputs.json, and write
                                                       it and docs/reference/inputs.md
"""

from __future__ import annotations

import math
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from proving import ProofTool, Results

from headstrip import BackboneSpec, Encoder, HeadstripError, build_encoder
from headstrip.registry.catalog import format_shape
from headstrip.registry.registry import get_registry
from headstrip.spec import merged_options
from headstrip.testing import perturb
from headstrip.testing.perturb import FastRandom

ROOT = Path(__file__).parents[1]
TOWERS = ROOT / "plugins" / "headstrip-transformers" / "tests"
RESULTS = ROOT / "benchmarks" / "inputs.json"
PAGE = ROOT / "docs" / "reference" / "inputs.md"
LIMIT = 1e-5
"""The largest difference from the RGB network, relative to the norm of the embedding."""

ROUNDING = 1e-6
"""The largest difference from the untouched network, relative to its largest number."""

TIMM = 100
"""Number of architectures of timm."""

LARGE = 30_000_000
"""Number of parameters above which initial values are repeated instead of drawn one by one."""

STEPS = (32, 28, 16, 14, 8)
"""Steps in pixels from a network's own size to others, of which the first accepted one counts."""

BYTES = 4 * 5 * 1.25
"""Peak memory of a proof per parameter: five float32 networks, and activations."""

DOCUMENT = """\
# Other channels and sizes, architecture by architecture

This page is for readers who want to check
[other channels and sizes](../how-to/other-channels-and-sizes.md) for a backbone. `make inputs`
writes it, with networks of random values that all matter, on the CPU, with {versions}.

- `in_chans=1`: how far the embedding of a grey picture is from the RGB network's embedding of the
  same picture in RGB, relative to its norm.
- `R,G,B,None`: whether `in_chans=("R", "G", "B", None)` keeps every tensor of the RGB network, and
  gives the fourth channel the mean of the three filters.
- smaller, larger, oblong: the first such `img_size` that the network accepts. The embedding is
  finite and as wide as before, the preprocessing gives this size, and the logits are those of the
  untouched network that its library builds for the size: bit for bit, or up to the relative
  difference that is shown. Where the head fidelity is `declared`, only the embedding is checked.

{passed} of {count} architectures pass: {coverage}. Others took too long or too
much memory on the machine that wrote this page. No first layer is random.

## Refusals

headstrip refuses these before it reads any weights.

| asked for | reason | architectures |
|---|---|---|
{refusals}

## Results

| architecture | `in_chans=1` | `R,G,B,None` | smaller | larger | oblong |
|---|---|---|---|---|---|
{rows}
"""


@dataclass
class Proof:
    """The result for one architecture.

    Attributes:
        name: The architecture, with its source.
        grey: How far the embedding with ``in_chans=1`` is from that of RGB.
        cells: What the table shows for named channels and for each size.
        refusals: What was refused, and why.
        problems: What is wrong; nothing for an architecture that passes.
    """

    name: str
    grey: float = math.nan
    cells: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def check(self, what: str, holds: bool) -> None:
        """Note a problem unless a statement holds."""
        if not holds:
            self.problems.append(what)


@torch.inference_mode()
def prove(name: str) -> Proof:
    """Check one architecture.

    Args:
        name: A name such as ``torchvision:resnet18``, or ``hf:`` and a model type.
    """
    torch.manual_seed(0)
    proof = Proof(name)
    with tempfile.TemporaryDirectory() as folder:
        arguments = generated(name, Path(folder))
        colour = build_encoder(**arguments)
        _prove_grey(proof, colour, arguments)
        _prove_names(proof, colour, arguments)
        for what, sizes in other_sizes(colour.input_shape[-2:]).items():
            _prove_size(proof, what, sizes, colour, arguments)
        proof.refusals = {
            key: text.replace(f"{folder}/", "") for key, text in proof.refusals.items()
        }
    return proof


def generated(name: str, folder: Path) -> dict[str, Any]:
    """Write the weights of a network with random values; return what builds its encoder."""
    source, _, kind = name.partition(":")
    if source == "hf":
        sys.path.insert(0, str(TOWERS))
        from hf_checkpoints import files_of, folder_of, network_of, processor

        files = files_of(network_of(kind), processor(kind))
        return {"name": f"hf:{folder_of(folder / kind, files)}"}
    registry = get_registry()
    spec, _ = registry.resolve(name)
    entry = next(iter(registry.weights(spec)), None)
    classes = {"num_classes": entry.num_classes} if entry and entry.num_classes else {}
    network = _built(spec, {**merged_options(spec, entry), **classes})
    with FastRandom() if spec.params > LARGE else nullcontext():
        perturb(network)
    path = folder / "weights.pth"
    torch.save(network.state_dict(), path)
    return {"name": name, "weights": f"{entry.tag}={path}" if entry else path}


def other_sizes(own: tuple[int, ...]) -> dict[str, list[tuple[int, int]]]:
    """Return sizes to try, by what they are: the first that a network accepts is checked."""
    height, width = own
    less = [(step * (height * 4 // 5 // step), step * (width * 4 // 5 // step)) for step in STEPS]
    return {
        "smaller": [size for size in less if min(size) > 0],
        "larger": [(height + step, width + step) for step in STEPS],
        "oblong": [(height, width + step) for step in STEPS],
    }


def picture() -> Image.Image:
    """Return a grey picture with coarse and fine detail."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 11), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((440, 360), Image.Resampling.BICUBIC), dtype=float)
    noisy = smooth + generator.normal(0, 20, smooth.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _prove_grey(proof: Proof, colour: Encoder, arguments: Mapping[str, Any]) -> None:
    grey = build_encoder(**arguments, in_chans=1)
    image = picture()
    x = colour.preprocess(image.convert("RGB"))[None]
    small = grey.preprocess(image)[None]
    proof.check("in_chans=1 takes more than one channel", small.shape[1] == 1)
    wanted, found = colour(x), grey(small)
    proof.grey = float((found - wanted).norm() / wanted.norm())
    proof.check(f"in_chans=1 is off by {proof.grey}", proof.grey <= LIMIT)
    proof.check("in_chans=1 changes tensors", same_tensors(colour, grey) == [])
    if colour.head is not None:
        off = difference(grey.logits(small), untouched_output(colour, x))
        proof.check(f"in_chans=1 has other logits, by {off}", off <= LIMIT)


def _prove_names(proof: Proof, colour: Encoder, arguments: Mapping[str, Any]) -> None:
    try:
        four = build_encoder(**arguments, in_chans=("R", "G", "B", None))
    except HeadstripError as error:
        proof.refusals["R,G,B,None"] = str(error)
        proof.cells["R,G,B,None"] = "refused"
        return
    changed = same_tensors(colour, four)
    proof.cells["R,G,B,None"] = "yes"
    if len(changed) != 1:
        proof.problems.append(f"named channels change {changed}")
        return
    old, new = (encoder.backbone.state_dict()[changed[0]] for encoder in (colour, four))
    kept = torch.equal(new[:, :3], old)
    mean = torch.allclose(new[:, 3:], old.mean(1, keepdim=True), atol=1e-6)
    proof.check(f"the filters of {changed[0]} are not those of RGB", kept and mean)


def same_tensors(encoder: Encoder, other: Encoder) -> list[str]:
    """Return the names of the tensors of two backbones that differ."""
    one, two = encoder.backbone.state_dict(), other.backbone.state_dict()
    if one.keys() != two.keys():
        return sorted(one.keys() ^ two.keys())
    return [name for name in one if not torch.equal(one[name], two[name])]


def _prove_size(
    proof: Proof,
    what: str,
    sizes: Iterable[tuple[int, int]],
    colour: Encoder,
    arguments: Mapping[str, Any],
) -> None:
    refusals = []
    for size in sizes:
        try:
            encoder = build_encoder(**arguments, img_size=size)
        except HeadstripError as error:
            refusals.append(str(error))
            continue
        x = encoder.preprocess(picture())[None]
        proof.check(f"img_size={size} gives {tuple(x.shape)}", tuple(x.shape[-2:]) == size)
        embedding = encoder(x)
        width = embedding.shape[1] == encoder.output_dim == colour.output_dim
        proof.check(f"img_size={size} changes the width", width)
        proof.check(f"img_size={size} is not finite", bool(embedding.isfinite().all()))
        shown = format_shape(size)
        if encoder.law in {"exact", "rounding", "headless"}:
            found = embedding if encoder.head is None else encoder.logits(x)
            off = difference(found, untouched_output(encoder, x))
            proof.check(f"img_size={size} has other logits, by {off}", off <= ROUNDING)
            shown += f" ({off:.0e})" if off else ""
        proof.cells[what] = shown
        return
    proof.cells[what] = "refused"
    proof.refusals[what] = refusals[0] if refusals else "there is no such size"


def difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference, relative to the largest number."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def untouched_output(encoder: Encoder, x: Tensor) -> Tensor:
    """Return the output of the untouched network of the library with an encoder's tensors."""
    classes = {}
    if encoder.head is not None:
        classes = {"num_classes": encoder.head(encoder.backbone(x)).shape[1]}
    network = _built(encoder.spec, {**encoder.options, **classes})
    missing, unexpected = network.load_state_dict(encoder.backbone.state_dict(), strict=False)
    assert not unexpected, unexpected
    own, head = network.state_dict(), encoder.head.state_dict() if encoder.head else {}
    for name in missing:
        # The encoder keeps a head of several parts under another name.
        same = [key for key in head if f".{name}".endswith(f".{key}")] or [
            key for key in head if f".{name}".endswith(f".{key.partition('.')[2]}")
        ]
        for key in same:
            if own[name].shape == head[key].shape:
                own[name].copy_(head[key])
    output: Tensor = network.eval()(x)
    return output


def _built(spec: BackboneSpec, options: Mapping[str, Any]) -> nn.Module:
    with FastRandom() if spec.params > LARGE else nullcontext():
        network: nn.Module = (
            get_registry()
            .owner(spec)
            .call("build_model", spec.qualified_name, spec=spec, options=dict(options))
        )
    return network


def subjects() -> Iterator[BackboneSpec]:
    """Yield the architectures to check, those of torchvision first."""
    specs = [spec for spec in get_registry().specs() if spec.task == "image"]
    yield from (spec for spec in specs if spec.source == "torchvision")
    ranks: Counter[str] = Counter()
    ranked = []
    # What has no weights states no preprocessing.
    timm = [spec for spec in specs if spec.source == "timm" and spec.default_weights]
    timm = [spec for spec in timm if spec.input_shape[0] == 3]
    for spec in sorted(timm, key=lambda spec: spec.params):
        ranked.append((ranks[spec.family], spec.params, spec.name, spec))
        ranks[spec.family] += 1
    yield from (spec for *_, spec in sorted(ranked, key=lambda one: one[:3])[:TIMM])
    yield from (spec for spec in specs if spec.source == "hf")


def reason_of(message: str) -> str:
    """Return what is common to the messages of one reason."""
    text = re.sub(r"in_chans=\(.*?\) cannot be used with \S+: ", "", message)
    text = re.sub(r"^\S+ (?=takes|cuts|does)", "", text)
    text = re.sub(r" Choose .*| Pass in_chans.*", "", text)
    inside = re.search(r"\((.+)\)\.$", text)
    text = inside[1] if inside else text
    text = re.sub(r"[\w.]*\.(\w+), which has one size", r"\1, which has one size", text)
    return re.sub(r"\d+", "N", text).replace("|", "/").strip(" .")


def page(results: Results) -> str:
    """Return the page."""
    proofs: list[Proof] = results.proofs
    reasons: dict[str, dict[str, list[str]]] = {}
    for proof in proofs:
        for what, message in proof.refusals.items():
            reasons.setdefault(reason_of(message), {}).setdefault(proof.name, []).append(what)
    refusals = []
    for reason, asked in reasons.items():
        names = ", ".join(f"`{name}`" for name in asked)
        whats = dict.fromkeys(what for each in asked.values() for what in each)
        refusals.append(f"| {', '.join(whats)} | {reason} | {names} |")
    columns = ("R,G,B,None", "smaller", "larger", "oblong")
    rows = []
    for proof in proofs:
        grey = f"{proof.grey:.0e}" if proof.grey else "0"
        cells = [f"`{proof.name}`", grey, *(proof.cells.get(column, "-") for column in columns)]
        rows.append(f"| {' | '.join(cells)} |")
    sources = Counter(proof.name.partition(":")[0] for proof in proofs)
    return DOCUMENT.format(
        versions=results.versions,
        passed=sum(not proof.problems for proof in proofs),
        count=len(proofs),
        coverage=", ".join([f"{count} of {source}" for source, count in sources.items()]),
        refusals="\n".join(sorted(refusals)),
        rows="\n".join(rows),
    )


TOOL = ProofTool(
    file=__file__,
    description=__doc__.partition("\n")[0],
    kind=Proof,
    prove=prove,
    subjects=subjects,
    line=lambda proof: f"{proof.grey:.0e} {proof.cells}",
    page=page,
    results=RESULTS,
    page_path=PAGE,
    bytes_each=BYTES,
    seconds=120,
    gib=16,
)


if __name__ == "__main__":
    TOOL.run()
