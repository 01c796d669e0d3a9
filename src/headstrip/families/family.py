"""What all torchvision families share: building by name, and describing names and weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision import models
from torchvision.models import WeightsEnum

from headstrip.errors import HeadNotFoundError
from headstrip.families import SOURCE
from headstrip.hookspecs import API_VERSION, hookimpl
from headstrip.images.preprocessing import Preprocessing
from headstrip.network.head import Stripped, detach
from headstrip.network.meta_ops import without_memory
from headstrip.network.state_dicts import plain_state_dict
from headstrip.network.width import probe_width
from headstrip.spec import BackboneSpec, Task, WeightsEntry, freeze

LABELS = {1000: "imagenet-1k", 400: "kinetics-400"}


class TorchvisionFamily:
    """A built-in plugin; a family adds its name, its module and its ``strip_head``."""

    API_VERSION: ClassVar[int] = API_VERSION
    FAMILIES: ClassVar[tuple[str, ...]]
    MODULE: ClassVar[str]
    """Module whose constructors are this family's."""

    HEAD: ClassVar[str]
    """Dotted path of the head, a linear layer, in families that need no more than that."""

    TASK: ClassVar[Task] = "image"
    OPTIONS: ClassVar[Mapping[str, Any]] = {}
    """Constructor arguments that every architecture of the family is built with."""

    FRAMES: ClassVar[int] = 16
    """Frames of a clip, for video families: the ``clip_len`` that torchvision states."""

    def weights_options(self, meta: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the constructor arguments that weights with this ``meta`` demand."""
        return {}

    @hookimpl
    def build_model(self, spec: BackboneSpec, options: Mapping[str, Any]) -> nn.Module:
        """Build by name, with random weights."""
        model: nn.Module = models.get_model(spec.name, weights=None, **options)
        return model

    @hookimpl
    def strip_head(
        self, model: nn.Module, family: str, spec: BackboneSpec | None, entry: WeightsEntry | None
    ) -> Stripped:
        """Take the head off, of a network of this family alone."""
        self.recognise(model)
        return self.strip(model)

    def strip(self, model: nn.Module) -> Stripped:
        """Take the head off a network of this family; what ``strip_head`` does once it is one."""
        return detach(model, self.HEAD)

    def recognise(self, model: nn.Module) -> None:
        """Refuse a network whose forward is not this family's: its head may not come last.

        Raises:
            HeadNotFoundError: It is of another class, or has a forward of its own.
        """
        kind = type(model)
        if not any(base.__module__ == self.MODULE for base in kind.__mro__):
            raise HeadNotFoundError(
                f"A {kind.__name__} is no network of the family {self.FAMILIES[0]!r}, whose "
                f"networks are those of {self.MODULE}. Name its family, or take off a head whose "
                "place you know with headstrip.detach(network, path)."
            )
        forwards = [getattr(kind, name, None) for name in ("forward", "_forward", "_forward_impl")]
        own = any(forward and forward.__module__ != self.MODULE for forward in forwards)
        if own or "forward" in vars(model):
            raise HeadNotFoundError(
                f"This {kind.__name__} has a forward of its own, which may use its head in another "
                "way. Take the head off with headstrip.detach(network, path) where you know how."
            )

    @hookimpl
    def adapt_state_dict(
        self, loaded: object, model: nn.Module, entry: WeightsEntry | None
    ) -> dict[str, Tensor]:
        """Take the file as it is."""
        return plain_state_dict(loaded)

    @hookimpl
    def find_backbone(self, name: str) -> BackboneSpec | None:
        """Describe an architecture of this family from torchvision itself."""
        if name not in models.list_models() or models.get_model_builder(name).__module__ != (
            self.MODULE
        ):
            return None
        return describe(self, name)

    @hookimpl
    def weights(self, spec: BackboneSpec) -> tuple[WeightsEntry, ...]:
        """Describe torchvision's own sets of weights, the default first."""
        members = models.get_model_weights(spec.name)
        ordered = sorted(members, key=lambda member: member is not members.DEFAULT)
        return tuple(describe_weights(self, member) for member in ordered)


def describe(family: TorchvisionFamily, name: str) -> BackboneSpec:
    """Build an architecture without memory and write down what it shows.

    RegNet's constructors compute with tensors, so those are built for real.
    """
    entries = family.weights(BackboneSpec(name, SOURCE, "", "", family.TASK, (), 0, 0))
    own = family.FAMILIES[0]
    options = freeze(family.OPTIONS)
    shape = (entries[0].input_shape if entries else None) or (3, 224, 224)
    spec = BackboneSpec(
        name, SOURCE, own, own, family.TASK, shape, 0, 0,
        entries[0].tag if entries else None, options,
    )  # fmt: skip
    demanded = {**family.OPTIONS, **dict(entries[0].options if entries else ())}
    model = _build_light(family, spec, demanded).eval()
    params = sum(parameter.numel() for parameter in model.parameters())
    stripped = family.strip_head(model, own, spec, None)
    return BackboneSpec(
        name, SOURCE, own, own, family.TASK, shape, probe_width(stripped.backbone, shape), params,
        spec.default_weights, options, stripped.law,
    )  # fmt: skip


def _build_light(
    family: TorchvisionFamily, spec: BackboneSpec, options: Mapping[str, Any]
) -> nn.Module:
    try:
        with without_memory():
            return family.build_model(spec, options)
    except (RuntimeError, NotImplementedError):
        return family.build_model(spec, options)


def describe_weights(family: TorchvisionFamily, member: WeightsEnum) -> WeightsEntry:
    """Write down what torchvision states of one set of weights."""
    meta, preset = member.meta, member.transforms()
    video = family.TASK == "video"
    crop = tuple(preset.crop_size) if video else (preset.crop_size[0],) * 2
    resize = preset.resize_size
    preprocessing = Preprocessing(
        crop=crop,
        resize=tuple(resize) if len(resize) == 2 else resize[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
        # torchvision's video preset resizes without, to keep its published results.
        antialias=not video,
        frames=family.FRAMES if video else None,
    )
    categories = meta.get("categories") or ()
    stem = member.url.rpartition("/")[2].rpartition(".")[0]
    return WeightsEntry(
        tag=member.name,
        locations=(member.url,),
        sha256=stem.rpartition("-")[2],
        options=freeze(family.weights_options(meta)),
        num_classes=len(categories) or None,
        input_shape=preprocessing.input_shape,
        labels=LABELS.get(len(categories)),
        preprocessing=preprocessing,
        license=meta.get("license"),
        metrics=freeze(_metrics(meta)),
    )


def _metrics(meta: Mapping[str, Any]) -> dict[str, float]:
    stated = {
        f"{dataset} {metric}": value
        for dataset, values in meta.get("_metrics", {}).items()
        for metric, value in values.items()
    }
    stated |= {"GFLOPs": meta.get("_ops"), "file size (MB)": meta.get("_file_size")}
    # torchvision has NaN where it measured nothing.
    return {key: value for key, value in stated.items() if value and not math.isnan(value)}
