"""Users may overwrite, truncate, replace or delete a file after loading it by its path."""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests import warm
from tests.weights.files import (
    SAVERS,
    State,
    save_legacy,
    save_safetensors,
    save_zip,
    sha256_of,
    state_of,
)
from torch import nn

from headstrip import (
    BackboneSpec,
    Stripped,
    WeightsEntry,
    WeightsError,
    build_encoder,
    detach,
    hookimpl,
    register_plugin,
)
from headstrip.registry.registry import use_registry
from headstrip.weights.folders import lies_in_a_cache
from headstrip.weights.optimized import optimize
from headstrip.weights.reading import read_weights
from headstrip.weights.sharded_checkpoint import read_object

NAME = "lab:net"


def mapped_from(path: Path) -> bool:
    """Return whether this process maps a file."""
    real = os.path.realpath(path)
    return f" {real}\n" in Path("/proc/self/maps").read_text(encoding="utf-8")


def holds(backbone: nn.Module, state: State) -> bool:
    """Return whether a backbone has the values that were saved."""
    return all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


class Tiny(nn.Module):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 256, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(256, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x))


class Plugin:
    FAMILIES = ("tiny",)
    locations: tuple[str, ...] = ("https://example.invalid/net.pth",)

    @hookimpl
    def backbones(self) -> tuple[BackboneSpec, ...]:
        return (BackboneSpec("net", "lab", "lab:tiny", "lab", "image", (3, 8, 8), 256, 0, "V1"),)

    @hookimpl
    def weights(self, spec: BackboneSpec) -> tuple[WeightsEntry, ...]:
        return (WeightsEntry("V1", self.locations, num_classes=3),)

    @hookimpl
    def build_model(self, spec: BackboneSpec, options: dict[str, int]) -> nn.Module:
        return Tiny(**options)

    @hookimpl
    def strip_head(self, model: nn.Module) -> Stripped:
        return detach(model, "fc")


@pytest.fixture(autouse=True)
def lab() -> Iterator[Plugin]:
    plugin = Plugin()
    use_registry(None)
    register_plugin(plugin, "lab")
    yield plugin
    use_registry(None)


pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only /proc shows the files that a process maps"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def state() -> State:
    return Tiny().state_dict()


def saved_by_torch(part: nn.Module, path: Path) -> None:
    torch.save(part.state_dict(), path)


def saved_by_safetensors(part: nn.Module, path: Path) -> None:
    save_file(part.state_dict(), path)


def saved_whole(part: nn.Module, path: Path) -> None:
    torch.save(part, path)


def cut_short(part: nn.Module, path: Path) -> None:
    os.truncate(path, 100)


def emptied(part: nn.Module, path: Path) -> None:
    open(path, "wb").close()


def deleted(part: nn.Module, path: Path) -> None:
    path.unlink()


def replaced(part: nn.Module, path: Path) -> None:
    path.with_name("other").write_bytes(b"another file")
    path.with_name("other").replace(path)


ALL = (saved_by_torch, saved_by_safetensors, saved_whole, cut_short, emptied, deleted, replaced)


