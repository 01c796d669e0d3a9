"""Find the architectures of the catalog that a state dict fits, without building all of them.

A catalog states the width and the number of parameters of each architecture. A file has the same
number, except in its head: a linear layer with ``dim`` numbers and a bias per class. So the
difference of the two counts gives the number of classes of the file's head. headstrip checks that
the file has such a layer or no head, which leaves few architectures. It builds these on the meta
device, and compares every name and shape.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headstrip.errors import HeadstripError, WeightsError
from headstrip.factory.maker import strip_with
from headstrip.factory.misfits import NAME_IT
from headstrip.network.candidates import TOWER, Candidate, is_training_only
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

_CLASSES = 1000
_MOST_HEADS = 2
"""Distilled networks have two heads of the same shape."""

Shapes = Mapping[str, tuple[int, ...]]

_FOREIGN = (
    (re.compile(r".*(kernel|gamma|beta|moving_mean|moving_variance)(:0)?$"), "Keras or TensorFlow"),
    (re.compile(r"(params[./])?.*[./](kernel|scale)$"), "JAX"),
    (
        re.compile(
            r"(backbone\.)?(layers|stages)\.\d+\.(.*\.)?"
            r"(ln\d|attn\.qkv|w_msa|ffn\.layers|(depthwise|pointwise|linear|expand)_conv\d?)\..*"
        ),
        "mmpretrain",
    ),
)
"""Names that other libraries give to tensors, which headstrip does not convert."""


@dataclass(frozen=True, slots=True)
class Match:
    """An architecture that a state dict fits.

    Attributes:
        spec: The architecture.
        classes: The number of classes of the head in the state dict, None without a head.
        needed: The names of the tensors before the head.
    """

    spec: BackboneSpec
    classes: int | None
    needed: frozenset[str]


class Architectures:
    """The architectures of the catalog, each of which is built at most once."""

    def __init__(self) -> None:
        """Use the catalogs of this process."""
        self._registry = get_registry()
        self._built: dict[str, tuple[Shapes, tuple[str, ...]]] = {}

    def that_fit(self, candidate: Candidate, sources: Collection[str] | None = None) -> list[Match]:
        """Return the architectures whose layers before the head a state dict fits exactly.

        Args:
            candidate: The state dict.
            sources: The sources with whose architectures it is compared, None for all.
        """
        state = {name: one for name, one in candidate.state().items() if isinstance(one, Tensor)}
        parameters = parameter_count(state)
        shapes = {name: tuple(one.shape) for name, one in state.items()}
        layers = {shape[:2] for shape in shapes.values()}
        likely = [
            spec
            for spec in self._registry.specs()
            if (sources is None or spec.source in sources)
            and _may_fit(parameters, layers, spec, self._classes_of(spec))
        ]
        _LOGGER.info(
            "headstrip compares the tensors at %r with %d architectures of about their size",
            candidate.key,
            len(likely),
        )
        found = (_match(shapes, spec, *self._shapes_of(spec)) for spec in likely)
        return [match for match in found if match is not None]

    def _classes_of(self, spec: BackboneSpec) -> set[int]:
        """Return the numbers of classes that the network in a catalog's count may have."""
        entry = next(iter(self._registry.listed_weights(spec)), None)
        return {_CLASSES, entry.num_classes or 0} if entry else {_CLASSES, 0}

    def _shapes_of(self, spec: BackboneSpec) -> tuple[Shapes, tuple[str, ...]]:
        """Return the shapes of an architecture and its heads' paths, both empty if it fails."""
        about = spec.qualified_name
        if about not in self._built:
            try:
                self._built[about] = _shapes_of(spec, self._registry)
            except HeadstripError as error:
                _LOGGER.debug("%s is not compared with the file: %s", about, error)
                self._built[about] = {}, ()
        return self._built[about]


def parameter_count(state: Mapping[str, Tensor]) -> int:
    """Count the numbers in the parameters of a state dict, without buffers."""
    return sum(
        one.numel()
        for name, one in state.items()
        if one.is_floating_point() and not _BUFFER.fullmatch(name) and not is_training_only(name)
    )


def _may_fit(
    parameters: int,
    layers: Collection[tuple[int, ...]],
    spec: BackboneSpec,
    classes: Collection[int],
) -> bool:
    """Whether a file has the parameters of an architecture, with a head of any number of classes.

    Args:
        parameters: The number of parameters in the file.
        layers: The first two axes of the tensors in the file.
        spec: The architecture.
        classes: The numbers of classes that the network in the catalog's count may have.
    """
    if not spec.params or not spec.dim:
        return False
    differ = parameters - spec.params
    if differ == 0:
        return True
    for of_a_class in (spec.dim + 1, spec.dim):
        for heads in range(1, _MOST_HEADS + 1):
            more, rest = divmod(differ, heads * of_a_class)
            found = {count + more for count in classes}
            if not rest and (0 in found or any((one, spec.dim) in layers for one in found)):
                return True
    return False


def _match(shapes: Shapes, spec: BackboneSpec, own: Shapes, paths: tuple[str, ...]) -> Match | None:
    inner = len(TOWER) if all(name.startswith(TOWER) for name in own) else 0
    paths = tuple(path[inner:] for path in paths)
    own = {name[inner:]: shape for name, shape in own.items()}
    needed = frozenset(
        name for name in own if not is_under(name, paths) and not name.endswith(COUNTER)
    )
    if not needed or any(shapes.get(name) != own[name] for name in needed):
        return None
    extra = (name for name in shapes if name not in own and not is_under(name, paths))
    if not all(map(is_training_only, extra)):
        return None
    heads = {shape[0] for name, shape in shapes.items() if is_under(name, paths) and shape}
    return Match(spec, heads.pop() if len(heads) == 1 else None, needed)


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
    """Return a better error for a file of another architecture, None without a better one.

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
    catalog, registry = Architectures(), get_registry()
    others = [source for source in registry.sources() if source != spec.source]
    for sources in ([spec.source], others):
        matches = [one.spec for each in unfit for one in catalog.that_fit(each, sources)]
        if names := list(dict.fromkeys(map(registry.short_name, matches))):
            if len(names) == 1:
                return WeightsError(f"{start}Its shapes fit {names[0]!r}: pass that name.")
            return WeightsError(
                f"{start}Its shapes fit {len(names)} architectures, such as {names[0]!r}: pass the "
                "name of the right one. `headstrip inspect` with this file lists them."
            )
    return None


def foreign_library(names: Iterable[str]) -> str | None:
    """Return the library that gave most tensors their names, if headstrip cannot use these."""
    names = list(names)
    for pattern, library in _FOREIGN:
        if names and 2 * sum(pattern.fullmatch(name) is not None for name in names) > len(names):
            return library
    return None
