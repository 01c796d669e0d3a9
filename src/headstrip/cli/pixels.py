"""The options ``--background`` and ``--value-range``, and warnings about pages."""

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
        callback=_parse_background,
        help="Put transparent images on a background of this colour: white, black or a value such "
        "as #ffcc00. keep drops the transparency.  "
        "[default: white]",
    )
    value_range = click.option(
        "--value-range",
        metavar="auto|LOW,HIGH|dtype",
        callback=_parse_range,
        help="Scale images with more than 8 bits per channel from this range, such as 0,4095 for "
        "12 bits. auto uses the range that the file states; dtype uses the whole range of the "
        "file's type.  [default: dtype for other channels, otherwise auto]",
    )
    return background(value_range(function))


def with_pixels(
    encoder: Encoder, background: str | None, value_range: str | tuple[float, float] | None
) -> Encoder:
    """Set the encoder's pixel options; None leaves an option unchanged."""
    options = {"background": background, "value_range": value_range}
    changed: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if changed and encoder.preprocessing is not None:
        encoder.preprocessing = replace(encoder.preprocessing, **changed)
    return encoder


def steps_of(encoder: Encoder) -> Preprocessing:
    """Return an encoder's preprocessing.

    Raises:
        PreprocessingError: The encoder has no preprocessing.
    """
    if encoder.preprocessing is None:
        # This call raises the encoder's own error message.
        encoder.preprocess(None)
    assert encoder.preprocessing is not None
    return encoder.preprocessing


def warn_of_pages(several: Mapping[str, int], count: int, remedy: str = "") -> None:
    """Warn that files have several pages or frames, of which only the first is used.

    Args:
        several: Some of the files, with their numbers of pages.
        count: Number of such files.
        remedy: A sentence that says what to do about it.
    """
    if count:
        named = ", ".join(f"{path}: {pages}" for path, pages in several.items())
        more = ", ..." if count > len(several) else ""
        files = "file has" if count == 1 else "files have"
        warn(
            f"{count} {files} several pages or frames; headstrip used only the first "
            f"({named}{more}). {remedy}".rstrip()
        )


def warn_of_pages_in(images: Iterable[str]) -> None:
    """Warn of the image files that have several pages or frames."""
    from headstrip.embed.pages import count_pages_of

    several = {image: pages for image in images if (pages := count_pages_of(image)) > 1}
    warn_of_pages(several, len(several))


def _parse_background(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> str | None:
    from headstrip.images.preprocessing import parse_background

    return None if text is None else _parse(parse_background, text)


def _parse_range(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> str | tuple[float, float] | None:
    from headstrip.images.preprocessing import parse_value_range

    return None if text is None else _parse(parse_value_range, text)


def _parse(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except PreprocessingError as error:
        raise UsageFailure(str(error)) from error
