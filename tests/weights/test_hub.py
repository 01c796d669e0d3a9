"""headstrip finds, downloads, verifies and reads weights on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from huggingface_hub import hf_hub_download, save_torch_state_dict
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from tests.distributions import run_python
from tests.hub import commit_of, hub_in_use, hub_server, hub_variables, socket_ban, use_hub
from tests.weights.files import Server, State, sha256_of
from torchvision import models

from headstrip import WeightsEntry, WeightsError, build_encoder
from headstrip.weights import locate, read_weights
from headstrip.weights.hub import HubLocation, hub_file, hub_json, parse

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
SAFE = save(STATE)
BOTH = {"model.safetensors": SAFE, "pytorch_model.bin": b"pickled", "config.json": b'{"dim": 3}'}
Serve = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The folder of the hub's cache, which does not exist yet."""
    return tmp_path / "hub"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Serve:
    """Return a function that runs a local hub and makes this process use it."""
    return hub_in_use(monkeypatch, cache)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the seconds that huggingface_hub waits before it tries an unreachable hub again."""
    monkeypatch.setattr(time, "sleep", lambda _: None)


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function; after its call, opening a socket fails the test."""
    return socket_ban(monkeypatch)


def entry(*locations: str, sha256: str = "") -> WeightsEntry:
    return WeightsEntry("V1", locations=locations, sha256=sha256)


def snapshot(cache: Path, repository: str, files: Mapping[str, bytes]) -> Path:
    name, _, _ = repository.partition("@")
    folder = f"models--{name.replace('/', '--')}"
    return cache / folder / "snapshots" / commit_of(repository, files)


def test_safetensors_are_preferred_and_no_other_file_is_downloaded(
    serve: Serve, cache: Path
) -> None:
    requests: list[str] = []
    with serve({"org/name": BOTH}, asked=requests):
        path = locate(entry("hf:org/name"), "a:b")
    assert path == snapshot(cache, "org/name", BOTH) / "model.safetensors"
    assert path.read_bytes() == SAFE
    assert {request.rpartition("/")[2] for request in requests} == {"model.safetensors"}


def test_a_repository_without_safetensors_gives_its_pickled_file(serve: Serve) -> None:
    with serve({"org/name": {"pytorch_model.bin": b"pickled", "other.bin": b""}}):
        assert hub_file("hf:org/name").name == "pytorch_model.bin"


def test_a_location_can_name_a_file_in_a_folder(serve: Serve) -> None:
    with serve({"org/name": {**BOTH, "deep/er/x.pth": b"deep"}}):
        assert hub_file("hf:org/name/pytorch_model.bin").read_bytes() == b"pickled"
        assert hub_file("hf:org/name/deep/er/x.pth").read_bytes() == b"deep"


def test_a_revision_can_be_a_branch_a_tag_or_a_commit(serve: Serve) -> None:
    old = {"model.safetensors": b"old"}
    with serve({"org/name": BOTH, "org/name@v1": old, "org/name@refs/pr/1": BOTH}):
        assert hub_file("hf:org/name@v1").read_bytes() == b"old"
        commit = commit_of("org/name@v1", old)
        assert hub_file(f"hf:org/name@{commit}/model.safetensors").read_bytes() == b"old"
        assert hub_file("hf:org/name@refs/pr/1/pytorch_model.bin").read_bytes() == b"pickled"
        assert hub_file("hf:org/name").read_bytes() == SAFE


def test_a_cached_file_needs_no_server(serve: Serve, no_sockets: Callable[[], None]) -> None:
    with serve({"org/name": BOTH, "org/bin": {"pytorch_model.bin": b"x"}}):
        fetched = [hub_file("hf:org/name"), hub_file("hf:org/bin")]
    no_sockets()
    assert [hub_file("hf:org/name"), hub_file("hf:org/bin")] == fetched


def test_headstrip_shares_the_cache_of_huggingface_hub(serve: Serve, cache: Path) -> None:
    requests: list[str] = []
    with serve({"org/name": BOTH}, asked=requests):
        theirs = hf_hub_download("org/name", "model.safetensors")
        before = len(requests)
        assert str(hub_file("hf:org/name")) == theirs
        assert len(requests) == before
        ours = hub_file("hf:org/name/config.json")
        assert hf_hub_download("org/name", "config.json", local_files_only=True) == str(ours)
    assert ours.is_relative_to(cache)


