"""headstrip reports damaged metadata folders, and they hide no plugin."""

from __future__ import annotations

import shutil

import pytest
from tests.distributions import install_distribution, on_path

from headstrip import UnknownBackboneError
from headstrip.plugins.loader import find_plugins
from headstrip.plugins.metadata_folders import damaged_folders
from headstrip.registry.registry import Registry

MINIMAL = "from headstrip import hookimpl\n@hookimpl\ndef weights(spec):\n    return ()\n"
NAME = "headstrip-acme"


@pytest.fixture
def site(tmp_path):
    with on_path(tmp_path / "site"):
        (tmp_path / "site").mkdir()
        yield tmp_path / "site"


@pytest.fixture
def later(tmp_path):
    """A folder at the end of the path with a complete plugin."""
    with on_path(tmp_path / "later", last=True):
        install(tmp_path / "later")
        yield tmp_path / "later"


def install(site, name=NAME, version="1.0"):
    files = {"acme_net.py": MINIMAL}
    return install_distribution(site, name, {"acme": "acme_net"}, files, version=version)


def found():
    """Return the plugin's record, or None if headstrip does not find the plugin."""
    return {plugin.name: plugin.record for plugin in find_plugins((), ())}.get("acme")


def emptied(site):
    folder = install(site)
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def without_metadata(site):
    folder = install(site)
    (folder / "METADATA").unlink()
    (folder / "entry_points.txt").unlink()
    return folder


def cut(name):
    def cut(site):
        folder = install(site)
        (folder / name).write_bytes(b"")
        return folder

    return cut


def garbled(name):
    def garbled(site):
        folder = install(site)
        (folder / name).write_bytes(b"Name: \xff\n[headstrip]\nno value")
        return folder

    return garbled


def without_entry_points(site):
    folder = install(site)
    (folder / "entry_points.txt").unlink()
    return folder


def a_file(site):
    folder = emptied(site)
    folder.rmdir()
    folder.write_text("")
    return folder


def an_egg(site):
    folder = site / "headstrip_acme.egg-info"
    folder.mkdir()
    return folder


def an_empty_egg_file(site):
    folder = site / "headstrip_acme-1.0.egg-info"
    folder.write_text("")
    return folder


def written(text):
    def written(site):
        folder = install(site)
        (folder / "entry_points.txt").write_text(text)
        return folder

    return written


DAMAGES = [
    (emptied, "is empty"),
    (without_metadata, "has no METADATA that can be read"),
    (cut("METADATA"), "has a damaged METADATA"),
    (garbled("METADATA"), "has a damaged METADATA"),
    (cut("entry_points.txt"), "has an empty entry_points.txt"),
    (garbled("entry_points.txt"), "has a damaged entry_points.txt"),
    (written("[headstrip\nacme = acme_net\n"), "has a damaged entry_points.txt"),
    (written("acme = acme_net\n"), "has a damaged entry_points.txt"),
    (written("[headstrip]\nacme\n"), "has a damaged entry_points.txt"),
    (without_entry_points, "has lost its entry_points.txt"),
    (a_file, "is a file and not a folder"),
    (an_egg, "is empty"),
    (an_empty_egg_file, "is empty or cannot be read"),
]
IDS = [
    f"{at}-{damage.__name__}-{problem.split()[-1]}" for at, (damage, problem) in enumerate(DAMAGES)
]


@pytest.mark.parametrize(("damage", "problem"), DAMAGES, ids=IDS)
def test_a_damaged_folder_is_reported_with_its_remedy(site, damage, problem):
    folder = damage(site)
    (seen,) = damaged_folders()
    assert (seen.path, seen.distribution, seen.problem, seen.hides) == (folder, NAME, problem, None)
    assert seen.remedy.endswith(f"`pip install --force-reinstall --no-deps {NAME}`.")


@pytest.mark.parametrize(("damage", "problem"), DAMAGES, ids=IDS)
def test_a_damaged_folder_hides_no_complete_plugin(site, later, damage, problem):
    folder = damage(site)
    (seen,) = damaged_folders()
    assert (seen.path, seen.problem) == (folder, problem)
    assert seen.hides == later / "headstrip_acme-1.0.dist-info"
    assert seen.remedy == "Remove that folder."
    assert found().status == "found"


