"""Everything headstrip raises on purpose.

HeadstripError
├── UnknownBackboneError (ValueError)      the name is nobody's
├── HeadNotFoundError (ValueError)         the network is not shaped as its family says
├── PreprocessingError (ValueError)        an input or a size that the preprocessing cannot serve
├── OptionError (ValueError)               an option that means nothing, or is beyond this machine
├── WeightsError (RuntimeError)            a weights file that is missing, damaged or another's
├── ManifestError (ValueError)             a manifest that is none, or describes another encoder
├── PluginError (RuntimeError)             a plugin broke its contract
├── CatalogError (RuntimeError)            a catalog file that cannot be read
│   └── CatalogMismatchError               the catalog claims what the build does not show
└── ImageError (RuntimeError)              one image that cannot be read

HeadstripWarning (UserWarning)
├── CatalogMismatchWarning                 the same claim outside ``strict=True``
└── WeightsWarning                         weights that may not be what the user takes them for

A message says what was asked, what was found and what to do. It is one printable line, whatever
file names, labels or errors of other libraries are quoted in it.
"""

from __future__ import annotations

from headstrip.printable import printable


def one_line(error: BaseException) -> str:
    """Return what an error says in one line, or its kind where it says nothing."""
    return printable(" ".join(str(error).split())) or type(error).__name__


class HeadstripError(Exception):
    """The root of all errors that headstrip raises on purpose."""

    def __init__(self, *args: object) -> None:
        super().__init__(*map(_shown, args))


class UnknownBackboneError(HeadstripError, ValueError):
    """A name that no catalog and no plugin knows."""


class HeadNotFoundError(HeadstripError, ValueError):
    """A network without the head that its family promises."""


class PreprocessingError(HeadstripError, ValueError):
    """An input, or an input size, that the preprocessing cannot serve."""


class OptionError(HeadstripError, ValueError):
    """An option, or an argument, with a value that means nothing or is beyond this machine."""


class WeightsError(HeadstripError, RuntimeError):
    """A weights file that is missing, damaged, or made for another network."""


class ManifestError(HeadstripError, ValueError):
    """A manifest that cannot be read, or whose encoder is not the one that can be built here."""


class PluginError(HeadstripError, RuntimeError):
    """A plugin that could not be loaded or broke the contract of a hook."""


class CatalogError(HeadstripError, RuntimeError):
    """A catalog file that cannot be read."""


class CatalogMismatchError(CatalogError):
    """A catalog row that claims another width than the built network has."""


class HeadstripWarning(UserWarning):
    """The root of all warnings that headstrip issues."""

    def __init__(self, *args: object) -> None:
        super().__init__(*map(_shown, args))


class CatalogMismatchWarning(HeadstripWarning):
    """A catalog row that claims another width than the built network has."""


class WeightsWarning(HeadstripWarning):
    """Weights that may not be what the user takes them for."""


class ImageError(HeadstripError, RuntimeError):
    """One image that cannot be read."""


def _shown(argument: object) -> object:
    """Make an argument of an error printable: it is shown by the terminal that runs the program."""
    return printable(argument) if isinstance(argument, str) else argument
