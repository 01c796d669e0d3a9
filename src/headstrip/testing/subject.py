"""A backbone under test. Objects that its checks share are made once, on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from headstrip.errors import HeadstripError
from headstrip.factory.maker import strip_with
from headstrip.network.head import Stripped
from headstrip.network.head_check import logits_without_memory, width_of_stripped
from headstrip.network.meta_ops import without_memory
from headstrip.network.width import HeadError, ProbeError, probe_width
from headstrip.plugins.loader import Plugin
from headstrip.registry.registry import Registry
from headstrip.spec import BackboneSpec, WeightsEntry, effective_shape, merged_options
from headstrip.testing.pair import (
    Pair,
    embedding_of,
    run_untouched,
    smaller_shape,
    unequal_tensors,
)
from headstrip.testing.perturb import FastRandom, perturb
from headstrip.testing.report import CheckFailed, CheckNotRun, Level
from headstrip.testing.states import Snapshot, generator_states, seed_generators, tensors_of

LARGE = 30_000_000
"""Number of parameters above which initial values are repeated instead of drawn one by one."""

_Made = TypeVar("_Made")


class SharedPart(Generic[_Made]):
    """An attribute that is made on first use.

    If making it fails, the first check gets the error, and all others ``CheckNotRun``.
    """

    def __init__(self, make: Callable[[Subject], _Made]) -> None:
        """Keep the function that makes the attribute."""
        self._make, self._name = make, make.__name__
        self.__doc__ = make.__doc__

    def __get__(self, subject: Subject, owner: type) -> _Made:
        """Return the attribute, and make it if necessary.

        Raises:
            CheckNotRun: Making it failed before.
        """
        made = subject.made
        if self._name not in made:
            try:
                made[self._name] = self._make(subject)
            except CheckNotRun:
                raise
            except (Exception, SystemExit) as error:
                made[self._name] = CheckNotRun(f"the object to check could not be made: {error}")
                raise
        if isinstance(made[self._name], CheckNotRun):
            raise made[self._name]
        value: _Made = made[self._name]
        return value


@dataclass(frozen=True, slots=True)
class Light:
    """A stripped network on the meta device, or with values if it cannot be built there.

    Attributes:
        tensors: Parameters and buffers of the untouched network by name; a tensor with two names
            appears twice.
        stripped: Backbone and head.
        params: Number of parameters, head included.
        shape: Input without the batch axis.
        dim: Width of the embedding, measured without a real forward pass.
    """

    tensors: Mapping[str, Tensor]
    stripped: Stripped
    params: int
    shape: tuple[int, ...]
    dim: int


@dataclass(frozen=True, slots=True)
class Fresh:
    """A backbone that was built with another seed and stripped in train mode.

    Attributes:
        stripped: Backbone and head.
        changed: Phrases for the changes by stripping, other than the removal of the head.
        states: States of the global generators after the build.
    """

    stripped: Stripped
    changed: tuple[str, ...]
    states: Mapping[str, Any]


class Subject:
    """One backbone, checked at one of the levels of ``verify``.

    Attributes:
        made: Objects that the checks share, by attribute name.
        network_calls: Calls that tried to use the network.
        unread: Tags of the weights whose file is not on this machine.
    """

    def __init__(self, registry: Registry, spec: BackboneSpec, level: Level) -> None:
        """Create the subject. Nothing is built yet."""
        self.registry, self.spec, self.level = registry, spec, level
        self.made: dict[str, Any] = {}
        self.network_calls: list[str] = []
        self.unread: list[str] = []

    @property
    def name(self) -> str:
        """Qualified name of the backbone."""
        return self.spec.qualified_name

    @property
    def owner(self) -> Plugin:
        """The plugin that builds the backbone."""
        return self.registry.owner(self.spec)

    @property
    def entry(self) -> WeightsEntry | None:
        """The entry of the default weights. No file is read."""
        tag = self.spec.default_weights
        return next((entry for entry in self.entries if entry.tag == tag), None) if tag else None

    @SharedPart
    def entries(self) -> tuple[WeightsEntry, ...]:
        """The entries of all weights."""
        return self.registry.weights(self.spec)

    @SharedPart
    def light(self) -> Light:
        """The network, built as ``headstrip.factory.measure`` builds it."""
        return self.build_light(self.entry, {})

    @SharedPart
    def pair(self) -> Pair:
        """The untouched network and its stripped twin, with the same perturbed values.

        Raises:
            HeadstripError: A hook of the plugin failed.
            CheckFailed: The network does not run on its input.
        """
        declared = self.light.shape
        options = self.options(self.entry)
        untouched = self.build(options, seed=0)
        states = generator_states()
        twin = self.build(options, seed=0)
        differing = unequal_tensors(untouched, twin)
        seed_generators(2)
        with self.quick_values():
            perturb(untouched)
        # A large network and its twin share their values to save memory.
        twin.load_state_dict(untouched.state_dict(), assign=self.is_large)
        untouched.eval()
        twin.eval()
        shape, x, output = run_untouched(untouched, self.small_input_shape(), declared)
        before = Snapshot(twin)
        stripped = self.strip(twin, self.entry)
        changed = before.changes("strip_head")
        stripped.backbone.eval()
        if stripped.head is not None:
            stripped.head.eval()
        before_forward = Snapshot(stripped.backbone)
        dim = self.measure_width(stripped.backbone, shape)
        embedding = embedding_of(stripped.backbone, x)
        changed += before_forward.changes("the forward pass", stripped.backbone)
        return Pair(
            untouched, stripped, shape, x, output, embedding, dim, differing, tuple(changed), states
        )

    @SharedPart
    def real_width(self) -> int:
        """The width that one real forward pass gives, with random values."""
        shape = self.small_input_shape()
        stripped = self.strip(self.build(self.options(self.entry), seed=0).eval(), self.entry)
        stripped.backbone.eval()
        seed_generators(3)
        embedding = embedding_of(stripped.backbone, torch.randn(1, *shape))
        if stripped.head is not None:
            with torch.no_grad():
                stripped.head.eval()(embedding)
        return int(embedding.shape[1])

    @SharedPart
    def single_embedding(self) -> Tensor:
        """The embedding of the first input, computed in a batch of one."""
        return self.pair.embed(self.pair.x[:1])

    @SharedPart
    def fresh(self) -> Fresh:
        """A backbone that was built with another seed."""
        model = self.build(self.options(self.entry), seed=1)
        states = generator_states()
        before = Snapshot(model)
        stripped = self.strip(model, self.entry)
        changed = before.changes("strip_head in train mode")
        stripped.backbone.eval()
        return Fresh(stripped, tuple(changed), states)

    def forget(self, name: str) -> None:
        """Drop one shared object, so that its next use makes it again."""
        self.made.pop(name, None)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Input shape of the checks: that of the default weights, or a smaller one."""
        return self.pair.shape if self.level == "real" else self.light.shape

    def options(self, entry: WeightsEntry | None) -> dict[str, Any]:
        """Return the constructor arguments for these weights, with their number of classes."""
        classes = {"num_classes": entry.num_classes} if entry and entry.num_classes else {}
        return {**self.plain_options(entry), **classes}

    def plain_options(self, entry: WeightsEntry | None) -> dict[str, Any]:
        """Return the constructor arguments of the spec and of the weights."""
        return merged_options(self.spec, entry)

    def build(self, options: Mapping[str, Any], seed: int) -> nn.Module:
        """Build the network with values, head included, after seeding the generators."""
        seed_generators(seed)
        with self.quick_values():
            return self._build_model(options)

    @property
    def is_large(self) -> bool:
        """Whether the network is so large that its values are repeated and shared."""
        return self.spec.params > LARGE

    @property
    def holds_memory(self) -> bool:
        """Whether any network was built with values."""
        light = self.made.get("light")
        tensors = light.tensors.values() if isinstance(light, Light) else ()
        return self.level != "meta" or not all(tensor.is_meta for tensor in tensors)

    def quick_values(self) -> AbstractContextManager[object]:
        """Return a context that fills a large network with values quickly."""
        return FastRandom() if self.is_large else nullcontext()

    def build_light(self, entry: WeightsEntry | None, extra: Mapping[str, Any]) -> Light:
        """Build, strip and measure a network on the meta device, or with values if that fails."""
        options = {**self.plain_options(entry), **extra}
        try:
            with without_memory():
                model = self._build_model(options)
            return self._light(model, entry)
        except (HeadstripError, CheckFailed):
            return self._light(self.build(options, seed=0), entry)

    def strip(self, model: nn.Module, entry: WeightsEntry | None) -> Stripped:
        """Remove the head with the family's plugin, as ``build_encoder`` does."""
        plugin, family = self.registry.stripper(self.spec.family)
        return strip_with(plugin, family, model, self.spec, entry, self.name)

    def measure_width(self, backbone: nn.Module, shape: tuple[int, ...]) -> int:
        """Return the width of the embedding, and leave the backbone unchanged."""
        try:
            return probe_width(backbone, shape)
        except ProbeError as error:
            raise CheckFailed(f"after strip_head, the backbone {error}") from error

    def check_head_gives_logits(self) -> None:
        """Check that the head is the layer that gave the untouched network's logits.

        Raises:
            CheckFailed: The head is another layer.
        """
        light, options = self.light, self.plain_options(self.entry)
        try:
            width_of_stripped(
                light.stripped,
                light.shape,
                lambda: logits_without_memory(lambda: self._build_model(options), light.shape),
            )
        except (HeadError, ProbeError) as error:
            raise CheckFailed(
                f"strip_head removed the wrong layer as the head: it {error}"
            ) from error

    def small_input_shape(self) -> tuple[int, ...]:
        """Return a smaller input shape if it gives the same width, else the declared one."""
        light = self.light
        shape = smaller_shape(light.shape, self.spec.task)
        try:
            fits = shape == light.shape or probe_width(light.stripped.backbone, shape) == light.dim
        except ProbeError:
            return light.shape
        return shape if fits else light.shape

    def _build_model(self, options: Mapping[str, Any]) -> nn.Module:
        model: nn.Module = self.owner.call(
            "build_model", self.name, spec=self.spec, options=dict(options)
        )
        return model

    def _light(self, model: nn.Module, entry: WeightsEntry | None) -> Light:
        tensors = tensors_of(model)
        params = sum(parameter.numel() for parameter in model.parameters())
        stripped = self.strip(model.eval(), entry)
        stripped.backbone.eval()
        shape = effective_shape(stripped.input_shape, entry, self.spec)
        return Light(tensors, stripped, params, shape, self.measure_width(stripped.backbone, shape))


def storage(tensor: Tensor) -> int:
    """Return an id of the storage of a tensor. A view has the same id as its base."""
    return int(tensor.untyped_storage()._cdata)
