"""Describe the steps that turn an image, or a clip, into the input of a network."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from headstrip.errors import PreprocessingError
from headstrip.system.arguments import type_of

if TYPE_CHECKING:
    from torch import nn

INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos")

Fit = Literal["squash", "cover", "contain"]

_BACKGROUNDS = ("white", "black", "keep")
_NAMED = {"#ffffff": "white", "#000000": "black"}
_COLOUR = re.compile("#[0-9a-fA-F]{6}")
_RANGES = ("auto", "dtype")
_LARGEST, _SMALLEST = 3.4e38, 1.2e-38
"""The largest and the smallest normal number of 32-bit floating point, to two digits."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The steps from pixels to the input of a network.

    Two preprocessings are equal when all their steps are. ``to_json`` gives values for a file.

    Attributes:
        crop: Height and width of the central crop in pixels: the size of the input.
        resize: Pixels of the shorter side before the crop, or (height, width), to which the image
            is resized as ``fit`` says; None does not resize.
        interpolation: Filter of the resize, by torchvision's name.
        antialias: Whether tensors get a low-pass filter when made smaller. PIL images always do.
        rescale: Divisor of the pixel values.
        mean: Number that is subtracted from each channel after that division.
        std: Divisor of each channel after the subtraction.
        frames: Frames of a clip, None for images.
        fit: What a resize to (height, width) does with another shape: "squash" stretches the image
            to it, "cover" keeps the ratio of its sides and covers it, "contain" keeps the ratio and
            stays inside it.
        fill: Pixel value of each channel, 0 to 255, around an image that is smaller than the crop.
            None is black.
        crop_pct: Share of the resized sides that the crop keeps, as timm states it: the resize is
            the crop divided by this share and rounded down, also for another input size. None if
            the resize does not follow from the crop.
        background: What is behind transparent parts of an image: "white", "black" or "#rrggbb";
            "keep" drops the transparency and shows the colours that are stored below it.
        value_range: Which values of an image with more than 8 bits a channel become 0 and 255:
            (low, high), "dtype" for the whole range of their type, or "auto" for the range that
            the file states, else that of the type; "auto" refuses an image that uses less than a
            quarter of it. 8-bit images do not change.

    Example:
        >>> half = (0.5, 0.5, 0.5)
        >>> Preprocessing(crop=(224, 224), resize=256, mean=half, std=half).input_shape
        (3, 224, 224)
    """

    crop: tuple[int, int]
    resize: int | tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    antialias: bool = True
    rescale: float = 255.0
    frames: int | None = None
    fit: Fit = "squash"
    fill: tuple[int, ...] | None = None
    crop_pct: float | None = None
    background: str = "white"
    value_range: str | tuple[float, float] = "auto"

    def __post_init__(self) -> None:
        """Convert lists to tuples, and check the values.

        Raises:
            PreprocessingError: A size is not positive, the filter is unknown, a number is not
                finite, a divisor is not above zero, mean and standard deviation differ in length,
                the fit is unknown or has no (height, width) to fit, the fill is not one pixel, the
                share of the crop is not above zero, or the background or the range of values is
                not valid.
        """
        for name in ("crop", "resize", "mean", "std", "fill", "value_range"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        self._check_sizes()
        self._check_numbers()
        self._check_fit()
        self._check_fill()
        object.__setattr__(self, "background", parse_background(self.background))
        _check_value_range(self.value_range)

    def _check_sizes(self) -> None:
        pairs = [self.crop] + ([self.resize] if isinstance(self.resize, tuple) else [])
        single = None if isinstance(self.resize, tuple) else self.resize
        if not all(map(_is_pair, pairs)) or not all(
            size is None or _is_positive(size) for size in (single, self.frames)
        ):
            raise PreprocessingError(
                f"All sizes must be integers above zero, got {self!r}. "
                "Pass crop=(height, width) and resize=shorter_side or (height, width)."
            )
        if self.interpolation not in INTERPOLATIONS:
            raise PreprocessingError(
                f"There is no interpolation {self.interpolation!r}. "
                f"Use one of {', '.join(INTERPOLATIONS)}."
            )

    def _check_numbers(self) -> None:
        if (
            not _are_numbers(self.mean)
            or not _are_divisors(self.std)
            or len(self.mean) != len(self.std)
        ):
            raise PreprocessingError(
                f"mean={self.mean!r} and std={self.std!r} do not normalise an image. "
                "Pass one number of each for every channel, each standard deviation above zero."
            )
        if not _are_divisors((self.rescale,)):
            raise PreprocessingError(
                f"Pixel values cannot be divided by rescale={self.rescale!r}. "
                "Pass a number above zero, 255 for 8-bit images."
            )
        if self.crop_pct is not None and not _are_divisors((self.crop_pct,)):
            raise PreprocessingError(
                f"crop_pct must be a number above zero, such as 0.875, or None, got "
                f"{self.crop_pct!r}."
            )

    def _check_fit(self) -> None:
        if self.fit not in get_args(Fit):
            raise PreprocessingError(
                f"There is no fit {self.fit!r}. Use one of {', '.join(get_args(Fit))}."
            )
        if self.fit != "squash" and not isinstance(self.resize, tuple):
            raise PreprocessingError(
                f"fit={self.fit!r} needs a height and a width, got resize={self.resize!r}. "
                "Pass resize=(height, width), or leave fit out."
            )

    def _check_fill(self) -> None:
        if self.fill is not None and not _is_pixel(self.fill, self.channels):
            raise PreprocessingError(
                f"fill={self.fill!r} is not a pixel of {self.channels} channels. "
                "Pass one integer from 0 to 255 for every channel, or None for black."
            )

    @property
    def channels(self) -> int:
        """Number of channels, 3 for RGB."""
        return len(self.mean)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the result: (C, H, W), or (C, T, H, W) for a clip."""
        frames = () if self.frames is None else (self.frames,)
        return (self.channels, *frames, *self.crop)

    def for_input(self, input_shape: tuple[int, ...]) -> Preprocessing:
        """Return the same preprocessing for another input size.

        The resize changes with the crop, so that the network sees the same share of the image: in
        proportion, or by ``crop_pct`` if the resize follows from it. If the sides differ, the
        resize covers both.

        Args:
            input_shape: (C, H, W), or (C, T, H, W) for a clip.

        Raises:
            PreprocessingError: The number of channels or of axes differs, or a size is not
                positive.
        """
        if len(input_shape) != len(self.input_shape) or input_shape[0] != self.channels:
            raise PreprocessingError(
                f"The network takes {input_shape}, and the preprocessing of its weights gives "
                f"{self.input_shape}. Pass preprocessing=Preprocessing(...) that fits."
            )
        crop = (input_shape[-2], input_shape[-1])
        if not _is_pair(crop):
            raise PreprocessingError(
                f"The input size must be two integers above zero, got {crop!r}."
            )
        resize, fit = self._resize_for(crop)
        frames = None if self.frames is None else input_shape[1]
        return replace(self, crop=crop, resize=resize, frames=frames, fit=fit)

    def _resize_for(self, crop: tuple[int, int]) -> tuple[int | tuple[int, int] | None, Fit]:
        """Return the resize, and how it fits, before a crop of another size."""
        if self.resize is None or crop == self.crop:
            return self.resize, self.fit
        share = self.crop_pct if self._is_by_share() else None
        if share is not None:
            sides = _divided(crop, share)
        elif isinstance(self.resize, tuple):
            sides = (
                _scaled(self.resize[0], crop[0], self.crop[0]),
                _scaled(self.resize[1], crop[1], self.crop[1]),
            )
        else:
            shorter = min(self.crop)
            sides = (
                _scaled(self.resize, crop[0], shorter),
                _scaled(self.resize, crop[1], shorter),
            )
        if isinstance(self.resize, tuple) and (share is None or self.fit != "cover"):
            return sides, self.fit
        # A shorter side alone would leave the longer side of the crop uncovered.
        return (sides[0], "squash") if crop[0] == crop[1] else (sides, "cover")

    def _is_by_share(self) -> bool:
        """Whether the resize equals the crop divided by ``crop_pct``."""
        if self.crop_pct is None:
            return False
        sides = _divided(self.crop, self.crop_pct)
        return self.resize == sides or (sides[0] == sides[1] == self.resize)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of an image after the resize, before the crop.

        The arithmetic is torchvision's for a shorter side, and that of timm's ``ResizeKeepRatio``
        for "cover" and "contain". Each side has at least one pixel.
        """
        if self.resize is None:
            return height, width
        if isinstance(self.resize, int):
            longer = int(self.resize * max(height, width) / min(height, width))
            return (self.resize, longer) if height <= width else (longer, self.resize)
        if self.fit == "squash":
            return self.resize
        ratios = (height / self.resize[0], width / self.resize[1])
        ratio = min(ratios) if self.fit == "cover" else max(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def transform(self) -> nn.Module:
        """Make the torchvision v2 transform that does these steps.

        Returns:
            A module that maps a PIL image, or a uint8 tensor (..., C, H, W), to a float32 tensor
            (..., C, H, W); of a clip (..., T, C, H, W) to (..., C, T, H, W). Its pixels equal
            those of torchvision's ``weights.transforms()``, and on PIL images those of timm's
            ``create_transform``, bit for bit.
        """
        from torchvision.transforms import v2

        from headstrip.images.transforms import ClipToVideo, Pad, Resize

        steps: list[Any] = []
        if self.resize is not None:
            size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
            fit = "" if self.fit == "squash" else f", {self.fit!r}"
            steps.append(
                Resize(self.resized, self.interpolation, self.antialias, shown=f"{size}{fit}")
            )
        if self.fill is not None:
            steps.append(Pad(self.crop, self.fill))
        steps += [v2.CenterCrop(list(self.crop)), v2.PILToTensor(), *self._normalising()]
        if self.frames is not None:
            steps.append(ClipToVideo())
        transform: nn.Module = v2.Compose(steps)
        return transform

    def augmented(
        self,
        *,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        trivial_augment: bool = False,
    ) -> nn.Module:
        """Make the transform for training: random, and with the same size, mean and deviation.

        It takes a random crop, resizes it to the input size with the same filter, and flips it.
        The resize, the fit and the central crop of ``transform()`` do not apply. Random numbers
        come from torch's global generator.

        Args:
            scale: Smallest and largest share of the image's area that the crop has. Pass for
                example (0.5, 1.0) if small parts do not show what the label says.
            ratio: Smallest and largest width of the crop divided by its height, before the resize.
            flip: Probability of a mirror image. Pass 0 if left and right matter.
            trivial_augment: Whether to add TrivialAugment (Müller and Hutter 2021): one random
                change of colour or geometry.

        Returns:
            A module that maps any image that ``encoder.preprocess`` takes to float32 (C, H, W).

        Raises:
            PreprocessingError: The preprocessing is for clips, or TrivialAugment does not take the
                number of channels.
            OptionError: A value is not possible.

        Example:
            >>> import torch
            >>> half = Preprocessing(crop=(4, 6), resize=6, mean=(0.5,) * 3, std=(0.5,) * 3)
            >>> half.augmented(scale=(0.5, 1.0))(torch.zeros(3, 12, 12, dtype=torch.uint8)).shape
            torch.Size([3, 4, 6])
        """
        from headstrip.images.augmented import Augmented

        return Augmented(self, scale=scale, ratio=ratio, flip=flip, trivial_augment=trivial_augment)

    def normalising(self) -> nn.Module:
        """Make the last steps of ``transform()``: the division, the mean and the deviation.

        Returns:
            A module that maps a uint8 tensor (..., C, H, W) to a float32 tensor of that shape.
        """
        from torchvision.transforms import v2

        steps: nn.Module = v2.Compose(self._normalising())
        return steps

    def _normalising(self) -> list[Any]:
        from torchvision.transforms import v2

        from headstrip.images.transforms import Rescale

        return [Rescale(self.rescale), v2.Normalize(list(self.mean), list(self.std))]

    def to_json(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as plain JSON values."""
        defaults = {field.name: field.default for field in fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if value != defaults[key]
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Make a preprocessing from the values that ``to_json`` returned.

        Raises:
            PreprocessingError: A field is missing, unknown, or has an impossible value.
        """
        try:
            return cls(**data)
        except TypeError as error:
            named = data if isinstance(data, Mapping) else {}
            needed = [field.name for field in fields(cls) if field.default is MISSING]
            if not isinstance(data, Mapping):
                problem = f"it is {type_of(data)}, not a dict"
            elif missing := [name for name in needed if name not in named]:
                problem = f"it lacks the fields {', '.join(missing)}"
            elif unknown := sorted(map(str, {*named} - {field.name for field in fields(cls)})):
                problem = f"it has the unknown fields {', '.join(unknown)}"
            else:
                problem = str(error)
            raise PreprocessingError(
                f"{data!r} does not describe a preprocessing: {problem}. "
                f"It needs {', '.join(field.name for field in fields(cls))}."
            ) from error


def parse_value_range(text: str) -> str | tuple[float, float]:
    """Parse a range of values from the command line.

    Args:
        text: "auto", "dtype" or "LOW,HIGH".

    Returns:
        The ``value_range`` for ``Preprocessing``.

    Raises:
        PreprocessingError: The text is something else.

    Example:
        >>> parse_value_range("0,4095")
        (0.0, 4095.0)
    """
    if text in _RANGES:
        return text
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = math.nan
    _check_value_range((low, high), text)
    return low, high


def parse_background(background: object) -> str:
    """Check a background, and return the only spelling of it that ``Preprocessing`` keeps.

    Raises:
        PreprocessingError: It is not a colour.

    Example:
        >>> parse_background("#FFFFFF"), parse_background("#ffCC00")
        ('white', '#ffcc00')
    """
    if not isinstance(background, str) or not (
        background in _BACKGROUNDS or _COLOUR.fullmatch(background)
    ):
        raise PreprocessingError(
            f"background={background!r} is not a colour. Pass 'white', 'black', '#rrggbb' such as "
            "'#ffcc00', or 'keep' to drop the transparency."
        )
    colour = background.lower()
    return _NAMED.get(colour, colour)


def is_usable_range(low: float, high: float) -> bool:
    """Whether 32-bit floating point can scale the values from ``low`` to ``high``.

    Example:
        >>> is_usable_range(0, 4095), is_usable_range(0, 1e308), is_usable_range(0, 1e-320)
        (True, False, False)
    """
    return -_LARGEST <= low <= _LARGEST and low < high <= _LARGEST and high - low >= _SMALLEST


def _check_value_range(value_range: object, shown: str | None = None) -> None:
    if value_range in _RANGES:
        return
    shown = repr(value_range if shown is None else shown)
    is_range = isinstance(value_range, tuple) and len(value_range) == 2
    if not is_range or not _are_numbers(value_range) or value_range[0] >= value_range[1]:  # type: ignore[index]
        raise PreprocessingError(
            f"value_range={shown} is not a range of values. "
            "Pass 'auto', 'dtype', or two finite numbers, the lower one first, such as (0, 4095) "
            "(--value-range 0,4095)."
        )
    if not is_usable_range(*value_range):  # type: ignore[misc]
        raise PreprocessingError(
            f"value_range={shown} is not a range of values of 32-bit floating point. Pass two "
            f"numbers from -{_LARGEST:.1e} to {_LARGEST:.1e} that are at least {_SMALLEST:.1e} "
            "apart, such as (0, 4095) (--value-range 0,4095)."
        )


def _is_positive(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and size > 0


def _is_pair(sizes: object) -> bool:
    return isinstance(sizes, tuple) and len(sizes) == 2 and all(map(_is_positive, sizes))


def _is_pixel(values: object, channels: int) -> bool:
    if not isinstance(values, tuple) or len(values) != channels:
        return False
    return all(type(value) is int and 0 <= value <= 255 for value in values)


def _are_numbers(values: object) -> bool:
    if not isinstance(values, tuple) or not values:
        return False
    return all(isinstance(value, (int, float)) and -math.inf < value < math.inf for value in values)


def _are_divisors(values: tuple[float, ...]) -> bool:
    return _are_numbers(values) and min(values) > 0


def _divided(crop: tuple[int, int], share: float) -> tuple[int, int]:
    # timm's arithmetic, in timm/data/transforms_factory.py.
    return max(1, math.floor(crop[0] / share)), max(1, math.floor(crop[1] / share))


def _scaled(size: int, new: int, old: int) -> int:
    # A resize far below the crop would round to zero.
    return max(1, round(size * new / old))
