"""The base class of all torchvision families: it builds by name, and describes weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision import models
from torchvision.models import WeightsEnum

from headstrip.errors import HeadNotFoundError
from headstrip.families import SOURCE
from headstrip.hookspecs import API_VERSION, hookimpl
from headstrip.images.preprocessing import Preprocessing
from headstrip.network.checkpoints import plain_state_dict
from headstrip.network.head import Stripped, detach
from headstrip.network.levels import Level
from headstrip.spec import BackboneSpec, Task, WeightsEntry, freeze

LABELS = {1000: "imagenet-1k", 400: "kinetics-400"}


class TorchvisionFamily:
    """A built-in plugin; a subclass states the family's name, its module and its head."""

    API_VERSION: ClassVar[int] = API_VERSION
    FAMILIES: ClassVar[tuple[str, ...]]
    MODULE: ClassVar[str]
    """Module with the constructors of this family."""

    HEAD: ClassVar[str]
    """Dotted path of the head, in families whose head is one linear layer."""

    TASK: ClassVar[Task] = "image"
    OPTIONS: ClassVar[Mapping[str, Any]] = {}
    """Constructor arguments of every architecture of the family."""

    INPUT_OPTIONS: ClassVar[Mapping[str, str]] = {}
    """Constructor arguments that set channels and size; see ``HeadStripper``."""

    LEVELS: ClassVar[tuple[Level | str, ...]] = ()
    """Where the feature maps are, if all networks of the family have them at the same paths."""

    FRAMES: ClassVar[int] = 16
    """Number of frames of a clip in video families: the ``clip_len`` that torchvision states."""

    def weights_options(self, meta: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the constructor arguments that weights with this ``meta`` need."""
        return {}

    def renamed(self, key: str) -> str:
        """Return the key of the network for a key of a weights file, which may be older."""
        return key

    def strip(self, model: nn.Module) -> Stripped:
        """Take the head off a network of this family, in place."""
        return detach(model, self.HEAD)

    def levels_of(self, backbone: Any) -> Sequence[Level | str]:
        """Return where the feature maps of a stripped network of this family are."""
        return self.LEVELS

    @hookimpl
    def build_model(self, spec: BackboneSpec, options: Mapping[str, Any]) -> nn.Module:
        """Build by name, with random weights."""
        model: nn.Module = models.get_model(spec.name, weights=None, **options)
        return model

    @hookimpl
    def strip_head(
        self, model: nn.Module, family: str, spec: BackboneSpec | None, entry: WeightsEntry | None
    ) -> Stripped:
        """Take the head off a network of this family, and refuse all others."""
        self._check_class(model)
        return self.strip(model)

    def _check_class(self, model: nn.Module) -> None:
        """Refuse a network whose ``forward`` is not this family's: its head may not be last.

        Raises:
            HeadNotFoundError: The network is of another class, or overrides ``forward``.
        """
        kind = type(model)
        if not any(base.__module__ == self.MODULE for base in kind.__mro__):
            raise HeadNotFoundError(
                f"The class {kind.__name__} is not of the family {self.FAMILIES[0]!r}, whose "
                f"networks come from {self.MODULE}. Name its family, or take its head off with "
                "headstrip.detach(network, path) if you know the path."
            )
        forwards = [getattr(kind, name, None) for name in ("forward", "_forward", "_forward_impl")]
        is_overridden = any(found and found.__module__ != self.MODULE for found in forwards)
        if is_overridden or "forward" in vars(model):
            raise HeadNotFoundError(
                f"This {kind.__name__} overrides forward, and may use its head in another way. "
                "Take the head off with headstrip.detach(network, path) if you know the path."
            )

    @hookimpl
    def levels(self, model: nn.Module, family: str, spec: BackboneSpec) -> tuple[Level | str, ...]:
        """Say where the feature maps of a stripped network are."""
        return tuple(self.levels_of(model))

    @hookimpl
    def adapt_state_dict(
        self, loaded: object, model: nn.Module, entry: WeightsEntry | None
    ) -> dict[str, Tensor]:
        """Return the file's state dict with the keys of the network."""
        return {self.renamed(key): value for key, value in plain_state_dict(loaded).items()}

    @hookimpl
    def find_backbone(self, name: str) -> BackboneSpec | None:
        """Describe an architecture of this family that torchvision has; a build measures it."""
        if name not in models.list_models():
            return None
        if models.get_model_builder(name).__module__ != self.MODULE:
            return None
        own = self.FAMILIES[0]
        options = freeze(self.OPTIONS)
        spec = BackboneSpec(name, SOURCE, own, own, self.TASK, (3, 224, 224), 0, 0, None, options)
        entries = self.weights(spec)
        if not entries:
            return spec
        shape = entries[0].input_shape or spec.input_shape
        return replace(spec, input_shape=shape, default_weights=entries[0].tag)

    @hookimpl
    def weights(self, spec: BackboneSpec) -> tuple[WeightsEntry, ...]:
        """Describe torchvision's sets of weights, the default first."""
        members = models.get_model_weights(spec.name)
        ordered = sorted(members, key=lambda member: member is not members.DEFAULT)
        return tuple(describe_weights(self, member) for member in ordered)


def describe_weights(family: TorchvisionFamily, member: WeightsEnum) -> WeightsEntry:
    """Describe one set of weights as torchvision states it."""
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
        # torchvision's video preset has no antialiasing, to keep its published results.
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
    # torchvision states NaN where it measured nothing.
    return {key: value for key, value in stated.items() if value and not math.isnan(value)}
