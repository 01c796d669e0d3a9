"""From a name to a network with its weights in and its head off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from headstrip.assigning import assign, is_hollow
from headstrip.errors import WeightsError
from headstrip.hollow import Replaced, hollow_parameters, share_memory
from headstrip.plugins import Plugin
from headstrip.registry import get_registry
from headstrip.selection import Selection, WeightsArgument, select_weights
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.state_dicts import (
    Fit,
    compare,
    copy_into,
    is_under,
    plain_state_dict,
    refuse_unfilled,
)
from headstrip.surgery import Stripped
from headstrip.weights.locating import locate
from headstrip.weights.mapping import Guard
from headstrip.weights.problems import too_large
from headstrip.weights.reading import Reading, WeightsFile, read_weights

Mechanism = Literal["hollow", "ordinary"]
# A checkpoint may hold an optimizer's two moments and an average besides the weights, and in
# float64 where the network has float32.
_TIMES_THE_NETWORK = 8
_AND_BYTES = 1 << 26

_RESERVED_OPTIONS = {
    "num_classes": "predictors={'name': classes} for classes of your own",
    "weights": "weights= to build_encoder itself",
    "pretrained": "weights= to build_encoder itself",
    # timm's: it would read the file past headstrip.
    "checkpoint_path": "weights= to build_encoder itself",
}


@dataclass(frozen=True, slots=True)
class Built:
    """A network without its head, and what it was built from.

    Attributes:
        stripped: Its parts.
        spec: The backbone.
        selection: Its weights.
        options: Constructor arguments of the network.
        input_shape: Input without the batch axis.
        sha256: Hash of the weights file, None without one.
        mechanism: How it was built: ``hollow`` where no parameter had memory before the file's,
            ``ordinary`` where all were initialised.
        guards: What notices that a mapped weights file is rewritten in place.
    """

    stripped: Stripped
    spec: BackboneSpec
    selection: Selection
    options: Mapping[str, Any]
    input_shape: tuple[int, ...]
    sha256: str | None
    mechanism: Mechanism = "ordinary"
    guards: tuple[Guard, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """What a call asks for besides the network: how its file is read, and where it goes.

    Attributes:
        reading: How the weights file is read.
        offline: Whether no socket may be opened.
        device: Where the parameters go, None for the CPU.
        dtype: Their floating-point type, None for the network's.
    """

    reading: Reading = field(default_factory=Reading)
    offline: bool = False
    device: torch.device | None = None
    dtype: torch.dtype | None = None


def build_stripped(
    name: str,
    *,
    weights: WeightsArgument = "DEFAULT",
    options: Mapping[str, Any] | None = None,
    wish: Wish = Wish(),
) -> Built:
    """Build a network, put its weights in, and take its head off; see ``build_encoder``."""
    _check_options(options)
    registry = get_registry()
    spec, parts = registry.resolve(name)
    selection = select_weights(registry, spec, parts, weights)
    entry = selection.entry
    merged = {
        **dict(spec.options), **dict(entry.options if entry else ()), **(options or {})
    }  # fmt: skip
    builder = _Builder(registry.owner(spec), registry.stripper(spec.family), spec, selection, wish)
    # Tensors made in inference mode could never train.
    with torch.inference_mode(False):
        stripped, file, mechanism = builder.build(merged)
    shape = stripped.input_shape or (entry and entry.input_shape) or spec.input_shape
    sha256, guards = (file.sha256, file.guards) if file else (None, ())
    return Built(stripped, spec, selection, merged, shape, sha256, mechanism, guards)


def _check_options(options: object) -> None:
    """Refuse what is no mapping of constructor arguments, and those that are headstrip's."""
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(
            f"options={options!r} is a {type(options).__name__}. "
            "Pass a mapping of constructor arguments, such as {'image_size': 384}."
        )
    for name, instead in _RESERVED_OPTIONS.items():
        if name in (options or {}):
            raise ValueError(
                f"options has {name}={dict(options or {})[name]!r}, which headstrip sets itself. "
                f"Pass {instead}."
            )