@pytest.mark.parametrize("variable", ["HEADSTRIP_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_headstrip_uses_only_cached_files_and_contacts_no_server(
    serve: Serve,
    cache: Path,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
    no_sockets: Callable[[], None],
) -> None:
    requests: list[str] = []
    with serve({"org/name": BOTH, "org/other": BOTH}, asked=requests):
        fetched = hub_file("hf:org/name")
        monkeypatch.setenv(variable, "1")
        before = len(requests)
        no_sockets()
        assert hub_file("hf:org/name") == fetched
        with pytest.raises(WeightsError) as caught:
            locate(entry("hf:org/other@v2"), "a:b")
        assert len(requests) == before
    for part in (
        "'V1' of a:b",
        "has no model.safetensors or pytorch_model.bin",
        " of hf:org/other at revision v2",
        str(cache / "models--org--other"),
        "v2",
        f"{variable} forbids",
        "hf download org/other",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("variable", ["HEADSTRIP_OFFLINE", "HF_HUB_OFFLINE"])
def test_a_process_that_starts_offline_opens_no_socket(
    serve: Serve, cache: Path, tmp_path: Path, variable: str
) -> None:
    with serve({"org/name": BOTH}) as url:
        hub_file("hf:org/name")
        code = (
            "import sys\n"
            "opened = []\n"
            "hook = lambda event, _: opened.append(event) if 'socket' in event else None\n"
            "sys.addaudithook(hook)\n"
            "from headstrip.weights.hub import WeightsError, hub_file, hub_json\n"
            "print(hub_file('hf:org/name').name)\n"
            "try:\n"
            "    hub_json('org/name', 'config.json')\n"
            "except WeightsError as error:\n"
            f"    print('{variable} forbids' in str(error), opened, 'torch' in sys.modules)\n"
        )
        # With telemetry on, huggingface_hub may go online even to look into its cache.
        changed = {variable: "1", "HF_HUB_DISABLE_TELEMETRY": "0", "HF_HOME": str(tmp_path)}
        ran = run_python("-c", code, **(hub_variables(url, cache) | changed))
    assert (ran.stdout, ran.stderr) == ("model.safetensors\nTrue [] False\n", "")


def test_a_new_process_uses_the_mirror_in_hf_endpoint(cache: Path) -> None:
    requests: list[str] = []
    with hub_server({"org/name": BOTH}, asked=requests) as url:
        code = (
            "from headstrip.weights.hub import hub_json; print(hub_json('org/name', 'config.json'))"
        )
        ran = run_python("-c", code, **hub_variables(url, cache))
    assert (ran.stdout, ran.stderr) == ("{'dim': 3}\n", "")
    assert requests == [f"{verb} /org/name/resolve/main/config.json" for verb in ("HEAD", "GET")]
    assert list(cache.glob("models--org--name/snapshots/*/config.json"))


def test_the_next_location_is_tried_if_the_hub_lacks_the_file(
    serve: Serve, server: Server, hub: Path
) -> None:
    server.files["/x.pth"] = b"from the url"
    with serve({}):
        found = locate(entry("hf:org/lost", f"{server.url}/x.pth"), "a:b")
    assert found == hub / "x.pth"


@pytest.mark.usefixtures("no_waiting")
def test_the_next_location_is_tried_if_the_hub_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, cache: Path, dead_url: str, tmp_path: Path
) -> None:
    (tmp_path / "x.pth").touch()
    use_hub(monkeypatch, dead_url, cache)
    found = locate(entry("hf:org/name", str(tmp_path / "x.pth")), "a:b")
    assert found == tmp_path / "x.pth"


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("hf:org/none", r"no repository 'org/none' at http://127.*private.*hf auth login"),
        ("hf:org/name@v9", r"hf:org/name has no revision 'v9'\. Pass a branch"),
        (
            "hf:org/name/x.pth",
            r"org/name has no file x\.pth at revision main\. Choose one of the files listed at http://.*/org/name/tree/main",
        ),
        (
            "hf:org/empty",
            r"no file model\.safetensors or pytorch_model\.bin or .*\. Choose one of",
        ),
        ("hf:org/gated", r"hf:org/gated is gated\. Accept its terms at http://.*/org/gated, and"),
        ("hf:org/private", r"does not let you read hf:org/private .*401.*Log in with `hf auth"),
        ("hf:org/closed", r"does not let you read hf:org/closed .*403.*Log in with `hf auth"),
        ("hf:org/down", r"hf:org/down could not be downloaded from http://.*503.*Check the net"),
    ],
)
@pytest.mark.usefixtures("no_waiting")
def test_each_refusal_of_the_hub_gives_a_clear_error(
    serve: Serve, location: str, sentence: str
) -> None:
    refused = {
        "org/gated": (403, {"X-Error-Code": "GatedRepo"}),
        "org/private": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
        "org/closed": (403, {}),
        "org/down": (503, {}),
    }
    with (
        serve({"org/name": BOTH, "org/empty": {}}, refused=refused),
        pytest.raises(WeightsError, match=sentence) as caught,
    ):
        hub_file(location)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_waiting")
