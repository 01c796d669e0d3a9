"""Build one network with its weights.

There are two strategies. Without initialising, the tensors of the file become the parameters. If a
network cannot be built that way, headstrip initialises it first and then overwrites its parameters.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from headstrip.errors import HeadstripError, WeightsError, one_line
from headstrip.factory.maker import NetworkMaker
from headstrip.factory.matching import Made, Matched, Matcher
from headstrip.factory.selection import Selection
from headstrip.factory.weights_source import WeightsSource
from headstrip.network.assigning import Fallback, assign, has_meta_tensors
from headstrip.network.channels import Widening
from headstrip.network.head import Stripped
from headstrip.network.load_hooks import has_load_hooks, holds_exactly, keeps_more, load_as_torch
from headstrip.network.meta_init import Replaced, meta_parameters, share_memory
from headstrip.network.state_dicts import copy_into, refuse_unfilled
from headstrip.weights.reading import ReadOptions, WeightsFile

_LOGGER = logging.getLogger("headstrip.factory")

Mechanism = Literal["assigned", "ordinary"]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How headstrip reads the weights file of a network, and where it puts the parameters.

    Attributes:
        reading: How the weights file is read.
        offline: Whether no socket may be opened.
        device: Device of the parameters, None for the CPU.
        dtype: Floating-point dtype of the parameters, None for the network's.
    """

    reading: ReadOptions = field(default_factory=ReadOptions)
    offline: bool = False
    device: torch.device | None = None
    dtype: torch.dtype | None = None


@dataclass(frozen=True, slots=True)
class Filled:
    """A network with its weights loaded and its head taken off.

    Attributes:
        stripped: Its parts.
        file: The weights file, None without one.
        mechanism: The strategy that built it.
        has_others: Whether the file holds other state dicts.
        has_new_filters: Whether the first convolution got filters that the weights do not have.
    """

    stripped: Stripped
    file: WeightsFile | None = None
    mechanism: Mechanism = "ordinary"
    has_others: bool = False
    has_new_filters: bool = False