class _NotHollowError(Exception):
    """A network whose parameters others hold as well."""


@dataclass(frozen=True, slots=True)
class _Builder:
    """Builds one network with its weights; holds what every step needs."""

    owner: Plugin
    stripper: tuple[Plugin, str]
    spec: BackboneSpec
    selection: Selection
    wish: Wish
    read: list[WeightsFile] = field(default_factory=list)

    def build(self, options: Mapping[str, Any]) -> tuple[Stripped, WeightsFile | None, Mechanism]:
        """Return the stripped network, its weights file, and how it was built."""
        entry = self.selection.entry
        if entry is None and self.selection.path is None:
            return self._stripped(self._model(options)), None, "ordinary"
        if self._loads_itself:
            model = self.owner.call("load_model", self.about, spec=self.spec, entry=entry)
            return self._stripped(model), None, "ordinary"
        if entry and self.selection.path is None and entry.num_classes:
            options = {**options, "num_classes": entry.num_classes}
        with _generator_untouched():
            stripped = self._hollow(options)
            mechanism: Mechanism = "ordinary" if stripped is None else "hollow"
            if stripped is None:
                stripped = self._filled(options, hollow=False)
        return stripped, self.read[0], mechanism

    def _hollow(self, options: Mapping[str, Any]) -> Stripped | None:
        """Build without initialising; None where the network cannot be built so.

        That is where it needs values of its parameters before they are loaded, or where others
        than its modules hold them.
        """
        try:
            stripped = self._filled(options, hollow=True)
        except WeightsError:
            raise
        # Whatever it is that a network does with tensors that have no values.
        except Exception:
            return None
        parts = (stripped.backbone, stripped.head)
        return None if any(part is not None and is_hollow(part) for part in parts) else stripped

    @property
    def _loads_itself(self) -> bool:
        entry = self.selection.entry
        no_file = self.selection.path is None and entry is not None and not entry.locations
        return no_file and self.owner.implements("load_model")

    def _file(self, limit: int) -> WeightsFile:
        """Return the weights file, read once, which may hold so many bytes of tensors."""
        if not self.read:
            entry, path = self.selection.entry, self.selection.path
            how = replace(self.wish.reading, limit=limit)
            if path is not None:
                self.read.append(read_weights(path, how=how))
            else:
                assert entry is not None
                how = replace(how, locations=entry.locations, name=f"{self.about}.{entry.tag}")
                found = locate(entry, self.about, offline=self.wish.offline)
                self.read.append(read_weights(found, entry.sha256, how))
        return self.read[0]

    @property
    def about(self) -> str:
        """The backbone, for messages."""
        return self.spec.qualified_name

    def _filled(self, options: Mapping[str, Any], *, hollow: bool) -> Stripped:
        """Build the network that the file is for: its classes, or no head at all."""
        replaced = Replaced() if hollow else None
        model = self._model(options, replaced)
        limit = _limit(model)
        file = self._file(limit)
        state = self._adapted(file, model)
        _refuse_larger(file, state, limit)
        fit = compare(model, state)
        headless = False
        if fit.names:
            stripped = self._stripped(self._model(options, Replaced() if hollow else None))
            # What such a network has no place for may be a head.
            paths = fit.unexpected if stripped.law == "headless" else stripped.paths
            headless = self._head_is_absent(file, fit, paths, state)
            if not headless:
                classes = _classes(fit, state, file)
                replaced = Replaced() if hollow else None
                model = self._model({**options, "num_classes": classes}, replaced)
                state = self._adapted(file, model)
                self._check_fit(file, compare(model, state), ())
        if replaced is not None:
            wish = self.wish
            if share_memory(model):
                raise _NotHollowError
            assign(
                model, state, file.content, headless=headless, device=wish.device, dtype=wish.dtype
            )
            if replaced.is_held(model):
                raise _NotHollowError
        else:
            copy_into(model, state, file.content, headless=headless)
        if not file.filled:
            refuse_unfilled(model, f"{file.path}")
            file.note_filled()
        stripped = self._stripped(model)
        return replace(stripped, head=None, law="headless") if headless else stripped

    def _model(self, options: Mapping[str, Any], replaced: Replaced | None = None) -> nn.Module:
        with nullcontext() if replaced is None else hollow_parameters(replaced):
            model: nn.Module = self.owner.call(
                "build_model", self.about, spec=self.spec, options=dict(options)
            )
        return model

    def _adapted(self, file: WeightsFile, model: nn.Module) -> dict[str, Tensor]:
        if not self.owner.implements("adapt_state_dict"):
            return plain_state_dict(file.content)
        state: dict[str, Tensor] = self.owner.call(
            "adapt_state_dict", self.about, loaded=file.content, model=model,
            entry=self.selection.entry,
        )  # fmt: skip
        return state

    def _stripped(self, model: nn.Module) -> Stripped:
        plugin, own = self.stripper
        return strip_with(plugin, own, model.eval(), self.spec, self.selection.entry, self.about)

    def _head_is_absent(
        self,
        file: WeightsFile,
        fit: Fit,
        paths: tuple[str, ...],
        state: Mapping[str, Tensor],
    ) -> bool:
        """Whether a file that does not fit lacks just the head; refuse any other misfit."""
        self._check_fit(file, fit, paths)
        return not any(is_under(key, paths) for key in state)

    def _check_fit(self, file: WeightsFile, fit: Fit, paths: tuple[str, ...]) -> None:
        outside = fit.outside(paths)
        if outside:
            wrong = set(outside)
            raise WeightsError(
                f"{file.path} does not fit {self.about}: {len(outside)} tensors are missing, "
                f"unknown or of another shape{_shown('missing', fit.missing, wrong)}"
                f"{_shown('unknown', fit.unexpected, wrong)}"
                f"{_shown('of another shape', fit.reshaped, wrong)}. Name the backbone that it "
                "was made for, or save its state dict without a prefix such as 'module.'."
            )


