"""Convert the pixels of any image to 8-bit RGB, or to grey for a network with one channel.

Paths, bytes, file objects and PIL images all go through ``as_picture``. Nothing here imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageColor

from headstrip.errors import PreprocessingError
from headstrip.images.samples import Range, Samples, Scale, samples_of

if TYPE_CHECKING:
    from headstrip.images.preprocessing import Preprocessing

_MODES = {1: "L", 3: "RGB"}
_PLAIN = {"RGBa": "RGBA", "La": "LA", "P": "RGBA", "PA": "RGBA"}
"""Modes whose colours and alpha headstrip reads in another mode."""
_WIDE_GREY = {"I;16", "I;16L", "I;16B", "I;16N"}

_GREY = {"1", "L", "LA", "La", "I", "F"} | _WIDE_GREY

_SHARE = 4
"""An image that uses less than a quarter of its type's range may have another white value."""

_VALUES_AT_ONCE = 1 << 20


def as_picture(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Convert an image to the pixels that a preprocessing starts from.

    Args:
        image: A PIL image, which may be an open file.
        preprocessing: Has the channels, the ``value_range`` and the ``background``.

    Returns:
        An image of mode RGB, or L for 1 channel, turned as its EXIF orientation says; the same
        image if nothing changes.

    Raises:
        PreprocessingError: The image has no pixels, would have too many after the resize, or does
            not convert to 8-bit RGB.
        Exception: Any error of Pillow for a damaged file; see ``decoding_errors``.
    """
    samples = read_samples(image, preprocessing)
    refuse_huge(samples.image.height, samples.image.width, preprocessing)
    return in_channels(samples, preprocessing)


def read_samples(image: Image.Image, preprocessing: Preprocessing) -> Samples:
    """Read the samples of an image for ``in_channels``; see ``samples_of``."""
    return samples_of(image, is_range_given=isinstance(preprocessing.value_range, tuple))


def in_channels(samples: Samples, preprocessing: Preprocessing) -> Image.Image:
    """Convert an image to the mode that has the channels of a preprocessing.

    Values of more than 8 bits are scaled to 0 to 255 as ``value_range`` says. An image whose alpha,
    or transparent colour, hides anything is put on the ``background``. Pillow converts grey,
    palettes, CMYK, YCbCr and LAB to RGB.

    Returns:
        An image of mode RGB or L; the same image if nothing changes.

    Raises:
        PreprocessingError: The preprocessing has neither 1 nor 3 channels, or has 1 although the
            image has colours, or the image does not convert to 8-bit RGB.
    """
    channels = preprocessing.channels
    mode = _MODES.get(channels)
    if mode is None:
        raise PreprocessingError(
            f"The preprocessing takes {channels} channels, but this image gives 1 or 3. Pass an "
            f"array (height, width, {channels}), a TIFF file of {channels} bands, or a uint8 "
            f"tensor ({channels}, height, width)."
        )
    alpha = None if preprocessing.background == "keep" else _alpha(samples)
    least = 255 if alpha is None else alpha.getextrema()[0]
    picture = samples.image
    if samples.scale is not None:
        visible = np.asarray(alpha) > 0 if least == 0 else None
        picture = _scaled(samples, samples.scale, preprocessing.value_range, visible)
    if picture.mode in _PLAIN:
        # Pillow warns when it drops a palette's transparency in one step.
        picture = _converted(_without_odd_transparency(picture), _PLAIN[picture.mode])
    if alpha is not None and least != 255:
        base = Image.new("RGB", picture.size, ImageColor.getrgb(preprocessing.background)[:3])
        # For one channel, a coloured background becomes grey.
        base = _converted(_converted(base, mode), "RGB")
        picture = Image.composite(_converted(picture, "RGB"), base, alpha)
    return _as_grey(picture) if mode == "L" else _converted(picture, mode)


def _as_grey(image: Image.Image) -> Image.Image:
    """Convert an image of grey pixels to mode L, whatever its mode is.

    Raises:
        PreprocessingError: The image has colours.
    """
    if image.mode in _GREY:
        return _converted(image, "L")
    red, green, blue = _converted(image, "RGB").split()
    if any(ImageChops.difference(red, other).getbbox() for other in (green, blue)):
        raise PreprocessingError(
            "The image has colours, and the encoder takes one channel of grey. Convert the image "
            "with image.convert('L'), or build the encoder without in_chans=1 (--in-chans 1)."
        )
    return red


def as_8_bits(values: np.ndarray, value_range: str | Range) -> np.ndarray:
    """Scale the values of an array to 0 to 255, as those of an image of the same type.

    Args:
        values: Array of uint8, which does not change, uint16 or float32.
        value_range: Which values become 0 and 255; see ``Preprocessing``.

    Returns:
        uint8 array of the same shape.

    Raises:
        PreprocessingError: The range is not known, or the values are not finite.
    """
    if values.dtype == np.uint8:
        return values
    scale = (
        Scale("16 bits", (0, (1 << 16) - 1))
        if values.dtype == np.uint16
        else Scale("floating point", None)
    )
    return _to_8_bits(values, *_range_of(values, 1.0, scale, value_range))


def refuse_huge(height: int, width: int, preprocessing: Preprocessing) -> None:
    """Refuse an image without pixels, and a long one that would fill the memory when resized.

    Raises:
        PreprocessingError: The image has no pixels, or the resize would give it more than
            ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    if not height or not width:
        raise PreprocessingError(
            f"The image has no pixels: it is {width} wide and {height} high. Leave it out."
        )
    grows, limit = isinstance(preprocessing.resize, int), Image.MAX_IMAGE_PIXELS
    if not (grows or preprocessing.fit == "cover") or limit is None:
        return
    shorter, longer = sorted(preprocessing.resized(height, width))
    if shorter * longer > limit:
        raise PreprocessingError(
            f"The image is {width} wide and {height} high: with its shorter side at {shorter} it "
            f"would have more than {limit} pixels. Crop it."
        )


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image as Pillow does; return the same image if it already has the mode.

    Raises:
        PreprocessingError: Pillow does not convert its mode.
    """
    if image.mode == mode:
        return image
    try:
        return image.convert(mode)
    except ValueError as error:
        raise PreprocessingError(
            f"The image has pixels of mode {image.mode!r}, which Pillow does not convert to "
            f"{mode}. Convert it to 8-bit RGB."
        ) from error


def _alpha(samples: Samples) -> Image.Image | None:
    """Return how opaque each pixel is, mode L; None for an image without transparency."""
    image = samples.image
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"}:
        return image.getchannel(image.mode[-1])
    if image.mode == "P" and image.has_transparency_data:
        return _converted(_without_odd_transparency(image), "RGBA").getchannel("A")
    key = samples.key
    if key is None or image.mode not in {"1", "L", "RGB", "I"} | _WIDE_GREY:
        return None
    values = np.asarray(image) if samples.deep is None else samples.deep
    bands = values.shape[2] if values.ndim == 3 else 1
    if len(key) != bands:
        return None
    if samples.deep is None and image.mode == "RGB" and (samples.scale or max(key) > 255):
        # Only the upper 8 bits are left to compare.
        key = tuple(part >> 8 for part in key)
    if image.mode == "1":
        key = (bool(key[0]),)
    is_hidden = (values.reshape(*values.shape[:2], bands) == np.array(key)).all(axis=-1)
    return Image.fromarray(np.where(is_hidden, np.uint8(0), np.uint8(255)))


def _without_odd_transparency(image: Image.Image) -> Image.Image:
    """Return a palette image without a transparency of a type that Pillow does not know."""
    if image.mode != "P" or isinstance(image.info.get("transparency"), (bytes, int, type(None))):
        return image
    plain = image.copy()
    del plain.info["transparency"]
    return plain


def _scaled(
    samples: Samples, scale: Scale, value_range: str | Range, visible: np.ndarray | None
) -> Image.Image:
    """Scale values that are signed or have more than 8 bits to 0 to 255.

    Args:
        samples: The image.
        scale: The meaning of its values.
        value_range: Which values become 0 and 255.
        visible: bool array (height, width), False for fully transparent pixels; None if the image
            has no such pixels.
    """
    image, deep = samples.image, samples.deep
    if not scale.is_colour:
        if isinstance(value_range, tuple) and not scale.unit:
            raise _too_late()
        values, unit = _values_of(image, scale), scale.unit or 1.0
        black, white = _range_of(_chosen(values, visible), unit, scale, value_range)
        pixels = _to_8_bits(values, black * unit, white * unit)
        return Image.fromarray(255 - pixels if scale.is_inverted else pixels)
    colours = 4 if image.mode == "CMYK" else 3
    if deep is None:
        return _upper_bits(image, colours, scale, value_range, visible)
    values = deep[..., :colours]
    found = _range_of(_chosen(values, visible), 1.0, scale, value_range)
    if found == scale.whole and scale.unit == 1:
        return image
    pixels = _to_8_bits(values, *found)
    return Image.fromarray(pixels, "CMYK") if colours == 4 else Image.fromarray(pixels)


def _chosen(values: np.ndarray, visible: np.ndarray | None) -> np.ndarray:
    return values if visible is None else values[visible]


def _upper_bits(
    image: Image.Image,
    colours: int,
    scale: Scale,
    value_range: str | Range,
    visible: np.ndarray | None,
) -> Image.Image:
    """Return the upper 8 bits of 16-bit colour as Pillow reads them; refuse if more are needed."""
    # Pillow scales a PPM so that the largest value that it states is white.
    is_scaled = scale.unit != 1
    needs_lower = value_range == "dtype" if is_scaled else value_range == "auto" and scale.stated
    if isinstance(value_range, tuple) or needs_lower:
        raise _too_late()
    if value_range == "auto" and not is_scaled:
        values = _chosen(np.asarray(image)[..., :colours], visible)
        if values.size:
            least, largest = int(values.min()), int(values.max())
            _refuse_narrow(least << 8, (largest << 8) + 255 * (largest > 0), scale)
    return image


def _too_late() -> PreprocessingError:
    return PreprocessingError(
        "The image has more than 8 bits a channel, and Pillow has kept only 8, so headstrip cannot "
        "apply a value range. Pass the path or the bytes of a PNG, PPM or TIFF file (interleaved, "
        "alpha not premultiplied), or convert the image to 8-bit RGB."
    )


def _values_of(image: Image.Image, scale: Scale) -> np.ndarray:
    values: np.ndarray = np.asarray(image)
    if values.dtype == np.int32 and scale.whole is not None and scale.whole[1] >= 1 << 31:
        # Pillow has no mode for unsigned values of 32 bits.
        values = values.view(np.uint32)
    if values.dtype == np.uint8:
        # Pillow has no mode for signed values of 8 bits either.
        values = values.view(np.int8)
    return values


def _range_of(values: np.ndarray, unit: float, scale: Scale, value_range: str | Range) -> Range:
    """Return which values become 0 and 255.

    Args:
        values: The values of all pixels that are not fully transparent.
        unit: The factor by which the file's values were multiplied.
        scale: The meaning of the file's values.
        value_range: The setting.

    Raises:
        PreprocessingError: Neither the file nor the setting determines the range.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise PreprocessingError(
            "The image has pixels that are not finite numbers. Replace them and save it again."
        )
    if isinstance(value_range, tuple):
        return value_range
    is_32_bits = scale.whole is not None and scale.whole[1] >= (1 << 31) - 1
    # No image uses all 32 bits, so headstrip takes their range from the values here too.
    if value_range == "dtype" and scale.whole is not None and not is_32_bits:
        return scale.whole
    if not values.size:
        # All pixels are fully transparent.
        return scale.whole or (0, 1)
    least, largest = (float(bound) / unit for bound in (values.min(), values.max()))
    if scale.stated is not None and value_range == "auto":
        black, white = scale.stated
        if least < black or largest > white:
            raise PreprocessingError(
                f"The image states that its values are {_text(black)} to {_text(white)}, but they "
                f"are {_text(least)} to {_text(largest)}. {_advice(least, largest)}"
            )
        return scale.stated
    if scale.whole is None:
        raise PreprocessingError(
            "The image has pixels of mode 'F', whose range is not known. Their values are "
            f"{_text(least)} to {_text(largest)}. {_advice(least, largest, is_integer=False)}"
        )
    whole = scale.whole
    if is_32_bits and least >= 0 and largest < 1 << 16:
        # Files of 32 bits often hold 16-bit values.
        whole = (0, (1 << 16) - 1)
    _refuse_narrow(least, largest, scale, whole)
    return whole


def _refuse_narrow(least: float, largest: float, scale: Scale, whole: Range | None = None) -> None:
    """Refuse values that use so little of their type's range that another range is likely.

    Raises:
        PreprocessingError: The values use less than a quarter of the range, or the type is signed
            and no value is negative.
    """
    black, white = whole or scale.whole or (0, 1)
    quarter = (white - black) / _SHARE
    # An image of one value is fine if it is black or light: black is black in any range.
    is_plain = least == largest and black == 0 and (largest == 0 or largest >= quarter)
    if not is_plain and (largest - least < quarter or black < 0 <= least):
        kind, is_32_bits = scale.kind, white >= (1 << 31) - 1
        if is_32_bits:
            kind = f"mode 'I', which are not all within 0 and 65535 ({kind}),"
        raise PreprocessingError(
            f"The image has pixels of {kind} with values from {_text(least)} to "
            f"{_text(largest)}, which use too little of the range {_text(black)} to {_text(white)} "
            f"to say which of them are black and white. "
            f"{_advice(least, largest, offers_dtype=not is_32_bits)}"
        )


def _advice(
    least: float, largest: float, *, is_integer: bool = True, offers_dtype: bool = True
) -> str:
    """Say how to pass the values of black and white, with an example that fits the image."""
    if is_integer and least >= 0:
        black, white = 0.0, float((1 << max(1, int(largest).bit_length())) - 1)
    else:
        black, white = least, largest
    if black >= white:
        white = black + 1
    whole = ""
    if is_integer and offers_dtype:
        whole = ', or value_range="dtype" (--value-range dtype) for the whole range'
    return (
        f"Pass the values of black and white, such as value_range=({_text(black)}, {_text(white)}) "
        f"(--value-range {_text(black)},{_text(white)}){whole}."
    )


def _text(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:.6g}"


def _to_8_bits(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Scale values so that ``black`` becomes 0 and ``white`` 255; round, and clip all others."""
    pixels = np.empty(values.shape, np.uint8)
    rows = max(1, _VALUES_AT_ONCE // max(1, values[:1].size))
    for start in range(0, len(values), rows):
        part = values[start : start + rows].astype(np.float64)
        scaled = np.rint((part - black) * 255 / (white - black))
        pixels[start : start + rows] = np.clip(scaled, 0, 255)
    return pixels
