"""headstrip finds weights files without torch, huggingface_hub or a network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.distributions import on_path, run_python
from tests.hub import use_hub
from tests.lab import NET, PACKED, install_lab, named, sha256

from headstrip import WeightsEntry, WeightsError
from headstrip.registry.registry import get_registry, use_registry
from headstrip.weights.caches import Caches, WeightsLocation
from headstrip.weights.checking import check_weights, status
from headstrip.weights.locating import locate
from headstrip.weights.removing import removable, remove

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
COMMIT = "c0ffee" * 6 + "c0ff"


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the hub's empty cache, and set headstrip's."""
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "headstrip"))
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture(autouse=True)
def entries(tmp_path: Path) -> Iterator[dict[str, WeightsEntry]]:
    """The weights entries of ``lab:net`` by their tags."""
    (tmp_path / "site").mkdir()
    with on_path(tmp_path / "site") as site:
        install_lab(site, "https://example.org/models")
        use_registry(None)
        spec, _ = get_registry().resolve("lab:net")
        yield {entry.tag: entry for entry in get_registry().listed_weights(spec)}
        use_registry(None)


def in_hub(cache: Path, repository: str, files: dict[str, bytes]) -> Path:
    """Write a repository as the hub's cache stores it, and return the folder of its revision."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    for each in (folder / "blobs", folder / "refs", snapshot):
        each.mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for name, data in files.items():
        (folder / "blobs" / sha256(data)).write_bytes(data)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(folder / "blobs" / sha256(data), snapshot))
    return snapshot


def find(entry: WeightsEntry) -> WeightsLocation:
    found = Caches().find("lab:net", entry)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "location",
    [
        "https://example.org/models/net.pth",
        "https://example.org/a/net-0676ba61.pth?x=/y.pth",
        "hf:lab/net",
        f"hf:lab/net@{COMMIT}",
        "hf:lab/net@main/model.safetensors",
        "hf:lab/net/folder/other.bin",
        "hf:lab/net@v1",
        "hf:lab/none",
        "hf:lab/old",
        "dist:the-lab/the_lab/net.bin",
        "dist:the-lab/the_lab/none.bin",
        "dist:nobody/net.bin",
        "https://example.org/..",
        "https://example.org/",
        "hf:nothing",
    ],
)
def test_caches_find_the_same_file_as_an_offline_build(
    location: str, hub: Path, hub_cache: Path
) -> None:
    for name in ("net.pth", "net-0676ba61.pth"):
        (hub / name).write_bytes(NET)
    in_hub(hub_cache, "lab/net", {"model.safetensors": NET, "pytorch_model.bin": PACKED})
    in_hub(hub_cache, "lab/old", {"pytorch_model.bin": PACKED})
    entry = WeightsEntry("tag", (location,))
    found = Caches().find("lab:net", entry)
    try:
        path = locate(entry, "lab:net", offline=True)
    except WeightsError:
        assert found is None or not found.is_here
    else:
        assert found is not None
        assert (found.is_here, found.path) == (True, path)


def test_the_file_is_taken_from_the_first_location_that_has_it(
    entries: dict[str, WeightsEntry], hub: Path, hub_cache: Path
) -> None:
    assert find(entries["both"]) == WeightsLocation(
        "lab:net",
        entries["both"],
        "https://example.org/models/both.pth",
        hub / "both.pth",
        "download",
        False,
    )
    (hub / "both.pth").write_bytes(NET)
    assert find(entries["both"]).path == hub / "both.pth"
    snapshot = in_hub(hub_cache, "lab/both", {"model.safetensors": NET})
    assert find(entries["both"]).path == snapshot / "model.safetensors"


def test_weights_that_a_plugin_loads_itself_have_no_file(entries: dict[str, WeightsEntry]) -> None:
    assert Caches().find("lab:net", entries["loaded"]) is None


def test_the_hub_cache_folder_matches_that_of_huggingface_hub(tmp_path: Path) -> None:
    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")
    settings = [{}, *({name: f"~/{name}/$LAB"} for name in names)]
    settings += [dict.fromkeys(names[at:], "/somewhere") for at in range(4)]
    code = f"""
import json, os
from headstrip.weights.folders import hub_folder
def each(folder):
    found = []
    for variables in {settings!r}:
        for name in {names!r}:
            os.environ.pop(name, None)
        os.environ.update(variables, LAB="lab")
        found.append(str(folder()))
    return found
