"""Hub repositories: the configuration describes them, and only safetensors files are loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hf_checkpoints import (
    CLASSIFIERS,
    WIDTHS,
    Serve,
    files_of,
    folder_of,
    network_of,
    pixels,
    processor,
    tower_of,
    whole,
)
from safetensors.torch import load, save
from tests.sampling import mostly_slow
from transformers.utils import logging

from headstrip import Preprocessing, PreprocessingError, UnknownBackboneError, WeightsError
from headstrip import build_encoder as build
from headstrip.registry.registry import get_registry
from headstrip_transformers.towers import TOWERS

WHOLE = ["aimv2_vision_model", "clip_vision_model", "siglip_vision_model"]


@torch.inference_mode()
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_repository_with_a_classifier_keeps_its_head(kind: str, serve: Serve) -> None:
    network = network_of(kind)
    with serve({"lab/net": files_of(network, processor(kind))}):
        encoder = build("hf:lab/net")
    assert (encoder.spec.family, encoder.spec.default_weights) == (f"hf:{kind}", "main")
    assert (encoder.spec.law, encoder.law, encoder.weights.num_classes) == ("exact", "exact", 5)
    assert encoder.output_dim == encoder.spec.dim == WIDTHS[kind]
    assert encoder.weights.license is None
    assert torch.equal(encoder.logits(pixels(kind)), network(pixels(kind)).logits)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["cat", "dog", "horse"], ("cat", "dog", "horse")),
        # transformers writes these names for classes without names.
        (["LABEL_0", "LABEL_1", "LABEL_2"], None),
    ],
)
def test_the_configuration_names_the_classes(
    names: list[str], labels: tuple[str, ...] | None, serve: Serve
) -> None:
    network = network_of("vit", classes=3)
    network.config.id2label = dict(enumerate(names))
    with serve({"lab/net": files_of(network, processor("vit"))}):
        encoder = build("hf:lab/net")
        assert encoder.labels == labels
        assert encoder.manifest()["labels"] is None


@torch.inference_mode()
@pytest.mark.parametrize("kind", mostly_slow(TOWERS))
def test_a_repository_with_only_a_tower_is_headless(kind: str, serve: Serve) -> None:
    network = network_of(kind)
    tower = tower_of(network) if kind in CLASSIFIERS else network
    with serve({"lab/net": files_of(tower, processor(kind))}):
        encoder = build("hf:lab/net")
    assert (encoder.spec.law, encoder.law, encoder.weights.num_classes) == (
        "headless",
        "headless",
        None,
    )
    own = {key: value for key, value in network.state_dict().items() if "classifier" not in key}
    assert all(
        torch.equal(value, own[key]) for key, value in encoder.backbone.network.state_dict().items()
    )
    assert encoder(pixels(kind)).isfinite().all()


@torch.inference_mode()
@pytest.mark.parametrize("kind", WHOLE)
def test_only_the_image_tower_of_a_pair_is_loaded(kind: str, serve: Serve) -> None:
    pair = whole(kind)
    with serve({"lab/pair": files_of(pair, processor(kind))}):
        encoder = build("hf:lab/pair")
    found = encoder.backbone.network
    tower = found if kind == "aimv2_vision_model" else found.vision_model
    expected = pair.vision_model(pixels(kind)).last_hidden_state
    assert encoder.law == "headless"
    assert torch.equal(tower(pixels(kind)).last_hidden_state, expected)
    assert not any("text" in name for name, _ in encoder.named_parameters())


def test_the_pooler_and_tables_in_older_files_are_ignored(serve: Serve) -> None:
    files = files_of(tower_of(network_of("vit")), processor("vit"))
    state = load(files["model.safetensors"])
    state |= {"pooler.dense.weight": torch.ones(3, 3), "embeddings.position_ids": torch.ones(1)}
    with serve({"lab/net": files | {"model.safetensors": save(state)}}):
        assert build("hf:lab/net").output_dim == 32


def test_loading_prints_nothing_and_restores_transformers_verbosity(
    serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    files = files_of(tower_of(network_of("vit")), processor("vit"))
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    capfd.readouterr()
    with serve({"lab/net": files}):
        build("hf:lab/net")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    printed = capfd.readouterr()
    assert "LOAD REPORT" not in printed.err
    assert "Loading weights" not in printed.err
    assert printed.out == ""


def test_half_precision_weights_are_loaded_as_float32(serve: Serve) -> None:
    network = network_of("vit").to(torch.bfloat16)
    with serve({"lab/net": files_of(network, processor("vit"))}):
        encoder = build("hf:lab/net")
    assert {value.dtype for value in encoder.backbone.parameters()} == {torch.float32}
    assert torch.equal(encoder.head.weight, network.classifier.weight.float())


def test_a_checkpoint_in_several_files_loads(serve: Serve) -> None:
    network = network_of("vit")
    files = files_of(network, processor("vit"), max_shard_size="20KB")
    assert "model.safetensors" not in files
    with serve({"lab/large": files}):
        encoder = build("hf:lab/large")
    with torch.inference_mode():
        assert torch.equal(encoder.logits(pixels("vit")), network(pixels("vit")).logits)


def test_a_revision_is_part_of_the_name(serve: Serve) -> None:
    main, other = network_of("vit", classes=5), network_of("vit", classes=3)
    steps = processor("vit")
    with serve({"lab/net": files_of(main, steps), "lab/net@v2": files_of(other, steps)}):
        encoder = build("hf:lab/net@v2")
        assert build("hf:lab/net").weights.num_classes == 5
    assert (encoder.weights.tag, encoder.weights.num_classes) == ("v2", 3)


def test_downloaded_files_need_no_network(
    serve: Serve, no_sockets: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve({"lab/net": files_of(network_of("vit"), processor("vit"))}):
        first = build("hf:lab/net")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    no_sockets()
    again = build("hf:lab/net")
    assert torch.equal(again(pixels("vit")), first(pixels("vit")))


def test_a_missing_repository_gives_a_clear_error_when_offline(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve({}):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids"):
            build("hf:lab/net")


@pytest.mark.parametrize("name", ["hf:lab/net", "hf:lab/other@v2"])
def test_the_argument_offline_opens_no_socket(
    name: str, serve: Serve, no_sockets: Callable[[], None]
) -> None:
    with serve({"lab/net": files_of(network_of("vit"), processor("vit"))}):
        no_sockets()
        with pytest.raises(WeightsError, match="offline=True forbids"):
            build(name, offline=True)


def test_without_weights_no_weights_file_is_downloaded(serve: Serve) -> None:
    asked: list[str] = []
    with serve({"lab/net": files_of(network_of("vit"), processor("vit"))}, asked=asked):
        encoder = build("hf:lab/net", weights=None)
    assert encoder.weights is None
    assert encoder.preprocessing == Preprocessing(
        (32, 32), (32, 32), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bicubic"
    )
    assert not any("safetensors" in request for request in asked)


def test_a_path_names_a_folder_in_the_hubs_layout(
    tmp_path: Path, no_sockets: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of("dinov2")
    folder_of(tmp_path / "own", files_of(network, processor("dinov2")))
    no_sockets()
    monkeypatch.chdir(tmp_path)
    for name in (f"hf:{tmp_path}/own", "hf:./own"):
        with torch.inference_mode():
            logits = build(name).logits(pixels("dinov2"))
            assert torch.equal(logits, network(pixels("dinov2")).logits)


@pytest.mark.parametrize("name", ["C:\\own.v2", "C:/own.v2", ".\\own"])
def test_a_windows_path_is_a_folder_and_not_a_hub_id(
    name: str, tmp_path: Path, no_sockets: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_sockets()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"no file config\.json in the folder"):
        build(f"hf:{name}")
    if os.name == "posix":
        # On POSIX it is an ordinary file name, so a folder of that name can take its place.
        folder_of(tmp_path / name, files_of(network_of("dinov2"), processor("dinov2")))
        assert build(f"hf:{name}").output_dim == WIDTHS["dinov2"]


def test_a_path_without_a_leading_dot_gives_a_clear_error() -> None:
    with pytest.raises(UnknownBackboneError, match="neither a repository of the hub nor a folder"):
        build("hf:runs/finetuned/last")


@pytest.mark.parametrize("name", ["own/", "runs/finetuned/last", "runs/own net"])
def test_the_error_for_the_name_of_an_existing_folder_has_its_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir(parents=True)
    with pytest.raises(UnknownBackboneError, match=f"folder of that name, write 'hf:./{name}'"):
        build(f"hf:{name}")


def test_the_error_without_an_image_processor_says_what_to_save(tmp_path: Path) -> None:
    folder_of(tmp_path / "own", files_of(network_of("vit"), None))
    with pytest.raises(PreprocessingError, match="save the image processor there too"):
        build(f"hf:{tmp_path}/own")


@pytest.mark.parametrize("content", ["{", "[]", "null", ""])
def test_a_damaged_image_processor_is_not_reported_as_missing(tmp_path: Path, content: str) -> None:
    folder_of(tmp_path / "own", files_of(network_of("vit"), processor("vit")))
    (tmp_path / "own" / "preprocessor_config.json").write_text(content)
    with pytest.raises(PreprocessingError, match="cannot read the JSON file"):
        build(f"hf:{tmp_path}/own")


def test_a_folder_without_a_configuration_gives_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no file config\.json in the folder"):
        build(f"hf:{tmp_path}/nothing")


def test_pickled_weights_are_never_requested(serve: Serve) -> None:
    files = files_of(network_of("vit"), processor("vit"))
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    asked: list[str] = []
    with serve({"lab/net": files}, asked=asked), pytest.raises(WeightsError, match="safetensors"):
        build("hf:lab/net")
    assert not any(".bin" in request for request in asked)


def test_a_file_of_another_network_is_refused(serve: Serve) -> None:
    files = files_of(network_of("vit"), processor("vit"))
    deeper = files_of(network_of("vit", num_hidden_layers=3))
    with (
        serve({"lab/net": files | {"model.safetensors": deeper["model.safetensors"]}}),
        pytest.raises(WeightsError, match="unknown"),
    ):
        build("hf:lab/net")


def test_a_file_of_a_wider_network_is_refused(serve: Serve) -> None:
    files = files_of(network_of("vit"), processor("vit"))
    wider = files_of(network_of("vit", hidden_size=64))
    with (
        serve({"lab/net": files | {"model.safetensors": wider["model.safetensors"]}}),
        pytest.raises(WeightsError, match="have another shape"),
    ):
        build("hf:lab/net")


def test_the_description_of_a_repository_matches_its_network(serve: Serve) -> None:
    with serve({"lab/net": files_of(network_of("swin"), processor("swin"))}):
        spec, _ = get_registry().resolve("hf:lab/net")
        encoder = build("hf:lab/net", strict=True)
    head = sum(value.numel() for value in encoder.head.parameters())
    assert spec.params == head + sum(value.numel() for value in encoder.backbone.parameters())
    assert dict(spec.options)["embed_dim"] == 8
