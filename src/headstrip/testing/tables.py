"""Rows of the weights table: whether what each one states fits together and fits the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from headstrip.errors import HeadstripError
from headstrip.images.preprocessing import Preprocessing
from headstrip.registry.catalog import row_of_entry
from headstrip.spec import WeightsEntry
from headstrip.testing.claims import head_output
from headstrip.testing.report import Broken, Skipped
from headstrip.testing.states import blocked_network
from headstrip.testing.subject import Light, Subject

_PICTURE = (203, 317)
"""Height and width of the picture: neither square nor a size that anything is resized to."""


def weights(subject: Subject) -> str:
    """Options, classes, input and preprocessing of every set of weights fit the network."""
    entries = subject.entries
    default = entries[0].tag if entries else None
    if subject.spec.default_weights != default:
        raise Broken(
            f"the catalog's default weights are {subject.spec.default_weights!r}, and the first "
            f"that are listed are {default!r}"
        )
    if not entries:
        raise Skipped("it has no weights")
    twice = [tag for tag, count in Counter(entry.tag for entry in entries).items() if count > 1]
    problems = [f"{tag!r} is listed twice" for tag in twice]
    problems += [f"{entry.tag}: {found}" for entry in entries for found in _faults(subject, entry)]
    problems += list(_misfits(subject, entries))
    if problems:
        raise Broken("; ".join(problems[:3]) + (" ..." if problems[3:] else ""))
    return f"{len(entries)} sets of weights"


def _faults(subject: Subject, entry: WeightsEntry) -> Iterator[str]:
    """Say what is wrong with a row by itself."""
    try:
        row_of_entry(subject.spec.name, entry)
        subject.registry.labels(subject.spec, entry)
    except HeadstripError as error:
        yield str(error)
    if not entry.locations and not subject.owner.implements("load_model"):
        yield "no location says where its file is, and the plugin has no load_model"
    gives = entry.preprocessing.input_shape if entry.preprocessing else entry.input_shape
    if entry.input_shape and gives != entry.input_shape:
        yield f"its preprocessing gives {gives}, and its input_shape is {entry.input_shape}"


def _described_faults(subject: Subject, entry: WeightsEntry) -> Iterator[str]:
    if entry.locations or entry.sha256:
        yield "it has a location or a sha256, and describes a file that was read already"
    try:
        subject.registry.labels(subject.spec, entry)
    except HeadstripError as error:
        yield str(error)
    gives = entry.preprocessing.input_shape if entry.preprocessing else entry.input_shape
    if entry.input_shape and gives != entry.input_shape:
        yield f"its preprocessing gives {gives}, and its input_shape is {entry.input_shape}"


def _misfits(subject: Subject, entries: tuple[WeightsEntry, ...]) -> Iterator[str]:
    """Build once for each kind of row, and say where the network is another than the row says."""
    kinds: dict[object, WeightsEntry] = {}
    for entry in entries:
        kinds.setdefault((entry.options, entry.num_classes, entry.input_shape), entry)
    for entry in kinds.values():
        try:
            problem = _misfit(subject, entry)
        except (HeadstripError, Broken) as error:
            problem = f"with its options and input: {error}"
        if problem:
            yield f"{entry.tag}: {problem}"


def _misfit(subject: Subject, entry: WeightsEntry) -> str | None:
    light = _network(subject, entry)
    stripped = light.stripped
    takes = stripped.input_shape or light.shape
    if entry.input_shape and takes != entry.input_shape:
        if stripped.input_shape:
            return f"its input_shape is {entry.input_shape}, and the network takes {takes}"
        # Of one network, the size that other weights were trained at.
        subject.probe(stripped.backbone, entry.input_shape)
    if entry.num_classes is None or stripped.law == "declared":
        return None
    if stripped.law == "headless":
        return f"it states {entry.num_classes} classes, and the network has no head"
    found = head_output(stripped, light.dim)[-1]
    if found != entry.num_classes:
        light = subject.build_light(entry, {"num_classes": entry.num_classes})
        found = head_output(light.stripped, light.dim)[-1]
    if found != entry.num_classes:
        return f"it states {entry.num_classes} classes, and the head gives {found}"
    return None


def _network(subject: Subject, entry: WeightsEntry) -> Light:
    """Return the network that a row's options make: often that of the default weights."""
    if subject.plain_options(entry) == subject.plain_options(subject.entry):
        return subject.light
    return subject.build_light(entry, {})


def preprocessing(subject: Subject) -> str:
    """The preprocessing of every set of weights makes its input out of a real picture."""
    declared: dict[Preprocessing, tuple[str, tuple[int, ...]]] = {}
    for entry in subject.entries:
        if entry.preprocessing is not None:
            shape = entry.input_shape or subject.spec.input_shape
            declared.setdefault(entry.preprocessing, (entry.tag, shape))
    own = subject.owner.call("preprocessing", subject.name, spec=subject.spec)
    if own is not None:
        declared.setdefault(own, ("without weights", subject.spec.input_shape))
    if not declared:
        raise Skipped("there is no preprocessing")
    for steps, (tag, shape) in declared.items():
        _prepare(steps, tag, shape)
    return f"{len(declared)} distinct, each gives its input"


def describe_file(subject: Subject) -> str:
    """The plugin describes a plain state dict, and a checkpoint of one, without an error."""
    if not subject.owner.implements("describe_file"):
        return "the plugin describes no files"
    state = subject.light.stripped.backbone.state_dict()
    described = 0
    files: tuple[object, ...] = (state, {"state_dict": state, "epoch": 3}, [], None)
    for loaded in files:
        entry = subject.owner.call(
            "describe_file", subject.name, loaded=loaded, spec=subject.spec
        )  # fmt: skip
        if entry is None:
            continue
        described += 1
        problem = next(_described_faults(subject, entry), None) or _misfit(subject, entry)
        if problem:
            raise Broken(f"what it says of a {type(loaded).__name__} does not fit: {problem}")
    return f"4 files without settings, {described} described"


def _prepare(steps: Preprocessing, tag: str, shape: tuple[int, ...]) -> None:
    # Both import torchvision's transforms.
    from headstrip.images.inputs import to_frames, to_picture

    values = np.random.default_rng(0).integers(0, 256, (*_PICTURE, steps.channels), np.uint8)
    if steps.frames is not None:
        picture: Any = to_frames(np.stack([values] * steps.frames), steps)
    elif steps.channels == 3:
        picture = to_picture(Image.fromarray(values), steps)
    else:
        picture = to_picture(torch.from_numpy(values).permute(2, 0, 1), steps)
    ready = steps.transform()(picture)
    if tuple(ready.shape) != shape:
        raise Broken(f"the preprocessing of {tag!r} gives {tuple(ready.shape)} instead of {shape}")
    if not ready.isfinite().all():
        raise Broken(f"the preprocessing of {tag!r} gives numbers that are not finite")


def offline(subject: Subject) -> str:
    """Building makes no network call, and build_encoder works with weights=None."""
    from headstrip.factory.build import build_encoder

    # What cannot be built at all is another check's to tell.
    _ = subject.light
    with blocked_network() as tried, subject.quick_values():
        try:
            encoder = build_encoder(subject.name, weights=None)
        except Exception as error:
            cause = f"called {tried[0]}" if tried else f"failed: {error}"
            raise Broken(f"build_encoder with weights=None {cause}") from error
    calls = [*subject.tried, *tried]
    if calls:
        raise Broken(f"building it called {calls[0]}, and must do without a network")
    return f"built without a network and weights, {encoder.output_dim} wide"
