"""Attribute predictors: one linear layer per attribute, on top of an embedding."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from headstrip.encoder.attribute import AttributesArgument, attributes_of
from headstrip.encoder.loss import masked_loss
from headstrip.errors import WeightsError
from headstrip.system.arguments import type_of

_BY_POSITION = re.compile(r"[0-9]+")
# The names of a module's attributes and methods, which no submodule can have. The list is fixed and
# does not come from torch, because the keys must not change with a release of torch.
_TAKEN = re.compile(
    r"T_destination|add_module|apply|attributes|bfloat16|buffers|call_super_init|children|compile|"
    r"cpu|cuda|double|dump_patches|eval|extra_repr|float|forward|get_buffer|"
    r"get_extra_state|get_parameter|get_submodule|half|ipu|load_state_dict|loss|modules|"
    r"mtia|named|named_buffers|named_children|named_modules|named_parameters|names|"
    r"note_initial|parameters|predict|register_backward_hook|register_buffer|"
    r"register_forward_hook|register_forward_pre_hook|register_full_backward_hook|"
    r"register_full_backward_pre_hook|register_load_state_dict_post_hook|"
    r"register_load_state_dict_pre_hook|register_module|register_parameter|"
    r"register_state_dict_post_hook|register_state_dict_pre_hook|requires_grad_|"
    r"set_extra_state|set_submodule|share_memory|state_dict|to|to_empty|train|trained|"
    r"training|type|xpu|zero_grad"
)
# The types in which predictors are trained and stored.
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Predictors(nn.Module):
    """Linear predictors, each with the name of its attribute.

    The name is part of the keys of the state dict, such as ``colour.weight``. An attribute may
    have any name, even ``type`` or ``a.b``; ``key_of`` returns the form that the keys have.

    Attributes:
        attributes: What each module predicts, in the order of the modules.
        names: The names of the attributes, in the same order.
    """

    def __init__(self, dim: int, classes: AttributesArgument) -> None:
        """Make one Kaiming-initialised ``nn.Linear(dim, outputs)`` per attribute.

        Args:
            dim: Width of the embedding.
            classes: The attributes, as ``attributes_of`` takes them.
        """
        attributes = attributes_of(classes)
        super().__init__()
        self.attributes = attributes
        self.names = [one.name for one in attributes]
        for one in attributes:
            # add_module would refuse the names of methods, also of methods that a later torch adds.
            self._modules[key_of(one.name)] = nn.Linear(dim, one.outputs)
        self._initial: frozenset[str] = frozenset()
        self._fitted: tuple[frozenset[str], Mapping[str, Any]] = (frozenset(), {})
        init_predictors(self)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._modules.values())  # type: ignore[arg-type]

    def __getitem__(self, index: int | str | slice) -> Any:
        if isinstance(index, slice):
            return nn.ModuleList(list(self)[index])
        return self._modules[self._key(index)]

    def __setitem__(self, index: int | str, module: nn.Module) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"A predictor must be a torch.nn.Module, got {module!r:.100}.")
        self._modules[self._key(index)] = module

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        # In pickles of earlier versions the names of the modules are their positions.
        self._modules = dict(zip(map(key_of, self.names), self._modules.values(), strict=True))
        self.__dict__.setdefault("_initial", frozenset())
        self.__dict__.setdefault("_fitted", (frozenset(), {}))
        if "attributes" not in self.__dict__:
            self.attributes = attributes_of(
                {name: getattr(one, "out_features", 1) for name, one in self.named().items()}
            )

    def named(self) -> dict[str, nn.Module]:
        """Return the predictors by the names of their attributes."""
        return dict(zip(self.names, self, strict=True))

    def predict(self, embedding: Tensor) -> dict[str, Tensor]:
        """Map an embedding (N, dim) to the logits (N, classes) of each attribute."""
        return {name: module(embedding) for name, module in self.named().items()}

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a batch; missing labels do not count.

        The loss is the cross entropy for a ``class``, the binary cross entropy of each label for
        ``labels``, and the squared error for a ``number``. Each is the mean over the known labels,
        or 0 if all are missing. The result is the mean over all attributes.

        Args:
            outputs: The result of ``encoder.predict(x)``: (N, outputs) by attribute.
            targets: The labels by attribute: for a ``class`` int64 indices (N,), -1 where missing;
                for ``labels`` zeros and ones (N, labels), for a ``number`` floats (N,), NaN where
                missing.

        Raises:
            ValueError: An attribute is missing or unknown, or targets have another shape or values
                that are not labels.

        Example:
            >>> predictors = Predictors(2, {"colour": ["red", "blue"]})
            >>> outputs = {"colour": torch.tensor([[0.0, 0.0], [9.0, 0.0]])}
            >>> predictors.loss(outputs, {"colour": torch.tensor([1, -1])})
            tensor(0.6931)
        """
        return masked_loss(self.attributes, outputs, targets)

    @property
    def trained(self) -> bool:
        """Whether the values differ from the initial values by more than a change of dtype."""
        return _digest(self, torch.float64) not in self._initial

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load values by the names of the attributes.

        Keys from earlier versions and from an ``nn.ModuleList`` are positions. headstrip loads them
        if the shapes show which attribute each position belongs to.

        Args:
            state_dict: Tensors by key.
            strict: Whether the attributes must be the same.
            assign: As in ``torch.nn.Module.load_state_dict``.

        Raises:
            WeightsError: The attributes, their classes or the width of the embedding differ, or
                the keys are positions and the shapes do not show which attribute each belongs to.
                No value changes in these cases.
        """
        check_predictors(self, state_dict, "", strict)
        return super().load_state_dict(state_dict, strict, assign)

    def note_initial(self) -> None:
        """Remember the present values as the initial ones; ``trained`` compares with them."""
        self._initial = self._digests()

    def _note_report(self, report: Mapping[str, Any]) -> None:
        """Store the report of the fit that gave the present values."""
        self._fitted = self._digests(), report

    def _report(self) -> Mapping[str, Any]:
        """Return the report of the fit; empty if unknown, or if the values have changed since."""
        digests, report = self._fitted
        return report if digests and _digest(self, torch.float64) in digests else {}

    def _digests(self) -> frozenset[str]:
        dtypes = {*_DTYPES, *(one.dtype for one in self.parameters())}
        return frozenset(_digest(self, dtype) for dtype in dtypes)

    def _key(self, index: int | str) -> str:
        return key_of(index) if isinstance(index, str) else list(self._modules)[index]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # torch also calls this method when it loads a module that contains the predictors.
        renamed = _by_name(self, state_dict, prefix)
        _refuse_other_sizes(self, renamed, prefix)
        state_dict.clear()
        state_dict.update(renamed)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def key_of(name: str) -> str:
    """Return the part of a state dict's key that names an attribute.

    It is the name itself if torch accepts that as the name of a module. Otherwise it is escaped: a
    dot becomes ``%2E``, and ``%`` becomes ``%25``. The first character is also escaped in a name of
    digits, which would look like a position (``12`` becomes ``%312``), in a name that begins with
    ``_``, and in a name that every module has as an attribute, such as ``type``. The empty name
    becomes ``%``.

    Example:
        >>> key_of("colour"), key_of("a.b")
        ('colour', 'a%2Eb')
    """
    key = name.replace("%", "%25").replace(".", "%2E") or "%"
    if _BY_POSITION.fullmatch(name) or name.startswith("_") or _TAKEN.fullmatch(name):
        return f"%{ord(key[0]):X}{key[1:]}"
    return key


def check_predictors(
    predictors: Predictors | None, state_dict: Mapping[str, Any], prefix: str, strict: bool
) -> None:
    """Refuse a state dict of other predictors.

    Args:
        predictors: The predictors to load values into, or None.
        state_dict: The values to load.
        prefix: The beginning of the keys of predictors.
        strict: Whether the attributes must be the same.

    Raises:
        WeightsError: As ``Predictors.load_state_dict``.
    """
    if not isinstance(state_dict, Mapping):
        return
    if predictors is not None:
        state_dict = _by_name(predictors, state_dict, prefix)
        _refuse_other_sizes(predictors, state_dict, prefix)
    if not strict:
        return
    mine = {key_of(name): name for name in predictors.names} if predictors is not None else {}
    theirs = _groups(state_dict, prefix)
    extra = [_name_of(key) for key in theirs if key not in mine]
    missing = [name for key, name in mine.items() if key not in theirs]
    if extra or missing:
        differences = [f"has predictors of {_listed(extra)}, which the encoder lacks"] * bool(extra)
        differences += [f"lacks the predictors of {_listed(missing)}"] * bool(missing)
        raise WeightsError(
            f"The state dict {' and '.join(differences)}. Build the encoder with the state dict's "
            "attributes, or pass strict=False to load the predictors that both have."
        )


def _by_name(predictors: Predictors, state_dict: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return a state dict with the names of attributes instead of positions.

    Raises:
        WeightsError: The shapes do not show which attribute a position belongs to.
    """
    groups = _groups(state_dict, prefix)
    if not groups or not all(map(_BY_POSITION.fullmatch, groups)):
        # Earlier versions had no method of that name, so they did not escape the key.
        earlier, now = f"{prefix}loss.", f"{prefix}{key_of('loss')}."
        return {
            now + key.removeprefix(earlier) if str(key).startswith(earlier) else key: value
            for key, value in state_dict.items()
        }
    mine = {key_of(name): _shapes(module) for name, module in predictors.named().items()}
    theirs = {position: _shapes(group) for position, group in groups.items()}
    owners = {
        position: [key for key in mine if mine[key] == theirs[position]] for position in groups
    }
    found = [keys[0] for keys in owners.values() if len(keys) == 1]
    if len(mine) != len(groups) or len(set(found)) != len(groups):
        sizes = ", ".join(f"{prefix}{at} {_sizes(shapes)}" for at, shapes in theirs.items())
        named = ", ".join(f"{name!r} {_sizes(mine[key_of(name)])}" for name in predictors.names)
        raise WeightsError(
            f"The state dict has predictors by position ({sizes}), and these sizes do not show "
            f"which attribute of the encoder ({named}) each one predicts. Rename its keys to the "
            f"attributes that they were saved from, such as {prefix}{next(iter(groups))}.weight "
            f"to {prefix}{next(iter(mine))}.weight."
        )
    names = {position: keys[0] for position, keys in owners.items()}
    return {_renamed(key, prefix, names): value for key, value in state_dict.items()}


