"""A trial of a plugin: its smallest backbone, built without memory and stripped."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from headstrip.errors import HeadstripError
from headstrip.measure import measure

if TYPE_CHECKING:
    from headstrip.registry import Registry
    from headstrip.spec import BackboneSpec


def trial_problem(registry: Registry, specs: Sequence[BackboneSpec]) -> str | None:
    """Say what goes wrong when the smallest of some backbones is built and stripped, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            measure(min(specs, key=lambda spec: spec.params), registry=registry)
        except HeadstripError as error:
            return str(error)
    return None
