"""How the rows of a file were computed: stored in the file, and compared before it is updated."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from headstrip._version import __version__
from headstrip.embed.engines.registry import engine_versions
from headstrip.embed.settings import AUTO, EmbedSettings
from headstrip.embed.sources import Source
from headstrip.encoder.comparison import describe_encoder as describe_encoder
from headstrip.encoder.comparison import encoder_differences as encoder_differences
from headstrip.encoder.fingerprint import environment
from headstrip.errors import HeadstripError
from headstrip.registry.distributions import versions_changed

if TYPE_CHECKING:
    from headstrip.embed.dense import DenseColumn
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
            "device": str(encoder.device.type),
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
        return {**asdict(self), "settings": self.settings.to_json()}

    @classmethod
    def from_json(cls, data: Any) -> Provenance | None:
        """Parse what ``to_json`` returned; return None for anything else."""
        try:
            # Earlier versions had more settings, of which None had no effect, and another name.
            used = {name: value for name, value in data["settings"].items() if value is not None}
            if "route" in used:
                used["decode_mode"] = used.pop("route")
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


def source_id(source: Source) -> str:
    """Return an identifier of a source, made from its description."""
    text = json.dumps(source.describe(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def metadata_for(
    provenance: Provenance,
    source: str,
    listing: str | None,
    columns: Sequence[DenseColumn] = (),
) -> dict[str, Any]:
    """Return the metadata of a file.

    Args:
        provenance: How its rows are computed.
        source: The identifier of the source.
        listing: The digest of the listing; None for an iterable.
        columns: Its columns of maps and tokens.
    """
    encoder: Mapping[str, Any] = provenance.encoder
    maps = {"maps": {one.name: one.to_json() for one in columns}} if columns else {}
    return {
        "headstrip": provenance.environment["headstrip"],
        "manifest": encoder,
        "preprocessing": encoder.get("preprocessing"),
        "plan": provenance.to_json(),
        "source": source,
        "listing": listing,
        **maps,
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
