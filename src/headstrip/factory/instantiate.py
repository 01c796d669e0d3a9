"""One network built with its weights: without initialising it, or the ordinary way."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headstrip.errors import WeightsError
from headstrip.factory.file_fit import Plan, limit_of, plan, refuse_larger
from headstrip.factory.misfits import does_not_fit
from headstrip.factory.selection import Selection
from headstrip.network.assigning import assign, is_hollow
from headstrip.network.head import Stripped
from headstrip.network.load_hooks import has_a_say, is_as_given, keeps_more, load_as_torch
from headstrip.network.meta_init import Replaced, hollow_parameters, share_memory
from headstrip.network.state_dicts import (
    compare,
    copy_into,
    extra_states,
    plain_state_dict,
    refuse_unfilled,
)
from headstrip.plugins.loader import Plugin
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.weights.locating import locate
from headstrip.weights.reading import Reading, WeightsFile, read_weights
from headstrip.weights.several_states import refuse_several

_LOGGER = logging.getLogger("headstrip.factory")

Mechanism = Literal["hollow", "ordinary"]


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


class _NotHollowError(Exception):
    """A network that others have a hold of, or that has a say in how it is loaded."""


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds one network with its weights; holds what every step needs.

    Attributes:
        owner: The plugin that builds.
        stripper: The plugin that takes the head off, and its name for the family.
        spec: The backbone.
        selection: Its weights.
        wish: What the call asks for besides.
        given: The user's own constructor arguments.
        read: The weights file, once it was read.
        said: What that states of itself, once it was asked for.
    """

    owner: Plugin
    stripper: tuple[Plugin, str]
    spec: BackboneSpec
    selection: Selection
    wish: Wish
    given: Mapping[str, Any] = field(default_factory=dict)
    read: list[WeightsFile] = field(default_factory=list)
    said: list[WeightsEntry | None] = field(default_factory=list)

    def build(self, options: Mapping[str, Any]) -> tuple[Stripped, WeightsFile | None, Mechanism]:
        """Return the stripped network, its weights file, and how it was built.

        Args:
            options: Constructor arguments: the spec's, those of the weights, and the user's.
        """
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
            if stripped is not None:
                return stripped, self.read[0], "hollow"
            stripped = self._filled(options, hollow=False)
        return stripped, _left(self.read[0], stripped), "ordinary"

    def _hollow(self, options: Mapping[str, Any]) -> Stripped | None:
        """Build without initialising; None where the network cannot be built so.

        That is where it needs values of its parameters before they are loaded, where others than
        its modules hold them, or where it does more than take them.
        """
        try:
            stripped = self._filled(options, hollow=True)
        except WeightsError:
            raise
        except _NotHollowError as reason:
            self._log_ordinary(str(reason))
            return None
        # Whatever it is that a network does with tensors that have no values.
        except Exception as error:
            self._log_ordinary(f"its constructor needs values ({type(error).__name__})")
            _LOGGER.debug("What it raised:", exc_info=True)
            return None
        parts = (stripped.backbone, stripped.head)
        if any(part is not None and is_hollow(part) for part in parts):
            self._log_ordinary("some of its tensors are in no weights file")
            return None
        return stripped

    def _log_ordinary(self, reason: str) -> None:
        _LOGGER.info("%s is initialised before its weights are loaded: %s", self.about, reason)

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
            # Of published files a plugin knows which state dict they are for.
            if path is not None or not self.owner.implements("adapt_state_dict"):
                refuse_several(self.read[0].content, self.read[0].path)
            _LOGGER.info(
                "%s has its weights from %s, %s", self.about, self.read[0].path,
                "mapped" if self.read[0].guards else "read into memory",
            )  # fmt: skip
        return self.read[0]

    @property
    def about(self) -> str:
        """The backbone, for messages."""
        return self.spec.qualified_name

    @property
    def stated(self) -> WeightsEntry | None:
        """What the user's own file states of itself, once it was read."""
        named = self.selection.is_named or not self.owner.implements("describe_file")
        if self.selection.path is None or named or not self.read:
            return None
        if not self.said:
            loaded = self.read[0].content
            self.said.append(
                self.owner.call("describe_file", self.about, loaded=loaded, spec=self.spec)
            )
        return self.said[0]

    def _filled(self, options: Mapping[str, Any], *, hollow: bool) -> Stripped:
        """Build the network that the file is for: its classes, or no head at all."""
        replaced = Replaced() if hollow else None
        model = self._model(options, replaced)
        if hollow and keeps_more(model):
            raise _NotHollowError("its modules keep more than tensors in a state dict")
        limit = limit_of(model)
        file = self._file(limit)
        if (stated := self.stated) is not None:
            own = {**dict(self.spec.options), **dict(stated.options), **self.given}
            if own != options:
                return self._filled(own, hollow=hollow)
        state = self._adapted(file, model)
        refuse_larger(file.path, state, limit)
        found = self._plan(file, model, state, options, hollow=hollow)
        if hollow and found.by_torch:
            raise _NotHollowError("it changes the names in a state dict while it is loaded")
        if found.classes is not None:
            replaced = Replaced() if hollow else None
            model = self._model({**options, "num_classes": found.classes}, replaced)
            state = self._adapted(file, model)
            if not found.by_torch and (misfit := compare(model, state)).names:
                raise does_not_fit(file.path, self.about, misfit, (), self.spec.input_shape)
        if replaced is not None:
            self._assign(model, state, file, replaced, headless=found.headless)
        elif found.by_torch:
            self._load(model, state, file, headless=found.headless)
        else:
            copy_into(model, state, file.content, headless=found.headless)
        if not file.filled:
            refuse_unfilled(model, f"{file.path}")
            file.note_filled()
        stripped = self._stripped(model)
        return replace(stripped, head=None, law="headless") if found.headless else stripped

    def _plan(
        self,
        file: WeightsFile,
        model: nn.Module,
        state: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        hollow: bool,
    ) -> Plan:
        """Say how a file goes into a network; refuse one that does not."""
        fit = compare(model, state)
        if not fit.names:
            return Plan()
        stripped = self._stripped(self._model(options, Replaced() if hollow else None))
        spare = None
        if has_a_say(model):
            spare = self._model(options, Replaced() if hollow else None)
        entry = self.stated or self.selection.entry
        shape = stripped.input_shape or (entry and entry.input_shape) or self.spec.input_shape
        return plan(file, self.about, fit, state, stripped, spare, shape)

    def _assign(
        self,
        model: nn.Module,
        state: Mapping[str, Any],
        file: WeightsFile,
        replaced: Replaced,
        *,
        headless: bool,
    ) -> None:
        """Make the file's tensors the network's own."""
        if share_memory(model):
            raise _NotHollowError("some of its parameters share memory")
        own_way = has_a_say(model)
        given = assign(
            model, state, file.content, headless=headless, device=self.wish.device,
            dtype=self.wish.dtype,
        )  # fmt: skip
        if own_way and not is_as_given(model, given):
            # What it did may have been done to the file's tensors themselves.
            self.read.clear()
            raise _NotHollowError("it changes its tensors while they are loaded")
        if replaced.is_held(model):
            raise _NotHollowError("something besides its modules holds its parameters")

    def _load(
        self, model: nn.Module, state: Mapping[str, Any], file: WeightsFile, *, headless: bool
    ) -> None:
        """Have torch load a file whose names the network changes."""
        try:
            load_as_torch(model, state, file.content, strict=not headless)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(
                f"{file.path} does not fit {self.about} ({type(error).__name__}: {reason}). Name "
                "the backbone that it was made for."
            ) from error

    def _model(self, options: Mapping[str, Any], replaced: Replaced | None = None) -> nn.Module:
        with nullcontext() if replaced is None else hollow_parameters(replaced):
            model: nn.Module = self.owner.call(
                "build_model", self.about, spec=self.spec, options=dict(options)
            )
        return model

    def _adapted(self, file: WeightsFile, model: nn.Module) -> dict[str, Any]:
        if self.owner.implements("adapt_state_dict"):
            state: dict[str, Tensor] = self.owner.call(
                "adapt_state_dict", self.about, loaded=file.content, model=model,
                entry=self.selection.entry,
            )  # fmt: skip
        else:
            state = plain_state_dict(file.content)
        return {**state, **extra_states(file.content)}

    def _stripped(self, model: nn.Module) -> Stripped:
        plugin, own = self.stripper
        return strip_with(plugin, own, model.eval(), self.spec, self.selection.entry, self.about)


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


def _left(file: WeightsFile, stripped: Stripped) -> WeightsFile:
    """Check a file that was copied from once more; it need not be watched then."""
    for guard in file.guards:
        guard.check()
    parts = (stripped.backbone, stripped.head)
    # Such a network may have kept what it was given.
    kept = any(part is not None and has_a_say(part) for part in parts)
    return file if kept else replace(file, guards=())


@contextmanager
def _generator_untouched() -> Iterator[None]:
    """Keep torch's global generator from moving: values drawn here are overwritten."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
