"""headstrip reads entry points as Python does, wherever a distribution is installed."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.distributions import install_distribution, on_path

from headstrip.plugins.entry_points import EntryPoint, installed_entry_points
from headstrip.plugins.loader import find_plugins

MINIMAL = """
from headstrip import hookimpl

@hookimpl
def weights(spec):
    return ()
"""

names = st.text("abcXYZ09_.- é", min_size=1).map(str.strip).filter(bool)
values = st.text("abc09_.:[] =#;", min_size=1).map(str.strip).filter(bool)
comments = st.sampled_from(["", "   ", "# a comment = 1", "\t"])
groups = st.sampled_from(["headstrip", "headstrip.commands", "console_scripts", "acme"])


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Path]:
    """A zip archive on the path that contains a complete plugin."""
    site = tmp_path / "site"
    install_distribution(
        site, "acme-networks", {"acme": "acme_net"}, {"acme_net.py": MINIMAL}, version="2.1"
    )
    path = tmp_path / "plugins.zip"
    with zipfile.ZipFile(path, "w") as file:
        for each in site.rglob("*"):
            file.write(each, each.relative_to(site))
    with on_path(path):
        yield path


@given(
    sections=st.lists(
        st.tuples(groups, st.lists(st.tuples(names, values, comments), max_size=4)), max_size=4
    ),
    spaces=st.sampled_from(["", " ", "  "]),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_entry_points_match_those_that_importlib_metadata_reads(
    tmp_path_factory: pytest.TempPathFactory, sections: Any, spaces: str, newline: str
) -> None:
    lines = ["# of a test"]
    for group, points in sections:
        lines.append(f"[{group}]")
        for name, value, comment in points:
            lines += [comment, f"{spaces}{name}{spaces}={spaces}{value}{spaces}"]
    site = tmp_path_factory.mktemp("site")
    folder = install_distribution(site, "acme", {}, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(site)])
        (folder / "entry_points.txt").write_bytes(newline.join(lines).encode())
        read = metadata.Distribution.at(folder).entry_points
        for group in ("headstrip", "headstrip.commands"):
            found = installed_entry_points(group)
            pairs = [(one.name, one.value) for one in found]
            there = [(one.name, one.value) for one in read.select(group=group)]
            assert pairs == list(dict.fromkeys(there))
            assert {(one.distribution, one.site) for one in found} <= {(("acme", "1.0"), site)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("os", "os"),
        ("os:path", "posixpath"),
        ("os : path [extra]", "posixpath"),
        ("os.path", "posixpath"),
        ("collections:abc.Mapping", "Mapping"),
    ],
)
def test_an_entry_point_loads_the_object_that_its_value_names(value: str, expected: str) -> None:
    assert EntryPoint("acme", value).load().__name__ == expected
    assert metadata.EntryPoint("acme", value, "headstrip").load().__name__ == expected


def test_a_plugin_in_a_zip_archive_is_found_and_loaded(archive: Path) -> None:
    [plugin] = [one for one in find_plugins((), ()) if one.name == "acme"]
    assert (plugin.status, plugin.origin) == ("found", "acme-networks 2.1")
    plugin.load()
    assert plugin.record.status == "loaded"
    assert str(archive) in sys.modules["acme_net"].__file__


def test_a_newer_release_in_a_folder_hides_an_older_one_in_an_archive(
    archive: Path, tmp_path: Path
) -> None:
    with on_path(tmp_path / "newer") as site:
        install_distribution(site, "Acme.Networks", {}, {}, version="3.0")
        assert [one for one in find_plugins((), ()) if one.name == "acme"] == []


@pytest.mark.parametrize("broken", ["", "distribution", "hook"])
def test_a_plugin_from_an_import_hook_is_found(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    class Hooked(metadata.Distribution):
        def read_text(self, filename: str) -> str | None:
            if broken == "distribution":
                raise RuntimeError("out of order")
            files = {
                "METADATA": "Name: acme-hooked\nVersion: 4\n",
                "entry_points.txt": "[headstrip]\nacme = acme_net\n",
            }
            return files.get(filename)

        def locate_file(self, path: Any) -> Any:
            return path

    class Hook(metadata.DistributionFinder):
        def find_spec(self, *_: Any) -> None:
            """Leave the modules to the other finders."""

        def find_distributions(self, context: Any = None) -> list[metadata.Distribution]:
            if broken == "hook":
                raise RuntimeError("out of order")
            return [Hooked(), Hooked()]

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Hook()])
    found = {one.name: one.origin for one in find_plugins((), ())}
    assert found.get("acme") == (None if broken else "acme-hooked 4")