@pytest.mark.parametrize("change", ALL, ids=lambda one: one.__name__)
@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("mapped", [None, False], ids=["default", "off"])
def test_an_encoder_keeps_its_weights_whatever_happens_to_the_file(
    change: Callable[[nn.Module, Path], None],
    kind: str,
    mapped: bool | None,
    tmp_path: Path,
    state: State,
) -> None:
    path = SAVERS[kind](state, tmp_path / "own")
    encoder = build_encoder(NAME, weights=path, map=mapped)
    change(encoder, path)
    change(encoder.backbone, path) if path.exists() else None
    assert all(
        torch.equal(value, state[key]) for key, value in encoder.backbone.state_dict().items()
    )
    assert encoder(torch.zeros(1, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize("change", [saved_by_torch, saved_by_safetensors])
@pytest.mark.parametrize("part", ["encoder", "backbone"])
def test_the_state_dict_of_a_mapped_encoder_may_overwrite_its_file(
    change: Callable[[nn.Module, Path], None], part: str, tmp_path: Path, state: State
) -> None:
    path = save_zip(state, tmp_path / "own")
    encoder = build_encoder(NAME, weights=path, map=True)
    assert mapped_from(path)
    change(encoder if part == "encoder" else encoder.backbone, path)
    assert all(
        torch.equal(value, state[key]) for key, value in encoder.backbone.state_dict().items()
    )
    assert encoder(torch.zeros(1, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize("change", [saved_whole, cut_short, emptied])
@pytest.mark.parametrize("part", ["encoder", "backbone"])
def test_a_truncated_or_overwritten_mapped_file_gives_an_error_not_a_crash(
    change: Callable[[nn.Module, Path], None], part: str, tmp_path: Path, state: State
) -> None:
    path = save_zip(state, tmp_path / "own")
    encoder = build_encoder(NAME, weights=path, map=True)
    with suppress(WeightsError):
        change(encoder if part == "encoder" else encoder.backbone, path)
    with pytest.raises(WeightsError, match="rewritten in place"):
        encoder(torch.zeros(1, 3, 8, 8))
    with pytest.raises(WeightsError, match="rewritten in place"):
        encoder.backbone.state_dict()


@pytest.mark.parametrize("outlive", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_of_a_mapped_backbone_does_not_depend_on_the_file(
    outlive: Callable[[nn.Module], nn.Module], tmp_path: Path, state: State
) -> None:
    path = save_zip(state, tmp_path / "own")
    backbone = outlive(build_encoder(NAME, weights=path, map=True).backbone)
    emptied(backbone, path)
    assert holds(backbone, state)


def test_a_mapped_backbone_stays_valid_without_its_encoder(tmp_path: Path, state: State) -> None:
    path = save_zip(state, tmp_path / "own")
    backbone = build_encoder(NAME, weights=path, map=True).backbone
    torch.save(backbone.state_dict(), path)
    assert holds(backbone, state)


def test_computing_the_fingerprint_keeps_the_file_mapped(tmp_path: Path, state: State) -> None:
    path = save_zip(state, tmp_path / "own")
    encoder = build_encoder(NAME, weights=path, map=True)
    assert encoder.fingerprint.weights_sha256 == sha256_of(path)
    assert mapped_from(path)


def weights_by_tag(path: Path) -> str:
    return f"DEFAULT={path}"


@pytest.mark.parametrize("argument", [str, Path, weights_by_tag], ids=["text", "path", "tag"])
@pytest.mark.parametrize("save", [save_zip, save_legacy, save_safetensors])
def test_a_file_passed_as_weights_is_not_mapped_by_default(
    argument: Callable[[Path], str | Path],
    save: Callable[[State, Path], Path],
    tmp_path: Path,
    state: State,
) -> None:
    path = save(state, tmp_path / "own")
    # The second build already knows the layout of the tensors.
    encoders = [build_encoder(NAME, weights=argument(path)) for _ in range(2)]
    assert not mapped_from(path)
    assert encoders


def test_a_cached_file_passed_by_its_path_is_not_mapped(hub: Path, state: State) -> None:
    path = save_zip(state, hub / "own")
    encoder = build_encoder(NAME, weights=path)
    assert not mapped_from(path)
    assert encoder


def test_the_weights_file_of_a_manifest_is_not_mapped(tmp_path: Path, state: State) -> None:
    path = save_zip(state, tmp_path / "own")
    manifest = tmp_path / "encoder.json"
    manifest.write_text(json.dumps(build_encoder(NAME, weights=path).manifest()))
    encoder = build_encoder(manifest, weights=path)
    torch.save(encoder.state_dict(), path)
    assert not mapped_from(path)


def test_an_optimized_copy_is_mapped_and_its_source_may_be_overwritten(
    tmp_path: Path, state: State
) -> None:
    path = save_legacy(state, tmp_path / "own")
    made = optimize(path)
    encoder = build_encoder(NAME, weights=path)
    assert mapped_from(made)
    torch.save(encoder.state_dict(), path)
    assert all(
        torch.equal(value, state[key]) for key, value in encoder.backbone.state_dict().items()
    )


def test_an_optimized_copy_passed_by_its_path_is_not_mapped(tmp_path: Path, state: State) -> None:
    made = optimize(save_zip(state, tmp_path / "own"))
    encoder = build_encoder(NAME, weights=made)
    assert not mapped_from(made)
    assert encoder


def test_a_published_file_in_the_cache_of_torch_hub_is_mapped(
    hub: Path, state: State, published: Callable[..., WeightsEntry]
) -> None:
    path = save_zip(state, hub / "net")
    published(NAME, locations=("https://example.invalid/net.pth",), sha256=sha256_of(path))
    encoder = build_encoder(NAME)
    assert mapped_from(path)
    torch.save(encoder.state_dict(), path)
    assert all(
        torch.equal(value, state[key]) for key, value in encoder.backbone.state_dict().items()
    )


def test_a_link_from_a_cache_to_a_users_file_is_not_mapped(
    hub: Path, tmp_path: Path, state: State, published: Callable[..., WeightsEntry]
) -> None:
    path = save_zip(state, tmp_path / "mine")
    (hub / "net.pth").symlink_to(path)
    published(NAME, locations=("https://example.invalid/net.pth",), sha256=sha256_of(path))
    encoder = build_encoder(NAME)
    torch.save(encoder.state_dict(), path)
    assert not mapped_from(path)


def test_plugin_weights_at_a_local_path_are_not_mapped(
    tmp_path: Path, state: State, lab: Plugin
) -> None:
    path = save_zip(state, tmp_path / "tiny")
    lab.locations = (str(path),)
    encoder = build_encoder(NAME)
    assert not mapped_from(path)
    torch.save(encoder.state_dict(), path)
    assert holds(encoder.backbone, state)


def test_a_file_is_in_a_cache_only_if_both_its_path_and_its_target_are(
    hub: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.pth").touch()
    (hub / "there.pth").touch()
    (hub / "out.pth").symlink_to(tmp_path / "mine.pth")
    (tmp_path / "in.pth").symlink_to(hub / "there.pth")
    assert lies_in_a_cache(hub / "there.pth")
    assert not lies_in_a_cache(hub / "out.pth")
    assert not lies_in_a_cache(tmp_path / "in.pth")
    assert not lies_in_a_cache(hub / ".." / ".." / ".." / "mine.pth")


def test_installed_files_count_as_cached_and_files_of_a_checkout_do_not() -> None:
    assert lies_in_a_cache(Path(torch.__file__))
    assert not lies_in_a_cache(Path(__file__))


def test_a_new_process_can_overwrite_the_file_that_it_loaded(
    tmp_path: Path,
) -> None:
    state = state_of("squeezenet1_1")
    path = save_zip(state, tmp_path / "own")
    script = (
        "import sys, torch; from headstrip import build_encoder\n"
        "encoder = build_encoder('squeezenet1_1', weights=sys.argv[1])\n"
        "torch.save(encoder.backbone.state_dict(), sys.argv[1])"
    )
    assert warm.run("-c", script, path).returncode == 0
    again = torch.load(path, weights_only=True)
    assert all(torch.equal(value, state[key]) for key, value in again.items())


def test_no_message_suggests_removing_a_users_own_file(tmp_path: Path, hub: Path) -> None:
    for folder, remedy in ((tmp_path, "Correct it, or save it again"), (hub, "Remove .* cache")):
        (folder / "config.json").write_text("{")
        with pytest.raises(WeightsError, match=remedy):
            read_object(folder / "config.json")
    path = save_zip({"a": torch.zeros(3)}, tmp_path / "own")
    with pytest.raises(WeightsError, match="It is your own file: copy it again"):
        read_weights(path, "deadbeef")
