"""One network built with its weights.

There are two strategies: without initialising, where the tensors of the file become the parameters,
and, where a network cannot be built so, initialised first and then overwritten.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from headstrip.errors import HeadstripError, WeightsError
from headstrip.factory.checkpoint_choice import (
    Attempt,
    choose,
    contents_for,
    located,
    required_count,
)
from headstrip.factory.file_fit import (
    Plan,
    limit_of,
    plan,
    refuse_larger,
    without_training_parts,
)
from headstrip.factory.misfits import does_not_fit
from headstrip.factory.selection import Selection
from headstrip.network.assigning import Fallback, assign, has_meta_tensors
from headstrip.network.candidates import Candidate, Tried, unwrapped_state_dicts
from headstrip.network.channels import Widening
from headstrip.network.checkpoints import extra_states, plain_state_dict, refuse_several
from headstrip.network.head import Stripped
from headstrip.network.load_hooks import has_load_hooks, is_as_given, keeps_more, load_as_torch
from headstrip.network.meta_init import Replaced, meta_parameters, share_memory
from headstrip.network.state_dicts import (
    compare,
    copy_into,
    is_under,
    refuse_unfilled,
)
from headstrip.plugins.loader import Plugin
from headstrip.spec import BackboneSpec, WeightsEntry, effective_shape, merged_options
from headstrip.weights.locating import locate
from headstrip.weights.reading import Reading, WeightsFile, read_weights

_LOGGER = logging.getLogger("headstrip.factory")

Mechanism = Literal["assigned", "ordinary"]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How a network is built: how its file is read, and where its parameters go.

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


@dataclass(frozen=True, slots=True)
class Filled:
    """A network with its weights in it and its head off.

    Attributes:
        stripped: Its parts.
        file: The weights file, None without one.
        mechanism: The strategy that built it.
    """

    stripped: Stripped
    file: WeightsFile | None = None
    mechanism: Mechanism = "ordinary"


@dataclass(frozen=True, slots=True)
class _Made:
    """A network without its weights, and its parameters without memory, if it has such."""

    model: nn.Module
    replaced: Replaced | None = None


@dataclass(frozen=True, slots=True)
class _Matched:
    """A network that has the classes of a file, the state dict for it, and how that goes in."""

    made: _Made
    file: WeightsFile
    state: Mapping[str, Any]
    plan: Plan


class Builder:
    """Builds one network with its weights. It reads the weights file once."""

    def __init__(
        self,
        owner: Plugin,
        stripper: tuple[Plugin, str],
        spec: BackboneSpec,
        selection: Selection,
        build_options: BuildOptions,
        given: Mapping[str, Any] | None = None,
        weights_key: str | None = None,
        *,
        widening: Widening | None = None,
        is_resized: bool = False,
    ) -> None:
        """Prepare the build.

        Args:
            owner: The plugin that builds.
            stripper: The plugin that takes the head off, and its name for the family.
            spec: The backbone.
            selection: Its weights.
            build_options: How it is built.
            given: The user's own constructor arguments.
            weights_key: Which state dict in the user's own file, None for the only one that fits.
            widening: The channels of the first convolution, None for those of the network.
            is_resized: Whether the user chose the image size, so that position embeddings of a
                file may have another size.
        """
        self.owner = owner
        self.stripper = stripper
        self.spec = spec
        self.selection = selection
        self.build_options = build_options
        self.given: Mapping[str, Any] = given or {}
        self.widening, self.is_resized = widening, is_resized
        self._file: WeightsFile | None = None
        self._stated: WeightsEntry | None = None
        self._weights_key = weights_key
        self._chosen: Candidate | None = None
        self._without_head: list[tuple[Mapping[str, Any], Stripped]] = []
        self.unfit: tuple[Candidate, ...] = ()

    @property
    def about(self) -> str:
        """The backbone, for messages."""
        return self.spec.qualified_name

    @property
    def has_read(self) -> bool:
        """Whether the weights file was read."""
        return self._file is not None

    @property
    def stated(self) -> WeightsEntry | None:
        """What the user's own file states of itself, once it was read."""
        return self._stated

    @property
    def chosen_key(self) -> str | None:
        """Where in the user's own file its state dict is; None for another file, or before."""
        return self._chosen.key if self._chosen is not None else None

    def build(self, options: Mapping[str, Any]) -> Filled:
        """Return the stripped network.

        Args:
            options: Constructor arguments: the spec's, those of the weights, and the user's.

        Raises:
            HeadstripError: It cannot be built, or its file cannot be used.
        """
        entry = self.selection.entry
        if entry is None and self.selection.path is None:
            _LOGGER.info("%s has random weights", self.about)
            return Filled(self._stripped(self._model(options)))
        if self._loads_itself:
            _LOGGER.info("the plugin of %s loads its weights itself", self.about)
            model = self.owner.call("load_model", self.about, spec=self.spec, entry=entry)
            if self.widening is not None:
                self.widening.widen(model)
            return Filled(self._stripped(model))
        if entry and self.selection.path is None and entry.num_classes:
            options = {**options, "num_classes": entry.num_classes}
        with _generator_untouched():
            result = self._without_initialising(options)
            if isinstance(result, Fallback):
                _LOGGER.info(
                    "%s is initialised before its weights are loaded: %s",
                    self.about,
                    result.reason,
                )
                return self._with_initialising(options)
        _LOGGER.info(
            "%s is built without initialising it: the tensors of its file are its parameters",
            self.about,
        )
        return result

    def _without_initialising(self, options: Mapping[str, Any]) -> Filled | Fallback:
        """Make the tensors of the file the parameters of a network that never had any.

        That fails where the network needs values of its parameters before they are loaded, where
        something other than its modules holds them, or where it does more than take them.
        """
        try:
            return self._assigned(options)
        except WeightsError:
            raise
        except HeadstripError as error:
            _LOGGER.debug("A hook raised:", exc_info=True)
            cause = error.__cause__ or error
            return Fallback(f"its constructor needs values ({type(cause).__name__})")

    def _assigned(self, options: Mapping[str, Any]) -> Filled | Fallback:
        made = self._made_on_meta(options)
        if keeps_more(made.model):
            return Fallback("its modules keep more than tensors in a state dict")
        found = self._matched(made, options, self._made_on_meta)
        model, replaced = found.made.model, found.made.replaced
        assert replaced is not None
        if found.plan.by_torch:
            return Fallback("it changes the names in a state dict while it is loaded")
        if share_memory(model):
            return Fallback("some of its parameters share memory")
        loads_itself = has_load_hooks(model)
        given = assign(
            model,
            found.state,
            found.file.content,
            headless=found.plan.headless,
            device=self.build_options.device,
            dtype=self.build_options.dtype,
        )
        if loads_itself and not isinstance(given, Fallback) and not is_as_given(model, given):
            given = Fallback("it changes its tensors while they are loaded")
        if isinstance(given, Fallback):
            # The network may have changed the tensors of the file themselves: read it again.
            self._file = None
            return given
        if replaced.is_held(model):
            return Fallback("an object other than its modules holds its parameters")
        filled = self._finished(found, "assigned")
        if any(has_meta_tensors(part) for part in _parts(filled.stripped)):
            return Fallback("some of its tensors are in no weights file")
        return filled

    def _with_initialising(self, options: Mapping[str, Any]) -> Filled:
        """Initialise a network, and copy the tensors of the file into its parameters."""
        found = self._matched(self._made_initialised(options), options, self._made_initialised)
        model, file, headless = found.made.model, found.file, found.plan.headless
        if found.plan.by_torch:
            self._load(model, found.state, file, headless=headless)
        else:
            copy_into(model, found.state, file.content, headless=headless)
        filled = self._finished(found, "ordinary")
        for guard in file.guards:
            guard.check()
        # The parameters are copies now, unless the network kept the tensors that it was given.
        if any(has_load_hooks(part) for part in _parts(filled.stripped)):
            return filled
        return replace(filled, file=replace(file, guards=()))

    def _finished(self, found: _Matched, mechanism: Mechanism) -> Filled:
        """Take the head off a network that has its weights."""
        if not found.file.filled:
            refuse_unfilled(found.made.model, f"{found.file.path}")
            found.file.note_filled()
        stripped = self._stripped(found.made.model)
        if found.plan.headless:
            stripped = replace(stripped, head=None, law="headless")
        return Filled(stripped, found.file, mechanism)

    def _matched(
        self,
        made: _Made,
        options: Mapping[str, Any],
        make: Callable[[Mapping[str, Any]], _Made],
    ) -> _Matched:
        """Read the file, and make the network that it is for: its classes, or no head at all."""
        limit = limit_of(made.model)
        file = self._read(limit)
        if self._stated is not None:
            own = merged_options(self.spec, self._stated, self.given)
            if own != options:
                return self._matched(make(own), own, make)
        if self.selection.path is not None:
            matched = self._found(file, made, options, make)
            file, state, found = matched.file, matched.state, matched.plan
        else:
            state = self._adapted(file, made.model)
            refuse_larger(file.path, state, limit)
            found = self._plan(file, made.model, state, options, make)
        if found.classes is not None:
            made = make({**options, "num_classes": found.classes})
            kept, state = state, self._adapted(file, made.model)
            if self.selection.path is not None:
                # Parts for training alone were left out before.
                state = {name: one for name, one in state.items() if name in kept}
            if not found.by_torch and (misfit := compare(made.model, state)).names:
                raise does_not_fit(file.path, self.about, misfit, (), self.spec.input_shape)
        return _Matched(made, file, state, found)

    def _found(
        self,
        file: WeightsFile,
        made: _Made,
        options: Mapping[str, Any],
        make: Callable[[Mapping[str, Any]], _Made],
    ) -> _Matched:
        """Find the network's state dict in the user's own file.

        Raises:
            WeightsError: None fits, or several do.
        """

        def stripped() -> Stripped:
            return self._stripped_network(options, make)

        def attempt(candidate: Candidate) -> Attempt:
            return self._attempt(file, candidate, made.model, stripped, options, make)

        if self._chosen is not None:
            one = Tried(self._chosen, attempt(located(self._chosen, file.content)))
        else:
            one = choose(
                file.content,
                f"{file.path}",
                self.about,
                lambda: required_count(made.model, stripped()),
                attempt,
                self._weights_key,
                self._note_unfit,
            )
        self._chosen = one.candidate
        found = one.outcome
        if found.error is not None:
            raise found.error
        held = sum(len(each.tensors) for each in unwrapped_state_dicts(file.content))
        if len(found.content) < held:
            # Another state dict of the same file may leave vectors without values.
            file = replace(file, filled=False, stat=None)
        file = replace(file, content=found.content)
        return _Matched(made, file, found.state, found.plan)

    def _stripped_network(
        self, options: Mapping[str, Any], make: Callable[[Mapping[str, Any]], _Made]
    ) -> Stripped:
        """Return a network without its head, built once for the same options."""
        for built_with, stripped in self._without_head:
            if built_with == options:
                return stripped
        stripped = self._stripped(make(options).model)
        self._without_head.append((options, stripped))
        return stripped

    def _note_unfit(self, candidates: tuple[Candidate, ...]) -> None:
        self.unfit = candidates

    def _attempt(
        self,
        file: WeightsFile,
        candidate: Candidate,
        model: nn.Module,
        stripped: Callable[[], Stripped],
        options: Mapping[str, Any],
        make: Callable[[Mapping[str, Any]], _Made],
    ) -> Attempt:
        """Try to put a part of the user's file into a network."""
        first: Attempt | None = None
        for content, head in contents_for(candidate, model, stripped):
            part = replace(file, content=content)
            one = self._attempt_with(part, candidate.key, model, stripped, options, make)
            if one.fits:
                return replace(one, head=head)
            first = first or one
        assert first is not None
        return first

    def _attempt_with(
        self,
        part: WeightsFile,
        place: str,
        model: nn.Module,
        stripped: Callable[[], Stripped],
        options: Mapping[str, Any],
        make: Callable[[Mapping[str, Any]], _Made],
    ) -> Attempt:
        content = cast("Mapping[str, Any]", part.content)
        faults: int | None = None
        try:
            state = self._adapted(part, model)
            faults = 0
            refuse_larger(part.path, state, limit_of(model))
            if not compare(model, state).names:
                return Attempt(content, state)
            whole = stripped()
            state, dropped = without_training_parts(model, state, whole)
            fit = compare(model, state)
            faults = sum(not is_under(one, whole.paths) for one in fit.missing + fit.reshaped)
            found = self._plan(part, model, state, options, make, whole, place)
            if found.classes is not None and whole.law == "headless" and not found.by_torch:
                # Tensors that a headless network has no place for need not be those of a head.
                grown = make({**options, "num_classes": found.classes}).model
                of_grown = self._adapted(part, grown)
                if compare(grown, {key: of_grown[key] for key in state if key in of_grown}).names:
                    raise does_not_fit(part.path, self.about, fit, (), None, place)
        except WeightsError as error:
            return Attempt(content, error=error, faults=faults)
        return Attempt(content, state, found, dropped)

    def _plan(
        self,
        file: WeightsFile,
        model: nn.Module,
        state: Mapping[str, Any],
        options: Mapping[str, Any],
        make: Callable[[Mapping[str, Any]], _Made],
        stripped: Stripped | None = None,
        place: str = "",
    ) -> Plan:
        """Say how a file goes into a network; refuse one that does not."""
        fit = compare(model, state)
        if not fit.names:
            return Plan()
        stripped = stripped or self._stripped(make(options).model)
        spare = make(options).model if has_load_hooks(model) else None
        shape = effective_shape(
            stripped.input_shape, self._stated or self.selection.entry, self.spec
        )
        return plan(file, self.about, fit, state, stripped, spare, shape, place)

    def _read(self, limit: int) -> WeightsFile:
        """Return the weights file, read once, which may hold ``limit`` bytes of tensors."""
        if self._file is not None:
            return self._file
        entry, path = self.selection.entry, self.selection.path
        how = replace(self.build_options.reading, limit=limit)
        if path is not None:
            file = read_weights(path, how=how)
        else:
            assert entry is not None
            how = replace(how, locations=entry.locations, name=f"{self.about}.{entry.tag}")
            found = locate(entry, self.about, offline=self.build_options.offline)
            file = read_weights(found, entry.sha256, how)
        # A plugin knows which state dict of a published file is meant.
        if path is None and not self.owner.implements("adapt_state_dict"):
            refuse_several(file.content, file.path)
        if path is not None and not self.selection.is_named:
            self._stated = self._description(file)
        self._file = file
        how_read = "mapped" if file.guards else "read into memory"
        _LOGGER.info("%s has its weights from %s, %s", self.about, file.path, how_read)
        return file

    def _description(self, file: WeightsFile) -> WeightsEntry | None:
        """Return what the user's own file states of itself, as its plugin understands it."""
        if not self.owner.implements("describe_file"):
            return None
        stated: WeightsEntry | None = self.owner.call(
            "describe_file", self.about, loaded=file.content, spec=self.spec
        )
        return stated

    @property
    def _loads_itself(self) -> bool:
        entry = self.selection.entry
        no_file = self.selection.path is None and entry is not None and not entry.locations
        return no_file and self.owner.implements("load_model")

    def _load(
        self, model: nn.Module, state: Mapping[str, Any], file: WeightsFile, *, headless: bool
    ) -> None:
        """Have torch load a file whose names the network changes."""
        try:
            load_as_torch(model, state, file.content, strict=not headless)
        except Exception as error:
            # The network's own code runs there, and raises anything.
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(
                f"{file.path} does not fit {self.about} ({type(error).__name__}: {reason}). Name "
                "the backbone that it was made for."
            ) from error

    def _made_initialised(self, options: Mapping[str, Any]) -> _Made:
        return _Made(self._model(options))

    def _made_on_meta(self, options: Mapping[str, Any]) -> _Made:
        replaced = Replaced()
        with meta_parameters(replaced):
            return _Made(self._model(options), replaced)

    def _model(self, options: Mapping[str, Any]) -> nn.Module:
        model: nn.Module = self.owner.call(
            "build_model", self.about, spec=self.spec, options=dict(options)
        )
        if self.widening is not None:
            self.widening.widen(model)
        return model

    def _adapted(self, file: WeightsFile, model: nn.Module) -> dict[str, Any]:
        if self.owner.implements("adapt_state_dict"):
            state: dict[str, Tensor] = self.owner.call(
                "adapt_state_dict",
                self.about,
                loaded=file.content,
                model=model,
                entry=self.selection.entry,
            )
        else:
            state = plain_state_dict(file.content)
        if self.is_resized and self.owner.implements("resize_state_dict"):
            state = self.owner.call("resize_state_dict", self.about, state=state, model=model)
        if self.widening is not None:
            state = self.widening.adapt(state)
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


def _parts(stripped: Stripped) -> list[nn.Module]:
    return [part for part in (stripped.backbone, stripped.head) if part is not None]


@contextmanager
def _generator_untouched() -> Iterator[None]:
    """Keep torch's global generator from moving: values drawn here are overwritten."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
