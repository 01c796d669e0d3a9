"""Options that say how the pixels of images are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.failures import UsageFailure
from headstrip.cli.output import warn
from headstrip.errors import PreprocessingError

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder
    from headstrip.images.preprocessing import Preprocessing


def pixel_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--background`` and ``--value-range`` to a command."""
    background = click.option(
        "--background",
        metavar="COLOUR",
        callback=_checked_background,
        help="Put transparent images on white, black or #rrggbb; keep drops the transparency.  "
        "[default: white]",
    )
    value_range = click.option(
        "--value-range",
        metavar="auto|LOW,HIGH|dtype",
        callback=_parsed_range,
        help="Name black and white of images with more than 8 bits a channel, such as 0,4095; "
        "dtype is the whole range of their type.  [default: auto, what the file states]",
    )
    return background(value_range(function))


def with_pixels(
    encoder: Encoder, background: str | None, value_range: str | tuple[float, float] | None
) -> Encoder:
    """Have an encoder read pixels as the options say; those that are None change nothing."""
    asked = {"background": background, "value_range": value_range}
    changed: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if changed and encoder.preprocessing is not None:
        encoder.preprocessing = replace(encoder.preprocessing, **changed)
    return encoder


def steps_of(encoder: Encoder) -> Preprocessing:
    """Return what an encoder does to an image.

    Raises:
        PreprocessingError: It has no preprocessing.
    """
    if encoder.preprocessing is None:
        # Asking for it raises the encoder's own sentence.
        encoder.preprocess(None)
    assert encoder.preprocessing is not None
    return encoder.preprocessing


def warn_of_pages(several: Mapping[str, int], count: int, remedy: str = "") -> None:
    """Say on stderr that files have more pages or frames than the one that is used.

    Args:
        several: Some of them, with their numbers of pages.
        count: How many there are.
        remedy: What to do about it.
    """
    if count:
        named = ", ".join(f"{path}: {pages}" for path, pages in several.items())
        more = ", ..." if count > len(several) else ""
        files = "file has" if count == 1 else "files have"
        warn(
            f"{count} {files} several pages or frames, and only the first is used "
            f"({named}{more}). {remedy}".rstrip()
        )


def warn_of_pages_in(images: Iterable[str]) -> None:
    """Say on stderr which of some image files have more than one page or frame."""
    from headstrip.embed.pages import count_pages_of

    several = {image: pages for image in images if (pages := count_pages_of(image)) > 1}
    warn_of_pages(several, len(several))


def _checked_background(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> str | None:
    from headstrip.images.preprocessing import parse_background

    return None if text is None else _told(parse_background, text)


def _parsed_range(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> str | tuple[float, float] | None:
    from headstrip.images.preprocessing import parse_value_range

    return None if text is None else _told(parse_value_range, text)


def _told(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except PreprocessingError as error:
        raise UsageFailure(str(error)) from error
