"""Check the image size in the options of a network, and find sizes that work instead."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from headstrip.errors import HeadstripError, OptionError, PreprocessingError
from headstrip.network.head_check import logits_without_memory
from headstrip.network.meta_ops import without_memory
from headstrip.network.patches import PatchWatch, unseen
from headstrip.network.state_dicts import compare
from headstrip.network.width import Run, run_on_meta
from headstrip.plugins.loader import Plugin
from headstrip.spec import BackboneSpec, Sizes, WeightsEntry, effective_shape, merged_options

OPTIONS = {"torchvision": "image_size", "hf": "image_size", "timm": "img_size"}
"""The name of the option that sets the image size, by source."""

_LOGGER = logging.getLogger("headstrip.factory")

_STEP = 32
"""Networks halve their input five times, and most patch sizes divide 32."""

_UNEQUAL, _SQUARE = (448, 672), (448, 448)
"""For networks whose patches do not divide their default size: 14 and 16 divide these sizes."""

_MAX_TRIES = 8


def check_size(spec: BackboneSpec, options: Mapping[str, Any]) -> None:
    """Refuse an option that is not the size of an image.

    Raises:
        OptionError: The option is neither a positive integer nor a pair of them.
    """
    option = OPTIONS.get(spec.source)
    value = options.get(option) if option else None
    if value is None or _sides(value):
        return
    raise OptionError(
        f"options={{{option!r}: {value!r}}} is not an image size. Pass a positive number of "
        f"pixels, or the height and the width, such as {{{option!r}: (224, 224)}}."
    )


def refused_size(
    spec: BackboneSpec,
    options: Mapping[str, Any],
    error: HeadstripError,
    build: Callable[[Mapping[str, Any]], Any],
) -> PreprocessingError | None:
    """Return the error for a network that could not be built because of its image size.

    Args:
        spec: The backbone.
        options: The options that the user passed.
        error: The error of the build.
        build: Builds the network, head included, with the user's options and those passed to it.

    Returns:
        The error; None if the user passed no size, or the network cannot be built at its default
        size either.
    """
    option = OPTIONS.get(spec.source)
    asked = _sides(options.get(option)) if option else None
    if option is None or asked is None:
        return None

    def fits(sides: tuple[int, int]) -> bool:
        size = sides[0] if sides[0] == sides[1] else sides
        shape = (spec.input_shape[0], *sides)
        return logits_without_memory(lambda: build({option: size}), shape) is not None

    height, width = spec.input_shape[-2:]
    if fits(asked) or not fits((height, width)):
        return None
    reason = _short(error.__cause__ or error, spec.qualified_name)
    return PreprocessingError(
        f"{spec.qualified_name} does not accept images of {asked[0]} x {asked[1]} pixels"
        f"{f' ({reason})' if reason else ''}. Choose another {option} in the options, such as "
        f"{_nearest(asked, fits) or f'{height} x {width}'}."
    )


def sized_options(
    owner: Plugin,
    spec: BackboneSpec,
    entry: WeightsEntry | None,
    options: Mapping[str, Any],
    size: tuple[int, int] | None,
) -> Mapping[str, Any]:
    """Return the options of a network for the image size that the user wants.

    The network is built and run on the meta device, before any weights are read.

    Args:
        owner: The plugin that builds.
        spec: The backbone.
        entry: The weights.
        options: The user's own constructor arguments.
        size: Height and width, None for those of the weights.

    Raises:
        OptionError: The options set the size too, or the backbone takes clips.
        PreprocessingError: The network does not take the size, or ignores pixels of it. The message
            names the nearest sizes that work.
    """
    if size is None:
        return options
    option = owner.input_options.get("img_size")
    if option is not None and option in options:
        raise OptionError(
            f"img_size={size!r} and options={{{option!r}: {options[option]!r}}} both set the image "
            "size. Leave one of them out."
        )
    if spec.task != "image":
        raise OptionError(
            f"img_size={size!r} is for images, and {spec.qualified_name} takes clips. Leave it out."
        )
    trial = SizeTrial(owner, spec, entry, options)
    own = effective_shape(None, entry, spec)[-2:]
    if tuple(size) == tuple(own):
        return options
    found, reason = trial.options_for(size)
    if found is not None:
        return found
    if trial.options_for((own[0], own[1]))[0] is None:
        # The network does not run without memory, so only the build with weights checks the size.
        return trial.with_size(size)
    near = _nearest(size, lambda sides: trial.options_for(sides)[0] is not None)
    raise PreprocessingError(
        f"{spec.qualified_name} does not accept images of {size[0]} x {size[1]} pixels"
        f"{f' ({reason})' if reason else ''}. Choose another img_size, such as "
        f"{near or f'{own[0]} x {own[1]}'}."
    )


def accepted_sizes(accepts: Callable[[tuple[int, int]], bool], own: tuple[int, int]) -> Sizes:
    """Return which image sizes a network accepts; see ``BackboneSpec``.

    Args:
        accepts: Whether the network takes a size.
        own: Height and width that it was made for.
    """
    height, width = own
    tried: dict[Sizes, tuple[tuple[int, int], ...]] = {
        "any": ((height + 37, width + 75),),
        "multiple": ((2 * height, width), _UNEQUAL),
        "square": ((2 * height, 2 * width), _SQUARE),
    }
    for name, sizes in tried.items():
        if any(accepts(size) for size in sizes if size != own):
            return name
    return "fixed"


def refusal_of(
    network: nn.Module, shape: tuple[int, ...], run: Callable[..., Run] = run_on_meta
) -> str | None:
    """Return why a network does not accept an input, or None if it does.

    Args:
        network: The network.
        shape: The input without the batch axis.
        run: Runs the network: ``run_on_meta``, or ``run_once`` if it may need values.
    """
    watch = PatchWatch(shape)
    try:
        run(network, shape, watch=watch)
    # This runs the network's own code, which may raise anything.
    except Exception as error:
        return _short(error) or type(error).__name__
    lost = unseen(watch, shape)
    return None if lost is None else f"it {lost.partition('.')[0]}"


class SizeTrial:
    """Builds one network without memory for several image sizes."""

    def __init__(
        self,
        owner: Plugin,
        spec: BackboneSpec,
        entry: WeightsEntry | None,
        options: Mapping[str, Any],
    ) -> None:
        """Keep the arguments that are the same for all sizes; see ``sized_options``."""
        self._owner, self._spec, self._entry = owner, spec, entry
        self._options, self._option = options, owner.input_options.get("img_size")
        self._default: nn.Module | None = None

    def with_size(self, size: tuple[int, int]) -> dict[str, Any]:
        """Return the user's options, and the one that sets the size."""
        if self._option is None:
            return dict(self._options)
        return {**self._options, self._option: size[0] if size[0] == size[1] else size}

    def options_for(self, size: tuple[int, int]) -> tuple[dict[str, Any] | None, str]:
        """Return the options with which the network accepts a size; or None, and the reason."""
        options = self.with_size(size)
        try:
            network = self._built(options)
        except HeadstripError as error:
            if self._option is None or not isinstance(_root(error), TypeError):
                return None, _short(_root(error), self._spec.qualified_name)
            # The architecture has no such option.
            options = dict(self._options)
            try:
                network = self._built(options)
            except HeadstripError as plain:
                return None, _short(_root(plain), self._spec.qualified_name)
        channels = effective_shape(None, self._entry, self._spec)[0]
        if (refusal := refusal_of(network, (channels, *size))) is not None:
            return None, refusal
        if (stuck := self._stuck(network)) is not None:
            return None, f"its library does not interpolate {stuck}, which has one size"
        return options, ""

    def _stuck(self, network: nn.Module) -> str | None:
        """Return the name of a tensor that stays at the default size and does not fit, or None.

        No file is read: the tensors have shapes and no values.
        """
        if self._default is None:
            self._default = self._built(self._options)
        default = {**self._default.state_dict()}
        if not compare(network, default).names:
            return None
        about, owner = self._spec.qualified_name, self._owner
        try:
            with without_memory():
                if owner.implements("adapt_state_dict"):
                    default = owner.call(
                        "adapt_state_dict",
                        about,
                        loaded=default,
                        model=network,
                        entry=self._entry,
                    )
                if owner.implements("resize_state_dict"):
                    default = owner.call("resize_state_dict", about, state=default, model=network)
        except HeadstripError as error:
            # The hook may need values, so only the build with weights can check this.
            _LOGGER.debug("%s: %s", about, error)
            return None
        return next(iter(compare(network, default).names), None)

    def _built(self, options: Mapping[str, Any]) -> Any:
        about = self._spec.qualified_name
        merged = merged_options(self._spec, self._entry, options)
        with without_memory():
            return self._owner.call("build_model", about, spec=self._spec, options=merged)


