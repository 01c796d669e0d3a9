"""Checks of sets of weights: their rows in the catalog, and the files on this machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from headstrip.errors import HeadstripError
from headstrip.factory.instantiate import Builder, BuildOptions
from headstrip.factory.maker import NetworkMaker
from headstrip.factory.selection import Selection
from headstrip.images.preprocessing import Preprocessing
from headstrip.network.head import Stripped
from headstrip.network.head_check import width_of_stripped
from headstrip.network.width import HeadError, ProbeError
from headstrip.registry.catalog import row_of_entry
from headstrip.spec import WeightsEntry, effective_shape
from headstrip.system.arguments import type_of
from headstrip.testing.catalog_checks import head_output
from headstrip.testing.report import CheckFailed, CheckSkipped
from headstrip.testing.states import blocked_network
from headstrip.testing.subject import Light, Subject
from headstrip.weights import hub
from headstrip.weights.addresses import file_name

_PICTURE = (203, 317)
"""Height and width of the test picture: not square, and not a size that networks take."""


def weights(subject: Subject) -> str:
    """Options, classes, input and preprocessing of every set of weights fit the network."""
    entries = subject.entries
    default = entries[0].tag if entries else None
    if subject.spec.default_weights != default:
        raise CheckFailed(
            f"the catalog's default weights are {subject.spec.default_weights!r}, but the first "
            f"that are listed are {default!r}"
        )
    if not entries:
        raise CheckSkipped("the backbone has no weights")
    twice = [tag for tag, count in Counter(entry.tag for entry in entries).items() if count > 1]
    problems = [f"{tag!r} is listed twice" for tag in twice]
    problems += [
        f"{entry.tag}: {found}" for entry in entries for found in _row_problems(subject, entry)
    ]
    problems += list(_misfits(subject, entries))
    if problems:
        raise CheckFailed("; ".join(problems[:3]) + (" ..." if problems[3:] else ""))
    return f"{len(entries)} sets of weights"


def _row_problems(subject: Subject, entry: WeightsEntry) -> Iterator[str]:
    """Yield what is wrong with an entry of the catalog, without looking at the network."""
    try:
        row_of_entry(subject.spec.name, entry)
    except HeadstripError as error:
        yield str(error)
    if not entry.locations and not subject.owner.implements("load_model"):
        yield "it has no location of a file, and the plugin has no load_model"
    yield from _entry_problems(subject, entry)


def _entry_problems(subject: Subject, entry: WeightsEntry) -> Iterator[str]:
    """Yield what is wrong with the labels and the input shape of an entry."""
    try:
        subject.registry.labels(subject.spec, entry)
    except HeadstripError as error:
        yield str(error)
    gives = entry.preprocessing.input_shape if entry.preprocessing else entry.input_shape
    if entry.input_shape and gives != entry.input_shape:
        yield f"its preprocessing gives {gives}, but its input_shape is {entry.input_shape}"


def _misfits(subject: Subject, entries: tuple[WeightsEntry, ...]) -> Iterator[str]:
    """Build a network for each kind of entry, and yield the differences from the entry."""
    kinds: dict[object, WeightsEntry] = {}
    for entry in entries:
        kinds.setdefault((entry.options, entry.num_classes, entry.input_shape), entry)
    for entry in kinds.values():
        try:
            problem = _misfit(subject, entry)
        except (HeadstripError, CheckFailed) as error:
            problem = f"with its options and input: {error}"
        if problem:
            yield f"{entry.tag}: {problem}"


def _misfit(subject: Subject, entry: WeightsEntry) -> str | None:
    light = _network(subject, entry)
    stripped = light.stripped
    takes = stripped.input_shape or light.shape
    if entry.input_shape and takes != entry.input_shape:
        if stripped.input_shape:
            return f"its input_shape is {entry.input_shape}, but the network takes {takes}"
        # Other weights of the same network may have another input size.
        subject.measure_width(stripped.backbone, entry.input_shape)
    if entry.num_classes is None or stripped.law == "declared":
        return None
    if stripped.law == "headless":
        return f"it states {entry.num_classes} classes, but the network has no head"
    found = head_output(stripped, light.dim)[-1]
    if found != entry.num_classes:
        light = subject.build_light(entry, {"num_classes": entry.num_classes})
        found = head_output(light.stripped, light.dim)[-1]
    if found != entry.num_classes:
        return f"it states {entry.num_classes} classes, but the head gives {found}"
    return None


def _network(subject: Subject, entry: WeightsEntry) -> Light:
    """Return the network for an entry's options, which is often that of the default weights."""
    if subject.plain_options(entry) == subject.plain_options(subject.entry):
        return subject.light
    return subject.build_light(entry, {})


def preprocessing(subject: Subject) -> str:
    """The preprocessing of every set of weights turns a picture into an input of its shape."""
    declared: dict[Preprocessing, tuple[str, tuple[int, ...]]] = {}
    for entry in subject.entries:
        if entry.preprocessing is not None:
            shape = entry.input_shape or subject.spec.input_shape
            declared.setdefault(entry.preprocessing, (entry.tag, shape))
    own = subject.owner.call("preprocessing", subject.name, spec=subject.spec)
    if own is not None:
        declared.setdefault(own, ("without weights", subject.spec.input_shape))
    if not declared:
        raise CheckSkipped("the backbone has no preprocessing")
    for steps, (tag, shape) in declared.items():
        _prepare(steps, tag, shape)
    return f"{len(declared)} distinct, each gives its input"