class Builder:
    """Builds one network with its weights. It reads the weights file once.

    Attributes:
        maker: Makes the network.
        selection: Its weights.
        source: The weights file.
        matcher: Matches the file with the network.
        given: The user's own constructor arguments.
    """

    def __init__(
        self,
        maker: NetworkMaker,
        selection: Selection,
        build_options: BuildOptions,
        given: Mapping[str, Any] | None = None,
        weights_key: str | None = None,
        source: WeightsSource | None = None,
    ) -> None:
        """Prepare the build.

        Args:
            maker: Makes the network.
            selection: Its weights.
            build_options: How it is built.
            given: The user's own constructor arguments.
            weights_key: Which state dict in the user's own file, None for the only one that fits.
            source: The weights file, if it was read before.
        """
        self.maker = maker
        self.selection = selection
        self.given: Mapping[str, Any] = given or {}
        self.source = source or WeightsSource(
            maker.owner,
            maker.spec,
            selection,
            build_options.reading,
            offline=build_options.offline,
        )
        self.matcher = Matcher(maker, self.source, self.given, weights_key)
        self._options = build_options
        self._weights_key = weights_key

    def with_channels(self, given: Mapping[str, Any], widening: Widening | None) -> Builder:
        """Return a builder of the same network with other channels, which reuses the read file."""
        maker = replace(self.maker, widening=widening)
        return Builder(maker, self.selection, self._options, given, self._weights_key, self.source)

    def build(self, options: Mapping[str, Any]) -> Filled:
        """Return the stripped network.

        Args:
            options: Constructor arguments: the spec's, those of the weights, and the user's.

        Raises:
            HeadstripError: The network cannot be built, or its file cannot be used.
        """
        entry, about = self.selection.entry, self.maker.about
        if entry is None and self.selection.path is None:
            _LOGGER.info("%s has random weights", about)
            return Filled(self.maker.stripped(self.maker.network(options)))
        if self._loads_itself:
            _LOGGER.info("the plugin of %s loads its weights itself", about)
            stripped = self.maker.stripped(self.maker.loaded_network())
            return Filled(stripped, has_new_filters=self.maker.widening is not None)
        if entry and self.selection.path is None and entry.num_classes:
            options = {**options, "num_classes": entry.num_classes}
        with generator_untouched():
            result = self._without_initialising(options)
            if isinstance(result, Fallback):
                reason = result.reason
                _LOGGER.info("%s is initialised before its weights are loaded: %s", about, reason)
                return self._with_initialising(options)
        _LOGGER.info(
            "%s is built without initialising it: the tensors of its file are its parameters", about
        )
        return result

    @property
    def _loads_itself(self) -> bool:
        entry = self.selection.entry
        no_file = self.selection.path is None and entry is not None and not entry.locations
        return no_file and self.maker.owner.implements("load_model")

    def _without_initialising(self, options: Mapping[str, Any]) -> Filled | Fallback:
        """Make the tensors of the file the parameters of a network that was never initialised.

        This fails if the network needs values of its parameters before they are loaded, if an
        object other than its modules holds them, or if its code changes them during the load.
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
        found = self.matcher.matched(made)
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
            device=self._options.device,
            dtype=self._options.dtype,
        )
        if loads_itself and not isinstance(given, Fallback) and not holds_exactly(model, given):
            given = Fallback("it changes its tensors while they are loaded")
        if isinstance(given, Fallback):
            # The network may have changed the tensors of the file themselves.
            self.source.forget()
            return given
        if replaced.is_held(model):
            return Fallback("an object other than its modules holds its parameters")
        filled = self._finished(found, "assigned")
        if any(has_meta_tensors(part) for part in _parts(filled.stripped)):
            return Fallback("some of its tensors are in no weights file")
        return filled

    def _with_initialising(self, options: Mapping[str, Any]) -> Filled:
        """Initialise a network, and copy the tensors of the file into its parameters."""
        found = self.matcher.matched(self._made_initialised(options))
        file, headless = found.file, found.plan.headless
        if found.plan.by_torch:
            self._load(found)
        else:
            copy_into(found.made.model, found.state, file.content, headless=headless)
        filled = self._finished(found, "ordinary")
        for guard in file.guards:
            guard.check()
        # The parameters are copies now, unless the network kept the tensors that it was given.
        if any(has_load_hooks(part) for part in _parts(filled.stripped)):
            return filled
        return replace(filled, file=replace(file, guards=()))

    def _finished(self, found: Matched, mechanism: Mechanism) -> Filled:
        """Take the head off a network that has its weights."""
        if not found.file.filled:
            refuse_unfilled(found.made.model, f"{found.file.path}")
            found.file.note_filled()
        stripped = self.maker.stripped(found.made.model)
        if found.plan.headless:
            stripped = replace(stripped, head=None, law="headless")
        return Filled(stripped, found.file, mechanism, found.has_others, found.has_new_filters)

    def _load(self, found: Matched) -> None:
        """Let torch load a file if the network's own code changes the names."""
        file, strict = found.file, not found.plan.headless
        try:
            load_as_torch(found.made.model, found.state, file.content, strict=strict)
        except Exception as error:
            # This runs the network's own code, which may raise anything.
            reason = one_line(error, 300)
            raise WeightsError(
                f"{file.path} does not fit {self.maker.about} ({type(error).__name__}: {reason}). "
                "Name the backbone that it was made for."
            ) from error

    def _made_initialised(self, options: Mapping[str, Any]) -> Made:
        return Made(self.maker.network(options), options, self._made_initialised)

    def _made_on_meta(self, options: Mapping[str, Any]) -> Made:
        replaced = Replaced()
        with meta_parameters(replaced):
            return Made(self.maker.network(options), options, self._made_on_meta, replaced)


def _parts(stripped: Stripped) -> list[nn.Module]:
    return [part for part in (stripped.backbone, stripped.head) if part is not None]


@contextmanager
def generator_untouched() -> Iterator[None]:
    """Restore torch's global generator afterwards: values drawn meanwhile are overwritten."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
