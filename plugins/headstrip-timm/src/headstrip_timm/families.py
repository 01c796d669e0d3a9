"""The families of timm's networks, and a check that a network is what timm builds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import timm
from torch import nn

from headstrip import HeadNotFoundError
from headstrip.plugin_api import read_catalog

_CATALOG = Path(__file__).with_name("catalog.tsv")
_MODELS = "timm.models."


def _families() -> tuple[str, ...]:
    """Return the model modules of the installed timm, and those in the catalog."""
    listed = read_catalog(_CATALOG) if _CATALOG.is_file() else []
    # timm's table also contains modules of other packages that registered a network.
    own = {name for name in timm.list_modules() if f"{_MODELS}{name}" in sys.modules}
    return tuple(sorted({*own, *(spec.family.partition(":")[2] for spec in listed)}))


FAMILIES: tuple[str, ...] = _families()
"""The modules of timm with architectures. Each module is a family."""

_USED = ("forward", "forward_features", "forward_head", "get_classifier")
OWN = "If you know the path of its head, such as 'fc', call headstrip.detach(network, 'fc')."
"""Advice for networks that timm did not build."""


@cache
def family_of(name: str) -> str:
    """Return the family of an architecture, which is the timm module that builds it."""
    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


def recognise(model: nn.Module, family: str) -> None:
    """Refuse a network that does not belong to a family, or does not run timm's code.

    Raises:
        HeadNotFoundError: The network is refused.
    """
    kind = type(model)
    module = kind.__module__
    if not module.startswith(_MODELS) or module.startswith(f"{_MODELS}_"):
        raise HeadNotFoundError(
            f"The class {module}.{kind.__name__} is not a timm network with a classifier. {OWN}"
        )
    own, built_by = module.removeprefix(_MODELS), _builder(model)
    if family not in {own, built_by}:
        raise HeadNotFoundError(
            f"The class {kind.__name__} is not of the family {family!r}. "
            f"Pass the family {f'timm:{built_by or own}'!r}."
        )
    refuse_replaced(model, _USED)


def refuse_replaced(module: nn.Module, methods: tuple[str, ...]) -> None:
    """Refuse a module with replaced methods, on the instance or on its class.

    Raises:
        HeadNotFoundError: A method was replaced.
    """
    kind = type(module)
    for name in methods:
        function = getattr(kind, name, None)
        origin = getattr(function, "__module__", None) or ""
        if name in vars(module) or (function and origin.partition(".")[0] not in {"timm", "torch"}):
            raise HeadNotFoundError(
                f"The {name} of this {kind.__name__} is not the original method of its class, so "
                f"it may use the head in another way. {OWN}"
            )


def _builder(model: nn.Module) -> str | None:
    """Return the family of the architecture that a network states."""
    config = getattr(model, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, Mapping) else None
    return family_of(name) if isinstance(name, str) and timm.is_model(name) else None
