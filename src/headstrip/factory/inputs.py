"""Handle ``in_chans=`` and ``img_size=``: change a network to the input that the user wants."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import mul
from typing import Any, Literal, get_args

import torch
from torch import nn

from headstrip.errors import OptionError, PreprocessingError
from headstrip.factory.selection import Selection
from headstrip.images.preprocessing import Preprocessing
from headstrip.network.channels import ExpandGrey, Mix, ReaderWatch, Widening
from headstrip.network.meta_ops import without_memory
from headstrip.network.width import run_on_meta, run_once
from headstrip.plugins.loader import Plugin
from headstrip.spec import BackboneSpec, effective_shape, merged_options
from headstrip.system.arguments import is_count

_LOGGER = logging.getLogger("headstrip.factory")

InChans = int | tuple[str | None, ...]
NewChannels = Literal["mean", "zero"]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]

_COLOURS = ("R", "G", "B")
_RGB: Mix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
_TRANSFORM = "transform_input"
"""The option by which torchvision's GoogLeNet and Inception change their input's statistics."""

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The numbers in torchvision's ``transform_input``."""

_MOST_CHANNELS = 1024
_EXAMPLE = "Pass 1, a number of channels, or their names, such as ('R', 'G', 'B', None)."


@dataclass(frozen=True, slots=True)
class InputRequest:
    """The input that the user wants.

    Attributes:
        in_chans: 1 for grey, another number of channels, or the name of each channel; None for
            the network's own.
        img_size: Height and width in pixels, None for those of the weights.
        new_channels: The filter of a channel that is not red, green or blue: the mean of the
            three, or zero.
        expanded: Mean and standard deviation of each channel that grey is expanded to; None for
            those of the weights.
    """

    in_chans: InChans | None = None
    img_size: tuple[int, int] | None = None
    new_channels: NewChannels = "mean"
    expanded: Statistics | None = None

    @property
    def count(self) -> int | None:
        """Number of channels, None for the network's own."""
        return len(self.in_chans) if isinstance(self.in_chans, tuple) else self.in_chans

    @property
    def invented(self) -> int:
        """Number of channels whose filter was not trained."""
        if isinstance(self.in_chans, tuple):
            return sum(name not in _COLOURS for name in self.in_chans)
        return self.in_chans or 0

    def to_json(self) -> dict[str, Any]:
        """Return the request as plain JSON values, empty if the user asked for nothing."""
        channels = list(self.in_chans) if isinstance(self.in_chans, tuple) else self.in_chans
        found: dict[str, Any] = {}
        if channels is not None:
            found["in_chans"] = channels
        if isinstance(channels, list) and self.invented:
            found["new_channels"] = self.new_channels
        if self.img_size is not None:
            found["img_size"] = list(self.img_size)
        if self.expanded is not None:
            found["expanded"] = [list(numbers) for numbers in self.expanded]
        return found

    def mix(self) -> Mix:
        """Return the share of each of three filters in the filter of each channel.

        A number of channels follows timm's rule: the three filters repeat, and are scaled by three
        divided by this number, so that the sums stay as large.
        """
        if not isinstance(self.in_chans, tuple):
            count = self.in_chans or 3
            return tuple(
                tuple(3 / count if at == channel % 3 else 0.0 for at in range(3))
                for channel in range(count)
            )
        share = 1 / 3 if self.new_channels == "mean" else 0.0
        return tuple(
            tuple(float(name == colour) for colour in _COLOURS)
            if name in _COLOURS
            else (share, share, share)
            for name in self.in_chans
        )


def parse_input(
    in_chans: Any = None,
    img_size: Any = None,
    new_channels: Any = "mean",
    expanded: Any = None,
) -> InputRequest:
    """Check the arguments of a call.

    Args:
        in_chans: 1, another number of channels, a sequence of names, or None.
        img_size: A number of pixels, (height, width), or None.
        new_channels: "mean" or "zero".
        expanded: Two lists of numbers, as a manifest states them.

    Raises:
        OptionError: One of them has an invalid value.
    """
    if new_channels not in get_args(NewChannels):
        raise OptionError(
            f"new_channels={new_channels!r} is not a way to make a filter. Pass 'mean' for the "
            "mean of the filters for red, green and blue, or 'zero'."
        )
    found = InputRequest(_channels(in_chans), _size(img_size), new_channels, _statistics(expanded))
    if new_channels != "mean" and not (isinstance(found.in_chans, tuple) and found.invented):
        raise OptionError(
            f"new_channels={new_channels!r} is for channels that are not red, green or blue, and "
            f"in_chans={in_chans!r} names none. Name the channels, such as "
            "in_chans=('R', 'G', 'B', None), or leave new_channels out."
        )
    return found