@pytest.mark.parametrize("version", ["0.9", "1.1"])
def test_the_complete_one_of_two_folders_in_one_place_is_used(site, version):
    complete = install(site)
    folder = site / f"headstrip_acme-{version}.dist-info"
    folder.mkdir()
    (seen,) = damaged_folders()
    assert (seen.path, seen.hides) == (folder, complete)
    assert (found().status, found().origin) == ("found", f"{NAME} 1.0")


def test_a_distribution_with_any_name_is_found_behind_a_damaged_folder(site, later):
    install(later, name="Acme.Networks")
    shutil.rmtree(later / "headstrip_acme-1.0.dist-info")
    (site / "acme_networks-3.dist-info").mkdir()
    (seen,) = damaged_folders()
    assert seen.distribution == "acme-networks"
    assert found().origin == "Acme.Networks 1.0"


def test_a_damaged_folder_behind_the_complete_one_hides_nothing(site, later):
    install(site, version="2.0")
    shutil.rmtree(later / "headstrip_acme-1.0.dist-info")
    (later / "headstrip_acme-1.0.dist-info").mkdir()
    (seen,) = damaged_folders()
    assert seen.hides is None
    assert found().origin == f"{NAME} 2.0"


def test_a_newer_release_without_the_plugin_hides_the_old_one(site, later):
    install_distribution(site, NAME, {}, {}, version="2.0")
    assert damaged_folders() == []
    assert found() is None


@pytest.mark.parametrize("name", ["~eadstrip_acme", "~-adstrip_acme", "~headstrip_acme"])
@pytest.mark.parametrize("is_emptied", [True, False])
def test_a_folder_left_by_an_interrupted_pip_is_reported_and_not_used(site, name, is_emptied):
    folder = install(site, version="0.9").rename(site / f"{name}-0.9.dist-info")
    if is_emptied:
        shutil.rmtree(folder)
        folder.mkdir()
    (seen,) = damaged_folders()
    assert (seen.path, seen.distribution) == (folder, NAME)
    assert seen.found == f"{folder} was left by an interrupted pip"
    assert found() is None


def test_a_folder_left_by_an_interrupted_pip_does_not_block_the_plugin(site):
    left = install_distribution(site, NAME, {"acme": "acme_old"}, {}, version="0.9")
    left.rename(site / "~eadstrip_acme-0.9.dist-info")
    install(site)
    assert (found().status, found().origin) == ("found", f"{NAME} 1.0")


@pytest.mark.parametrize(
    ("content", "is_named"),
    [
        (b"[headstrip\nmine = mine\n", True),
        (b"[headstrip]\nmin\xe9 = mine\n", True),
        (b"[console_scripts]\nmine = mine:main\n", False),
        (b"[other\nmine = mine\n", False),
    ],
)
def test_a_damaged_distribution_is_reported_if_it_may_have_a_plugin(site, content, is_named):
    folder = install_distribution(site, "mine", {}, {})
    (folder / "entry_points.txt").write_bytes(content)
    assert [one.path for one in damaged_folders()] == ([folder] if is_named else [])


def test_a_folder_that_stops_python_from_reading_entry_points_is_reported(site):
    folder = install_distribution(site, "mine", {}, {})
    (folder / "entry_points.txt").write_bytes(b"[other]\nmin\xe9 = mine\n")
    (seen,) = damaged_folders()
    assert (seen.path, seen.stops_python, seen.may_be_plugin) == (folder, True, False)


def test_damaged_folders_unrelated_to_headstrip_are_not_reported(site):
    info = install_distribution(site, "other", {}, {})
    (info / "entry_points.txt").write_text("[other]\nno value\n")
    (site / "~orch-2.0.dist-info").mkdir()
    (site / "tool-1.0.egg-info").write_text("Metadata-Version: 1.1\nName: tool\n")
    assert damaged_folders() == []


def test_a_folder_that_is_on_the_path_twice_is_reported_once(site, tmp_path):
    emptied(site)
    (tmp_path / "link").symlink_to(site)
    with on_path(tmp_path / "link"):
        assert len(damaged_folders()) == 1


def test_the_error_for_a_missing_source_names_the_damaged_folder(site):
    folder = emptied(site)
    with pytest.raises(UnknownBackboneError) as caught:
        Registry().resolve("acme:net")
    assert f"{folder} is empty. Remove that folder" in str(caught.value)
