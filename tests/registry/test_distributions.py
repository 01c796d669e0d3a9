"""Differences between the versions that wrote two manifests."""

from __future__ import annotations

from headstrip.registry.distributions import versions_changed

VERSIONS = {"headstrip": "1.0", "headstrip-timm": "1.0", "timm": "1.0.31", "torch": "2.10.0"}


def test_equal_versions_in_another_order_are_no_change() -> None:
    many = {f"library-{number}": "1.0" for number in range(9)}
    there, here = {**VERSIONS, **many}, {**dict(reversed(many.items())), **VERSIONS}
    assert versions_changed({"versions": there}, {"versions": here}) == ""


def test_the_message_names_only_the_versions_that_differ() -> None:
    many = {f"library-{number}": "1.0" for number in range(9)}
    there, here = {**many, "zlib": "1"}, {**many, "zlib": "2"}
    assert versions_changed({"versions": there}, {"versions": here}) == (
        " The file was written with zlib 1, and zlib 2 is installed here."
    )


def test_a_version_that_only_one_manifest_states_is_no_change() -> None:
    assert versions_changed({"versions": {"timm": "1.0"}}, {"versions": {}}) == ""
    there = {"versions": {"headstrip": "1.0"}}
    assert versions_changed(there, {"versions": {"headstrip": "1.0", "timm": "1.0"}}) == ""