def _root(error: BaseException) -> BaseException:
    """Return the library's own error behind one of headstrip's."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _short(error: BaseException, name: str = "") -> str:
    # timm and torch have assertions without a message.
    text = " ".join(str(error).split())
    if isinstance(error, HeadstripError) and name and text.startswith(f"{name} "):
        # Only the first sentence: the others say what to do, as does the error that quotes it.
        text = f"it {text.removeprefix(f'{name} ').partition('. ')[0]}"
    return text[:200].rstrip(".")


def _sides(value: object) -> tuple[int, int] | None:
    """Return the height and the width that an option sets, None where it is not a size."""
    sides = value if isinstance(value, (tuple, list)) else (value, value)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        return None
    return sides[0], sides[1]


def _nearest(asked: tuple[int, int], fits: Callable[[tuple[int, int]], bool]) -> str:
    """Return the sizes that fit and are nearest to one that does not, "" if there is no such size.

    They have its shape, or are squares if no size of its shape fits.
    """
    found = [next(filter(fits, _similar(asked, step)), None) for step in (-1, 1)]
    if not any(found):
        squares = [(side, side) for side in sorted(asked)]
        found = [next(filter(fits, [one, *_similar(one, 1)]), None) for one in squares]
    near = dict.fromkeys(size for size in found if size is not None)
    return " or ".join(f"{height} x {width}" for height, width in near)


def _similar(asked: tuple[int, int], step: int) -> Iterator[tuple[int, int]]:
    """Yield sizes that most networks accept, the most similar first."""
    height, width = ((side - (step < 0)) // _STEP + (step > 0) for side in asked)
    for more in range(0, step * _MAX_TRIES, step):
        if min(height, width) + more > 0:
            yield (height + more) * _STEP, (width + more) * _STEP
