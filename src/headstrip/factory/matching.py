"""Decide which tensors of a weights file go into a network, and which network the file needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import nn

from headstrip.errors import WeightsError
from headstrip.factory.checkpoint_choice import (
    Attempt,
    choose,
    contents_for,
    located,
    required_names,
)
from headstrip.factory.file_fit import (
    Plan,
    limit_of,
    plan,
    refuse_larger,
    without_training_parts,
)
from headstrip.factory.maker import NetworkMaker
from headstrip.factory.misfits import does_not_fit
from headstrip.factory.weights_source import WeightsSource
from headstrip.network.candidates import Candidate, Tried, unwrapped_state_dicts
from headstrip.network.head import Stripped
from headstrip.network.load_hooks import has_load_hooks
from headstrip.network.meta_init import Replaced
from headstrip.network.state_dicts import Fit, compare, is_filter, is_under, resampled
from headstrip.spec import WeightsEntry, effective_shape, merged_options
from headstrip.weights.reading import WeightsFile


@dataclass(frozen=True, slots=True)
class Made:
    """A network without its weights.

    Attributes:
        model: The network.
        options: The constructor arguments that it was made with.
        make: Makes another one in the same way, with other arguments.
        replaced: Its parameters without memory, None if they have values.
    """

    model: nn.Module
    options: Mapping[str, Any]
    make: Callable[[Mapping[str, Any]], Made]
    replaced: Replaced | None = None

    def of_classes(self, classes: int) -> Made:
        """Return another one with that many classes."""
        return self.make({**self.options, "num_classes": classes})


@dataclass(frozen=True, slots=True)
class Matched:
    """A network with the classes of a file, and the part of the file that goes into it.

    Attributes:
        made: The network.
        file: The file, or the part of it that holds the state dict.
        state: The state dict, with the names of the network.
        plan: How to load it.
        has_others: Whether the file holds other state dicts.
        has_new_filters: Whether the first convolution got filters that the file does not have.
    """

    made: Made
    file: WeightsFile
    state: Mapping[str, Any]
    plan: Plan
    has_others: bool = False
    has_new_filters: bool = False


class Matcher:
    """Matches the weights file of one build with networks, for both strategies of building."""

    def __init__(
        self,
        maker: NetworkMaker,
        source: WeightsSource,
        given: Mapping[str, Any],
        weights_key: str | None,
    ) -> None:
        """Prepare the match.

        Args:
            maker: Makes the network.
            source: Its weights file.
            given: The user's own constructor arguments.
            weights_key: Which state dict in the user's own file, None for the only one that fits.
        """
        self._maker = maker
        self._source = source
        self._given = given
        self._weights_key = weights_key
        self._chosen: Candidate | None = None
        self._without_head: list[tuple[Mapping[str, Any], Stripped]] = []
        self.unfit: tuple[Candidate, ...] = ()

    @property
    def chosen_key(self) -> str | None:
        """Path of the state dict in the user's own file; None before a match or for other files."""
        return self._chosen.key if self._chosen is not None else None

    def matched(self, made: Made) -> Matched:
        """Read the file, and make the network that it needs: with its classes, or without a head.

        Raises:
            WeightsError: The file cannot be used.
        """
        limit = limit_of(made.model)
        file = self._source.read(limit)
        if self._source.stated is not None:
            own = merged_options(self._maker.spec, self._source.stated, self._given)
            if own != made.options:
                return self.matched(made.make(own))
        trial = Trial(self._maker, made, lambda: self._stripped(made), self._source)
        if self._source.is_own:
            found = self._found(file, trial)
        else:
            state = self._maker.state_dict(file.content, made.model)
            refuse_larger(file.path, state, limit)
            found = Matched(made, file, state, trial.plan(file, state))
        if found.plan.classes is not None:
            found = self._with_classes(found, found.plan.classes)
        return replace(found, has_new_filters=self._has_new_filters(found))

    def _has_new_filters(self, found: Matched) -> bool:
        widening = self._maker.widening
        if widening is None or not self._source.is_own:
            return widening is not None
        state = self._maker.trained_state_dict(found.file.content, found.made.model)
        return not widening.is_in(state)

    def _with_classes(self, found: Matched, classes: int) -> Matched:
        """Return the match with a network that has the classes of the file."""
        file, kept, made = found.file, found.state, found.made.of_classes(classes)
        state = self._maker.state_dict(file.content, made.model)
        if self._source.is_own:
            # Parts that only training needs were left out before.
            state = {name: one for name, one in state.items() if name in kept}
        if not found.plan.by_torch and (misfit := compare(made.model, state)).names:
            maker = self._maker
            raise does_not_fit(file.path, maker.about, misfit, (), maker.spec.input_shape)
        return replace(found, made=made, state=state)

    def _found(self, file: WeightsFile, trial: Trial) -> Matched:
        """Find the network's state dict in the user's own file.

        Raises:
            WeightsError: No state dict fits, or several do.
        """

        def attempt(candidate: Candidate) -> Attempt:
            return trial.attempt(file, candidate)

        if self._chosen is not None:
            one = Tried(self._chosen, attempt(located(self._chosen, file.content)))
        else:
            one = choose(
                file.content,
                f"{file.path}",
                self._maker.about,
                lambda: required_names(trial.made.model, trial.stripped()),
                attempt,
                self._weights_key,
                self._note_unfit,
            )
        self._chosen = one.candidate
        found = one.outcome
        if found.error is not None:
            raise found.error
        held = sum(len(each.tensors) for each in unwrapped_state_dicts(file.content))
        has_others = len(found.content) < held
        if has_others:
            # `filled` is known for the file as a whole, but another state dict in it may leave
            # vectors without values.
            file = replace(file, filled=False, stat=None)
        file = replace(file, content=found.content)
        return Matched(trial.made, file, found.state, found.plan, has_others)

    def _stripped(self, made: Made) -> Stripped:
        """Return another instance without its head, which is made once per set of options."""
        for options, stripped in self._without_head:
            if options == made.options:
                return stripped
        stripped = self._maker.stripped(made.make(made.options).model)
        self._without_head.append((made.options, stripped))
        return stripped

    def _note_unfit(self, candidates: tuple[Candidate, ...]) -> None:
        self.unfit = candidates