def _statistics(value: Any) -> Statistics | None:
    if value is None:
        return None
    try:
        mean, std = (tuple(map(float, numbers)) for numbers in value)
        if len(mean) != len(std) or not all(map(math.isfinite, mean)) or not min(std) > 0:
            raise ValueError
    except (TypeError, ValueError):
        raise OptionError(
            f"expanded={value!r:.200} is not a mean and a standard deviation of each channel. Take "
            "them from the manifest."
        ) from None
    return mean, std


def _channels(value: Any) -> InChans | None:
    if value is None:
        return None
    if is_count(value) and value <= _MOST_CHANNELS:
        return int(value)
    if not isinstance(value, (tuple, list)) or not 0 < len(value) <= _MOST_CHANNELS:
        raise OptionError(f"in_chans={value!r:.200} is not a number of channels. {_EXAMPLE}")
    names = tuple(value)
    if wrong := [name for name in names if name is not None and not _is_name(name)]:
        raise OptionError(f"in_chans={value!r:.200} has the channel {wrong[0]!r}. {_EXAMPLE}")
    named = [name for name in names if name is not None]
    if twice := [name for name in named if named.count(name) > 1]:
        raise OptionError(
            f"in_chans={value!r:.200} names {twice[0]!r} twice. Name each channel once, and pass "
            "None for channels without a name."
        )
    if names == ("L",):
        return 1
    if names == _COLOURS:
        return 3
    misread = next((name for name in ("L", "r", "g", "b") if name in named), None)
    if misread is not None:
        raise OptionError(
            f"in_chans={value!r:.200} has the channel {misread!r}, which may mean a colour or grey."
            " Write 'R', 'G' and 'B' for red, green and blue, in_chans=1 for grey alone, and a "
            "longer name, such as 'grey', for any other channel."
        )
    return names


def _listed(value: Any) -> tuple[Any, ...]:
    """Return the items of a list or of an array, an empty tuple for anything else."""
    is_array = isinstance(getattr(value, "ndim", None), int) and value.ndim == 1
    return tuple(value) if isinstance(value, (tuple, list)) or is_array else ()


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 100


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = (value, value) if is_count(value) else _listed(value)
    if len(sides) != 2 or not all(map(is_count, sides)):
        raise OptionError(
            f"img_size={value!r:.200} is not an image size. Pass a positive number of pixels, or "
            "the height and the width, such as img_size=(360, 640)."
        )
    height, width = map(int, sides)
    return height, width


@dataclass(frozen=True, slots=True)
class ChannelPlan:
    """How a network changes for other channels.

    Attributes:
        options: The user's own constructor arguments, and those that the channels need.
        widening: How the first convolution changes, None if it does not.
        is_folded: Whether the network no longer changes the statistics of its input itself, so
            that the preprocessing does.
    """

    options: Mapping[str, Any]
    widening: Widening | None = None
    is_folded: bool = False


