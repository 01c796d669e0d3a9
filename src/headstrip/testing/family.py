"""A family of a plugin, proven with networks that a function makes: no backbone is listed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from headstrip.errors import HeadstripError
from headstrip.factory.construction import strip_with
from headstrip.network.head import Stripped
from headstrip.registry.registry import Registry, get_registry
from headstrip.spec import BackboneSpec, Task, WeightsEntry
from headstrip.testing.report import Broken, ConformanceError, Result
from headstrip.testing.states import generators_kept
from headstrip.testing.subject import Subject
from headstrip.testing.suite import run_check

FAMILY_CHECKS = (
    "build", "width", "parameters", "head", "lossless", "batch", "gradient", "deepcopy", "pickle",
    "state-dict", "state", "repeatable", "dtype", "refusal",
)  # fmt: skip
"""The checks that need no backbone in a catalog."""

Factory = Callable[[], nn.Module]


class FamilySubject(Subject):
    """A network of one's own, whose head a family takes off."""

    def __init__(self, registry: Registry, factory: Factory, spec: BackboneSpec) -> None:
        """Note what makes the networks, and what is known of them."""
        super().__init__(registry, spec, "real")
        self._factory = factory

    @property
    def entry(self) -> WeightsEntry | None:
        """None: there are no sets of weights."""
        return None

    def strip(self, model: nn.Module, entry: WeightsEntry | None) -> Stripped:
        """Have the family's plugin take the head off, as ``headstrip.strip_head`` does."""
        plugin, own = self.registry.stripper(self.spec.family)
        return strip_with(plugin, own, model, None, None, self.spec.family)

    def _built(self, options: Mapping[str, Any]) -> nn.Module:
        model = self._factory()
        if not isinstance(model, nn.Module):
            raise Broken(f"the factory returned a {type(model).__name__} and not a torch.nn.Module")
        return model


def check_family(
    factory: Factory, family: str, *, input_shape: tuple[int, ...] = (3, 224, 224)
) -> None:
    """Assert that a plugin takes the head off networks of its family, and loses nothing.

    For plugins that list no backbones of their own: those that only take heads off.

    Args:
        factory: Makes a new network of the family, head included, with random values. It is called
            several times, and must make the same network under the same seed.
        family: The family, ``source:family``.
        input_shape: Input of the networks without the batch axis.

    Raises:
        ConformanceError: Checks failed; the message lists them all.
        PluginError: There is no such family.
        ValueError: ``factory`` is no function, or gives the same network each time, or
            ``input_shape`` is no shape.

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
            f"input_shape={input_shape!r} is no shape of an input. Pass sizes without the batch, "
            "such as (3, 224, 224)."
        )
    registry = get_registry()
    plugin, own = registry.stripper(family)
    with generators_kept():
        if factory() is factory():
            raise ValueError(
                f"factory={factory!r} returned one network twice. Pass a function that makes a new "
                "one each time, such as a class or a lambda."
            )
    task: Task = "video" if len(input_shape) == 4 else "image"
    spec = BackboneSpec(own, plugin.name, family, plugin.name, task, input_shape, 1, 1)
    subject = FamilySubject(registry, factory, spec)
    try:
        with generators_kept():
            light = subject.light
    except (HeadstripError, Broken):
        # `build` tries again, and says why.
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
            f"factory is a {type(factory).__name__}. Pass a function that makes a new network, "
            "such as a class or `lambda: Net()`."
        )


def _is_wrong(result: Result) -> bool:
    return result.status in {"failed", "not run"}