def test_a_missing_hub_gives_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, cache: Path, dead_url: str
) -> None:
    use_hub(monkeypatch, dead_url, cache)
    with pytest.raises(WeightsError) as caught:
        hub_file("hf:org/name")
    for part in (f"from {dead_url}", str(cache / "models--org--name"), "refused", "Check the"):
        assert part in str(caught.value)


@pytest.mark.usefixtures("no_waiting")
def test_a_server_that_is_not_a_hub_gives_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, cache: Path, server: Server
) -> None:
    use_hub(monkeypatch, server.url, cache)
    with pytest.raises(WeightsError, match=r"could not be downloaded .*50\d.*Check the network"):
        hub_file("hf:org/name")


@pytest.mark.usefixtures("no_waiting")
def test_an_interrupted_hub_download_leaves_no_file(serve: Serve, cache: Path) -> None:
    with (
        serve({"org/name": BOTH}, cut_short={"model.safetensors"}),
        pytest.raises(WeightsError, match=r"could not be downloaded .*Check the network"),
    ):
        hub_file("hf:org/name")
    assert not list(cache.rglob("model.safetensors"))
    assert not [path for path in cache.rglob("blobs/*") if path.suffix != ".incomplete"]


def test_a_hub_cache_that_cannot_be_created_gives_a_clear_error(serve: Serve, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with (
        serve({"org/name": BOTH}),
        pytest.raises(WeightsError, match=r"could not be downloaded from .* to .*models--org"),
    ):
        hub_file("hf:org/name")


def test_the_error_without_huggingface_hub_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"Run `pip install 'headstrip\[hub\]'`"):
        locate(entry("hf:org/name"), "a:b")
    (tmp_path / "x.pth").touch()
    assert locate(entry("hf:org/name", str(tmp_path / "x.pth")), "a:b") == tmp_path / "x.pth"


def test_a_damaged_cached_file_gives_an_error_and_is_downloaded_again_once_removed(
    serve: Serve,
) -> None:
    with serve({"org/name": BOTH}):
        path = hub_file("hf:org/name")
        blob = path.resolve()
        blob.write_bytes(save({"a.weight": torch.zeros(2, 3), "a.bias": torch.ones(2)}))
        with pytest.raises(WeightsError) as caught:
            read_weights(path)
        found, stored = sha256_of(blob), hashlib.sha256(SAFE).hexdigest()
        for part in (str(path), found, f"the hub has {stored}", "headstrip weights repair"):
            assert part in str(caught.value)
        blob.unlink()
        assert read_weights(hub_file("hf:org/name")).sha256 == stored


def test_a_blob_named_after_its_git_hash_can_be_read(serve: Serve, tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "x")
    with serve({"org/name": {"small.pt.old": (tmp_path / "x").read_bytes()}}):
        path = hub_file("hf:org/name/small.pt.old")
    assert len(path.resolve().name) == 40
    assert read_weights(path).sha256 == sha256_of(tmp_path / "x")


def test_a_file_from_the_hub_must_match_the_hash_in_the_catalog(serve: Serve) -> None:
    with serve({"org/name": BOTH}):
        path = locate(entry("hf:org/name", sha256="deadbeef"), "a:b")
    with pytest.raises(WeightsError, match="has deadbeef"):
        read_weights(path, "deadbeef")


