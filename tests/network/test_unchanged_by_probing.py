"""A probe leaves a network and the random generators unchanged, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from tests.network.networks import (
    NETWORKS,
    SHAPE,
    WIDTH,
    DataDependent,
    Keeping,
    WithBatchNorm,
    everything,
    pooled,
)
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torchvision import models

from headstrip.network.width import ProbeError, probe_width

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("make", NETWORKS)
def test_a_probe_leaves_everything_unchanged(make: Callable[[], nn.Module], mode: str) -> None:
    model = make().train(mode == "train")
    before = everything(model)
    assert probe_width(model, SHAPE) == WIDTH
    assert everything(model) == before


@pytest.mark.parametrize(
    "context", [torch.inference_mode, torch.no_grad, torch.enable_grad, nullcontext]
)
@pytest.mark.parametrize("make", NETWORKS)
def test_a_probe_works_in_any_mode_of_autograd(
    make: Callable[[], nn.Module], context: Callable[[], AbstractContextManager[Any]]
) -> None:
    model = make()
    with context():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        before = everything(model)
        assert probe_width(model, SHAPE) == WIDTH
        assert everything(model) == before
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == modes


@pytest.mark.parametrize("make", [WithBatchNorm, DataDependent])
def test_a_network_created_in_inference_mode_has_a_width(
    make: Callable[[], nn.Module],
) -> None:
    with torch.inference_mode():
        model = make()
    before = everything(model)
    assert probe_width(model, SHAPE) == WIDTH
    assert everything(model) == before


def test_a_probe_keeps_the_training_mode_of_each_module() -> None:
    model = pooled(nn.BatchNorm2d(3).eval(), nn.Dropout(), nn.BatchNorm2d(3)).train()
    model[0].eval()
    probe_width(model, SHAPE)
    assert [module.training for module in model] == [False, True, True, True, True]


@pytest.mark.parametrize("make", [models.resnet18, models.googlenet, models.swin_t])
def test_a_probe_leaves_a_torchvision_network_unchanged(make: Callable[..., nn.Module]) -> None:
    options = {"aux_logits": False, "init_weights": False} if make is models.googlenet else {}
    model = make(**options).train()
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    owned = [[id(value) for value in vars(module).values()] for module in model.modules()]
    assert probe_width(model, (3, 64, 64)) == 1000
    assert owned == [[id(value) for value in vars(module).values()] for module in model.modules()]
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())


class Failing(Keeping):
    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        torch.rand(1)
        raise RuntimeError("no\n  more")


class Interrupted(Keeping):
    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("make", "error"), [(Failing, ProbeError), (Interrupted, KeyboardInterrupt)]
)
def test_a_failed_probe_leaves_everything_unchanged(
    make: Callable[[], nn.Module], error: type[BaseException]
) -> None:
    model = make()
    before = everything(model)
    with pytest.raises(error):
        probe_width(model, SHAPE)
    assert everything(model) == before


@pytest.fixture
def called() -> Iterator[list[str]]:
    """A list of the hooks that ran, with two global ones registered."""
    names: list[str] = []
    handles = [
        global_hooks.register_module_forward_hook(lambda *_: names.append("global forward")),
        global_hooks.register_module_forward_pre_hook(lambda *_: names.append("global pre")),
    ]
    yield names
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("make", [WithBatchNorm, DataDependent, Failing])
def test_a_probe_runs_no_hooks_and_keeps_them(
    make: Callable[[], nn.Module], called: list[str]
) -> None:
    model = make()
    child = next(model.children())
    for module in (model, child):
        module.register_forward_hook(lambda *_: called.append("forward"))
        module.register_forward_hook(lambda *_, **__: called.append("kwargs"), with_kwargs=True)
        module.register_forward_hook(lambda *_: called.append("always"), always_call=True)
        module.register_forward_pre_hook(lambda *_: called.append("pre"))
        module.register_full_backward_hook(lambda *_: called.append("backward"))
        module.register_full_backward_pre_hook(lambda *_: called.append("backward pre"))
    before = everything(model)
    try:
        probe_width(model, SHAPE)
    except ProbeError:
        assert make is Failing
    assert called == []
    assert everything(model) == before
    child(torch.rand(2, *SHAPE))
    assert sorted(called) == [
        "always",
        "forward",
        "global forward",
        "global pre",
        "kwargs",
        "pre",
    ]


def test_the_handle_of_a_hook_still_removes_it(called: list[str]) -> None:
    model = WithBatchNorm()
    handle = model.register_forward_hook(lambda *_: called.append("forward"))
    probe_width(model, SHAPE)
    handle.remove()
    model.eval()(torch.rand(2, *SHAPE))
    assert "forward" not in called


def test_a_backward_pass_still_works_after_a_probe() -> None:
    model = DataDependentButHarmless()
    loss = model(torch.rand(2, *SHAPE)).square().sum()
    probe_width(model, SHAPE)
    loss.backward()
    assert model.linear.weight.grad is not None


class DataDependentButHarmless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)) * (1 + int(x.sum().item() > 1e9))
