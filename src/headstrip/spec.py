"""Descriptions of a backbone and of a set of its weights, and the grammar of their names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from headstrip.errors import UnknownBackboneError
from headstrip.images.preprocessing import Preprocessing
from headstrip.system.arguments import type_of

Task = Literal["image", "video"]
TASKS = get_args(Task)
Law = Literal["exact", "rounding", "declared", "headless"]
LAWS = get_args(Law)
Sizes = Literal["any", "multiple", "square", "fixed"]
SIZES = get_args(Sizes)
Pairs = tuple[tuple[str, Any], ...]

SAVED = "encoder.json"
"""The file that shows that ``Encoder.save`` wrote a folder."""

CONFIG = "config.json"
"""The file that shows that a folder contains a model of transformers."""

_SEPARATORS = tuple(filter(None, (os.sep, os.altsep, "/")))
_BEGINNINGS = tuple(f"{start}{end}" for start in ("", ".", "..", "~") for end in _SEPARATORS)
_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_PLAIN = re.compile(r"\w+")


def freeze(value: Any) -> Any:
    """Make a JSON-like ``value`` hashable: lists become tuples, objects become sorted pairs."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), freeze(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(freeze(item) for item in value)
    return value


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """One architecture, as a catalog row describes it.

    Attributes:
        name: Name within the source, such as ``resnet50``.
        source: The owner of the name: ``torchvision``, or a plugin's entry-point name.
        family: The kind of network, which decides how its head is taken off; ``source:family`` for
            the families of plugins.
        plugin: Name of the plugin that builds it.
        task: ``image`` for input (N, C, H, W), ``video`` for (N, C, T, H, W).
        input_shape: Input of the default weights without the batch axis, channels first.
        dim: Width of the embedding; 0 if a plugin did not measure it.
        params: Number of parameters, including the head; 0 if a plugin did not measure it.
        default_weights: Tag of the weights that ``"DEFAULT"`` selects, or None.
        options: Constructor arguments, as pairs.
        law: Head fidelity: how the logits follow from the embedding, with the default weights; see
            ``Stripped``.
        sizes: The image sizes that ``build_encoder(img_size=)`` accepts: ``any``; ``multiple``,
            height and width that are multiples of a number of pixels; ``square``, such multiples
            with equal sides; ``fixed``, that of ``input_shape`` only; None if not measured.
        channels: Number of channels of each feature map, the finest first; empty if it has none, or
            they were not measured.
        strides: Pixels between two neighbouring cells of each feature map.

    Example:
        >>> spec = BackboneSpec(
        ...     "rgb", "mylab", "mylab:pixels", "mylab", "image", (3, 8, 8), dim=192, params=1930
        ... )
        >>> spec.qualified_name
        'mylab:rgb'
    """

    name: str
    source: str
    family: str
    plugin: str
    task: Task
    input_shape: tuple[int, ...]
    dim: int
    params: int
    default_weights: str | None = None
    options: Pairs = ()
    law: Law = "exact"
    sizes: Sizes | None = None
    channels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    @property
    def qualified_name(self) -> str:
        """``source:name``, which always selects this backbone, whichever plugins are installed."""
        return f"{self.source}:{self.name}"


@dataclass(frozen=True, slots=True)
class WeightsEntry:
    """One set of weights of one architecture.

    Attributes:
        tag: Name of the set, such as ``IMAGENET1K_V1``.
        locations: Where its file is; headstrip tries them in order. ``https://...``,
            ``hf:org/name[@revision][/file]`` for a repository of the Hugging Face hub,
            ``dist:DISTRIBUTION/path`` for a file inside an installed package, or a path.
        sha256: Hexadecimal sha256 of the file, or its first digits; empty when unknown.
        options: Constructor arguments that these weights require, as pairs.
        num_classes: Width of the head in the file, None if it has no usable head.
        input_shape: Input that these weights were trained for, without the batch axis.
        labels: Name of the set of class labels, such as ``imagenet-1k``.
        class_names: The class labels themselves, in the order of the logits, if a checkpoint
            states them. No catalog has them.
        preprocessing: The steps that turn an image into the input of these weights.
        license: The licence that the library states, or None.
        metrics: Accuracy, GFLOPs and file size as the library states them, as pairs.

    Example:
        >>> WeightsEntry("BLOOD_V1", ("hf:mylab/blood-cells",), num_classes=8).num_classes
        8
    """

    tag: str
    locations: tuple[str, ...] = ()
    sha256: str = ""
    options: Pairs = ()
    num_classes: int | None = None
    input_shape: tuple[int, ...] | None = None
    labels: str | None = None
    preprocessing: Preprocessing | None = None
    license: str | None = None
    metrics: Pairs = ()
    class_names: tuple[str, ...] = ()


