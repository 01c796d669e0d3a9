"""How the rows of a file were computed: stored in the file, and compared before it is updated."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from headstrip._version import __version__
from headstrip.embed.engines.registry import engine_versions
from headstrip.embed.settings import AUTO, EmbedSettings
from headstrip.embed.sources import Source
from headstrip.encoder.fingerprint import environment
from headstrip.errors import HeadstripError, PluginError
from headstrip.registry.distributions import versions_changed

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder


@dataclass(frozen=True, slots=True)
class Provenance:
    """How the rows of one file are computed; the metadata store it under ``plan``.

    Attributes:
        encoder: The encoder's manifest, or the fields of one for an encoder that was not built by
            name.
        settings: How the embeddings are computed and stored.
        environment: Versions of libraries and of the engine, and the machine; the last bits may
            differ with them.
    """

    encoder: dict[str, Any]
    settings: EmbedSettings
    environment: dict[str, str]

    @classmethod
    def of(cls, encoder: Encoder, settings: EmbedSettings) -> Provenance:
        """Describe what this machine computes with an encoder.

        Raises:
            ValueError: No installed engine has the name in the settings.
        """
        here = {
            **environment(),
            "headstrip": __version__,
            "processor": _processor(),
            "device": str(encoder.place()[0].type),
        }
        return cls(describe_encoder(encoder), settings, here).with_settings(settings)

    def with_settings(self, settings: EmbedSettings) -> Provenance:
        """Return a copy with other settings, and with the versions of their engine.

        Raises:
            ValueError: No installed engine has the name in the settings.
        """
        engine = settings.engine
        versions = {} if engine in (None, AUTO) else engine_versions(str(engine))
        return replace(self, settings=settings, environment={**versions, **self.environment})

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Provenance | None:
        """Parse what ``to_json`` returned; return None for anything else."""
        try:
            # Earlier versions had more settings; one that is None had no effect.
            used = {name: value for name, value in data["settings"].items() if value is not None}
            settings = EmbedSettings(**used)
            return cls(dict(data["encoder"]), settings, dict(data["environment"]))
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def conflicts(self, earlier: Provenance) -> list[str]:
        """Name each difference that forbids rows of both in one file."""
        return encoder_differences(earlier.encoder, self.encoder) + self.settings.conflicts(
            earlier.settings
        )

    def changes(self, earlier: Provenance) -> list[str]:
        """Name each difference of versions and machine."""
        return [
            f"{key} was {earlier.environment.get(key)!r} and is {self.environment.get(key)!r}"
            for key in sorted({*self.environment, *earlier.environment})
            if self.environment.get(key) != earlier.environment.get(key)
        ]

    def check_compatible(self, earlier: Provenance, out: str) -> None:
        """Refuse to add rows to those of another encoder, or of other settings.

        Args:
            earlier: How the existing rows were computed.
            out: The file, as the message names it.

        Raises:
            HeadstripError: The encoder differs, or the caller requests another setting.
        """
        conflicts = self.conflicts(earlier)
        if not conflicts:
            return
        is_other = self.encoder.get("identity") != earlier.encoder.get("identity")
        versions = versions_changed(earlier.encoder, self.encoder) if is_other else ""
        raise HeadstripError(
            f"{out!r} has rows of another encoder or other settings: {'; '.join(conflicts)}."
            f"{versions} Pass another file, or replace this one with --overwrite (overwrite=True)."
        )


def describe_encoder(encoder: Encoder) -> dict[str, Any]:
    """Return the encoder's manifest, or those fields of one that an encoder without a name has."""
    from headstrip.encoder.manifest import embedding_manifest

    try:
        return embedding_manifest(encoder)
    except PluginError:
        fingerprint = encoder.fingerprint
        return {
            "name": fingerprint.name,
            "identity": fingerprint.identity,
            "dtype": fingerprint.dtype,
            "weights": {"tag": fingerprint.weights, "sha256": fingerprint.weights_sha256},
            "preprocessing": encoder.preprocessing and encoder.preprocessing.to_json(),
        }


def encoder_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Name each difference of two encoders whose embeddings must not be mixed.

    Args:
        there: The encoder of a file, as ``describe_encoder`` returned it.
        here: Another encoder.
    """
    if there.get("identity") == here.get("identity"):
        return []
    then, now = _facts(there), _facts(here)
    named = [
        f"{key} is {_short(then[key])} in the file and {_short(now[key])} here"
        for key in now
        # Earlier files do not state the options.
        if then[key] != now[key] and not (key == "options" and then[key] is None)
    ]
    return named or ["the values of the parameters differ"]


def _facts(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two encoders are compared by."""
    weights = encoder.get("weights")
    weights = weights if isinstance(weights, Mapping) else {}
    return {
        # The name in a manifest ends with the tag.
        "name": str(encoder.get("name")).removesuffix(f".{weights.get('tag')}"),
        **{key: encoder.get(key) for key in ("options", "preprocessing", "dtype")},
        **{f"weights.{key}": weights.get(key) for key in ("tag", "sha256")},
    }


def source_id(source: Source) -> str:
    """Return an identifier of a source, made from its description."""
    text = json.dumps(source.describe(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def metadata_for(provenance: Provenance, source: str, listing: str | None) -> dict[str, Any]:
    """Return the metadata of a file.

    Args:
        provenance: How its rows are computed.
        source: The identifier of the source.
        listing: The digest of the listing; None for an iterable.
    """
    encoder: Mapping[str, Any] = provenance.encoder
    return {
        "headstrip": provenance.environment["headstrip"],
        "manifest": encoder,
        "preprocessing": encoder.get("preprocessing"),
        "plan": provenance.to_json(),
        "source": source,
        "listing": listing,
    }


@cache
def _processor() -> str:
    """Return the name of the processor, as far as the system states it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        models = []
    return f"{platform.machine()} {models[0] if models else platform.processor()}".strip()


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=repr)
    return text if len(text) <= 160 else f"{text[:157]}..."
