"""headstrip never guesses which of several state dicts in a file to load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.sampling import mostly_slow
from tests.weights.files import save_legacy, save_zip
from torch import Tensor, nn

from headstrip import WeightsError, build_encoder
from headstrip.network.checkpoints import refuse_several

State = dict[str, Tensor]


def network(seed: int, width: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 2))


def state(seed: int, width: int = 4) -> State:
    return dict(network(seed, width).state_dict())


def prefixed(one: State, prefix: str) -> State:
    return {f"{prefix}{key}": value for key, value in one.items()}


RAW, EMA = state(1), state(2)
ADAM = {
    "state": {0: {"step": torch.tensor(1.0), "exp_avg": RAW["0.weight"]}},
    "param_groups": [{"lr": 0.1, "params": [0]}],
}

SEVERAL: list[tuple[Any, list[str]]] = [
    ({"state_dict": RAW, "state_dict_ema": EMA}, ["['state_dict']", "['state_dict_ema']"]),
    ({"state_dict": RAW, "model": EMA}, ["['state_dict']", "['model']"]),
    ({"net": RAW, "network": EMA, "epoch": 3}, ["['net']", "['network']"]),
    ({"model": RAW, "model_ema": prefixed(EMA, "module.")}, ["['model']", "['model_ema']"]),
    ({"model": RAW, "teacher": EMA, "optimizer": ADAM}, ["['model']", "['teacher']"]),
    ({"model": RAW, "best": {"weights": EMA}}, ["['model']", "['best']['weights']"]),
    ({"checkpoint": {"model": RAW, "ema": EMA}}, ["['checkpoint']['model']"]),
    ({"student": prefixed(RAW, "module."), "teacher": EMA}, ["['student']", "['teacher']"]),
    ({"model": RAW, "ema": {"decay": 0.9, "shadow": EMA}}, ["['ema']['shadow']"]),
    ({"model": RAW, "swa": {k: v for k, v in EMA.items() if "running" not in k}}, ["['swa']"]),
    ({"model": {"state_dict": RAW}, "state_dict": EMA}, ["['model']['state_dict']"]),
    ({"best_loss_model": EMA, "model": RAW}, ["['best_loss_model']"]),
    ({"model": RAW, "net": state(3, width=8)}, ["['model']", "['net']"]),
    ({"state_dict": RAW, "averages": [None, EMA]}, ["['averages'][1]"]),
    ({"state_dict": RAW, "swa": ({"weights": EMA}, 3)}, ["['swa'][0]['weights']"]),
    ({"state_dict": RAW, 0: EMA}, ["[0]"]),
    ({"model": RAW, "momentum_teacher": EMA}, ["['momentum_teacher']"]),
    ({"online": RAW, "momentum": EMA}, ["['momentum']"]),
    ({"model": RAW, "optim_best": EMA}, ["['optim_best']"]),
    ({"state_dict": RAW, "opt_net": EMA}, ["['opt_net']"]),
    (
        {"model": RAW, "ema": {"num_updates": 3, "shadow_params": [*EMA.values()]}},
        ["['ema']['shadow_params']"],
    ),
    ({"model": RAW, "mean": dict(enumerate(EMA.values()))}, ["['mean']"]),
    ({"model": RAW, "mean": tuple(network(2).parameters())}, ["['mean']"]),
    ({"model": RAW, "mean": {k.replace(".", "_"): v for k, v in EMA.items()}}, ["['mean']"]),
    ({"model": RAW, "mean": [*EMA.items()]}, ["['mean']"]),
    (
        {"state_dict": RAW, "callbacks": {"EMA": {"state": {"weights": EMA}}}},
        ["['callbacks']['EMA']['state']['weights']"],
    ),
    (
        {"model": RAW, "swa": {"n_averaged": torch.tensor(3), **prefixed(EMA, "module.")}},
        ["['swa']"],
    ),
]

ONE: list[Any] = [
    RAW,
    {"state_dict": RAW, "epoch": 3, "best": torch.tensor(0.5)},
    {"model": RAW, "optimizer": ADAM, "lr_scheduler": {"last_epoch": 3}},
    {"model": RAW, "optimizer": {"exp_avg": EMA, "exp_avg_sq": state(3)}},
    {"model": RAW, "optimizer_state_dict": {"momentum_buffer": EMA}},
    {"model": RAW, "criterion": {"center": torch.zeros(4)}, "scaler": {"scale": 1.0}},
    {"model": RAW, "ema": {"decay": torch.tensor(0.9), "num_updates": torch.tensor(1)}},
    {"model": RAW, "state_dict": RAW},
    {"model": RAW, "state_dict": dict(RAW)},
    {"model": {"state_dict": RAW}, "args": {"lr": 0.1}},
    {"model": {"name": "net"}, "state_dict": RAW},
    {"model": RAW, "model_ema": None},
    {"model": RAW, "optimizer_G": {"exp_avg": EMA}, "opt": {"all": EMA}},
    {"model": RAW, "gradients": EMA, "momentum_buffers": [*EMA.values()]},
    {"model": RAW, "rng_states": [torch.zeros(8, dtype=torch.uint8)] * 4},
    {"model": RAW, "parameters": [*RAW.values()]},
    {"model": RAW, "losses": [torch.zeros(4)] * 6, "sizes": [(1, 2), (3, 4)]},
    {"state_dict": RAW, "optimizer_states": [ADAM, ADAM]},
    {"state_dict": RAW, "callbacks": {"Best": {"best_model_score": torch.tensor(0.5)}}},
]


@pytest.mark.parametrize(("content", "places"), SEVERAL)
@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_several_state_dicts_are_refused_and_listed(
    content: Any, places: list[str], save, tmp_path
) -> None:
    loaded = torch.load(save(content, tmp_path / "x"), weights_only=True)
    with pytest.raises(WeightsError, match="does not guess which one you mean") as caught:
        refuse_several(loaded, "x.pth")
    for place in places:
        assert f"content{place} (" in str(caught.value)


@pytest.mark.parametrize("content", ONE)
def test_one_state_dict_beside_other_content_is_accepted(content: Any, tmp_path: Path) -> None:
    refuse_several(torch.load(save_zip(content, tmp_path / "x"), weights_only=True), "x.pth")


def test_a_checkpoint_that_contains_itself_is_accepted() -> None:
    content: dict[str, Any] = {"model": RAW}
    content["again"] = content
    refuse_several(content, "x.pth")


SOURCES = ["squeezenet1_1", "hf:convnext", "timm:resnet10t", "efficientnet-lite:efficientnet_lite0"]


@pytest.mark.parametrize("name", mostly_slow(SOURCES, every=2))
@pytest.mark.parametrize("weights", ["{path}", "DEFAULT={path}"])
def test_every_source_refuses_several_state_dicts_and_accepts_the_key(
    name: str, weights: str, tmp_path: Path
) -> None:
    if name.startswith("hf:"):
        pytest.importorskip("headstrip_transformers")
        weights = "{path}"
    raw = {**build_encoder(name, weights=None).backbone.state_dict()}
    ema = {key: value.clone() for key, value in raw.items()}
    path = save_zip({"state_dict": raw, "state_dict_ema": ema}, tmp_path / "x")
    with pytest.raises(WeightsError, match=r"holds 2 state dicts that fit .*weights_key='state_"):
        build_encoder(name, weights=weights.format(path=path))
    encoder = build_encoder(name, weights=weights.format(path=path), weights_key="state_dict_ema")
    assert encoder.weights_key.split(".")[0] == "state_dict_ema"
    assert encoder.law == "headless"


SMALL = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def small() -> State:
    return dict(build_encoder(SMALL, weights=None).backbone.state_dict())


def changed(one: State) -> State:
    return {key: value + 1 for key, value in one.items()}


def dotless(one: State) -> State:
    return {key.replace(".", ""): value for key, value in one.items()}


def without_statistics(one: State) -> State:
    return {key: value for key, value in one.items() if "running" not in key and "num" not in key}


COUNTERS = {"decay": torch.tensor(0.9), "num_updates": torch.tensor(3)}
AVERAGES: dict[str, Any] = {
    "a list": lambda raw, mean: {"model": raw, "ema": {"n": 3, "shadow": [*mean.values()]}},
    "numbered": lambda raw, mean: {"model": raw, "ema": dict(enumerate(mean.values()))},
    "without dots": lambda raw, mean: {"model": raw, "ema": dotless(mean)},
    "pairs": lambda raw, mean: {"model": raw, "ema": [*mean.items()]},
    "another order": lambda raw, mean: {
        "model": raw,
        "ema": dict(sorted(without_statistics(mean).items())),
    },
    "counters first": lambda raw, mean: {"model": raw, "ema": {**COUNTERS, **dotless(mean)}},
    "in a dict for each": lambda raw, mean: {
        "model": raw,
        "ema": {key: {"mean": value, "n": 3} for key, value in mean.items()},
    },
    "beside it in one state dict": lambda raw, mean: {
        **prefixed(raw, "model."),
        **prefixed({**dotless(mean), **COUNTERS}, "ema."),
    },
    "beside it without statistics": lambda raw, mean: {
        **prefixed(raw, "model."),
        **prefixed(without_statistics(mean), "ema."),
    },
}


@pytest.mark.parametrize("kind", mostly_slow(AVERAGES))
def test_an_average_with_other_names_counts_as_a_second_state_dict(
    kind: str, small: State, tmp_path: Path
) -> None:
    path = save_zip(AVERAGES[kind](small, changed(small)), tmp_path / "x")
    with pytest.raises(WeightsError, match="under other names or without names, 'ema"):
        build_encoder(SMALL, weights=path)
    encoder = build_encoder(SMALL, weights=path, weights_key="model")
    assert encoder.weights_key == "model"
    assert torch.equal(encoder.backbone.state_dict()["conv1.0.weight"], small["conv1.0.weight"])


def test_a_key_that_also_covers_the_average_is_refused(small: State, tmp_path: Path) -> None:
    flat = AVERAGES["beside it without statistics"](small, changed(small))
    path = save_zip({"state_dict": flat}, tmp_path / "x")
    with pytest.raises(WeightsError, match=r"Pass weights_key='state_dict\.model'"):
        build_encoder(SMALL, weights=path, weights_key="state_dict")
    for key in ("state_dict.model", "model"):
        encoder = build_encoder(SMALL, weights=path, weights_key=key)
        assert encoder.weights_key == "state_dict.model"


@pytest.mark.parametrize("key", ["_orig_mod.module", "module._orig_mod", "module.", "module"])
def test_a_key_may_contain_names_of_wrappers_and_end_with_a_dot(
    key: str, small: State, tmp_path: Path
) -> None:
    path = save_zip(prefixed(small, "_orig_mod.module."), tmp_path / "x")
    assert build_encoder(SMALL, weights=path, weights_key=key).weights_key == "module"


def test_the_same_tensors_under_other_names_are_accepted(small: State, tmp_path: Path) -> None:
    content = {"model": small, "parameters": [*small.values()], "flat": dotless(small)}
    assert build_encoder(SMALL, weights=save_zip(content, tmp_path / "x")).weights_key == "model"


def test_adapters_beside_a_network_are_refused_without_a_key(small: State, tmp_path: Path) -> None:
    adapters = {f"{key}.lora_A.weight": torch.zeros(4, 4) for key in [*small][:3]}
    path = save_zip({"state_dict": small, "peft": adapters}, tmp_path / "x")
    with pytest.raises(WeightsError, match=r"LoRA adapters for it, 'peft'.*merge_and_unload"):
        build_encoder(SMALL, weights=path)
    assert build_encoder(SMALL, weights=path, weights_key="state_dict")


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ({"fc.1.weight": (7, 1024), "fc.1.bias": (7,)}, "so the encoder has no head"),
        (
            {
                "model.fc.weight": (9, 1024),
                "model.fc.bias": (9,),
                "head.weight": (7, 1024),
                "head.bias": (7,),
            },
            "'head' that may be the head of its classes",
        ),
        (
            {"classifier.weight": (7, 1024), "classifier.bias": (7,)},
            "'classifier' that may be the head of its classes. The encoder has no head",
        ),
    ],
)
def test_a_warning_says_that_the_encoder_does_not_have_the_files_head(
    head: dict[str, Any],
    why: str,
    small: State,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prefix = "" if "fc.1.weight" in head else "model."
    if "classifier.weight" in head:
        small = {key: one for key, one in small.items() if not key.startswith("fc.")}
    content = {
        **prefixed(small, prefix),
        **{key: torch.zeros(shape) for key, shape in head.items()},
    }
    build_encoder(SMALL, weights=save_zip(content, tmp_path / "x"))
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert why in warning