def describe_file(subject: Subject) -> str:
    """The hook describe_file handles a state dict and a checkpoint without an error."""
    if not subject.owner.implements("describe_file"):
        return "the plugin has no hook describe_file"
    state = subject.light.stripped.backbone.state_dict()
    described = 0
    files: tuple[object, ...] = (state, {"state_dict": state, "epoch": 3}, [], None)
    for loaded in files:
        entry = subject.owner.call("describe_file", subject.name, loaded=loaded, spec=subject.spec)
        if entry is None:
            continue
        described += 1
        problem = next(_entry_problems(subject, entry), None) or _misfit(subject, entry)
        if entry.locations or entry.sha256:
            problem = "it has a location or a sha256, which belong to published weights"
        if problem:
            raise CheckFailed(f"its result for {type_of(loaded)} is wrong: {problem}")
    return f"4 files without settings, {described} described"


def _prepare(steps: Preprocessing, tag: str, shape: tuple[int, ...]) -> None:
    # These modules import torchvision's transforms, which is slow.
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
        raise CheckFailed(
            f"the preprocessing of {tag!r} gives {tuple(ready.shape)} instead of {shape}"
        )
    if not ready.isfinite().all():
        raise CheckFailed(f"the preprocessing of {tag!r} gives numbers that are not finite")


def offline(subject: Subject) -> str:
    """Building makes no network call, and build_encoder works with weights=None."""
    from headstrip.factory.build import build_encoder

    # If the network cannot be built at all, the check `build` reports it.
    _ = subject.light
    with blocked_network() as calls, subject.quick_values():
        try:
            encoder = build_encoder(subject.name, weights=None)
        except Exception as error:
            cause = f"called {calls[0]}" if calls else f"failed: {error}"
            raise CheckFailed(f"build_encoder with weights=None {cause}") from error
    calls = [*subject.network_calls, *calls]
    if calls:
        raise CheckFailed(f"building it called {calls[0]}, but must not use the network")
    return f"built without network calls and weights, {encoder.output_dim} wide"


_SHA256 = re.compile(r"[0-9a-fA-F]{8,64}|")


def loading(subject: Subject) -> str:
    """Weights files on this machine load, and all addresses and hashes are valid."""
    if not subject.entries:
        raise CheckSkipped("the backbone has no weights")
    problems: list[str] = []
    loaded = 0
    for entry in subject.entries:
        found = [f"{entry.tag}: {problem}" for problem in _invalid(entry)]
        local = [one for one in entry.locations if not _is_remote(one)]
        if not found:
            for location in local:
                problem = _load(subject, replace(entry, locations=(location,)))
                found += [f"{entry.tag}: {problem}"] if problem else []
        problems += found
        loaded += bool(local)
        if not local:
            subject.unread.append(entry.tag)
    if problems:
        raise CheckFailed("; ".join(problems[:3]) + (" ..." if problems[3:] else ""))
    count = f"weights not read: {len(subject.unread)} of {len(subject.entries)} sets"
    return f"{loaded} sets loaded" + (f", {count}" if subject.unread else "")


def _is_remote(location: str) -> bool:
    return location.startswith(("https:", "http:", "hf:"))


def _invalid(entry: WeightsEntry) -> Iterator[str]:
    """Yield the addresses and hashes of an entry that are not valid."""
    if not _SHA256.fullmatch(entry.sha256):
        yield (
            f"sha256 is {entry.sha256!r}, which is not a sha256. Write its 64 hexadecimal digits, "
            "or at least the first 8"
        )
    for location in entry.locations:
        try:
            if location.startswith("hf:"):
                hub.parse(location)
            elif _is_remote(location):
                file_name(location)
        except (HeadstripError, ValueError) as error:
            yield f"the location {location!r} is not valid: {error}"


def _load(subject: Subject, entry: WeightsEntry) -> str | None:
    """Load a set of weights as ``build_encoder`` does, and return what is wrong, or None."""
    registry, spec = subject.registry, subject.spec
    maker = NetworkMaker(subject.owner, registry.stripper(spec.family), spec, entry)
    builder = Builder(maker, Selection(entry), BuildOptions(offline=True))
    try:
        filled = builder.build(subject.plain_options(entry))
        return _file_misfit(subject, entry, filled.stripped)
    except (HeadstripError, HeadError, ProbeError, CheckFailed) as error:
        return f"its file cannot be used: {error}"


def _file_misfit(subject: Subject, entry: WeightsEntry, stripped: Stripped) -> str | None:
    shape = effective_shape(stripped.input_shape, entry, subject.spec)
    width = width_of_stripped(stripped, shape, lambda: None)
    if width != subject.spec.dim:
        return f"its file gives a width of {width}, but the catalog claims {subject.spec.dim}"
    if stripped.head is None:
        lost = entry.num_classes is not None and subject.light.stripped.head is not None
        return f"its file has no head, but {entry.num_classes} classes are stated" if lost else None
    classes = head_output(stripped, width)[-1]
    if entry.num_classes not in {None, classes}:
        return f"its file has {classes} classes, but {entry.num_classes} are stated"
    return None