@dataclass(frozen=True, slots=True)
class Trial:
    """Tries whether parts of a weights file fit a network.

    Attributes:
        maker: Makes the network.
        made: The network.
        stripped: Returns another instance of the network, without its head.
        source: The weights file.
    """

    maker: NetworkMaker
    made: Made
    stripped: Callable[[], Stripped]
    source: WeightsSource

    @property
    def entry(self) -> WeightsEntry | None:
        """The weights that the file describes, or else those that it replaces."""
        return self.source.stated or self.source.selection.entry

    def attempt(self, file: WeightsFile, candidate: Candidate) -> Attempt:
        """Try whether a part of the user's file fits the network."""
        first: Attempt | None = None
        for content, head in contents_for(candidate, self.made.model, self.stripped):
            one = self._attempt(replace(file, content=content), candidate.key)
            if one.fits:
                return replace(one, head=head)
            first = first or one
        assert first is not None
        return first

    def plan(self, file: WeightsFile, state: Mapping[str, Any], place: str = "") -> Plan:
        """Decide how to load a file into the network.

        Args:
            file: The file, or a part of it.
            state: The state dict in it, with the names of the network.
            place: Where the state dict is in the file, for messages; empty for the whole file.

        Raises:
            WeightsError: The file does not fit.
        """
        model = self.made.model
        fit = compare(model, state)
        if not fit.names:
            return Plan()
        stripped = self.stripped()
        spare = self.made.make(self.made.options).model if has_load_hooks(model) else None
        shape = effective_shape(stripped.input_shape, self.entry, self.maker.spec)
        return plan(file, self.maker.about, fit, state, stripped, spare, shape, place)

    def _attempt(self, part: WeightsFile, place: str) -> Attempt:
        model = self.made.model
        content = cast("Mapping[str, Any]", part.content)
        faults: int | None = None
        try:
            given = self.maker.state_dict(content, model)
            faults = 0
            refuse_larger(part.path, given, limit_of(model))
            self._refuse_resampled(part, content, given, place)
            if not compare(model, given).names:
                return Attempt(content, given)
            whole = self.stripped()
            state, dropped = without_training_parts(model, given, whole)
            fit = compare(model, state)
            faults = sum(not is_under(one, whole.paths) for one in fit.missing + fit.reshaped)
            found = self.plan(part, state, place)
            if found.classes is not None and whole.law == "headless" and not found.by_torch:
                # If a network has no head, unknown tensors in a file need not be those of a head.
                grown = self.made.of_classes(found.classes).model
                of_grown = self.maker.state_dict(content, grown)
                if compare(grown, {key: of_grown[key] for key in state if key in of_grown}).names:
                    raise does_not_fit(part.path, self.maker.about, fit, (), None, place)
        except WeightsError as error:
            return Attempt(content, error=error, faults=faults)
        lost = {name: given[name] for name in dropped if is_under(name, whole.paths)}
        return Attempt(content, state, found, dropped, lost)

    def _refuse_resampled(
        self, part: WeightsFile, content: Mapping[str, Any], given: Mapping[str, Any], place: str
    ) -> None:
        """Refuse a file that fits only because the plugin resampled tensors of another network.

        A user who names a tag allows this. One who sets an image size allows it except for filters.
        """
        if self.source.selection.is_named:
            return
        found = resampled(content, given)
        if self.maker.is_resized:
            found = {name: pair for name, pair in found.items() if is_filter(pair[1])}
        if not found:
            return
        fit = Fit((), (), tuple(found), tuple(found.values()))
        stripped = self.stripped()
        if fit.outside(stripped.paths):
            shape = effective_shape(stripped.input_shape, self.entry, self.maker.spec)
            raise does_not_fit(part.path, self.maker.about, fit, stripped.paths, shape, place)
