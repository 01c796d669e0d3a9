"""Families of timm's networks, and whether a network is one as timm builds it."""

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
    """List the modules of the installed timm, and of the one that the catalog was written with."""
    listed = read_catalog(_CATALOG) if _CATALOG.is_file() else []
    # Other packages' modules are in timm's table too, once one of them registered a network there.
    own = {name for name in timm.list_modules() if f"{_MODELS}{name}" in sys.modules}
    return tuple(sorted({*own, *(spec.family.partition(":")[2] for spec in listed)}))


FAMILIES: tuple[str, ...] = _families()
"""The modules of timm that have architectures: each is a family."""

_USED = ("forward", "forward_features", "forward_head", "get_classifier")
OWN = "Take the head off with headstrip.detach(network, path) where you know how it is used."
"""What to do with a network that is none of timm's."""


@cache
def family_of(name: str) -> str:
    """Return the family of an architecture: the module of timm that builds it."""
    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


def recognise(model: nn.Module, family: str) -> None:
    """Refuse a network that is not of a family, or that does not run timm's own code.

    Raises:
        HeadNotFoundError: It is so.
    """
    kind = type(model)
    module = kind.__module__
    if not module.startswith(_MODELS) or module.startswith(f"{_MODELS}_"):
        raise HeadNotFoundError(
            f"A {kind.__name__} of {module} is no network of timm with a classifier. {OWN}"
        )
    own, built_by = module.removeprefix(_MODELS), _builder(model)
    if family not in {own, built_by}:
        raise HeadNotFoundError(
            f"A {kind.__name__} is no network of the family {family!r}. "
            f"Name it {f'timm:{built_by or own}'!r}."
        )
    refuse_replaced(model, _USED)


def refuse_replaced(module: nn.Module, methods: tuple[str, ...]) -> None:
    """Refuse a module whose methods were replaced, on itself or on its class.

    Raises:
        HeadNotFoundError: It is so.
    """
    kind = type(module)
    for name in methods:
        function = getattr(kind, name, None)
        place = getattr(function, "__module__", None) or ""
        if name in vars(module) or (function and place.partition(".")[0] not in {"timm", "torch"}):
            raise HeadNotFoundError(
                f"The {name} of this {kind.__name__} is not the one that its class came with, and "
                f"may use the head in another way. {OWN}"
            )


def _builder(model: nn.Module) -> str | None:
    """Return the family of the architecture that a network says it is."""
    config = getattr(model, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, Mapping) else None
    return family_of(name) if isinstance(name, str) and timm.is_model(name) else None
