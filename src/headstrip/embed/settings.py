"""What callers of a run may choose: settings that change embeddings, and options that do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from headstrip.encoder.map_choice import as_integers
from headstrip.errors import OptionError
from headstrip.system.arguments import check_type

DECODE_MODES = ("exact", "fast")
DTYPES = ("float32", "float16")
AUTO = "auto"
"""The engine, or the precision, that measures fastest within the tolerance."""

ENGINE_OF_MAPS = "torch"
"""The engine that gives maps. The others convert a network that gives embeddings only."""

_PRECISIONS = ("fp32", "bf16", AUTO)


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    """How embeddings are computed and stored. Their bits depend on these; None leaves one open.

    Attributes:
        engine: What runs the network: the name of an engine, or "auto". Runs check the name,
            because files name engines of plugins that are not installed everywhere.
        precision: "fp32", "bf16" or "auto".
        batch_size: Images that go through the network at once.
        threads: CPU threads for each batch.
        channels_last: Whether the network computes in the channels-last memory format.
        decode_mode: Decode mode. "exact" decodes and resizes as the preprocessing declares; "fast"
            decodes large JPEGs at a fraction of their size.
        dtype: Dtype of the stored embeddings: "float32" or "float16".
        shard_rows: Rows of a shard: at most so many rows are computed again after a run stopped.
        maps: Levels whose feature maps are stored too, such as ``[-1]`` for the last.
        tokens: Whether the tokens of the last level are stored too.
        maps_dtype: Dtype of the stored maps and tokens: "float16" or "float32".

    Example:
        >>> EmbedSettings(batch_size=32, dtype="float16").dtype
        'float16'
    """

    engine: str | None = None
    precision: str | None = None
    batch_size: int | None = None
    threads: int | None = None
    channels_last: bool | None = None
    decode_mode: str | None = None
    dtype: str | None = None
    shard_rows: int | None = None
    maps: Sequence[int] | None = None
    tokens: bool | None = None
    maps_dtype: str | None = None

    def __post_init__(self) -> None:
        """Check each value.

        Raises:
            ValueError: A number is not an integer of 1 or more, or another value is not valid.
        """
        if self.maps is not None:
            object.__setattr__(self, "maps", _as_levels(self.maps))
        _check_choice("tokens", self.tokens, (None, True, False))
        _check_choice("maps_dtype", self.maps_dtype, (None, *DTYPES))
        for name in ("batch_size", "threads", "shard_rows"):
            _check_integer(name, getattr(self, name), 1)
        _check_choice("channels_last", self.channels_last, (None, True, False))
        _check_choice("decode_mode", self.decode_mode, (None, *DECODE_MODES))
        _check_choice("dtype", self.dtype, (None, *DTYPES))
        _check_choice("precision", self.precision, (None, *_PRECISIONS))

    @property
    def has_maps(self) -> bool:
        """Whether maps or tokens are stored too."""
        return bool(self.maps or self.tokens)

    def check_engine_of_maps(self) -> None:
        """Refuse an engine that gives embeddings only, if maps or tokens are stored too.

        Raises:
            OptionError: It is such an engine.
        """
        if self.has_maps and self.engine not in (None, AUTO, ENGINE_OF_MAPS):
            raise OptionError(
                f"The engine {self.engine!r} gives embeddings only, and {ENGINE_OF_MAPS!r} also "
                "gives feature maps and tokens: leave out --engine (engine=)."
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, without those that are None or have no effect."""
        found = {name: value for name, value in self._values().items() if value is not None}
        if not self.tokens:
            found.pop("tokens", None)
        if not self.has_maps:
            found.pop("maps_dtype", None)
        return found

    def over(self, other: EmbedSettings) -> EmbedSettings:
        """Return these settings, with the other's where these are None or "auto"."""
        mine, others = asdict(self), asdict(other)
        chosen = {
            name: others[name] if value in (None, AUTO) and others[name] is not None else value
            for name, value in mine.items()
        }
        return EmbedSettings(**chosen)

    def conflicts(self, found: EmbedSettings) -> list[str]:
        """Name each setting that is requested here and has another value in ``found``."""
        conflicts = []
        for name, asked in self._values().items():
            theirs = found._values()[name]
            # Files without tokens do not say so.
            if asked not in (None, AUTO) and asked != theirs and (asked or theirs):
                conflicts.append(f"{name} is {theirs!r} in the file and {asked!r} is requested")
        return conflicts

    def _values(self) -> dict[str, Any]:
        return {**asdict(self), "maps": [*self.maps] if self.maps else None}


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """What else a run does; no bit of an embedding depends on these.

    Attributes:
        workers: Processes that decode; 0 decodes in this process, None starts one per core.
        inference_threads: How many batches are in the network at once, each in its own thread.
            None runs as many as the cores allow.
        overwrite: Whether to replace a file that exists, instead of updating it.
        retry_failed: Whether to try the bad images of an earlier run again.
        checksum: Whether to detect changed files by their bytes, not by size and time.
        exact: Whether to refuse rows that other versions, or another machine, computed.
        max_errors: Bad images after which the run stops; None for any number.
        timeout: Seconds that decoding one image may take.
        pages: "first" embeds the first page of a TIFF or frame of an animation; "all" gives each
            page its own row, named ``a.tif#1``, ``a.tif#2`` and so on.

    Example:
        >>> EmbedOptions(workers=2, max_errors=10).max_errors
        10
    """

    workers: int | None = None
    inference_threads: int | None = None
    overwrite: bool = False
    retry_failed: bool = False
    checksum: bool = False
    exact: bool = False
    max_errors: int | None = None
    timeout: float = 60.0
    pages: str = "first"

    def __post_init__(self) -> None:
        """Check each value.

        Raises:
            ValueError: A number is too small or of another type, or another value is not valid.
        """
        for name, least in (("workers", 0), ("inference_threads", 1), ("max_errors", 0)):
            _check_integer(name, getattr(self, name), least)
        for name in ("overwrite", "retry_failed", "checksum", "exact"):
            _check_choice(name, getattr(self, name), (True, False))
        _check_choice("pages", self.pages, ("first", "all"))
        is_number = isinstance(self.timeout, (int, float)) and not isinstance(self.timeout, bool)
        if not (is_number and 0 < self.timeout < math.inf):
            raise ValueError(
                f"timeout={self.timeout!r} is not a time. Pass a number of seconds above 0."
            )


def settings_and_options(settings: Any, options: Any) -> tuple[EmbedSettings, EmbedOptions]:
    """Return the settings and the options of a call, new ones where they are None.

    Raises:
        OptionError: One is something else, such as a dict.
    """
    advice = "Pass for example EmbedSettings(batch_size=16)."
    check_type("settings", settings, EmbedSettings, advice, optional=True)
    advice = "Pass for example EmbedOptions(workers=4)."
    check_type("options", options, EmbedOptions, advice, optional=True)
    return settings or EmbedSettings(), options or EmbedOptions()


def _as_levels(given: Any) -> tuple[int, ...]:
    """Return the numbers of levels as a tuple, which is compared with that of a file."""
    found = as_integers(given)
    if found is None:
        raise ValueError(
            f"maps={given!r:.100} must be a list of one or more integers. Pass for example "
            "maps=[-1], the last level."
        )
    return tuple(found)


def _check_integer(name: str, value: object, least: int) -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (is_integer and value >= least):  # type: ignore[operator]
        raise ValueError(
            f"{name}={value!r} must be an integer of {least} or more. Pass one, or None."
        )


def _check_choice(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        choices = ", ".join(map(repr, known))
        raise ValueError(f"{name}={value!r} is not a valid value. Pass one of {choices}.")
