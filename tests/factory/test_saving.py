"""Saving writes the whole encoder or nothing, and refuses one that cannot be built again."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import tiny_encoder
from tests.distributions import run_python
from tests.failing import DIED, failing
from torch import nn
from torchvision import models

from headstrip import Attribute, Encoder, FittedPredictors, HeadstripError, build_encoder
from headstrip.encoder.comparison import describe_encoder

NAME = "shufflenet_v2_x0_5"
LITE = "efficientnet-lite:efficientnet_lite0"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return build_encoder(NAME, weights=None, predictors={"colour": 3})


def names_in(folder: Path) -> set[str]:
    return {one.name.partition("-")[0] for one in folder.iterdir()}


def content_of(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir()}


def test_weights_of_the_catalog_are_written_only_on_request(tmp_path: Path) -> None:
    encoder = build_encoder(LITE)
    encoder.save(tmp_path / "cells")
    assert names_in(tmp_path / "cells") == {"encoder.json"}
    encoder.save(tmp_path / "cells", include_weights=True)
    assert names_in(tmp_path / "cells") == {"encoder.json", "weights"}
    encoder.save(tmp_path / "cells")
    assert names_in(tmp_path / "cells") == {"encoder.json"}
    again = build_encoder(tmp_path / "cells")
    assert (again.labels, again.fingerprint) == (encoder.labels, encoder.fingerprint)


def test_trained_weights_are_written(tmp_path: Path) -> None:
    encoder = build_encoder(LITE)
    with torch.no_grad():
        next(encoder.backbone.parameters()).mul_(2)
    encoder.save(tmp_path / "cells")
    assert names_in(tmp_path / "cells") == {"encoder.json", "weights"}
    again = build_encoder(tmp_path / "cells")
    assert again.fingerprint == encoder.fingerprint
    assert again.weights == encoder.weights


def test_equal_encoders_write_identical_files(encoder: Encoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "one")
    encoder.save(tmp_path / "two")
    assert content_of(tmp_path / "one") == content_of(tmp_path / "two")


def test_saving_again_replaces_headstrips_files_and_keeps_other_files(
    encoder: Encoder, tmp_path: Path
) -> None:
    folder = tmp_path / "cells"
    encoder.save(folder)
    (folder / "README.md").write_text("mine")
    before = {one.name for one in folder.iterdir()}
    encoder.predictors = None
    with torch.no_grad():
        next(encoder.backbone.parameters()).mul_(2)
    encoder.save(folder)
    after = {one.name for one in folder.iterdir()}
    assert names_in(folder) == {"README.md", "encoder.json", "weights"}
    assert before & after == {"README.md", "encoder.json"}
    assert build_encoder(folder).fingerprint == encoder.fingerprint


@pytest.mark.parametrize("content", ['{"format": 1, "layers": []}', "no JSON", "[1]"])
def test_other_files_with_the_same_names_are_kept(
    encoder: Encoder, tmp_path: Path, content: str
) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    (folder / "encoder.json").write_text(content)
    (folder / "weights-0123abcd.safetensors").write_text("mine")
    before = content_of(folder)
    with pytest.raises(HeadstripError, match=r"encoder\.json that encoder\.save did not write"):
        encoder.save(folder)
    assert content_of(folder) == before
    (folder / "encoder.json").unlink()
    encoder.save(folder)
    assert (folder / "weights-0123abcd.safetensors").read_text() == "mine"


@pytest.mark.parametrize("content", ["", '{\n "format": 1,\n "headstr'])
def test_saving_repairs_a_damaged_folder(encoder: Encoder, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "cells"
    encoder.save(folder)
    (folder / "encoder.json").write_text(content)
    encoder.save(folder)
    assert build_encoder(folder).fingerprint == encoder.fingerprint


def test_concurrent_saves_do_not_remove_each_others_files(encoder: Encoder, tmp_path: Path) -> None:
    folder, problems = tmp_path / "cells", []
    others = []
    for value in range(3):
        other = build_encoder(NAME, weights=None)
        other.predictors = encoder.predictors
        with torch.no_grad():
            next(other.backbone.parameters()).fill_(value)
        others.append(other)

    def save(other: Encoder) -> None:
        try:
            other.save(folder)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=save, args=[other]) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert build_encoder(folder).fingerprint in [other.fingerprint for other in others]
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_saving_works_on_a_file_system_without_locks(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    encoder.save(tmp_path / "cells")
    assert names_in(tmp_path / "cells") == {"encoder.json", "weights", "predictors"}


@pytest.mark.parametrize("maps", [True, False])
def test_saving_over_the_file_that_the_encoder_maps_works(tmp_path: Path, maps: bool) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    from safetensors.torch import save

    content = save(models.shufflenet_v2_x0_5(weights=None).state_dict())
    file = folder / f"weights-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    file.write_bytes(content)
    encoder = build_encoder(NAME, weights=file, map=maps)
    encoder.save(folder)
    assert not file.exists()
    again = build_encoder(folder)
    again.save(folder)
    x = torch.zeros(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(encoder(x), again(x))


@pytest.mark.parametrize("at", range(3))
def test_a_full_disk_keeps_the_earlier_files(encoder: Encoder, tmp_path: Path, at: int) -> None:
    folder = tmp_path / "cells"
    encoder.save(folder)
    before = content_of(folder)
    with torch.no_grad():
        encoder.predictors[0].bias += 1
        next(encoder.backbone.parameters()).mul_(2)
    with (
        failing("replace", at=at),
        pytest.raises(HeadstripError, match=r"could not be written .No space left on device"),
    ):
        encoder.save(folder)
    assert content_of(folder) == before
    with (
        failing("replace", at=at),
        pytest.raises(HeadstripError),
    ):
        encoder.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_invalid_path_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match=r"could not be written .No such file or directory"):
        encoder.save(tmp_path / "none" / "cells")
    with pytest.raises(HeadstripError, match="path to save the encoder to is empty"):
        encoder.save("")
    with pytest.raises(HeadstripError, match=r"could not be written .No such file or directory"):
        encoder.save("~nobody_of_this_name/cells")
    (tmp_path / "cells").write_text("mine")
    with pytest.raises(HeadstripError, match="is a file, and encoder"):
        encoder.save(tmp_path / "cells")
    assert (tmp_path / "cells").read_text() == "mine"


def replace_activation(encoder: Encoder) -> None:
    encoder.backbone.conv1[2] = nn.GELU()


def replace_convolution(encoder: Encoder) -> None:
    encoder.backbone.conv1[0] = nn.Conv2d(3, 24, 5, 2, 2, bias=False)


def replace_backbone(encoder: Encoder) -> None:
    encoder.backbone = models.squeezenet1_1()


def add_layer(encoder: Encoder) -> None:
    encoder.backbone = nn.Sequential(encoder.backbone, nn.Linear(1024, 1024))


def replace_predictor(encoder: Encoder) -> None:
    encoder.predictors[0] = nn.Sequential(nn.Linear(1024, 3))


def widen_predictor(encoder: Encoder) -> None:
    encoder.predictors[0] = nn.Linear(1024, 4)


def replace_predictors(encoder: Encoder) -> None:
    encoder.predictors = nn.ModuleList([nn.Linear(1024, 3)])


def cast_predictors(encoder: Encoder) -> None:
    encoder.predictors.double()


def spoil_predictor(encoder: Encoder) -> None:
    nn.init.constant_(encoder.predictors[0].bias, float("nan"))


def keep_more(encoder: Encoder) -> None:
    class Keeper(type(encoder.backbone)):  # type: ignore[misc]
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

    encoder.backbone.__class__ = Keeper


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replace_activation, r"it has \(2\): GELU.* where headstrip builds \(2\): ReLU"),
        (
            replace_convolution,
            r"was changed, .*: backbone.conv1.0.weight is \(24, 3, 5, 5\) of torch.float32 instead "
            r"of \(24, 3, 3, 3\) of torch.float32. Undo that before you save",
        ),
        (replace_backbone, "cannot build it again"),
        (add_layer, "it lacks backbone.conv1.0.weight"),
        (replace_predictor, "is a Sequential, and encoder.save writes linear layers"),
        (
            widen_predictor,
            "1024 to 4, and .* with a bias, 1024 to 3",
        ),
        (replace_predictors, "encoder.predictors is a ModuleList"),
        (cast_predictors, "predictors of torchvision:shufflenet_v2_x0_5 are torch.float64"),
        (spoil_predictor, "not finite"),
        (keep_more, "keeps more than tensors"),
    ],
)
def test_an_encoder_that_cannot_be_built_again_is_refused(
    encoder: Encoder, tmp_path: Path, change: Callable[[Encoder], None], words: str
) -> None:
    change(encoder)
    with pytest.raises(HeadstripError, match=words) as caught:
        encoder.save(tmp_path / "cells")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cells").exists()


def test_options_that_json_cannot_express_are_refused(tmp_path: Path) -> None:
    encoder = build_encoder("resnet18", weights=None, options={"norm_layer": nn.InstanceNorm2d})
    with pytest.raises(HeadstripError, match="options that JSON cannot express"):
        encoder.save(tmp_path / "cells")


def test_an_encoder_that_build_encoder_did_not_make_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadstripError, match="was not built by build_encoder"):
        tiny_encoder().save(tmp_path / "cells")


def test_adapters_of_peft_are_refused_until_they_are_merged(
    encoder: Encoder, tmp_path: Path
) -> None:
    # headstrip recognises a peft module by its class's package, so the test needs no peft.
    kind = type("Linear", (nn.Identity,), {"__module__": "peft.tuners.lora.layer"})
    encoder.backbone.conv1.append(kind())
    with pytest.raises(HeadstripError, match=r"Call merge_and_unload\(\) of the peft model"):
        encoder.save(tmp_path / "cells")
    del encoder.backbone.conv1[-1]
    encoder.save(tmp_path / "cells")
    wrapped = type("PeftModel", (nn.Sequential,), {"__module__": "peft.peft_model"})
    encoder.backbone = wrapped(encoder.backbone)
    with pytest.raises(HeadstripError, match=r"= encoder\.backbone\.merge_and_unload\(\) first"):
        encoder.save(tmp_path / "cells")


def test_predictors_keep_their_report_until_they_are_trained(tmp_path: Path) -> None:
    encoder = build_encoder(NAME, weights=None)
    fitted = FittedPredictors(
        (Attribute("colour", "class", ("red", "blue")),),
        {"colour": torch.ones(2, 1024)},
        {"colour": torch.zeros(2)},
        describe_encoder(encoder),
        {"seed": 3},
    )
    fitted.attach(encoder).save(tmp_path / "cells")
    assert report_in(tmp_path / "cells") == {"seed": 3}
    again = build_encoder(tmp_path / "cells")
    again.save(tmp_path / "again")
    assert report_in(tmp_path / "again") == {"seed": 3}
    nn.init.constant_(again.predictors[0].bias, 1.0)
    again.save(tmp_path / "again")
    assert report_in(tmp_path / "again") == {}


def report_in(folder: Path) -> dict[str, Any]:
    from headstrip import load_predictors

    return dict(load_predictors(next(folder.glob("predictors-*"))).report)


def test_encoder_json_has_the_manifest_and_the_expected_fields(
    encoder: Encoder, tmp_path: Path
) -> None:
    encoder.save(tmp_path / "cells")
    content = json.loads((tmp_path / "cells" / "encoder.json").read_text())
    assert content["manifest"]["identity"] == encoder.fingerprint.identity
    assert content.keys() == {"format", "headstrip", "files", "manifest", "labels", "network"}


def test_saving_keeps_the_training_mode(encoder: Encoder, tmp_path: Path) -> None:
    encoder.train()
    encoder.save(tmp_path / "cells")
    assert encoder.backbone.training
    assert not build_encoder(tmp_path / "cells").training


@pytest.mark.slow
@pytest.mark.parametrize("at", range(3))
def test_a_process_that_is_killed_while_it_saves_loses_nothing(
    encoder: Encoder, tmp_path: Path, at: int
) -> None:
    folder = tmp_path / "cells"
    encoder.save(folder)
    code = (
        "import sys, torch; from headstrip import build_encoder; from tests.failing import dying\n"
        "encoder = build_encoder(sys.argv[1]); encoder.predictors[0].bias.data.add_(1)\n"
        "next(encoder.backbone.parameters()).data.mul_(2)\n"
        f"with dying('replace', at={at}): encoder.save(sys.argv[1])"
    )
    ended = run_python("-c", code, str(folder), ready=True)
    assert ended.returncode == DIED, ended.stderr
    assert build_encoder(folder).fingerprint == encoder.fingerprint
    encoder.save(folder)
    assert len(list(folder.glob("weights-*"))) == 1
