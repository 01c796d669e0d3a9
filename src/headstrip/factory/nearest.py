"""Which architectures of the catalog a state dict fits, found without building all of them.

A catalog states the parameters and the width of each architecture. A file has those parameters,
except in its head: a linear layer of ``dim`` numbers and a bias for each class. So the two counts
differ by a multiple of ``dim + 1``, or of ``dim`` without a bias, which few architectures pass.
headstrip builds these on the meta device and compares every name and shape.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headstrip.errors import HeadstripError, WeightsError
from headstrip.factory.instantiate import strip_with
from headstrip.factory.misfits import NAME_IT
from headstrip.network.candidates import Candidate, is_training_only
from headstrip.network.meta_ops import without_memory
from headstrip.network.state_dicts import COUNTER, is_under
from headstrip.registry.registry import Registry, get_registry
from headstrip.spec import BackboneSpec, merged_options

_LOGGER = logging.getLogger("headstrip.factory")

_BUFFER = re.compile(
    r"(.*\.)?(running_mean|running_var|num_batches_tracked|relative_position_index|"
    r"relative_coords_table|attn_mask|position_ids|attention_bias_idxs|inv_freq)"
)
"""Names of tensors in a state dict that are not parameters, in torch's layers and in libraries."""

_MOST_CLASSES = 50_000
_TOWER = "network."

Shapes = Mapping[str, tuple[int, ...]]

_FOREIGN = (
    (re.compile(r".*(kernel|gamma|beta|moving_mean|moving_variance)(:0)?$"), "Keras or TensorFlow"),
    (re.compile(r"(params[./])?.*[./](kernel|scale)$"), "JAX"),
    (re.compile(r"(backbone\.)?layers\.\d+\.(ln\d|attn\.qkv|ffn\.layers)\b.*"), "mmpretrain"),
)
"""Names that other libraries give to tensors, which headstrip does not convert."""


@dataclass(frozen=True, slots=True)
class Match:
    """An architecture that a state dict fits, and the classes of the head in the state dict."""

    spec: BackboneSpec
    classes: int | None


def matches_of(
    candidate: Candidate, registry: Registry | None = None, *, source: str | None = None
) -> list[Match]:
    """Return the architectures of the catalog that a state dict fits exactly before the head.

    Args:
        candidate: The state dict.
        registry: The registry with the catalog, by default that of this process.
        source: Only those of one source.
    """
    registry = registry or get_registry()
    state = {name: one for name, one in candidate.state().items() if isinstance(one, Tensor)}
    shapes = {name: tuple(one.shape) for name, one in state.items()}
    parameters = parameter_count(state)
    likely = [
        spec
        for spec in registry.specs()
        if source in (None, spec.source) and _may_fit(parameters, spec)
    ]
    found = (_match(shapes, spec, registry) for spec in likely)
    return [match for match in found if match is not None]


def parameter_count(state: Mapping[str, Tensor]) -> int:
    """Count the numbers in the parameters of a state dict, without buffers."""
    return sum(
        one.numel()
        for name, one in state.items()
        if one.is_floating_point() and not _BUFFER.fullmatch(name) and not is_training_only(name)
    )


def _may_fit(parameters: int, spec: BackboneSpec) -> bool:
    if not spec.params or not spec.dim:
        return False
    differ = parameters - spec.params
    if differ == 0:
        return True
    is_multiple = differ % (spec.dim + 1) == 0 or differ % spec.dim == 0
    return is_multiple and abs(differ) <= _MOST_CLASSES * (spec.dim + 1)


def _match(shapes: Shapes, spec: BackboneSpec, registry: Registry) -> Match | None:
    try:
        own, paths = _shapes_of(spec, registry)
    except HeadstripError as error:
        _LOGGER.debug("%s is not compared with the file: %s", spec.qualified_name, error)
        return None
    inner = len(_TOWER) if all(name.startswith(_TOWER) for name in own) else 0
    paths = tuple(path[inner:] for path in paths)
    own = {name[inner:]: shape for name, shape in own.items()}
    needed = {name for name in own if not is_under(name, paths) and not name.endswith(COUNTER)}
    if not needed or any(shapes.get(name) != own[name] for name in needed):
        return None
    extra = (name for name in shapes if name not in own and not is_under(name, paths))
    if not all(map(is_training_only, extra)):
        return None
    heads = {shape[0] for name, shape in shapes.items() if is_under(name, paths) and shape}
    return Match(spec, heads.pop() if len(heads) == 1 else None)


def _shapes_of(
    spec: BackboneSpec, registry: Registry
) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Build an architecture without memory, and return its shapes and the paths of its heads."""
    entry = next(iter(registry.listed_weights(spec)), None)
    owner, (stripper, family) = registry.owner(spec), registry.stripper(spec.family)
    about, options = spec.qualified_name, merged_options(spec, entry)
    with without_memory():
        model: Any = owner.call("build_model", about, spec=spec, options=dict(options))
    shapes = {name: tuple(one.shape) for name, one in model.state_dict().items()}
    return shapes, strip_with(stripper, family, model.eval(), spec, entry, about).paths


def with_advice(
    error: WeightsError, unfit: Iterable[Candidate], spec: BackboneSpec
) -> WeightsError | None:
    """Return a better error for a file of another architecture, None where nothing is known.

    Args:
        error: Why no state dict of the file fits.
        unfit: The state dicts that were tried.
        spec: The backbone that the user asked for.
    """
    unfit, message = tuple(unfit), str(error)
    if not unfit or not message.endswith(NAME_IT):
        return None
    start = message.removesuffix(NAME_IT)
    names = [name for one in unfit for name in one.names()]
    if (library := foreign_library(names)) is not None:
        return WeightsError(
            f"{start}Its names are those of {library}, such as {names[0]!r:.80}, and headstrip "
            "does not convert them. Convert the checkpoint with the tools of that library to the "
            f"names of {spec.source}."
        )
    for source in (spec.source, None):
        found = {
            one.spec.qualified_name: one.spec
            for candidate in unfit
            for one in matches_of(candidate, source=source)
        }
        if len(found) == 1:
            name = get_registry().short_name(next(iter(found.values())))
            return WeightsError(f"{start}Its shapes fit {name!r}: pass that name.")
        if found:
            return None
    return None


def foreign_library(names: Iterable[str]) -> str | None:
    """Return the library whose names most tensors have, if headstrip cannot use them."""
    names = list(names)
    for pattern, library in _FOREIGN:
        if names and 2 * sum(pattern.fullmatch(name) is not None for name in names) > len(names):
            return library
    return None
