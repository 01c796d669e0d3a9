"""A saved folder restores encoders of repositories without access to the repository."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hf_checkpoints import CLASSIFIERS, Serve, files_of, folder_of, network_of, processor, tower_of

from headstrip import Encoder, build_encoder
from headstrip.registry.registry import use_registry
from headstrip_transformers.towers import TOWERS

FEW = ["dinov2", "siglip_vision_model"]


def assert_equal(one: Encoder, other: Encoder) -> None:
    assert one.fingerprint == other.fingerprint
    for key in ("labels", "law", "output_dim", "preprocessing", "input_shape", "options"):
        assert getattr(one, key) == getattr(other, key)
    x = torch.rand(2, *one.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(one(x), other(x))
        if one.head is not None:
            assert torch.equal(one.logits(x), other.logits(x))


@pytest.mark.parametrize(
    "kind",
    [kind if kind in FEW else pytest.param(kind, marks=pytest.mark.slow) for kind in TOWERS],
)
def test_a_folder_restores_a_repository_without_the_hub(
    kind: str, serve: Serve, tmp_path: Path, no_sockets: Callable[[], None]
) -> None:
    network = network_of(kind)
    with serve({"lab/net": files_of(network, processor(kind))}):
        encoder = build_encoder("hf:lab/net")
        encoder.save(tmp_path / "cells")
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)
    use_registry(None)
    no_sockets()
    assert_equal(encoder, build_encoder(tmp_path / "cells"))


def test_a_folder_restores_an_encoder_without_the_transformers_folder(tmp_path: Path) -> None:
    network = network_of("vit", classes=3)
    network.config.id2label = {0: "cat", 1: "dog", 2: "horse"}
    source = folder_of(tmp_path / "source", files_of(network, processor("vit")))
    encoder = build_encoder(f"hf:{source}", predictors={"colour": 2})
    with torch.no_grad():
        next(encoder.backbone.parameters()).mul_(2)
    encoder.save(tmp_path / "cells")
    shutil.rmtree(source)
    use_registry(None)
    again = build_encoder(tmp_path / "cells")
    assert_equal(encoder, again)
    assert again.labels == ("cat", "dog", "horse")


@pytest.mark.parametrize("more", [{"img_size": 64}, {"in_chans": 1}, {"in_chans": ("R", "N")}])
def test_a_folder_restores_a_repository_with_another_input(
    more: dict[str, object], tmp_path: Path
) -> None:
    source = folder_of(tmp_path / "source", files_of(network_of("vit"), processor("vit")))
    encoder = build_encoder(f"hf:{source}", **more)
    encoder.save(tmp_path / "cells")
    shutil.rmtree(source)
    use_registry(None)
    assert_equal(encoder, build_encoder(tmp_path / "cells"))


def test_a_folder_restores_a_checkpoint_with_other_classes(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", files_of(network_of("vit"), processor("vit")))
    other = network_of("vit", classes=3)
    torch.save(other.state_dict(), tmp_path / "own.pth")
    encoder = build_encoder(f"hf:{source}", weights=tmp_path / "own.pth")
    encoder.save(tmp_path / "cells")
    shutil.rmtree(source)
    use_registry(None)
    assert_equal(encoder, build_encoder(tmp_path / "cells"))


def test_a_folder_restores_a_tower_without_a_head(tmp_path: Path) -> None:
    (kind, *_) = CLASSIFIERS
    files = files_of(tower_of(network_of(kind)), processor(kind))
    encoder = build_encoder(f"hf:{folder_of(tmp_path / 'source', files)}")
    encoder.save(tmp_path / "cells")
    shutil.rmtree(tmp_path / "source")
    use_registry(None)
    again = build_encoder(tmp_path / "cells")
    assert_equal(encoder, again)
    assert again.law == "headless"