def test_an_encoder_can_be_built_from_a_hub_repository(
    serve: Serve, published: Callable[..., WeightsEntry], shufflenet: State
) -> None:
    content = save({key: value.contiguous() for key, value in shufflenet.items()})
    published("shufflenet_v2_x0_5", locations=("hf:org/shuffle@v1",), sha256="")
    with serve({"org/shuffle@v1": {"model.safetensors": content}}):
        encoder = build_encoder("shufflenet_v2_x0_5")
    untouched = models.shufflenet_v2_x0_5().eval()
    untouched.load_state_dict(shufflenet)
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(encoder.logits(x), untouched(x))
    assert encoder.weights_sha256 == hashlib.sha256(content).hexdigest()


@pytest.fixture
def sharded(tmp_path: Path) -> dict[str, bytes]:
    """A sharded checkpoint as huggingface_hub writes it."""
    folder = tmp_path / "saved"
    folder.mkdir()
    save_torch_state_dict(
        {f"layer.{number}": torch.full((4, 8), float(number)) for number in range(5)},
        folder,
        max_shard_size=300,
    )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_sharded_checkpoint_is_read_as_one_file(
    serve: Serve, sharded: dict[str, bytes], no_sockets: Callable[[], None]
) -> None:
    shards = sorted(name for name in sharded if name.endswith(".safetensors"))
    assert len(shards) > 1
    with serve({"org/large": sharded, "org/deep": {f"x/{key}": sharded[key] for key in sharded}}):
        paths = [hub_file("hf:org/large"), hub_file("hf:org/deep/x/model.safetensors.index.json")]
    no_sockets()
    assert hub_file("hf:org/large") == paths[0]
    listed = "".join(f"{hashlib.sha256(sharded[name]).hexdigest()}  {name}\n" for name in shards)
    for path in paths:
        file = read_weights(path, hashlib.sha256(listed.encode()).hexdigest())
        assert {key: value[0, 0].item() for key, value in file.content.items()} == {
            f"layer.{number}": float(number) for number in range(5)
        }
    with pytest.raises(WeightsError, match="has deadbeef"):
        read_weights(paths[0], "deadbeef")


def test_shards_are_downloaded_at_the_commit_of_their_index(
    serve: Serve, sharded: dict[str, bytes]
) -> None:
    requests: list[str] = []
    with serve({"org/large": sharded}, asked=requests):
        hub_file("hf:org/large")
    shards = [path for path in requests if "-of-" in path]
    commit = commit_of("org/large", sharded)
    assert shards
    assert all(f"/org/large/resolve/{commit}/model-" in path for path in shards)


def test_the_error_names_a_damaged_shard(serve: Serve, sharded: dict[str, bytes]) -> None:
    with serve({"org/large": sharded}):
        path = hub_file("hf:org/large")
    shard = sorted(path.parent.glob("*.safetensors"))[-1]
    shard.resolve().write_bytes(SAFE)
    with pytest.raises(WeightsError, match=f"{shard.name} has the sha256"):
        read_weights(path)


def test_the_error_names_a_shard_that_the_hub_lacks(
    serve: Serve, sharded: dict[str, bytes]
) -> None:
    lost = sorted(name for name in sharded if name.endswith(".safetensors"))[-1]
    del sharded[lost]
    with serve({"org/large": sharded}), pytest.raises(WeightsError, match=f"no file {lost}"):
        hub_file("hf:org/large")


def test_shards_that_lack_a_tensor_of_their_index_are_refused(
    sharded: dict[str, bytes], tmp_path: Path
) -> None:
    index = tmp_path / "saved" / "model.safetensors.index.json"
    content = json.loads(index.read_bytes())
    content["weight_map"]["layer.5"] = content["weight_map"]["layer.4"]
    index.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"lack 1 of its tensors, such as 'layer\.5'"):
        read_weights(index)