def merged_options(
    spec: BackboneSpec, entry: WeightsEntry | None, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the constructor arguments of a network.

    The arguments of the backbone apply first. Those that the weights require replace them, and
    those of the user replace both.
    """
    return {**dict(spec.options), **dict(entry.options if entry else ()), **(given or {})}


def effective_shape(
    built: tuple[int, ...] | None, entry: WeightsEntry | None, spec: BackboneSpec
) -> tuple[int, ...]:
    """Return the input of a network: of the built network, or else of its weights or its spec."""
    return built or (entry.input_shape if entry else None) or spec.input_shape


@dataclass(frozen=True, slots=True)
class Name:
    """The parts of ``[source:]arch[.weights]`` or of ``[source:]org/model[@revision]``."""

    arch: str
    source: str | None = None
    tag: str | None = None
    revision: str | None = None

    @property
    def backbone(self) -> str:
        """The name within the source; for a hub id it contains the revision."""
        return self.arch if self.revision is None else f"{self.arch}@{self.revision}"


def is_folder(name: object) -> bool:
    """Whether ``name`` selects a folder that ``Encoder.save`` wrote, and not a backbone.

    For text only its form decides, so that a folder never hides a backbone of the same name: it
    ends with ``/``, or begins with ``/``, ``./``, ``../`` or ``~/``. A path object selects a folder
    if that folder exists.

    Example:
        >>> is_folder("cells/"), is_folder("./cells"), is_folder("cells"), is_folder("hf:cells/")
        (True, True, False, False)
    """
    if isinstance(name, os.PathLike):
        return os.path.isdir(os.path.expanduser(name))
    if not isinstance(name, str) or name.endswith(".json"):
        return False
    source, colon, _ = name.partition(":")
    if colon and len(source) > 1 and is_source(source):
        # hf:own/ is a folder of transformers. One letter before a colon is a drive.
        return False
    return name.endswith(_SEPARATORS) or name.startswith(_BEGINNINGS)


def is_source(name: object) -> bool:
    """Whether ``name`` can be the name of a source, which comes before the colon."""
    return isinstance(name, str) and _SOURCE.fullmatch(name) is not None


def is_backbone(name: str) -> bool:
    """Whether ``name`` can be the name of one architecture, which stands after the colon."""
    # Most names match this pattern, and listing calls this function for each.
    if _PLAIN.fullmatch(name):
        return True
    try:
        parts = parse_name(f"source:{name}")
    except UnknownBackboneError:
        return False
    return parts.backbone == name


def parse_name(text: str) -> Name:
    """Split a backbone's name into its parts.

    Args:
        text: ``[source:]arch[.weights]``. In a name that contains ``/`` or a backslash (a hub id
            or a path) dots have no meaning; its revision follows ``@``.

    Raises:
        UnknownBackboneError: ``text`` is not of this form.

    Example:
        >>> parse_name("timm:resnet50.a1_in1k")
        Name(arch='resnet50', source='timm', tag='a1_in1k', revision=None)
    """
    if not isinstance(text, str):
        raise UnknownBackboneError(
            f"A backbone's name is a string, and {text!r} is {type_of(text)}. "
            "Pass a name such as 'resnet50'; `headstrip list` prints all of them."
        )
    source, colon, rest = text.partition(":")
    if not colon:
        source, rest = "", text
    # Paths of Windows contain backslashes.
    if "/" in rest or "\\" in rest:
        arch, at, detail = rest.partition("@")
        name = Name(arch, source or None, revision=detail or None)
    else:
        arch, at, detail = rest.partition(".")
        name = Name(arch, source or None, tag=detail or None)
    broken = not arch or arch.strip() != arch or (at and not detail)
    if broken or (colon and not is_source(source)):
        raise UnknownBackboneError(
            f"{text!r} is not a backbone's name. "
            "Write [source:]name[.weights], such as 'resnet50' or 'torchvision:resnet50'."
        )
    return name