def _renamed(key: str, prefix: str, names: Mapping[str, str]) -> str:
    if not key.startswith(prefix):
        return key
    position, _, rest = key.removeprefix(prefix).partition(".")
    return f"{prefix}{names[position]}.{rest}"


def _refuse_other_sizes(predictors: Predictors, state_dict: Mapping[str, Any], prefix: str) -> None:
    """Refuse other sizes with one short message; torch writes two lines for each predictor."""
    for name, module in predictors.named().items():
        found = state_dict.get(f"{prefix}{key_of(name)}.weight")
        if not isinstance(module, nn.Linear) or not isinstance(found, Tensor) or found.ndim != 2:
            continue
        (theirs, width), mine = found.shape, module.out_features
        if width != module.in_features:
            raise WeightsError(
                f"The predictor of {name!r} in the state dict takes embeddings of {width} numbers, "
                f"and this encoder gives {module.in_features}. Build the encoder whose predictors "
                "were saved."
            )
        if theirs != mine:
            raise WeightsError(
                f"The predictor of {name!r} has {theirs} classes in the state dict and {mine} in "
                f"the encoder. Build the encoder with predictors={{{name!r}: {theirs}}}."
            )


def _groups(state_dict: Mapping[str, Any], prefix: str) -> dict[str, dict[str, Any]]:
    """Return the entries of each predictor, by the part of the key before the first dot."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in state_dict.items():
        if isinstance(key, str) and key.startswith(prefix):
            group, dot, rest = key.removeprefix(prefix).partition(".")
            if dot:
                groups.setdefault(group, {})[rest] = value
    return groups


def _shapes(tensors: nn.Module | Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    found = tensors.state_dict() if isinstance(tensors, nn.Module) else tensors
    return {
        key: tuple(one.shape)
        for key, one in found.items()
        if isinstance(one, Tensor) and not is_lazy(one)
    }


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return "x".join(map(str, shapes.get("weight", ()))) or "of no weight"


def _name_of(key: str) -> str:
    """Return the attribute that a key names; a position is returned unchanged."""
    return "" if key == "%" else unquote(key)


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"{name!r:.60}" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _digest(predictors: Predictors, dtype: torch.dtype) -> str:
    """Hash the values after a cast to ``dtype``; hash them as float64, to compare two dtypes."""
    digest = hashlib.sha256()
    for key, value in predictors.state_dict().items():
        digest.update(f"{key} {tuple(value.shape)}".encode(errors="surrogatepass"))
        if not value.is_meta and value.numel():
            digest.update(value.detach().to("cpu", dtype).double().contiguous().numpy())
    return digest.hexdigest()


def init_predictors(modules: Iterable[nn.Module]) -> None:
    """Initialise your own heads as WBCAtt (NeurIPS 2023) does, in place.

    Weights are Kaiming-normal for a ReLU (He et al. 2015), biases are zero. torch's global
    generator draws the weights in order, so the same seed gives the same weights.

    Args:
        modules: Modules with a ``weight`` of two axes or more; a bias may be missing.

    Raises:
        ValueError: ``modules`` is not a collection of modules, or a weight is missing, has fewer
            axes, or is computed from other parameters. No module changes in these cases.

    Example:
        >>> from torch import nn
        >>> heads = nn.ModuleList([nn.Linear(512, 12), nn.Linear(512, 3, bias=False)])
        >>> init_predictors(heads)
        >>> int(heads[0].bias.count_nonzero())
        0
    """
    if not isinstance(modules, Iterable):
        raise ValueError(
            f"modules is {type_of(modules)}, not a collection of modules. Pass a list of them."
        )
    predictors, modules = modules, list(modules)
    for position, module in enumerate(modules):
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim < 2:
            raise ValueError(
                f"Module {position}, {type_of(module)}, has no weight to initialise. "
                "Pass linear or convolution layers."
            )
    for module in modules:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # type: ignore[arg-type]
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            nn.init.zeros_(bias)
    if isinstance(predictors, Predictors):
        predictors.note_initial()