@pytest.mark.parametrize("stale", ["a.safetensors", "b.safetensors"])
def test_a_tensor_in_two_shards_is_read_from_the_shard_that_the_index_names(
    tmp_path: Path, stale: str
) -> None:
    right = "b.safetensors" if stale == "a.safetensors" else "a.safetensors"
    tensors = {right: {"x": torch.ones(2)}, stale: {"x": torch.zeros(2), "y": torch.ones(1)}}
    for file, held in tensors.items():
        (tmp_path / file).write_bytes(save(held))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": right, "y": stale}}))
    content = read_weights(index).content
    assert isinstance(content, dict)
    assert torch.equal(content["x"], torch.ones(2))
    assert content.keys() == {"x", "y"}


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "../a.safetensors"},
        {"a": "/etc/a.safetensors"},
        {"a": 1},
        {},
        [],
        {"a": "model-1.safetensors\n"},
    ],
    ids=repr,
)
def test_an_index_that_is_invalid_or_leaves_its_folder_is_refused(
    tmp_path: Path, weight_map: object
) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WeightsError, match=r"is not the index of a checkpoint.*in the same folder"):
        read_weights(index)


def test_an_index_of_bin_files_is_refused_with_a_remedy(tmp_path: Path) -> None:
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model-1.bin"}}))
    with pytest.raises(WeightsError, match=r"in several \.bin files.*safe_serialization=True"):
        read_weights(index)


@pytest.mark.parametrize("location", ["org/name", "hf:org/name", "hf:org/name/model.safetensors"])
def test_a_json_file_of_a_repository_can_be_read(serve: Serve, location: str) -> None:
    with serve({"org/name": BOTH}):
        assert hub_json(location, "config.json") == {"dim": 3}


def test_a_json_file_is_read_at_the_revision_in_its_location(serve: Serve) -> None:
    with serve({"org/name": BOTH, "org/name@v1": {"config.json": b'{"dim": 4}'}}):
        assert hub_json("org/name@v1", "config.json") == {"dim": 4}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000], ids=len)
def test_the_error_names_a_file_that_is_not_a_json_object(serve: Serve, content: bytes) -> None:
    with serve({"org/name": {"config.json": content}}):
        path = hub_file("hf:org/name/config.json")
        with pytest.raises(
            WeightsError, match=r"cannot read the JSON file .*config\.json"
        ) as caught:
            hub_json("org/name", "config.json")
    assert f"Remove {path.resolve()}" in str(caught.value)


def test_the_error_names_a_json_file_that_the_repository_lacks(serve: Serve) -> None:
    with serve({"org/name": BOTH}), pytest.raises(WeightsError, match=r"no file preprocessor"):
        hub_json("org/name", "preprocessor_config.json")


WORD = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}[A-Za-z0-9]", fullmatch=True)


@given(
    st.tuples(WORD, WORD).map("/".join), st.none() | WORD, st.none() | st.lists(WORD, min_size=1)
)
def test_a_location_is_parsed_into_repository_revision_and_file(
    repository: str, revision: str | None, folders: list[str] | None
) -> None:
    file = "/".join(folders) if folders else None
    location = f"hf:{repository}{f'@{revision}' if revision else ''}{f'/{file}' if file else ''}"
    assert parse(location) == HubLocation(repository, revision, file)


@pytest.mark.parametrize(
    "location",
    [
        "hf:",
        "hf:name",
        "hf:/name",
        "hf:org/",
        "hf:org/name@",
        "hf:org/name@/x",
        "hf:org/name/",
        "hf:org/name/../x",
        "hf:org/name//x",
        "hf:org/name/./x",
        "hf:or g/name",
        "hf://org/name",
        "hf:org/name\n",
        "org/name",
        "hf:org/name@a@b",
        "hf:../..",
        "hf:org/..",
        "hf:org/name@..",
        "hf:org/name@.",
        "hf:org/name@a\\..\\b",
        "hf:org/name/C:x",
        "hf:org/name/a\\..\\x",
        "hf:org/name@\0",
        "hf:org/name/x\0",
        "hf:org/name@refs/pr/..",
    ],
)
def test_an_invalid_hub_location_gives_a_clear_error(location: str) -> None:
    with pytest.raises(WeightsError, match=r"is not a location on the Hugging .* Write hf:org"):
        locate(entry(location), "a:b") if location.startswith("hf:") else parse(location)


@pytest.mark.parametrize("name", ["a--b", "-a", "a..b", "x" * 120])
def test_a_name_that_the_hub_forbids_gives_a_clear_error(serve: Serve, name: str) -> None:
    with serve({}), pytest.raises(WeightsError, match=rf"hf:org/{name} could not be downloaded"):
        hub_file(f"hf:org/{name}")
