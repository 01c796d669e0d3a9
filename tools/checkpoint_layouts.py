"""Build encoders from checkpoints of every layout, and compare their tensors with the source's.

For each architecture, the script takes the state dict of the library's own network, fills it with
random values, saves it in each layout and format, builds an encoder from the file, and compares
every tensor of the backbone with the source, bit for bit.

    python tools/checkpoint_layouts.py
    python tools/checkpoint_layouts.py resnet18 hf:dinov2
    python tools/checkpoint_layouts.py --markdown docs/reference/checkpoint-layouts.md
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import timm
import torch
from tests.weights.files import State
from tests.weights.layouts import FORMATS, LAYOUTS, Layout, holds, plain
from torchvision import models

from headstrip import HeadstripError, build_encoder

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "vit_b_32": {},
    "convnext_tiny": {},
    "timm:vit_small_patch16_224": {},
    "timm:efficientnet_b0": {},
    "hf:dinov2": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
}
"""The architectures of the table, and the options of the network."""

OWN = {
    "`encoder.state_dict()`": None,
    "`encoder.state_dict()` with predictors": {"colour": 3},
}
"""Layouts that headstrip itself writes, and the predictors of the encoder."""

DOCUMENT = """\
# Layouts of checkpoints

This page is for readers who want to know which checkpoints headstrip reads. For each layout and
architecture, `python tools/checkpoint_layouts.py --markdown docs/reference/checkpoint-layouts.md`
saves the library's own network, with random values, in three formats: a file of `torch.save`, a
safetensors file, and two safetensors files with an index. It builds an encoder from each and
compares every tensor of the backbone with the source. `3 of 3` means that all tensors were equal
bit for bit in all three formats.
[Use your own checkpoint](../how-to/use-your-own-checkpoint.md) explains `weights_key`.

<!-- quoted from the code -->

| layout | `weights_key` to pass | {names} |
|---|---|{dashes}
{rows}
"""


@dataclass(frozen=True)
class Source:
    """A network of a library, to save in layouts.

    Attributes:
        name: The backbone.
        options: Constructor arguments.
        state: The network's state dict, with random values.
        body: Its tensors before the head.
    """

    name: str
    options: Mapping[str, Any]
    state: State
    body: State


def source_of(name: str, options: Mapping[str, Any] | None = None) -> Source:
    """Return the library's own state dict of an architecture, with random values."""
    torch.manual_seed(0)
    backbone = build_encoder(name, weights=None, options=options).backbone.state_dict()
    source, _, own = name.rpartition(":")
    if source == "timm":
        state = timm.create_model(own).state_dict()
    elif source:
        state = {key.removeprefix("network."): one for key, one in backbone.items()}
    else:
        state = models.get_model(own, weights=None).state_dict()
    filled = {
        key: torch.rand_like(one) if one.is_floating_point() else one for key, one in state.items()
    }
    kept = {key.removeprefix("network.") for key in backbone}
    return Source(
        name, options or {}, filled, {key: one for key, one in filled.items() if key in kept}
    )


def outcome(source: Source, content: Any, layout: Layout, form: str, folder: Path) -> str:
    """Return "equal", or what went wrong, for one checkpoint."""
    path = FORMATS[form](content, folder)
    try:
        encoder = build_encoder(
            source.name, weights=path, weights_key=layout.key, options=source.options or None
        )
    except HeadstripError as error:
        return f"{error}"
    finally:
        for file in folder.iterdir():
            file.unlink()
    return "equal" if holds(encoder, source.body) else "OTHER TENSORS"


def checkpoints(source: Source, folder: Path) -> Iterator[tuple[str, Any, Layout]]:
    """Yield a checkpoint of a source in each layout, with the name of the layout."""
    for name, layout in LAYOUTS.items():
        yield name, layout.make(source.state if layout.has_head else source.body), layout
    for name, predictors in OWN.items():
        path = FORMATS["torch.save"](source.state, folder)
        encoder = build_encoder(
            source.name, weights=path, predictors=predictors, options=source.options or None
        )
        path.unlink()
        yield name, dict(encoder.state_dict()), Layout(plain, "backbone")


def main() -> None:
    """Print one line per layout and architecture, and exit with code 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=[*ARCHITECTURES])
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    arguments = parser.parse_args()
    cells: dict[str, list[str]] = {}
    failed = False
    for name in arguments.names:
        source = source_of(name, ARCHITECTURES.get(name))
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            for title, content, layout in checkpoints(source, folder):
                seen = [outcome(source, content, layout, form, folder) for form in FORMATS]
                wrong = [one for one in seen if one != "equal"]
                failed |= bool(wrong)
                cell = f"{seen.count('equal')} of {len(seen)}"
                print(f"{name:28} {title:40} {'; '.join([cell, *wrong])}", flush=True)
                key = f'`"{layout.key}"`' if layout.key else ""
                cells.setdefault(f"| {title} | {key} |", []).append(cell)
    if arguments.markdown:
        rows = "\n".join(f"{start} {' | '.join(found)} |" for start, found in cells.items())
        names = " | ".join(f"`{name}`" for name in arguments.names)
        dashes = "---|" * len(arguments.names)
        arguments.markdown.write_text(
            DOCUMENT.format(names=names, dashes=dashes, rows=rows), encoding="utf-8"
        )
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
