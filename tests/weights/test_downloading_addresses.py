"""headstrip chooses the URL, the route and the local file name of a download."""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import quote

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.children import Children
from tests.servers import FaultServer, Reply, fault_server

from headstrip import WeightsError, WeightsWarning
from headstrip.weights.addresses import checkpoints, file_name
from headstrip.weights.downloading import download

BODY = b"weights" * 1000


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "records"))
    monkeypatch.setenv("HEADSTRIP_RETRIES", "0")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with fault_server() as served:
        yield served


@pytest.mark.parametrize(
    "variables",
    [
        {"TORCH_HOME": "/a"},
        {"TORCH_HOME": "~/a", "XDG_CACHE_HOME": "/b"},
        {"XDG_CACHE_HOME": "/b"},
        {"XDG_CACHE_HOME": "~/b"},
        {},
    ],
    ids=repr,
)
@pytest.mark.skipif(os.name == "nt", reason="processes are forked")
def test_the_cache_folder_is_that_of_torch_hub_even_without_torch(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expected = Path(torch.hub.get_dir()) / "checkpoints"
    with Children() as children:
        ended = children.run("headstrip.weights.addresses:checkpoints")
    assert ended.value == str(checkpoints()) == str(expected)


def test_the_cache_folder_follows_torch_hub_set_dir(server: FaultServer, tmp_path: Path) -> None:
    server.put("/x.pth", BODY)
    torch.hub.set_dir(tmp_path / "mine")
    assert download(f"{server.url}/x.pth") == tmp_path / "mine" / "checkpoints" / "x.pth"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "does not name a file"),
        (".", "means a folder"),
        ("..", "means a folder"),
        ("%2e%2e", "means a folder"),
        ("..%2fx.pth", "contains '/'"),
        ("%2Fetc%2Fx.pth", "contains '/'"),
        ("a%5Cx.pth", r"contains '\\\\'"),
        ("a\\x.pth", r"contains '\\\\'"),
        ("C:x.pth", "contains ':'"),
        ("x.pth%3Astream", "contains ':'"),
        ("x%00.pth", r"contains '\\x00'"),
        ("x.pth%0a", r"contains '\\n'"),
        ("CON", "reserved by Windows"),
        ("nul.pth", "reserved by Windows"),
        ("COM1.tar.pth", "reserved by Windows"),
        ("lpt9%20.pth", "reserved by Windows"),
        ("x.pth.", "ends with a dot"),
        ("x.pth%20", "ends with a dot"),
        ("x" * 300, "is longer than 180 bytes"),
    ],
)
def test_a_file_name_that_is_invalid_on_any_system_is_refused(
    server: FaultServer, hub: Path, name: str, problem: str
) -> None:
    with pytest.raises(WeightsError, match=rf"could not be downloaded .*{problem}.*copy the file"):
        download(f"{server.url}/models/{name}")
    assert server.asked == []
    assert list(hub.iterdir()) == []


@pytest.mark.parametrize("name", ["x.pth", "x-y_z.1+2.pth", "a%20b.pth", "console.pth", ".hidden"])
def test_a_valid_file_name_is_the_one_that_torch_hub_uses(name: str) -> None:
    assert file_name(f"https://host/models/{name}?x=1#y") == name


@given(st.text(max_size=200), st.booleans())
def test_no_file_name_leads_out_of_the_cache_folder_on_any_system(text: str, quoted: bool) -> None:
    try:
        name = file_name(f"https://host/models/{quote(text, safe='') if quoted else text}")
    except ValueError:
        return
    for folder in (PurePosixPath("/cache"), PureWindowsPath("C:/cache")):
        assert (folder / name).parent == folder
        assert (folder / name).name == name
    assert len(name.encode()) < 200


@pytest.mark.parametrize(
    "url",
    [
        "x.pth",
        "ftp://host/x.pth",
        "file:///etc/passwd",
        "https:///x.pth",
        "http://host:no/x.pth",
        "http://[broken/x.pth",
        "https://",
        "",
    ],
)
def test_an_invalid_url_gives_a_clear_error(hub: Path, url: str) -> None:
    with pytest.raises(WeightsError, match=r"could not be downloaded .*Correct it"):
        download(url)
    assert list(hub.iterdir()) == []


def test_a_redirect_is_followed_and_does_not_change_the_file_name(
    server: FaultServer, hub: Path
) -> None:
    server.put("/elsewhere/y.bin", BODY)
    server.replies = [Reply(status=302, headers={"Location": "/elsewhere/y.bin"})]
    assert download(f"{server.url}/x.pth") == hub / "x.pth"
    assert (hub / "x.pth").read_bytes() == BODY


@pytest.mark.parametrize("place", ["/x.pth", "file:///etc/passwd", "ftp://127.0.0.1/x.pth"])
def test_an_invalid_redirect_gives_a_clear_error(
    server: FaultServer, hub: Path, place: str
) -> None:
    server.usual = Reply(status=302, headers={"Location": place})
    with pytest.raises(WeightsError, match=r"could not be downloaded .*redirect"):
        download(f"{server.url}/x.pth")
    assert list(hub.iterdir()) == []


