"""What a backbone and a set of its weights are, and the grammar of their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from headstrip.errors import UnknownBackboneError
from headstrip.images.preprocessing import Preprocessing

Task = Literal["image", "video"]
Law = Literal["exact", "rounding", "declared", "headless"]
LAWS = get_args(Law)
Pairs = tuple[tuple[str, Any], ...]

_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def freeze(value: Any) -> Any:
    """Return JSON-like ``value`` with lists as tuples and objects as sorted pairs: hashable."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), freeze(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(freeze(item) for item in value)
    return value


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """One architecture, as a catalog row claims it.

    Attributes:
        name: Name within the source, such as ``resnet50``.
        source: Who the name belongs to: ``torchvision``, or a plugin's entry-point name.
        family: How its head is taken off; bare for the core's families, else ``source:family``.
        plugin: Name of the plugin that is asked for it.
        task: ``image`` for input (N, C, H, W), ``video`` for (N, C, T, H, W).
        input_shape: Input of the default weights without the batch axis, channels first.
        dim: Width of the embedding; 0 where a plugin did not measure it.
        params: Number of parameters, head included; likewise.
        default_weights: Tag of the weights that ``"DEFAULT"`` means, or None.
        options: Constructor arguments, as pairs.
        law: How the logits of the default weights' network follow from its embedding; see
            ``Stripped``.
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

    @property
    def qualified_name(self) -> str:
        """The name that means this backbone whatever is installed: ``source:name``."""
        return f"{self.source}:{self.name}"


@dataclass(frozen=True, slots=True)
class WeightsEntry:
    """One set of weights of one architecture.

    Attributes:
        tag: Name of the set, such as ``IMAGENET1K_V1``.
        locations: Where its file is, tried in order: ``https://...``,
            ``hf:org/name[@revision][/file]`` for a repository of the Hugging Face hub,
            ``dist:DISTRIBUTION/path`` for a file inside an installed package, or a path.
        sha256: Hexadecimal sha256 of the file, whole or its first digits; empty when unknown.
        options: Constructor arguments that these weights demand, as pairs.
        num_classes: Width of the head in the file, None when there is none that can be used.
        input_shape: Input these weights were made for, without the batch axis.
        labels: Name of the set of class labels, such as ``imagenet-1k``.
        preprocessing: What turns an image into the input of these weights.
        license: What the library states of the licence, or None.
        metrics: What the library states of accuracy, GFLOPs and file size, as pairs.
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


@dataclass(frozen=True, slots=True)
class Name:
    """The parts of ``[source:]arch[.weights]`` or of ``[source:]org/model[@revision]``."""

    arch: str
    source: str | None = None
    tag: str | None = None
    revision: str | None = None

    @property
    def backbone(self) -> str:
        """What the source knows the backbone by: a hub id has its revision."""
        return self.arch if self.revision is None else f"{self.arch}@{self.revision}"


def is_source(name: object) -> bool:
    """Whether ``name`` can stand before the colon, and so be a plugin's."""
    return isinstance(name, str) and _SOURCE.fullmatch(name) is not None


def is_backbone(name: str) -> bool:
    """Whether ``name`` can stand after the colon for one architecture, whatever its weights."""
    try:
        parts = parse_name(f"source:{name}")
    except UnknownBackboneError:
        return False
    return parts.backbone == name


def parse_name(text: str) -> Name:
    """Split a backbone's name into its parts.

    Args:
        text: ``[source:]arch[.weights]``. A name with a ``/`` or a backslash in it (a hub id, a
            path) is not split at dots; its revision follows ``@``.

    Raises:
        UnknownBackboneError: ``text`` is not of this form.

    Example:
        >>> parse_name("timm:resnet50.a1_in1k")
        Name(arch='resnet50', source='timm', tag='a1_in1k', revision=None)
    """
    if not isinstance(text, str):
        raise UnknownBackboneError(
            f"A backbone's name is a string, and {text!r} is a {type(text).__name__}. "
            "Pass a name such as 'resnet50'; `headstrip list` prints all of them."
        )
    source, colon, rest = text.partition(":")
    if not colon:
        source, rest = "", text
    # A backslash is in the paths of Windows.
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
