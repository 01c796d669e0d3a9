"""One backbone under test, and what its checks share: each part is made once, on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from headstrip.errors import HeadstripError
from headstrip.factory.construction import strip_with
from headstrip.network.head import Stripped
from headstrip.network.head_check import logits_without_memory, width_of_stripped
from headstrip.network.meta_ops import without_memory
from headstrip.network.width import HeadError, ProbeError, probe_width
from headstrip.plugins.loader import Plugin
from headstrip.registry.registry import Registry
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.testing.pair import Pair, embedding_of, run, smaller, unequal
from headstrip.testing.perturb import FastRandom, perturb
from headstrip.testing.report import Broken, Level, NotRun
from headstrip.testing.states import Snapshot, generator_states, seed_generators, tensors_of

LARGE = 30_000_000
"""Parameters above which initial values are repeated instead of drawn one by one."""

_Made = TypeVar("_Made")


class Once(Generic[_Made]):
    """An attribute that is made on first use; what fails then is told once, and not made again."""

    def __init__(self, make: Callable[[Subject], _Made]) -> None:
        """Keep what makes it."""
        self._make, self._name = make, make.__name__
        self.__doc__ = make.__doc__

    def __get__(self, subject: Subject, owner: type) -> _Made:
        """Make it, or return what was made.

        Raises:
            NotRun: Making it failed before.
        """
        made = subject.made
        if self._name not in made:
            try:
                made[self._name] = self._make(subject)
            except NotRun:
                raise
            except (Exception, SystemExit) as error:
                made[self._name] = NotRun(f"what it looks at could not be made: {error}")
                raise
        if isinstance(made[self._name], NotRun):
            raise made[self._name]
        value: _Made = made[self._name]
        return value


@dataclass(frozen=True, slots=True)
class Light:
    """A network without memory, or for real where its constructor computes with tensors.

    Attributes:
        tensors: Parameters and buffers of the untouched network, under each of their names.
        stripped: Its parts.
        params: Number of parameters, head included.
        shape: Input without the batch axis.
        dim: Width of the embedding as the probe sees it.
    """

    tensors: Mapping[str, Tensor]
    stripped: Stripped
    params: int
    shape: tuple[int, ...]
    dim: int


@dataclass(frozen=True, slots=True)
class Fresh:
    """A backbone that another seed built, stripped in train mode, still with its own values.

    Attributes:
        stripped: Its parts.
        changed: What the strip changed besides taking the head off.
        states: Of the global generators after it was built.
    """

    stripped: Stripped
    changed: tuple[str, ...]
    states: Mapping[str, Any]


class Subject:
    """One backbone, checked at one of the levels of ``verify``.

    Attributes:
        made: What its checks share.
        tried: Calls to the network.
        unread: Tags of the weights whose file is not on this machine.
    """

    def __init__(self, registry: Registry, spec: BackboneSpec, level: Level) -> None:
        """Note what is to be checked; nothing is built yet."""
        self.registry, self.spec, self.level = registry, spec, level
        self.made: dict[str, Any] = {}
        self.tried: list[str] = []
        self.unread: list[str] = []

    @property
    def name(self) -> str:
        """Qualified name of the backbone."""
        return self.spec.qualified_name

    @property
    def owner(self) -> Plugin:
        """The plugin that builds it."""
        return self.registry.owner(self.spec)

    @property
    def entry(self) -> WeightsEntry | None:
        """Its default weights; no file of theirs is read."""
        tag = self.spec.default_weights
        return next((entry for entry in self.entries if entry.tag == tag), None) if tag else None

    @Once
    def entries(self) -> tuple[WeightsEntry, ...]:
        """All its weights."""
        return self.registry.weights(self.spec)

    @Once
    def light(self) -> Light:
        """The network as ``headstrip.factory.measure`` builds it."""
        return self.build_light(self.entry, {})

    @Once
    def pair(self) -> Pair:
        """The untouched network and its stripped twin, with the same perturbed values.

        Raises:
            HeadstripError: The plugin failed at it.
            Broken: The network does not run on its input.
        """
        declared = self.light.shape
        options = self.options(self.entry)
        untouched = self.build(options, seed=0)
        states = generator_states()
        twin = self.build(options, seed=0)
        differing = unequal(untouched, twin)
        seed_generators(2)
        with self.quick_values():
            perturb(untouched)
        # A large one's values are there once.
        twin.load_state_dict(untouched.state_dict(), assign=self.is_large)
        untouched.eval()
        twin.eval()
        shape, x, output = run(untouched, self.smaller_shape(), declared)
        before = Snapshot(twin)
        stripped = self.strip(twin, self.entry)
        changed = before.changes("strip_head")
        stripped.backbone.eval()
        if stripped.head is not None:
            stripped.head.eval()
        settled = Snapshot(stripped.backbone)
        dim = self.probe(stripped.backbone, shape)
        embedding = embedding_of(stripped.backbone, x)
        changed += settled.changes("the forward", stripped.backbone)
        return Pair(
            untouched, stripped, shape, x, output, embedding, dim, differing, tuple(changed), states
        )

    @Once
    def once(self) -> int:
        """The width that one real forward gives, with random values that cost little."""
        shape = self.smaller_shape()
        stripped = self.strip(self.build(self.options(self.entry), seed=0).eval(), self.entry)
        stripped.backbone.eval()
        seed_generators(3)
        embedding = embedding_of(stripped.backbone, torch.randn(1, *shape))
        if stripped.head is not None:
            with torch.no_grad():
                stripped.head.eval()(embedding)
        return int(embedding.shape[1])

    @Once
    def single(self) -> Tensor:
        """The embedding of the first input alone."""
        return self.pair.embed(self.pair.x[:1])

    @Once
    def fresh(self) -> Fresh:
        """A backbone of another seed."""
        model = self.build(self.options(self.entry), seed=1)
        states = generator_states()
        before = Snapshot(model)
        stripped = self.strip(model, self.entry)
        changed = before.changes("strip_head in train mode")
        stripped.backbone.eval()
        return Fresh(stripped, tuple(changed), states)

    def forget(self, name: str) -> None:
        """Have one of the parts made anew on its next use."""
        self.made.pop(name, None)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Input of the comparisons: that of the default weights, or smaller where it does."""
        return self.pair.shape if self.level == "real" else self.light.shape

    def options(self, entry: WeightsEntry | None) -> dict[str, Any]:
        """Return the constructor arguments with which core builds for these weights."""
        classes = {"num_classes": entry.num_classes} if entry and entry.num_classes else {}
        return {**self.plain_options(entry), **classes}

    def plain_options(self, entry: WeightsEntry | None) -> dict[str, Any]:
        """Return the constructor arguments of the spec, and those that the weights demand."""
        return {**dict(self.spec.options), **dict(entry.options if entry else ())}

    def build(self, options: Mapping[str, Any], seed: int) -> nn.Module:
        """Build the network for real, head included, from a seed."""
        seed_generators(seed)
        with self.quick_values():
            return self._built(options)

    @property
    def is_large(self) -> bool:
        """Whether its values cost more time or memory than a proof should."""
        return self.spec.params > LARGE

    @property
    def holds_memory(self) -> bool:
        """Whether anything was built with values."""
        light = self.made.get("light")
        tensors = light.tensors.values() if isinstance(light, Light) else ()
        return self.level != "meta" or not all(tensor.is_meta for tensor in tensors)

    def quick_values(self) -> AbstractContextManager[object]:
        """Return a context in which a large network gets its values quickly."""
        return FastRandom() if self.is_large else nullcontext()

    def build_light(self, entry: WeightsEntry | None, extra: Mapping[str, Any]) -> Light:
        """Build, strip and probe without memory, and for real where that does not work."""
        options = {**self.plain_options(entry), **extra}
        try:
            with without_memory():
                model = self._built(options)
            return self._light(model, entry)
        except (HeadstripError, Broken):
            return self._light(self.build(options, seed=0), entry)

    def strip(self, model: nn.Module, entry: WeightsEntry | None) -> Stripped:
        """Have the family's plugin take the head off, as core has it done."""
        plugin, family = self.registry.stripper(self.spec.family)
        return strip_with(plugin, family, model, self.spec, entry, self.name)

    def probe(self, backbone: nn.Module, shape: tuple[int, ...]) -> int:
        """Return the width of an embedding, without a trace."""
        try:
            return probe_width(backbone, shape)
        except ProbeError as error:
            raise Broken(f"as strip_head leaves it, it {error}") from error

    def check_place(self) -> None:
        """Refuse a head that does not give the untouched network's logits.

        Raises:
            Broken: It does not.
        """
        light, options = self.light, self.plain_options(self.entry)
        try:
            width_of_stripped(
                light.stripped,
                light.shape,
                lambda: logits_without_memory(lambda: self._built(options), light.shape),
            )
        except (HeadError, ProbeError) as error:
            raise Broken(f"strip_head took the wrong layer for the head: it {error}") from error

    def smaller_shape(self) -> tuple[int, ...]:
        """Return a smaller input that gives an embedding of the same width, or the declared one."""
        light = self.light
        shape = smaller(light.shape, self.spec.task)
        try:
            fits = shape == light.shape or probe_width(light.stripped.backbone, shape) == light.dim
        except ProbeError:
            return light.shape
        return shape if fits else light.shape

    def _built(self, options: Mapping[str, Any]) -> nn.Module:
        model: nn.Module = self.owner.call(
            "build_model", self.name, spec=self.spec, options=dict(options)
        )
        return model

    def _light(self, model: nn.Module, entry: WeightsEntry | None) -> Light:
        tensors = tensors_of(model)
        params = sum(parameter.numel() for parameter in model.parameters())
        stripped = self.strip(model.eval(), entry)
        stripped.backbone.eval()
        shape = stripped.input_shape or (entry and entry.input_shape) or self.spec.input_shape
        return Light(tensors, stripped, params, shape, self.probe(stripped.backbone, shape))


def storage(tensor: Tensor) -> int:
    """Return what holds a tensor's values: it is one for a view and for what it is a view of."""
    return int(tensor.untyped_storage()._cdata)
