"""All errors and warnings that headstrip raises on purpose.

HeadstripError
├── UnknownBackboneError (ValueError)      no installed source has a backbone of this name
├── HeadNotFoundError (ValueError)         the network does not have the head of its family
├── PreprocessingError (ValueError)        the preprocessing cannot handle an input or a size
├── OptionError (ValueError)               an option has an invalid value
├── LevelError (ValueError)                the network has no such feature maps or tokens
├── WeightsError (RuntimeError)            a weights file is missing, damaged or does not fit
├── ManifestError (ValueError)             a manifest is damaged or describes another encoder
├── PluginError (RuntimeError)             a plugin cannot be loaded or broke its contract
├── CatalogError (RuntimeError)            a catalog file cannot be read
│   └── CatalogMismatchError               the catalog claims another width than the network has
└── ImageError (RuntimeError)              an image cannot be read

HeadstripWarning (UserWarning)
├── CatalogMismatchWarning                 the same, without ``strict=True``
└── WeightsWarning                         weights may not be what the user expects

A message says what the caller passed, what headstrip found, and what to do. It is one printable
line, even if it quotes file names, labels or errors of other libraries.
"""

from __future__ import annotations

from headstrip.printable import printable


def one_line(error: BaseException, longest: int | None = None) -> str:
    """Return the message of an error on one line, or its type if it has no message.

    Args:
        error: The error.
        longest: The most characters for a message inside another one: a longer text ends after a
            word with ``...``, and the last full stop is left out.
    """
    text = printable(" ".join(str(error).split())) or type(error).__name__
    if longest is None:
        return text
    if len(text) > longest:
        return f"{text[:longest].rpartition(' ')[0] or text[:longest]} ..."
    return text.removesuffix(".")


class HeadstripError(Exception):
    """The base of all errors that headstrip raises on purpose."""

    def __init__(self, *args: object) -> None:
        super().__init__(*map(_printable, args))


class UnknownBackboneError(HeadstripError, ValueError):
    """No installed source has a backbone of this name."""


class HeadNotFoundError(HeadstripError, ValueError):
    """A network does not have the head of its family."""


class PreprocessingError(HeadstripError, ValueError):
    """The preprocessing cannot handle an input, or the network cannot handle its size."""


class OptionError(HeadstripError, ValueError):
    """An option or an argument has a value that is invalid or beyond the limits of this machine."""


class LevelError(HeadstripError, ValueError):
    """An encoder does not have the feature maps, strides or tokens that the caller chose."""


class WeightsError(HeadstripError, RuntimeError):
    """A weights file is missing, damaged, or belongs to another network."""


class ManifestError(HeadstripError, ValueError):
    """A manifest cannot be read, or the encoder that headstrip builds for it differs from it."""


class PluginError(HeadstripError, RuntimeError):
    """A plugin cannot be loaded, or broke the contract of a hook."""


class CatalogError(HeadstripError, RuntimeError):
    """A catalog file cannot be read."""


class CatalogMismatchError(CatalogError):
    """A catalog row claims another width than the network has."""


class HeadstripWarning(UserWarning):
    """The base of all warnings that headstrip issues."""

    def __init__(self, *args: object) -> None:
        super().__init__(*map(_printable, args))


class CatalogMismatchWarning(HeadstripWarning):
    """A catalog row claims another width than the network has."""


class WeightsWarning(HeadstripWarning):
    """Weights may not be what the user expects."""


class ImageError(HeadstripError, RuntimeError):
    """An image cannot be read."""


def _printable(argument: object) -> object:
    """Make an argument of an error safe to print in a terminal."""
    return printable(argument) if isinstance(argument, str) else argument
