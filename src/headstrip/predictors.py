"""Attribute predictors: one linear layer an attribute, on top of an embedding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

from torch import Tensor, nn


class Predictors(nn.ModuleList):
    """Linear predictors with a name each, so that an attribute may be called ``type`` or ``a.b``.

    Attributes:
        names: The attributes, in the order of the modules.
    """

    def __init__(self, dim: int, classes: Mapping[str, int]) -> None:
        """Make one ``nn.Linear(dim, classes)`` an attribute, Kaiming-initialised.

        Args:
            dim: Width of the embedding.
            classes: Number of classes of each attribute.
        """
        check_classes(classes)
        super().__init__(nn.Linear(dim, count) for count in classes.values())
        self.names = list(classes)
        init_predictors(self)

    def __getitem__(self, idx: int | slice) -> Any:
        # nn.ModuleList would make the part of this class, which is more than a list of modules.
        return (
            nn.ModuleList(list(self)[idx]) if isinstance(idx, slice) else super().__getitem__(idx)
        )

    def named(self) -> dict[str, nn.Module]:
        """Return the predictor of each attribute."""
        return dict(zip(self.names, self, strict=True))

    def predict(self, embedding: Tensor) -> dict[str, Tensor]:
        """Map an embedding (N, dim) to the logits (N, classes) of each attribute."""
        return {name: module(embedding) for name, module in self.named().items()}


def check_classes(classes: Mapping[str, int]) -> None:
    """Refuse what is no mapping of attributes to numbers of classes.

    Raises:
        ValueError: It is no mapping, a name is no string, or a number is below 1.
    """
    if not isinstance(classes, Mapping):
        raise ValueError(
            f"predictors={classes!r} is a {type(classes).__name__}. "
            "Pass a mapping of attributes to numbers of classes, such as {'colour': 12}."
        )
    for name, count in classes.items():
        whole = isinstance(count, Integral) and not isinstance(count, bool)
        if not isinstance(name, str) or not whole or count < 1:
            raise ValueError(
                f"predictors has {name!r}: {count!r}, which is no attribute with a number of "
                "classes. Write {'colour': 12}."
            )


def init_predictors(modules: Iterable[nn.Module]) -> None:
    """Initialise heads of your own as WBCAtt (NeurIPS 2023) does, in place.

    Weights are Kaiming-normal for a ReLU (He et al. 2015), biases zero. The weights are drawn
    in order from torch's global generator, so a seed fixes them.

    Args:
        modules: Modules with a ``weight`` of two axes or more; a missing bias is fine.

    Raises:
        ValueError: ``modules`` is no collection of modules, or one has no such weight, or one
            that is computed from other parameters. None is changed then.

    Example:
        >>> from torch import nn
        >>> heads = nn.ModuleList([nn.Linear(512, 12), nn.Linear(512, 3, bias=False)])
        >>> init_predictors(heads)
        >>> int(heads[0].bias.count_nonzero())
        0
    """
    if not isinstance(modules, Iterable):
        raise ValueError(
            f"A {type(modules).__name__} is no collection of modules. Pass a list of them."
        )
    modules = list(modules)
    for position, module in enumerate(modules):
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim < 2:
            raise ValueError(
                f"Module {position}, a {type(module).__name__}, has no weight to initialise. "
                "Pass linear or convolution layers."
            )
    for module in modules:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # type: ignore[arg-type]
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            nn.init.zeros_(bias)