def _shown(problem: str, names: tuple[str, ...], chosen: set[str]) -> str:
    """Show a few of the names that have a problem."""
    shown = [repr(name) for name in names if name in chosen]
    return f"; {problem}: {', '.join(shown[:2])}{' ...' if shown[2:] else ''}" if shown else ""


def _limit(model: nn.Module) -> int:
    """Return the most bytes of tensors that a network's weights file may hold."""
    tensors = (*model.parameters(), *model.buffers())
    return _TIMES_THE_NETWORK * _size(tensors) + _AND_BYTES


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors if not is_lazy(one))


def _refuse_larger(file: WeightsFile, state: Mapping[str, Tensor], limit: int) -> None:
    """Refuse tensors that a file holds little of and that are large: expanded ones."""
    size = _size(state.values())
    if size > limit:
        raise too_large(file.path, size, limit)


def strip_with(
    plugin: Plugin,
    own: str,
    model: nn.Module,
    spec: BackboneSpec | None,
    entry: WeightsEntry | None,
    about: str,
) -> Stripped:
    """Have a family's plugin take the head off a network, in place."""
    stripped: Stripped = plugin.call(
        "strip_head", about, model=model, family=own, spec=spec, entry=entry
    )
    return stripped


def _classes(fit: Fit, state: Mapping[str, Tensor], file: WeightsFile) -> int:
    """Read the number of classes off the head's tensors in a file."""
    names = fit.reshaped or fit.unexpected
    counts = {int(state[name].shape[0]) for name in names if state[name].ndim}
    if len(counts) != 1 or fit.missing or (fit.reshaped and fit.unexpected):
        raise WeightsError(
            f"{file.path} has a head of another kind ({', '.join(fit.names[:3])}). "
            "Save the state dict without its head, or with a plain one."
        )
    return counts.pop()


@contextmanager
def _generator_untouched() -> Iterator[None]:
    """Keep torch's global generator from moving: values drawn here are overwritten."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
