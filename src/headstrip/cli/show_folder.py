"""``headstrip show`` for a folder that ``encoder.save`` wrote. This module imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstrip.cli.facts import Fact, in_words, print_facts
from headstrip.cli.fit_report import print_report
from headstrip.cli.output import print_json, print_line
from headstrip.encoder.attribute import Attribute
from headstrip.encoder.saved_folder import SavedFolder, predictors_in, read_folder
from headstrip.errors import HeadstripError, PreprocessingError, one_line
from headstrip.images.preprocessing import Preprocessing
from headstrip.registry.catalog import format_shape

_SHOWN = 12
_MEGABYTE = 1_000_000


def show_folder(name: str, as_json: bool) -> None:
    """Print the content of a folder.

    Raises:
        ManifestError: The folder is damaged.
    """
    saved = read_folder(name)
    stated = {} if saved.predictors is None else predictors_in(saved)
    if as_json:
        print_json({**saved.to_json(), "predictors": stated or None})
        return
    try:
        facts, attributes = (
            _facts(saved),
            [Attribute(**one) for one in stated.get("attributes", ())],
        )
        report = {**stated.get("report", {})}
    except (KeyError, TypeError, ValueError, AttributeError, PreprocessingError) as error:
        raise HeadstripError(
            f"The folder {saved.shown} is damaged: {one_line(error, 200)}. Get the whole folder "
            "again, or save the encoder again."
        ) from error
    print_facts(name, facts)
    for one in attributes:
        print_line(f"  {one.name} ({one.kind}){few(': ', one.classes)}")
    if "attributes" in report:
        print_line("")
        print_measures(saved.shown, attributes, report)


def print_measures(shown: str, attributes: list[Attribute], report: Mapping[str, Any]) -> None:
    """Print the settings with which predictors were fitted, and their measures.

    Raises:
        HeadstripError: headstrip did not write the report.
    """
    try:
        by_name = report["attributes"]
        ordered = {one.name: by_name[one.name] for one in attributes}
        print_report({**report, "attributes": ordered})
    except (AttributeError, KeyError, TypeError) as error:
        raise HeadstripError(
            f"{shown} has a report that headstrip cannot print. Fit the predictors again."
        ) from error


def _facts(saved: SavedFolder) -> list[Fact]:
    manifest = saved.manifest
    steps, inputs = manifest["preprocessing"], manifest.get("inputs")
    weights = manifest["weights"]
    versions = {**manifest["versions"], "headstrip": saved.headstrip}
    shape = format_shape(manifest["input_shape"])
    given = ", ".join(f"{key}={value!r}" for key, value in (inputs or {}).items())
    return [
        ("encoder", str(manifest["name"])),
        ("width", str(manifest["output_dim"])),
        ("input", f"{shape} ({given})" if given else shape),
        ("dtype", str(manifest["dtype"])),
        ("law", str(manifest["law"])),
        ("preprocessing", in_words(Preprocessing.from_json(steps)) if steps else "none"),
        ("labels", few(f"{len(saved.labels)}: ", saved.labels) if saved.labels else "none"),
        ("weights", _weights(saved.weights, weights)),
        ("predictors", "none" if saved.predictors is None else saved.predictors.name),
        ("frozen", "yes" if manifest.get("frozen") else "no"),
        ("fingerprint", str(manifest["identity"])),
        ("written with", ", ".join(f"{name} {one}" for name, one in versions.items())),
    ]


def _weights(file: Path | None, stated: Mapping[str, Any]) -> str:
    if file is None:
        return f"not in the folder: {stated['tag']} of the catalog"
    begun = f", built from {stated['file'] or stated['tag']}" if stated["sha256"] else ""
    return f"{file.name} ({file.stat().st_size / _MEGABYTE:.1f} MB{begun})"


def few(before: str, names: tuple[str, ...]) -> str:
    """List some names; return an empty text if the list is empty."""
    if not names:
        return ""
    more = len(names) - _SHOWN
    return f"{before}{', '.join(names[:_SHOWN])}{f' and {more} more' if more > 0 else ''}"
