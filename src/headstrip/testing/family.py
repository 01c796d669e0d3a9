"""Check a plugin's family with networks from a function, without backbones in a catalog."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from headstrip.errors import HeadstripError
from headstrip.factory.maker import strip_with
from headstrip.network.head import Stripped
from headstrip.registry.registry import Registry, get_registry
from headstrip.spec import BackboneSpec, Task, WeightsEntry
from headstrip.system.arguments import type_of
from headstrip.testing.report import CheckFailed, ConformanceError, Result
from headstrip.testing.states import generators_restored
from headstrip.testing.subject import Subject
from headstrip.testing.suite import run_check

FAMILY_CHECKS = (
    "build",
    "width",
    "parameters",
    "head",
    "lossless",
    "batch",
    "gradient",
    "deepcopy",
    "pickle",
    "state-dict",
    "state",
    "repeatable",
    "dtype",
    "refusal",
)
"""Checks that need no backbone in a catalog."""

Factory = Callable[[], nn.Module]


class FamilySubject(Subject):
    """A network from a factory function, whose head a family's plugin removes."""

    def __init__(self, registry: Registry, factory: Factory, spec: BackboneSpec) -> None:
        """Create the subject from a factory and a spec."""
        super().__init__(registry, spec, "real")
        self._factory = factory

    @property
    def entry(self) -> WeightsEntry | None:
        """None, because a factory has no weights."""
        return None

    def strip(self, model: nn.Module, entry: WeightsEntry | None) -> Stripped:
        """Remove the head with the family's plugin, as ``headstrip.strip_head`` does."""
        plugin, own = self.registry.stripper(self.spec.family)
        return strip_with(plugin, own, model, None, None, self.spec.family)

    def _build_model(self, options: Mapping[str, Any]) -> nn.Module:
        model = self._factory()
        if not isinstance(model, nn.Module):
            raise CheckFailed(f"the factory returned {type_of(model)} instead of a torch.nn.Module")
        return model


def check_family(
    factory: Factory, family: str, *, input_shape: tuple[int, ...] = (3, 224, 224)
) -> None:
    """Assert that a plugin removes the head from networks of its family without loss.

    Use it for plugins that only remove heads and list no backbones.

    Args:
        factory: Returns a new network of the family, head included, with random values. It is
            called several times, and must return equal networks under the same seed.
        family: The family, ``source:family``.
        input_shape: Input of the networks without the batch axis.

    Raises:
        ConformanceError: Checks failed; the message lists them all.
        PluginError: There is no such family.
        ValueError: ``factory`` is not a function or returns the same network each time, or
            ``input_shape`` is not a shape.

    Example:
        >>> import torchvision
        >>> factory = lambda: torchvision.models.resnet18(num_classes=7)
        >>> check_family(factory, "resnet", input_shape=(3, 64, 64))
    """
    _check_factory(factory)
    if not isinstance(input_shape, tuple) or not all(
        isinstance(size, int) and size > 0 for size in input_shape
    ):
        raise ValueError(
            f"input_shape={input_shape!r} is not an input shape. Pass sizes without the batch "
            "axis, such as (3, 224, 224)."
        )
    registry = get_registry()
    plugin, own = registry.stripper(family)
    with generators_restored():
        if factory() is factory():
            raise ValueError(
                f"factory={factory!r} returned the same network twice. Pass a function that "
                "returns a new one each time, such as a class or a lambda."
            )
    task: Task = "video" if len(input_shape) == 4 else "image"
    spec = BackboneSpec(own, plugin.name, family, plugin.name, task, input_shape, 1, 1)
    subject = FamilySubject(registry, factory, spec)
    try:
        with generators_restored():
            light = subject.light
    except (HeadstripError, CheckFailed):
        # The check `build` tries again, and reports the reason.
        subject.forget("light")
    else:
        subject.spec = replace(spec, dim=light.dim, params=light.params, law=light.stripped.law)
    wrong = [
        replace(result, backbone=family)
        for result in (run_check(subject, check) for check in FAMILY_CHECKS)
        if _is_wrong(result)
    ]
    if wrong:
        raise ConformanceError(wrong)


def _check_factory(factory: Factory) -> None:
    if isinstance(factory, nn.Module) or not callable(factory):
        raise ValueError(
            f"factory is {type_of(factory)}. Pass a function that makes a new network, "
            "such as a class or `lambda: Net()`."
        )


def _is_wrong(result: Result) -> bool:
    return result.status in {"failed", "not run"}
