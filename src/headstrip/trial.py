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
    """Say what goes wrong when the smallest of some backbones is built and stripped, or None.

    A width other than the catalog's is such a thing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            smallest = min(specs, key=lambda spec: spec.params)
            found = measure(smallest, registry=registry)
        except HeadstripError as error:
            return str(error)
    if found.dim != smallest.dim:
        return (
            f"the catalog says width {smallest.dim} for {smallest.qualified_name!r}, and the "
            f"network has {found.dim}; `headstrip catalog write {smallest.plugin}` corrects it"
        )
    return None
