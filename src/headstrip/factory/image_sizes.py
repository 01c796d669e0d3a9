"""The image size in the options of a network: its check, and sizes that work instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from headstrip.errors import HeadstripError, OptionError, PreprocessingError
from headstrip.network.head_check import logits_without_memory
from headstrip.spec import BackboneSpec

OPTIONS = {"torchvision": "image_size", "hf": "image_size", "timm": "img_size"}
"""The name of the option that sets the image size, by source."""

_STEP = 32
"""Networks halve their input five times, and most patch sizes divide 32."""

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
        None where the user passed no size, or the network cannot be built at its default size
        either.
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
    similar = [next(filter(fits, _similar(asked, step)), None) for step in (-1, 1)]
    shown = " or ".join(f"{h} x {w}" for h, w in dict.fromkeys(filter(None, similar)))
    # timm and torch have assertions without a message.
    text = " ".join(str(error.__cause__ or error).split())[:200].rstrip(".")
    reason = f" ({text})" if text else ""
    return PreprocessingError(
        f"{spec.qualified_name} does not accept images of {asked[0]} x {asked[1]} pixels{reason}. "
        f"Choose another {option} in the options, such as {shown or f'{height} x {width}'}."
    )


def _sides(value: object) -> tuple[int, int] | None:
    """Return the height and the width that an option sets, None where it is not a size."""
    sides = value if isinstance(value, (tuple, list)) else (value, value)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        return None
    return sides[0], sides[1]


def _similar(asked: tuple[int, int], step: int) -> Iterator[tuple[int, int]]:
    """Yield sizes that most networks accept, the most similar first."""
    height, width = ((side - (step < 0)) // _STEP + (step > 0) for side in asked)
    for more in range(0, step * _MAX_TRIES, step):
        if min(height, width) + more > 0:
            yield (height + more) * _STEP, (width + more) * _STEP
