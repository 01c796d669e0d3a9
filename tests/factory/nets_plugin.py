"""A plugin whose backbones are the small networks of one file of tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from headstrip import (
    BackboneSpec,
    Stripped,
    WeightsEntry,
    detach,
    hookimpl,
    register_plugin,
)
from headstrip.registry.registry import use_registry

SHAPE = (3, 8, 8)
"""The input of each network, whose embedding has 8 numbers."""


class _Nets:
    FAMILIES = ("net",)

    def __init__(self, nets: Mapping[str, Callable[..., nn.Module]]) -> None:
        self._nets = nets

    @hookimpl
    def backbones(self) -> tuple[BackboneSpec, ...]:
        return tuple(
            BackboneSpec(name, "nets", "nets:net", "nets", "image", SHAPE, 8, 0)
            for name in self._nets
        )

    @hookimpl
    def build_model(self, spec: BackboneSpec, options: dict[str, Any]) -> nn.Module:
        return self._nets[spec.name](**options)

    @hookimpl
    def strip_head(
        self, model: nn.Module, family: str, spec: BackboneSpec | None, entry: WeightsEntry | None
    ) -> Stripped:
        return detach(model, "fc")


@contextmanager
def registered(nets: Mapping[str, Callable[..., nn.Module]]) -> Iterator[None]:
    """Register the plugin ``nets`` in a new registry, which has networks with their head at fc."""
    use_registry(None)
    register_plugin(_Nets(nets), "nets")
    yield
    use_registry(None)
