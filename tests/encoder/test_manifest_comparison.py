"""headstrip refuses the manifest of another encoder, with each difference and the remedy."""

from __future__ import annotations

from typing import Any

import pytest
from tests.encoder.test_manifest_fields import HASH, MANIFEST, WEIGHTS, without

from headstrip import ManifestError
from headstrip.encoder.manifest import refuse_differences

OTHER = "f" * 64
BY_NAME = "Build by name, and use the manifest of that encoder."
INSTALL = "Install those versions, or pass allow_versions=True (--allow-versions)."
WITH_HASH = "Pass weights=path of the file with that hash."
CHANGED = (
    "The encoder was changed after it was built, for example by training. Save it with "
    "encoder.save(folder), and build it with build_encoder(folder)."
)
FULL = {**MANIFEST, "head": HASH, "frozen": True}


def refusal(
    wanted: dict[str, Any], found: dict[str, Any], allow_versions: bool = False
) -> str | None:
    """Return the message after its constant beginning, or None if nothing differs."""
    try:
        refuse_differences(wanted, found, allow_versions)
    except ManifestError as error:
        return str(error).removeprefix(
            "The encoder built here differs from the manifest of torchvision:tiny.V1: "
        )
    return None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output_dim": 6}, f"output_dim is 5 in the manifest and 6 here. {BY_NAME}"),
        ({"frozen": False}, f"frozen is True in the manifest and False here. {BY_NAME}"),
        (
            {"options": {"depth": 2}},
            f"options.depth is None in the manifest and 2 here. {BY_NAME}",
        ),
        (
            {"output_dim": 6, "identity": OTHER},
            f"output_dim is 5 in the manifest and 6 here; identity is {HASH!r} in the manifest and "
            f"{OTHER!r} here. {BY_NAME}",
        ),
        (
            {"versions": {"torch": "3.0"}},
            f"versions.torch is '2.10' in the manifest and '3.0' here. {INSTALL}",
        ),
        (
            {"versions": {"torch": "3.0"}, "law": "declared"},
            "law is 'exact' in the manifest and 'declared' here; versions.torch is '2.10' in the "
            f"manifest and '3.0' here. {BY_NAME}",
        ),
        ({"head": OTHER}, f"head is {HASH!r} in the manifest and {OTHER!r} here. {CHANGED}"),
        ({"head": None}, f"head is {HASH!r} in the manifest and None here. {CHANGED}"),
        (
            {"identity": OTHER},
            f"identity is {HASH!r} in the manifest and {OTHER!r} here. {CHANGED}",
        ),
        (
            {"head": OTHER, "identity": OTHER},
            f"identity is {HASH!r} in the manifest and {OTHER!r} here; head is {HASH!r} in the "
            f"manifest and {OTHER!r} here. {CHANGED}",
        ),
        (
            {"weights": {**WEIGHTS, "sha256": OTHER}},
            f"weights.sha256 is {HASH!r} in the manifest and {OTHER!r} here. {WITH_HASH}",
        ),
        (
            {"preprocessing": {"resize": 9}},
            f"preprocessing.resize is None in the manifest and 9 here. {BY_NAME}",
        ),
    ],
)
def test_the_error_has_both_values_of_a_difference_and_the_remedy(
    changes: dict[str, Any], words: str
) -> None:
    assert refusal(FULL, {**FULL, **changes}) == words


def test_a_long_value_is_shortened() -> None:
    shown = refusal({**FULL, "options": {"a": "x" * 300}}, {**FULL, "options": {"a": "y" * 300}})
    words = f"options.a is '{'x' * 199} in the manifest and '{'y' * 199} here. {BY_NAME}"
    assert shown == words


@pytest.mark.parametrize(("count", "more"), [(8, ""), (9, "; and 1 more"), (10, "; and 2 more")])
def test_at_most_eight_differences_are_shown(count: int, more: str) -> None:
    found = {**FULL, "options": {f"o{number}": number for number in range(count)}}
    shown = "; ".join(
        f"options.o{number} is None in the manifest and {number} here" for number in range(8)
    )
    assert refusal(FULL, found) == f"{shown}{more}. {BY_NAME}"


@pytest.mark.parametrize(
    ("wanted", "found", "allow_versions"),
    [
        (FULL, FULL, False),
        (FULL, {**FULL, "weights": {**WEIGHTS, "file": "other.pth"}}, False),
        (FULL, {**FULL, "versions": {"torch": "2.10", "python": "3.14"}}, False),
        (FULL, {**FULL, "predictors": [["colour", 3]]}, False),
        (FULL, {**FULL, "versions": {"torch": "3.0"}}, True),
        (MANIFEST, FULL, False),
        (without(FULL, "head"), {**FULL, "head": OTHER}, False),
        (FULL, {**FULL, "of a later version": 7}, False),
    ],
)
def test_differences_that_change_no_embedding_are_accepted(
    wanted: dict[str, Any], found: dict[str, Any], allow_versions: bool
) -> None:
    assert refusal(wanted, found, allow_versions) is None


def test_allowing_other_versions_hides_no_other_difference() -> None:
    found = {**FULL, "versions": {"torch": "3.0"}, "identity": OTHER}
    words = f"identity is {HASH!r} in the manifest and {OTHER!r} here. {CHANGED}"
    assert refusal(FULL, found, allow_versions=True) == words


@pytest.mark.parametrize(
    ("file", "versions", "words"),
    [
        ("mine.pth", {"headstrip-timm": "1.0"}, WITH_HASH),
        (None, {}, WITH_HASH),
        (
            None,
            {"headstrip-timm": "1.0"},
            f"{WITH_HASH} The manifest was written with headstrip-timm 1.0.",
        ),
    ],
)
def test_the_error_for_changed_published_weights_has_the_plugins_version(
    file: str | None, versions: dict[str, str], words: str
) -> None:
    wanted = {**FULL, "weights": {**WEIGHTS, "file": file}, "versions": versions}
    found = {**wanted, "weights": {"tag": "V1", "sha256": OTHER, "file": None}}
    shown = refusal(wanted, found)
    assert shown is not None
    assert shown.endswith(f" here. {words}")
