"""A trial of a plugin: its smallest backbone, built without memory and stripped."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from headstrip.errors import HeadstripError
from headstrip.probe import ProbeError, probe_width

if TYPE_CHECKING:
    from headstrip.registry import Registry
    from headstrip.spec import BackboneSpec


def trial_problem(registry: Registry, specs: Sequence[BackboneSpec]) -> str | None:
    """Say what goes wrong when the smallest of some backbones is built and stripped, or None.

    It is built on the meta device, and for real where that does not work.
    """
    smallest = min(specs, key=lambda spec: spec.params)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        if _problem(registry, smallest, torch.device("meta")) is None:
            return None
        return _problem(registry, smallest, nullcontext())


def _problem(
    registry: Registry, spec: BackboneSpec, device: torch.device | AbstractContextManager[None]
) -> str | None:
    about = spec.qualified_name
    try:
        plugin, family = registry.stripper(spec.family)
        with device:
            model = registry.owner(spec).call(
                "build_model", about, spec=spec, options=dict(spec.options)
            )
        stripped = plugin.call(
            "strip_head", about, model=model.eval(), family=family, spec=spec, entry=None
        )
        probe_width(stripped.backbone, stripped.input_shape or spec.input_shape)
    except HeadstripError as error:
        return str(error)
    except ProbeError as error:
        return f"{about!r}, as strip_head leaves it, {error}"
    return None