def plan_channels(
    owner: Plugin,
    spec: BackboneSpec,
    selection: Selection,
    options: Mapping[str, Any],
    inputs: InputRequest,
    *,
    is_trained: bool = False,
) -> ChannelPlan:
    """Plan how a network gets the channels that the user wants.

    Args:
        owner: The plugin that builds.
        spec: The backbone.
        selection: Its weights.
        options: The user's own constructor arguments.
        inputs: What the user wants.
        is_trained: Whether the user's own file was trained with one channel, so that the network
            gets a first convolution of one channel.

    Raises:
        OptionError: The network does not allow these channels.
    """
    wanted, option = inputs.in_chans, owner.input_options.get("in_chans")
    if wanted is None:
        return ChannelPlan(options)
    about = f"in_chans={wanted!r} cannot be used with {spec.qualified_name}"
    if spec.task != "image":
        raise OptionError(f"{about}: it takes clips, and in_chans is for images. Leave it out.")
    if option is not None and option in options:
        raise OptionError(
            f"in_chans={wanted!r} and options={{{option!r}: {options[option]!r}}} both set the "
            "channels. Leave one of them out."
        )
    own = effective_shape(None, selection.entry, spec)
    if inputs.count == own[0] and not isinstance(wanted, tuple):
        return ChannelPlan(options)
    if own[0] != len(_COLOURS):
        raise OptionError(
            f"{about}: its pictures have {own[0]} channels, and headstrip changes networks for RGB "
            "only. Leave in_chans out."
        )
    if wanted == 1 and not is_trained:
        return ChannelPlan(options)
    if selection.path is not None and inputs.count == len(_COLOURS):
        raise OptionError(
            f"{about} and a weights file: nothing says whether the file's filters are for RGB or "
            f"for {wanted!r}. Put the channels of your images into the order of the file instead."
        )
    # headstrip builds a file without a tag without the options of the default weights.
    entry = selection.entry if selection.is_named else None
    is_folded = bool(merged_options(spec, entry, options).get(_TRANSFORM))
    options = {**options, _TRANSFORM: False} if is_folded else options
    merged = merged_options(spec, selection.entry, options)

    def build() -> nn.Module:
        network: nn.Module = owner.call(
            "build_model", spec.qualified_name, spec=spec, options=merged
        )
        return network

    shape = (own[0], *(inputs.img_size or own[1:]))
    path = find_first_convolution(build, spec, shape, wanted)
    _LOGGER.info("%s reads the picture with the convolution %s", spec.qualified_name, path)
    mix = ((1.0,),) if wanted == 1 else inputs.mix()
    return ChannelPlan(options, Widening(path, mix, option), is_folded)


def folded_statistics(steps: Preprocessing, mix: Mix = _RGB) -> Preprocessing:
    """Return the preprocessing that does what ``transform_input`` does after ``steps``.

    torchvision turns pixels that were normalised for ImageNet into pixels normalised with 0.5.

    Args:
        steps: The preprocessing.
        mix: The share of red, green and blue in the filter of each channel.
    """
    pairs = [
        (
            mean - std * (_shared(_IMAGENET_MEAN, share) - 0.5) / _shared(_IMAGENET_STD, share),
            std * 0.5 / _shared(_IMAGENET_STD, share),
        )
        for mean, std, share in zip(steps.mean, steps.std, mix, strict=True)
    ]
    means, deviations = zip(*pairs, strict=True)
    return replace(
        steps,
        mean=tuple(round(value, 12) for value in means),
        std=tuple(round(value, 12) for value in deviations),
    )


def _shared(numbers: Sequence[float], share: Sequence[float]) -> float:
    """Return the average of three numbers, weighted by shares, or equally if all shares are 0."""
    shares = share if any(share) else (1.0,) * len(numbers)
    return math.fsum(map(mul, numbers, shares)) / math.fsum(shares)


def adapted_steps(
    steps: Preprocessing, inputs: InputRequest, *, is_trained: bool = False
) -> Preprocessing:
    """Return a preprocessing for RGB with the channels that the user wants.

    It does not normalise grey: the encoder does that when it expands grey. A channel without
    statistics gets the average of the three.

    Args:
        steps: The preprocessing of the weights.
        inputs: What the user wants.
        is_trained: Whether the user's own file was trained with one channel.

    Raises:
        PreprocessingError: A number of channels needs the statistics of each.
    """
    wanted = inputs.in_chans
    if wanted is None or (inputs.count == steps.channels and not isinstance(wanted, tuple)):
        return steps
    if wanted == 1 and is_trained:
        raise PreprocessingError(
            "The file was trained with images of one channel, and nothing states their mean and "
            "standard deviation. Pass preprocessing=Preprocessing(...) with one of each (--mean "
            f"and --std). timm trains with {sum(steps.mean) / 3:.4g} and {sum(steps.std) / 3:.4g}, "
            "the averages of the three of RGB."
        )
    if wanted == 1:
        return with_statistics(steps, (0.0,), (1.0,))
    if not isinstance(wanted, tuple):
        raise PreprocessingError(
            f"in_chans={wanted} needs the mean and the standard deviation of {wanted} channels, "
            f"and the weights state those of RGB. Pass preprocessing=Preprocessing(...) with "
            f"{wanted} of each (--mean and --std), or name the channels, such as "
            f"in_chans={(*_COLOURS, *(None,) * max(1, wanted - 3))[:wanted]!r}."
        )
    fill = steps.fill or (0, 0, 0)
    average = (sum(steps.mean) / 3, sum(steps.std) / 3, round(sum(fill) / 3))
    own = dict(zip(_COLOURS, zip(steps.mean, steps.std, fill, strict=True), strict=True))
    numbers = [own.get(name or "", average) for name in wanted]
    means, deviations, borders = zip(*numbers, strict=True)
    found = with_statistics(steps, means, deviations)
    return found if steps.fill is None else replace(found, fill=borders)


