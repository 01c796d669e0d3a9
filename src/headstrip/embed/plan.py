"""What the bits of embeddings depend on: chosen once, written down, and kept by whoever goes on."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any

from headstrip.errors import HeadstripError, PluginError
from headstrip.registry.distributions import versions_changed

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

ROUTES = ("exact", "fast")
DTYPES = ("float32", "float16")
AUTO = "auto"
"""The engine, or the precision, that measures fastest within the tolerance."""

_PRECISIONS = ("fp32", "bf16", AUTO)


@dataclass(frozen=True, slots=True)
class EmbedSettings:
    """How embeddings are computed and kept; None where it is not said.

    Attributes:
        engine: What runs the network: the name of an engine, or ``AUTO``. Runs check the name,
            because files name engines of plugins that are not installed everywhere.
        precision: "fp32", "bf16" or ``AUTO``.
        batch_size: Images that go through the network at once.
        threads: Threads of the processor that one batch has.
        channels_last: Whether the network computes with the channels last.
        route: "exact" decodes and resizes as the preprocessing declares; "fast" decodes JPEGs
            at a fraction of their size.
        dtype: What is kept: "float32" or "float16".
        shard_rows: Rows of a shard, the most that is computed again after a run was ended.
    """

    engine: str | None = None
    precision: str | None = None
    batch_size: int | None = None
    threads: int | None = None
    channels_last: bool | None = None
    route: str | None = None
    dtype: str | None = None
    shard_rows: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no embedding can be computed or kept with.

        Raises:
            ValueError: A number is no whole one above zero, or a route or dtype is unknown.
        """
        for name in ("batch_size", "threads", "shard_rows"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{name}={value!r} is no whole number. Pass 1 or more.")
            if value is not None and value < 1:
                what = "makes no batch" if name == "batch_size" else "is below 1"
                raise ValueError(f"{name}={value!r} {what}. Pass 1 or more.")
        if self.channels_last not in (None, True, False):
            raise ValueError(
                f"channels_last={self.channels_last!r} is no truth value. Pass True or False."
            )
        for name, known in (
            ("route", ROUTES), ("dtype", DTYPES), ("precision", _PRECISIONS),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ValueError(f"{name}={value!r} is unknown. Pass one of {', '.join(known)}.")

    def over(self, other: EmbedSettings) -> EmbedSettings:
        """Return these settings, and the other's where these leave it open and it says anything."""
        mine, others = asdict(self), asdict(other)
        return EmbedSettings(**{
            name: others[name] if value in (None, AUTO) and others[name] is not None else value
            for name, value in mine.items()
        })  # fmt: skip

    def against(self, found: EmbedSettings) -> list[str]:
        """Say where these ask for something else than what was found."""
        return [
            f"{field.name} is {getattr(found, field.name)!r} there, and {asked!r} is asked for"
            for field in fields(self)
            if (asked := getattr(self, field.name)) not in (None, AUTO)
            and asked != getattr(found, field.name)
        ]


Settings = EmbedSettings
"""Its short name in this package."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the rows of one file have in common.

    Attributes:
        encoder: The encoder's manifest, or what of it there is for one that was not built by name.
        settings: How they are computed.
        environment: Versions and machine: the last bits may differ with them.
    """

    encoder: dict[str, Any]
    settings: Settings
    environment: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan | None:
        """Read what ``to_json`` gave, or return None where it is something else."""
        try:
            # A setting that an earlier version had, and that was not used, is of no matter.
            said = {name: value for name, value in data["settings"].items() if value is not None}
            settings = Settings(**said)
            return cls(dict(data["encoder"]), settings, dict(data["environment"]))
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def refuses(self, found: Plan) -> list[str]:
        """Say why rows of another plan cannot stand beside this one's, if they cannot."""
        return self._differences(found) + self.settings.against(found.settings)

    def _differences(self, found: Plan) -> list[str]:
        if self.encoder.get("identity") == found.encoder.get("identity"):
            return []
        named = [
            f"{key} is {_short(found.encoder.get(key))} there, and {_short(self.encoder.get(key))} "
            "here"
            for key in ("name", "weights", "options", "preprocessing", "dtype")
            if self.encoder.get(key) != found.encoder.get(key)
        ]
        return named or ["the values of the parameters differ"]

    def changes(self, found: Plan) -> list[str]:
        """Say in what the versions and the machine differ."""
        return [
            f"{key} was {found.environment.get(key)!r} and is {self.environment.get(key)!r}"
            for key in sorted({*self.environment, *found.environment})
            if self.environment.get(key) != found.environment.get(key)
        ]


def encoder_in_plan(encoder: Encoder) -> dict[str, Any]:
    """Write down what an encoder is made of, also where no manifest can be."""
    from headstrip.encoder.manifest import embedding_manifest

    try:
        return embedding_manifest(encoder)
    except PluginError:
        fingerprint = encoder.fingerprint
        return {
            "name": fingerprint.name, "identity": fingerprint.identity, "dtype": fingerprint.dtype,
            "weights": {"tag": fingerprint.weights, "sha256": fingerprint.weights_sha256},
            "preprocessing": encoder.preprocessing and encoder.preprocessing.to_json(),
        }  # fmt: skip


def check_plan(now: Plan, found: Plan, out: str) -> None:
    """Refuse to go on with what was begun otherwise.

    Args:
        now: What this run would be; its settings are what its caller asked for.
        found: What the rows that are there were computed with.
        out: The file, as the message is to name it.

    Raises:
        HeadstripError: The encoder differs, or another setting is asked for.
    """
    differences = now.refuses(found)
    if differences:
        is_other = now.encoder.get("identity") != found.encoder.get("identity")
        versions = versions_changed(found.encoder, now.encoder) if is_other else ""
        raise HeadstripError(
            f"{out!r} has rows that do not go with this run's: {'; '.join(differences)}.{versions} "
            "Name another file, or begin anew with --overwrite (overwrite=True)."
        )


@cache
def machine() -> str:
    """Name the processor, as far as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        models = []
    return f"{platform.machine()} {models[0] if models else platform.processor()}".strip()


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=repr)
    return text if len(text) <= 160 else f"{text[:157]}..."
