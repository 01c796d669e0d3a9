"""From a name to a network with its weights in and its head off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.errors import WeightsError
from headstrip.plugins import Plugin
from headstrip.registry import get_registry
from headstrip.selection import Selection, WeightsArgument, select_weights
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.state_dicts import Fit, assign, compare, is_under, plain_state_dict, refuse_unfilled
from headstrip.surgery import Stripped
from headstrip.weights import WeightsFile, locate, read_weights

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
    """

    stripped: Stripped
    spec: BackboneSpec
    selection: Selection
    options: Mapping[str, Any]
    input_shape: tuple[int, ...]
    sha256: str | None


def build_stripped(
    name: str,
    *,
    weights: WeightsArgument = "DEFAULT",
    options: Mapping[str, Any] | None = None,
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
    builder = _Builder(registry.owner(spec), registry.stripper(spec.family), spec, selection)
    # Tensors made in inference mode could never train.
    with torch.inference_mode(False):
        stripped, sha256 = builder.build(merged)
    shape = stripped.input_shape or (entry and entry.input_shape) or spec.input_shape
    return Built(stripped, spec, selection, merged, shape, sha256)


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


@dataclass(frozen=True, slots=True)
class _Builder:
    """Builds one network with its weights; holds what every step needs."""

    owner: Plugin
    stripper: tuple[Plugin, str]
    spec: BackboneSpec
    selection: Selection

    def build(self, options: Mapping[str, Any]) -> tuple[Stripped, str | None]:
        """Return the stripped network and the hash of its weights file."""
        entry, path = self.selection.entry, self.selection.path
        if path is not None:
            file = read_weights(path)
        elif entry is None:
            return self._stripped(self._model(options)), None
        elif not entry.locations and self.owner.implements("load_model"):
            model = self.owner.call("load_model", self.about, spec=self.spec, entry=entry)
            return self._stripped(model), None
        else:
            file = read_weights(locate(entry, self.about), entry.sha256)
        return self._filled(file, options), file.sha256

    @property
    def about(self) -> str:
        """The backbone, for messages."""
        return self.spec.qualified_name

    def _filled(self, file: WeightsFile, options: Mapping[str, Any]) -> Stripped:
        """Build the network that a file is for: its classes, or no head at all."""
        with _generator_untouched():
            entry = self.selection.entry
            if entry and self.selection.path is None and entry.num_classes:
                options = {**options, "num_classes": entry.num_classes}
            model = self._model(options)
            state = self._adapted(file, model)
            fit = compare(model, state)
            headless = False
            if fit.names:
                stripped = self._stripped(self._model(options))
                # What such a network has no place for may be a head.
                paths = fit.unexpected if stripped.law == "headless" else stripped.paths
                headless = self._head_is_absent(file, fit, paths, state)
                if not headless:
                    model = self._model({**options, "num_classes": _classes(fit, state, file)})
                    state = self._adapted(file, model)
                    self._check_fit(file, compare(model, state), ())
        assign(model, state, file.content, headless=headless)
        refuse_unfilled(model, f"{file.path}")
        stripped = self._stripped(model)
        return replace(stripped, head=None, law="headless") if headless else stripped

    def _model(self, options: Mapping[str, Any]) -> nn.Module:
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