def with_statistics(
    steps: Preprocessing, mean: Sequence[float], std: Sequence[float]
) -> Preprocessing:
    """Return a preprocessing with the statistics of other channels.

    Images with another number of channels are measurements, and do not state their white value, so
    ``value_range="auto"`` becomes ``"dtype"``.

    Args:
        steps: The preprocessing.
        mean: The mean of each channel, on the scale of the divided values.
        std: The standard deviation of each channel.

    Raises:
        PreprocessingError: They have different lengths, or a deviation is not above 0.
    """
    fill = steps.fill
    keeps_range = steps.value_range != "auto" or len(mean) == steps.channels
    return replace(
        steps,
        mean=tuple(mean),
        std=tuple(std),
        fill=None if fill is None else (round(sum(fill) / len(fill)),) * len(mean),
        value_range=steps.value_range if keeps_range else "dtype",
    )


def expansion(
    inputs: InputRequest, own: Preprocessing | None, chosen: Preprocessing | None, channels: int
) -> ExpandGrey | None:
    """Return the module that expands grey to the channels of a network, or None.

    Args:
        inputs: What the user wants.
        own: The preprocessing of the weights.
        chosen: The preprocessing of the encoder, with one channel.
        channels: Number of channels of the network.
    """
    if inputs.in_chans != 1 or channels == 1:
        return None
    if own is None or chosen is None:
        # The statistics of the training images are unknown, so grey is repeated unchanged.
        return ExpandGrey((0.0,) * channels, (1.0,) * channels)
    mean, std = inputs.expanded or (own.mean, own.std)
    scale = chosen.rescale / own.rescale
    return ExpandGrey(mean, std, grey_mean=chosen.mean[0] * scale, grey_std=chosen.std[0] * scale)


def find_first_convolution(
    build: Any, spec: BackboneSpec, input_shape: Sequence[int], wanted: InChans
) -> str:
    """Return the path of the only convolution that reads the image.

    Args:
        build: Builds the network, head included.
        spec: The backbone, for messages.
        input_shape: Input that the network is built for, without the batch axis.
        wanted: The channels that the user asked for, for messages.

    Raises:
        OptionError: Something other than one plain 2D convolution of three channels reads it.
    """
    watch = _watched(build, spec, tuple(input_shape))
    readers, network = watch.readers, watch.network
    about = f"in_chans={wanted!r} cannot be used with {spec.qualified_name}"
    instead = "Pass in_chans=1 for grey pictures, or use another backbone."
    if readers.others or len(set(readers.convolutions)) != 1:
        found = ", ".join(dict.fromkeys([*readers.convolutions, *readers.others])) or "nothing"
        raise OptionError(
            f"{about}: the picture is not read by one convolution alone, but by {found:.200}. "
            f"{instead}"
        )
    path = readers.convolutions[0]
    convolution: Any = network.get_submodule(path)
    if convolution.groups != 1 or convolution.in_channels != 3:
        raise OptionError(
            f"{about}: its first convolution has {convolution.in_channels} channels in "
            f"{convolution.groups} groups, and headstrip changes only plain ones of 3 channels. "
            f"{instead}"
        )
    return path


def _watched(build: Any, spec: BackboneSpec, input_shape: tuple[int, ...]) -> ReaderWatch:
    """Run a network once with a watch on its input: on the meta device, or else for real."""
    try:
        with without_memory():
            network: nn.Module = build()
        watch = ReaderWatch(network, input_shape)
        run_on_meta(network, input_shape, watch=watch)
        return watch
    # A network may do anything with tensors that have no values, so any error is possible.
    except Exception:
        _LOGGER.debug("%s does not run without memory:", spec.qualified_name, exc_info=True)
    with torch.random.fork_rng(devices=[]):
        network = build()
    watch = ReaderWatch(network, input_shape)
    run_once(network, input_shape, watch=watch)
    return watch
