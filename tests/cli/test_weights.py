"""``headstrip weights``: against a server and a hub on 127.0.0.1."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tests.cli.conftest import Run
from tests.cli.terminal import in_terminal
from tests.distributions import run_python
from tests.hub import commit_of, hub_in_use, socket_ban
from tests.lab import NET, PACKED, install_lab, named, sha256
from tests.servers import FaultServer, Reply, fault_server

from headstrip.weights.checking import State
from headstrip.weights.records import recorded

Hub = Callable[..., AbstractContextManager[str]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch hub's folder of weights files, which does not exist yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "headstrip"))
    monkeypatch.setenv("HEADSTRIP_RETRIES", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Run a hub for one test; its cache is the folder ``hub``."""
    return hub_in_use(monkeypatch, tmp_path / "hub")


@pytest.fixture(autouse=True)
def server(site: Path, hub: Hub) -> Iterator[FaultServer]:
    """The server of the weights of ``lab:net``, and an empty hub."""
    with fault_server() as running, hub({}):
        for path in (f"/{named()}", "/plain.pth", "/whole.pth", "/both.pth"):
            running.put(path, NET)
        install_lab(site, running.url)
        yield running


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make the test fail if it opens a socket."""
    return socket_ban(monkeypatch)


def put(path: Path, data: bytes = NET) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def rows(run: Run, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("weights", *arguments, "--json").stdout)
    return found


def listed(run: Run, *arguments: str) -> dict[str, str]:
    """Return the state of each file of ``lab`` by its name."""
    return {row["name"]: row["state"] for row in rows(run, "list", *arguments or ("lab:*",))}


def test_weights_in_a_package_are_listed_and_not_verified(run: Run, site: Path) -> None:
    (row,) = rows(run, "list", "lab:*")
    assert row == {
        "name": "lab:net.packed",
        "kind": "weights",
        "size": len(PACKED),
        "sha256": sha256(PACKED),
        "sha256_source": "the package's RECORD",
        "state": "not verified",
        "when": "",
        "path": str(site / "the_lab" / "net.bin"),
    }


def test_list_prints_one_line_per_file_to_a_pipe_and_the_total_to_stderr(
    run: Run, cache: Path
) -> None:
    put(cache / named())
    result = run("weights", "list", "lab:*")
    first, second = (re.split(r" {2,}", line) for line in result.stdout.splitlines())
    assert first == [
        "lab:net.named",
        "0.0 MB",
        sha256(NET)[:8],
        "the file name",
        "not verified",
        str(cache / named()),
    ]
    assert second[:4] == ["lab:net.packed", "0.0 MB", sha256(PACKED)[:12], "the package's RECORD"]
    assert result.stderr == "2 files, 0.0 MB\n"


def test_the_listed_state_depends_on_size_time_and_record(
    run: Run, cache: Path, offline: Callable[[], None]
) -> None:
    offline()
    right, other = put(cache / named()), put(cache / "whole.pth")
    run("weights", "verify", "lab:net.named", "lab:net.whole")
    assert listed(run) == {
        "lab:net.named": "verified",
        "lab:net.whole": "verified",
        "lab:net.packed": "not verified",
    }
    put(right, b"changed")
    os.utime(other, ns=(5, 5))
    assert listed(run)["lab:net.named"] == listed(run)["lab:net.whole"] == "changed"
    assert (
        run("weights", "list", "lab:net.named")
        .stdout.split("  ")[-2]
        .startswith(f"changed since {time.strftime('%Y', time.gmtime())}")
    )


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("net", {"named", "packed"}),
        ("lab:net", {"named", "packed"}),
        ("*.named", {"named"}),
        ("lab:net.pack*", {"packed"}),
    ],
)
def test_a_pattern_matches_names_with_and_without_source_and_tag(
    run: Run, cache: Path, pattern: str, names: set[str]
) -> None:
    put(cache / named())
    assert {*listed(run, pattern)} == {f"lab:net.{name}" for name in names}


def test_a_pattern_that_matches_no_local_file_is_reported(run: Run, cache: Path) -> None:
    result = run("weights", "list", "lab:net.named")
    assert result.exit_code == 1
    assert result.stderr == (
        f"No weights that match 'lab:net.named' are in {cache}, in "
        f"{cache.parents[2] / 'hub'} or in a package.\n"
    )


@pytest.mark.parametrize("name", ["lab:net.named", "lab:net.[n]*"])
def test_partial_downloads_are_listed_and_removed(run: Run, cache: Path, name: str) -> None:
    put(cache / f"{named()}.0123456789abcdef.partial", b"half")
    os.utime(next(cache.iterdir()), (1, 1))
    (row,) = (row for row in rows(run, "list", "lab:*") if row["kind"] == "partial download")
    assert (row["name"], row["size"], row["state"]) == ("lab:net.named", 4, "partial download")
    assert run("weights", "remove", name, "--yes").exit_code == 0
    assert [*cache.iterdir()] == []


def test_fetch_downloads_and_verifies_a_file_once(
    run: Run, cache: Path, server: FaultServer
) -> None:
    result = run("weights", "fetch", "lab:net")
    assert result.exit_code == 0
    assert result.stdout == (
        f"lab:net.named  fetched  0.0 MB  {sha256(NET)[:12]} (from the file name)  "
        f"{cache / named()}\n"
    )
    assert result.stderr == "Download 1 file (0.0 MB).\n"
    assert (cache / named()).read_bytes() == NET
    assert listed(run)["lab:net.named"] == "verified"
    assert "is here" in run("weights", "fetch", "lab:net").stdout
    assert len(server.asked) == 1


def test_fetch_of_a_pattern_requires_confirmation(
    run: Run, cache: Path, server: FaultServer
) -> None:
    refused = run("weights", "fetch", "lab:net.[nw]*")
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[-1] == (
        "Error: Download 2 files (0.0 MB, 1 of unknown size)? There is no "
        "terminal to ask on: pass --yes."
    )
    assert server.asked == []
    assert run("weights", "fetch", "lab:net.[nw]*", "--yes").exit_code == 0
    assert {path.name for path in cache.iterdir()} == {named(), "whole.pth"}


def test_a_failed_fetch_is_reported_and_the_others_continue(run: Run, server: FaultServer) -> None:
    del server.files[f"/{named()}"]
    result = run("weights", "fetch", "lab:net.named", "lab:net.whole", "--json")
    first, second = json.loads(result.stdout)
    assert result.exit_code == 1
    assert "404" in first["problem"]
    assert (second["name"], second["done"]) == ("lab:net.whole", "fetched")


def test_fetch_reports_a_wrong_file_in_the_cache(run: Run, cache: Path) -> None:
    put(cache / named(), b"something else")
    result = run("weights", "fetch", "lab:net.named")
    assert result.exit_code == 1
    assert f"has the sha256 {sha256(b'something else')}" in result.stderr
    assert "Run `headstrip weights repair lab:net.named`, which downloads" in result.stderr


@pytest.mark.filterwarnings("always::headstrip.WeightsWarning")
def test_fetch_warns_of_plain_http_without_a_hash_unless_it_is_allowed(
    run: Run, cache: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADSTRIP_ALLOW_HTTP")
    server.put("/plain.pth", NET)
    for allowed in ([], ["--allow-http"]):
        result = run("weights", "fetch", "lab:net.plain", *allowed)
        assert result.exit_code == 0
        assert ("over plain http" in result.stderr) is not bool(allowed)
        (cache / "plain.pth").unlink()
    assert "HEADSTRIP_ALLOW_HTTP" not in os.environ


def test_verify_reports_ok_wrong_or_recorded(
    run: Run, cache: Path, site: Path, offline: Callable[[], None]
) -> None:
    offline()
    put(cache / named())
    put(cache / "whole.pth", b"wrong")
    put(cache / "plain.pth")
    result = run("weights", "verify", "lab:net.*")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"lab:net.named  ok  {sha256(NET)[:12]} (from the file name)  {cache / named()}",
        f"lab:net.plain  no expectation, recorded now  {sha256(NET)[:12]}  {cache / 'plain.pth'}",
        f"lab:net.whole  wrong  The file {cache / 'whole.pth'} has the sha256 "
        f"{sha256(b'wrong')}, but the catalog has {sha256(NET)}. Run "
        "`headstrip weights repair lab:net.whole`, which downloads the file again.",
        f"lab:net.packed  ok  {sha256(PACKED)[:12]} (from the package's RECORD)  "
        f"{site / 'the_lab' / 'net.bin'}",
    ]
    put(cache / "plain.pth", b"other bytes")
    again = run("weights", "verify", "lab:net.plain")
    assert again.exit_code == 1
    assert f"but the record of the first use has {sha256(NET)}" in again.stdout


def test_verify_finds_a_change_that_kept_the_size_and_time(run: Run, cache: Path) -> None:
    path = put(cache / "plain.pth")
    run("weights", "verify", "lab:net.plain")
    before = path.stat()
    with open(path, "r+b") as file:
        file.write(b"T")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert listed(run)["lab:net.plain"] == "verified"
    assert run("weights", "verify", "lab:net.plain").exit_code == 1


def test_a_path_is_verified_against_its_entry_in_the_catalogs(
    run: Run, cache: Path, tmp_path: Path
) -> None:
    put(cache / named(), b"wrong")
    own = put(tmp_path / "mine.pth")
    in_cache, mine = rows(run, "verify", str(cache / named()), str(own))
    assert (in_cache["name"], in_cache["outcome"]) == ("lab:net.named", "wrong")
    assert (mine["name"], mine["outcome"]) == (str(own), "recorded")
    assert rows(run, "verify", str(put(own, b"trained on")))[0]["outcome"] == "recorded"


def test_verify_reports_a_missing_file(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "none.pth")
    (row,) = rows(run, "verify", path)
    assert row == {"name": path, "problem": f"There is no file {path!r}. Check the path."}
    result = run("weights", "verify", "lab:net.named")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "`headstrip weights fetch lab:net.named` downloads it." in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--all", "lab:net.named"]], ids=["none", "both"])
def test_verify_requires_either_names_or_all(run: Run, arguments: list[str]) -> None:
    result = run("weights", "verify", *arguments)
    assert result.exit_code == 2
    assert "pass --all alone" in result.stderr


def test_verify_all_covers_every_listed_file(run: Run, cache: Path) -> None:
    put(cache / named())
    verified = {row["name"] for row in rows(run, "verify", "--all")}
    assert {"lab:net.named", "lab:net.packed"} <= verified
    assert verified == {row["name"] for row in rows(run, "list")}


def test_path_prints_where_a_file_is_or_would_be(
    run: Run, cache: Path, offline: Callable[[], None]
) -> None:
    offline()
    missing = run("weights", "path", "lab:net.named")
    assert (missing.exit_code, missing.stdout) == (1, f"{cache / named()}\n")
    assert "`headstrip weights fetch lab:net.named` downloads it" in missing.stderr
    put(cache / named())
    found = run("weights", "path", "lab:net")
    assert (found.exit_code, found.stdout, found.stderr) == (0, f"{cache / named()}\n", "")
    in_hub = run("weights", "path", "lab:net.hub")
    assert (in_hub.exit_code, in_hub.stdout) == (
        1,
        f"{cache.parents[2] / 'hub' / 'models--lab--net'}\n",
    )
    assert "hf download lab/net" in in_hub.stderr
    assert run("weights", "path", "lab:net.both").stdout == f"{cache / 'both.pth'}\n"


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("resnet51", 2, "'resnet51'"),
        ("lab:net.other", 1, "has no weights 'other'. It has"),
        ("lab:net.other", 1, " more (`headstrip show lab:net`); for a file, pass its path"),
        ("lab:net.loaded", 2, "its plugin loads them itself"),
        ("lab:*", 2, "is a pattern"),
    ],
)
def test_a_name_without_a_file_gives_a_clear_error(
    run: Run, name: str, code: int, sentence: str
) -> None:
    result = run("weights", "path", name)
    assert result.exit_code == code
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_remove_requires_confirmation(run: Run, cache: Path) -> None:
    path = put(cache / named())
    refused = run("weights", "remove", "lab:net.named")
    assert refused.exit_code == 2
    assert "There is no terminal to ask on: pass --yes." in refused.stderr
    assert path.is_file()


def test_remove_deletes_the_file_and_its_record(
    run: Run, cache: Path, offline: Callable[[], None]
) -> None:
    offline()
    path = put(cache / named())
    run("weights", "verify", "lab:net.named")
    result = run("weights", "remove", "lab:net.named", "--yes")
    assert (result.exit_code, result.stdout) == (0, "lab:net.named  removed  0.0 MB\n")
    assert not path.exists()
    assert recorded(path) is None
    gone = run("weights", "remove", "lab:net.named", "--yes")
    assert gone.exit_code == 1
    assert "lab:net.named is not on this machine" in gone.stderr


@pytest.mark.parametrize(
    ("tag", "sentence"),
    [("packed", "belongs to the package 'the-lab'"), ("own", "names it by its path")],
)
def test_a_file_outside_the_caches_is_neither_removed_nor_fetched_again(
    run: Run, site: Path, tag: str, sentence: str
) -> None:
    put(site / "own.pth")
    removed = run("weights", "remove", f"lab:net.{tag}", "--yes")
    assert removed.exit_code == 1
    assert sentence in removed.stderr
    path = Path(run("weights", "path", f"lab:net.{tag}").stdout.strip())
    assert path.is_file()
    run("weights", "verify", f"lab:net.{tag}")
    before = path.stat()
    path.write_bytes(b"wrong" + path.read_bytes()[5:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    repaired = run("weights", "repair", f"lab:net.{tag}")
    assert repaired.exit_code == 1
    assert ("pip install --force-reinstall" in repaired.stderr) == (tag == "packed")
    assert path.read_bytes().startswith(b"wrong")


def test_path_says_how_to_restore_a_file_that_its_package_lost(run: Run, site: Path) -> None:
    Path(run("weights", "path", "lab:net.packed").stdout.strip()).unlink()
    lost = run("weights", "path", "lab:net.packed")
    assert lost.exit_code == 1
    assert "Run `pip install --force-reinstall --no-deps the-lab`, which contains" in lost.stderr


def test_repair_fetches_wrong_files_and_leaves_right_ones(
    run: Run, cache: Path, server: FaultServer
) -> None:
    put(cache / named(), b"wrong")
    right = put(cache / "whole.pth")
    before = right.stat()
    result = run("weights", "repair", "lab:net.[nw]*")
    assert result.exit_code == 0
    assert [line.split("  ")[:2] for line in result.stdout.splitlines()] == [
        ["lab:net.named", "fetched again"],
        ["lab:net.whole", "is right"],
    ]
    assert (cache / named()).read_bytes() == NET
    assert (right.stat().st_ino, right.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [asked.path for asked in server.asked] == [f"/{named()}"]
    assert {path.name for path in cache.iterdir()} == {named(), "whole.pth"}
    assert listed(run)["lab:net.named"] == "verified"


def test_repair_refuses_a_folder_at_the_path_of_a_file_before_the_download(
    run: Run, cache: Path, server: FaultServer
) -> None:
    (cache / "plain.pth").mkdir(parents=True)
    result = run("weights", "repair", "lab:net.plain")
    assert result.exit_code == 1
    assert "(plain.pth is a folder there). Remove that folder." in result.stderr
    assert (server.asked, [path.name for path in cache.iterdir()]) == ([], ["plain.pth"])


def test_repair_replaces_a_file_that_changed_since_its_first_use(run: Run, cache: Path) -> None:
    run("weights", "fetch", "lab:net.plain")
    put(cache / "plain.pth", b"wrong")
    assert run("weights", "repair", "lab:net.plain").exit_code == 0
    assert (cache / "plain.pth").read_bytes() == NET
    assert run("weights", "verify", "lab:net.plain").exit_code == 0


@pytest.mark.parametrize(
    "reply",
    [Reply(status=404), Reply(cut=100), Reply(body=b"other bytes")],
    ids=["missing", "cut", "other bytes"],
)
def test_repair_keeps_the_old_file_until_the_new_one_is_right(
    run: Run, cache: Path, server: FaultServer, reply: Reply
) -> None:
    path = put(cache / named(), b"wrong")
    server.usual = reply
    result = run("weights", "repair", "lab:net.named")
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert path.read_bytes() == b"wrong"
    server.usual = Reply()
    assert run("weights", "repair", "lab:net.named").exit_code == 0
    assert path.read_bytes() == NET
    assert [*cache.iterdir()] == [path]


def test_repair_offline_names_the_setting_that_forbids_it(
    run: Run, cache: Path, monkeypatch: pytest.MonkeyPatch, offline: Callable[[], None]
) -> None:
    path = put(cache / named(), b"wrong")
    monkeypatch.setenv("HEADSTRIP_OFFLINE", "1")
    offline()
    result = run("weights", "repair", "lab:net.named")
    assert result.exit_code == 1
    assert "HEADSTRIP_OFFLINE forbids downloads" in result.stderr
    assert path.read_bytes() == b"wrong"


def test_weights_from_a_hub_are_fetched_verified_and_repaired(
    run: Run, hub: Hub, tmp_path: Path
) -> None:
    with hub({"lab/net": {"model.safetensors": NET, "config.json": b"{}"}}):
        assert run("weights", "fetch", "lab:net.hub").exit_code == 0
        path = Path(run("weights", "path", "lab:net.hub").stdout.strip())
        assert path.resolve() == tmp_path / "hub" / "models--lab--net" / "blobs" / sha256(NET)
        assert rows(run, "verify", "lab:net.hub")[0]["sha256_source"] == "the hub"
        path.resolve().write_bytes(b"wrong")
        assert run("weights", "verify", "lab:net.hub").exit_code == 1
        repaired = run("weights", "repair", "lab:net.hub")
        assert repaired.stdout.startswith("lab:net.hub  fetched again")
    assert path.read_bytes() == NET
    assert path.is_symlink()
    assert {one.name for one in (tmp_path / "hub" / "models--lab--net").iterdir()} <= {
        "blobs",
        "refs",
        "snapshots",
        ".no_exist",
    }


def test_repair_keeps_the_old_file_when_the_hub_no_longer_has_it(run: Run, hub: Hub) -> None:
    with hub({"lab/net": {"model.safetensors": NET}}):
        run("weights", "fetch", "lab:net.hub")
    path = Path(run("weights", "path", "lab:net.hub").stdout.strip())
    path.resolve().write_bytes(b"wrong")
    with hub({}):
        result = run("weights", "repair", "lab:net.hub")
    assert result.exit_code == 1
    assert "The old file is unchanged." in result.stderr
    assert path.read_bytes() == b"wrong"


def test_remove_keeps_hub_files_that_another_revision_uses(
    run: Run, hub: Hub, tmp_path: Path, offline: Callable[[], None]
) -> None:
    files = {"model.safetensors": NET}
    with hub({"lab/net": files}):
        run("weights", "fetch", "lab:net.hub")
    repository = tmp_path / "hub" / "models--lab--net"
    first = repository / "snapshots" / commit_of("lab/net", files) / "model.safetensors"
    other = repository / "snapshots" / "c0ffee" / "model.safetensors"
    other.parent.mkdir()
    other.symlink_to(os.readlink(first))
    offline()
    assert run("weights", "remove", "lab:net.hub", "--yes").exit_code == 0
    assert not first.parent.exists()
    assert other.read_bytes() == NET
    assert [*(repository / "refs").iterdir()] == []
    (repository / "refs" / "main").write_text("c0ffee")
    assert run("weights", "remove", "lab:net.hub", "--yes").exit_code == 0
    assert not repository.exists()


def test_a_checkpoint_in_several_files_is_one_set_of_weights(
    run: Run, hub: Hub, tmp_path: Path
) -> None:
    index = json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()
    files = {
        "model.safetensors.index.json": index,
        "one.safetensors": NET,
        "two.safetensors": PACKED,
    }
    with hub({"lab/net": files}):
        run("weights", "fetch", "lab:net.hub")
        (row,) = rows(run, "list", "lab:net.hub")
        assert (row["state"], row["size"]) == ("verified", len(NET) + len(PACKED))
        two = Path(row["path"]).with_name("two.safetensors")
        two.resolve().write_bytes(b"wrong")
        outcomes = [one["outcome"] for one in rows(run, "verify", "lab:net.hub")]
        assert outcomes.count("wrong") == 1
        assert listed(run)["lab:net.hub"] == "changed"
        assert run("weights", "repair", "lab:net.hub").exit_code == 0
    assert two.read_bytes() == PACKED
    assert run("weights", "remove", "lab:net.hub", "--yes").exit_code == 0
    assert not (tmp_path / "hub" / "models--lab--net").exists()


def test_optimize_makes_a_copy_that_is_listed_and_removed_with_its_file(
    run: Run, cache: Path, tmp_path: Path
) -> None:
    torch.save({"a": torch.ones(5)}, tmp_path / "mine.pth")
    put(cache / "plain.pth", (tmp_path / "mine.pth").read_bytes())
    result = run("weights", "optimize", "lab:net.plain")
    (copy,) = (tmp_path / "headstrip" / "optimized").iterdir()
    assert result.stdout == f"lab:net.plain  0.0 MB -> 0.0 MB  {copy}\n"
    (row,) = (row for row in rows(run, "list", "lab:*") if row["kind"] == "optimized copy")
    assert (row["name"], row["state"], row["path"]) == ("lab:net.plain", "verified", str(copy))
    assert run("weights", "remove", "lab:net.plain", "--yes").exit_code == 0
    assert not copy.exists()


def test_the_optimized_copy_of_a_file_of_the_user_is_listed_too(run: Run, tmp_path: Path) -> None:
    own = tmp_path / "mine.pth"
    torch.save({"a": torch.ones(5)}, own)
    assert run("weights", "optimize", str(own)).exit_code == 0
    (row,) = (row for row in rows(run, "list") if row["kind"] == "optimized copy")
    assert row["name"] == f"copy of {sha256(own.read_bytes())[:12]}"


def test_optimize_refuses_a_wrong_file(run: Run, cache: Path, tmp_path: Path) -> None:
    put(cache / named(), b"wrong")
    result = run("weights", "optimize", "lab:net.named")
    assert result.exit_code == 1
    assert "but the file name has" in result.stderr
    assert not (tmp_path / "headstrip" / "optimized").exists()


def test_on_a_terminal_the_table_has_a_header(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(site))
    put(site / "hub" / "checkpoints" / "resnet50-0676ba61.pth")
    shown = in_terminal("--no-plugin", "*", "weights", "list", "resnet50.*", columns=200)
    head, _, row = re.sub(r"\x1b\[[\d;]*m", "", shown).strip().splitlines()[:3]
    assert head.split()[0] == "weights"
    assert row.split()[:4] == ["resnet50.IMAGENET1K_V1", "0.0", "MB", "0676ba61"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["list", "resnet*"],
        ["path", "resnet50"],
        ["--help"],
        ["fetch", "--help"],
        ["verify", "--help"],
        ["remove", "resnet50.IMAGENET1K_V1", "--yes"],
    ],
    ids=" ".join,
)
def test_weights_commands_import_nothing_heavy(arguments: list[str], cache: Path) -> None:
    put(cache / "resnet50-0676ba61.pth")
    heavy = ("torch", "torchvision", "timm", "huggingface_hub", "numpy", "PIL", "rich")
    code = (
        "import sys\nfrom headstrip.cli import main\n"
        f"try: main({['weights', *arguments]!r}, prog_name='headstrip')\n"
        f"except SystemExit: print(*sorted(set({heavy!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = run_python("-c", code)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == ""


@pytest.mark.parametrize("command", ["verify", "optimize"])
def test_a_missing_file_gives_a_clear_error(run: Run, command: str) -> None:
    result = run("weights", command, "./nope.pth")
    assert result.exit_code == 1
    assert "There is no file 'nope.pth'. Check the path." in result.stderr
    assert "wrong" not in result.stdout


@pytest.mark.parametrize(
    ("command", "argument", "instead"),
    [
        ("verify", "x=", "Pass a name such as"),
        ("verify", "=x.pth", "Pass the file alone, 'x."),
        ("verify", "V1=x.pth", "Pass the file alone, 'x.pth'"),
        ("path", "=", "Pass a name"),
        ("remove", "V1=x.pth", "Pass a name such as"),
    ],
)
def test_commands_refuse_a_tag_with_a_path(
    run: Run, command: str, argument: str, instead: str
) -> None:
    result = run("weights", command, argument)
    assert result.exit_code == 2
    assert f"'{argument}' is neither a name nor a file. Only weights=" in result.stderr
    assert instead in result.stderr


@pytest.mark.parametrize("command", ["fetch", "repair", "remove", "path"])
@pytest.mark.parametrize("argument", ["./nope.pth", "nope.safetensors"])
def test_commands_that_take_names_refuse_a_path(run: Run, command: str, argument: str) -> None:
    result = run("weights", command, argument)
    assert result.exit_code == 2
    assert f"'{argument}' is a path, and this command takes names." in result.stderr


def test_repair_removes_what_repairs_left_that_were_killed(
    run: Run, hub: Hub, tmp_path: Path
) -> None:
    with hub({"lab/net": {"model.safetensors": NET}}):
        run("weights", "fetch", "lab:net.hub")
        path = Path(run("weights", "path", "lab:net.hub").stdout.strip())
        path.resolve().write_bytes(b"wrong")
        repository = tmp_path / "hub" / "models--lab--net"
        left, running = repository / ".again-left", repository / ".again-running"
        for folder in (left, running):
            part = put(folder / "models--lab--net" / "blobs" / "0123.incomplete", b"half")
            os.utime(folder, (1, 1))
        for old in left.rglob("*"):
            os.utime(old, (1, 1))
        os.utime(left, (1, 1))
        assert run("weights", "repair", "lab:net.hub").exit_code == 0
    assert path.read_bytes() == NET
    assert not left.exists()
    assert part.is_file()


def test_the_help_of_verify_says_which_files_have_to_stay_the_same(
    run: Run, cache: Path, tmp_path: Path
) -> None:
    help_text = " ".join(run("weights", "verify", "--help").output.split())
    assert "expects it from then on if the file is in a cache" in help_text
    in_cache, own = put(cache / "plain.pth"), put(tmp_path / "mine.pth")
    for data, outcome in ((NET, "recorded"), (PACKED, "wrong")):
        put(in_cache, data)
        put(own, data)
        verified = rows(run, "verify", str(in_cache), str(own))
        assert [row["outcome"] for row in verified] == [outcome, "recorded"]


def test_the_guide_explains_each_state_that_list_prints() -> None:
    guide = Path(__file__).parents[2] / "docs" / "how-to" / "manage-weights-files.md"
    explained = re.findall(r"^\| `([a-z ]+)` \|", guide.read_text(encoding="utf-8"), re.MULTILINE)
    assert {*explained} == {*get_args(State), "partial download"}