@pytest.fixture
def encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """An HTTPS server. ``SSL_CERT_FILE`` names its self-signed certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which creates the certificate, is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            key,
            "-out",
            certificate,
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with fault_server(tls=context) as served:
        yield served


def test_a_redirect_from_https_to_http_is_refused(
    encrypted: FaultServer, server: FaultServer, hub: Path
) -> None:
    server.put("/x.pth", BODY)
    encrypted.replies = [Reply(status=301, headers={"Location": f"{server.url}/x.pth"})]
    with pytest.raises(WeightsError, match=r"redirects to http://.*, which is not encrypted"):
        download(f"{encrypted.url}/x.pth")
    assert server.asked == []
    assert list(hub.iterdir()) == []
    encrypted.put("/y.pth", BODY)
    encrypted.replies = [Reply(status=301, headers={"Location": "/y.pth"})]
    assert download(f"{encrypted.url}/x.pth").read_bytes() == BODY


def test_an_untrusted_certificate_gives_a_clear_error(
    encrypted: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    encrypted.put("/x.pth", BODY)
    with pytest.raises(WeightsError, match=r"certificate verify failed.*Check the network"):
        download(f"{encrypted.url}/x.pth")
    assert encrypted.asked == []


def test_a_download_uses_the_mirror_of_its_host(
    server: FaultServer, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("/pytorch/models/x.pth", BODY)
    pairs = f"https://other.example=http://lost.example, https://down.example/={server.url}/pytorch"
    monkeypatch.setenv("HEADSTRIP_MIRROR", pairs)
    assert download("https://down.example/models/x.pth") == hub / "x.pth"
    assert (hub / "x.pth").read_bytes() == BODY


def test_a_file_from_a_mirror_must_match_the_expected_hash(
    server: FaultServer, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("/models/x-0676ba61.pth", BODY)
    monkeypatch.setenv("HEADSTRIP_MIRROR", f"https://down.example={server.url}")
    with pytest.raises(WeightsError, match="0676ba61 was expected"):
        download("https://down.example/models/x-0676ba61.pth")
    assert list(hub.iterdir()) == []


def test_the_error_names_a_mirror_that_lacks_the_file(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTRIP_MIRROR", f"https://down.example={server.url}")
    with pytest.raises(WeightsError) as caught:
        download("https://down.example/models/x.pth")
    for part in (
        "https://down.example/models/x.pth could",
        f"mirror {server.url}/models/x.pth",
        "404",
    ):
        assert part in str(caught.value)


def test_a_mirror_does_not_apply_to_another_address_with_the_same_prefix(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTRIP_MIRROR", f"{server.url[:-1]}=https://mirror.example")
    server.put("/x.pth", BODY)
    assert download(f"{server.url}/x.pth").read_bytes() == BODY


@pytest.mark.parametrize("value", ["mirror.example", "https://a.example", "a=b", "https://a=b"])
def test_a_mirror_setting_that_is_not_a_pair_of_urls_gives_a_clear_error(
    hub: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HEADSTRIP_MIRROR", value)
    with pytest.raises(WeightsError, match=f"HEADSTRIP_MIRROR has '{value}', which is not a pair"):
        download("https://down.example/x.pth")


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
def test_a_download_uses_the_proxy_in_the_environment(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, server.url)
    server.files["http://weights.example/x.pth"] = BODY
    assert download("http://weights.example/x.pth").read_bytes() == BODY
    assert [request.path for request in server.asked] == ["http://weights.example/x.pth"]


def test_a_download_bypasses_the_proxy_for_a_host_in_no_proxy(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, dead_url: str
) -> None:
    monkeypatch.setenv("http_proxy", dead_url)
    server.put("/x.pth", BODY)
    assert download(f"{server.url}/x.pth").read_bytes() == BODY


def test_plain_http_without_a_hash_gives_a_warning(
    server: FaultServer, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADSTRIP_ALLOW_HTTP")
    server.put("/x.pth", BODY)
    with pytest.warns(WeightsWarning, match=r"over plain http, and no sha256.*--allow-http"):
        download(f"{server.url}/x.pth")
    assert (hub / "x.pth").read_bytes() == BODY


def test_a_mirror_over_plain_http_gives_a_warning(
    server: FaultServer, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADSTRIP_ALLOW_HTTP")
    monkeypatch.setenv("HEADSTRIP_MIRROR", f"https://down.example={server.url}")
    server.put("/x.pth", BODY)
    with pytest.warns(WeightsWarning, match="over plain http"):
        download("https://down.example/x.pth")


@pytest.mark.parametrize("allowed", ["1", "yes", "ON"])
def test_a_hash_or_an_explicit_permission_silences_the_http_warning(
    allowed: str, server: FaultServer, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(BODY).hexdigest()
    for path in ("/x.pth", f"/y-{digest[:8]}.pth", "/z.pth"):
        server.put(path, BODY)
    monkeypatch.delenv("HEADSTRIP_ALLOW_HTTP")
    download(f"{server.url}/x.pth", digest)
    download(f"{server.url}/y-{digest[:8]}.pth")
    monkeypatch.setenv("HEADSTRIP_ALLOW_HTTP", allowed)
    download(f"{server.url}/z.pth")
    assert len(list(hub.iterdir())) == 3