ours = each(hub_folder)
import importlib
from huggingface_hub import constants
print(json.dumps([ours, each(lambda: importlib.reload(constants).HF_HUB_CACHE)]))
"""
    done = run_python("-c", code, HOME=str(tmp_path))
    ours, theirs = json.loads(done.stdout)
    assert ours == theirs
    assert len(set(ours)) >= 6


def test_the_status_changes_when_a_file_is_checked_or_modified(
    entries: dict[str, WeightsEntry], hub: Path
) -> None:
    path = hub / named()
    path.write_bytes(NET)
    os.utime(path, ns=(1, 1))
    states = [status(find(entries["named"])).state]
    check_weights(find(entries["named"]))
    states.append(status(find(entries["named"])).state)
    os.utime(path, ns=(2, 2))
    states.append(status(find(entries["named"])).state)
    assert states == ["not verified", "verified", "changed"]


def test_recorded_bytes_that_differ_from_a_later_catalog_hash_are_wrong(
    entries: dict[str, WeightsEntry], hub: Path
) -> None:
    (hub / "plain.pth").write_bytes(PACKED)
    stored = find(entries["plain"])
    check_weights(stored)
    later = WeightsEntry("plain", stored.entry.locations, sha256=sha256(NET))
    assert status(find(later)).state == "wrong"


@given(data=st.binary(min_size=1, max_size=100), place=st.integers(0), flipped=st.integers(1, 255))
@same_folder
def test_a_check_finds_a_changed_byte_although_size_and_times_are_the_same(
    entries: dict[str, WeightsEntry], hub: Path, data: bytes, place: int, flipped: int
) -> None:
    path = hub / "plain.pth"
    path.write_bytes(data)
    stored = find(entries["plain"])
    remove(stored)
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    assert [one.outcome for one in check_weights(stored)] == ["recorded"]
    after = bytearray(data)
    after[place % len(after)] ^= flipped
    with open(path, "r+b") as file:
        file.write(after)
    os.utime(path, ns=(1, 1))
    assert status(stored).state == "verified"
    (verdict,) = check_weights(stored)
    assert (verdict.outcome, verdict.sha256) == ("wrong", sha256(bytes(after)))
    assert sha256(data) in verdict.problem


def test_a_full_hash_in_the_catalog_takes_precedence_over_a_record(
    entries: dict[str, WeightsEntry], hub: Path
) -> None:
    path = hub / "whole.pth"
    path.write_bytes(NET[::-1])
    os.utime(path, ns=(1, 1))
    without_hash = WeightsEntry("whole", entries["whole"].locations)
    check_weights(find(without_hash))
    with open(path, "r+b") as file:
        file.write(NET)
    os.utime(path, ns=(1, 1))
    assert [one.outcome for one in check_weights(find(entries["whole"]))] == ["ok"]


sets_of_links = st.lists(st.booleans(), min_size=1, max_size=4)


@given(same=sets_of_links)
@same_folder
def test_removing_the_last_link_to_a_hub_file_removes_the_file(
    tmp_path_factory: pytest.TempPathFactory, same: Sequence[bool]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("hf")
        use_hub(patch, "http://127.0.0.1:9", cache)
        snapshot = in_hub(cache, "lab/net", {"model.safetensors": NET, "other.bin": PACKED})
        for at, is_same in enumerate(same):
            folder = snapshot.with_name(f"{at}")
            folder.mkdir()
            target = "model.safetensors" if is_same else "other.bin"
            (folder / "model.safetensors").symlink_to(os.readlink(snapshot / target))
        remove(find(WeightsEntry("hub", ("hf:lab/net/model.safetensors",))))
        blob = snapshot.parents[1] / "blobs" / sha256(NET)
        assert blob.exists() == any(same)
        assert (snapshot / "other.bin").read_bytes() == PACKED


def test_a_download_in_progress_is_not_removed(
    entries: dict[str, WeightsEntry], hub: Path, hub_cache: Path
) -> None:
    snapshot = in_hub(hub_cache, "lab/net", {"model.safetensors": NET})
    partial = snapshot.parents[1] / "blobs" / "0123.incomplete"
    partial.write_bytes(b"half")
    assert partial not in removable(find(entries["hub"]))
    os.utime(partial, (1, 1))
    assert partial in removable(find(entries["hub"]))


def test_removing_a_file_from_a_read_only_folder_gives_a_clear_error(
    entries: dict[str, WeightsEntry], hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hub / named()).write_bytes(NET)
    unlink: Callable[..., None] = os.unlink

    def refuse(path: object, *rest: object, **named: object) -> None:
        if str(path).startswith(str(hub)):
            raise PermissionError(13, "Permission denied")
        unlink(path, *rest, **named)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(WeightsError, match=r"cannot remove .*Check the permissions"):
        remove(find(entries["named"]))
