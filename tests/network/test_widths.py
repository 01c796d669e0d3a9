"""The probed width matches a real forward pass, without computing values if possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.network.networks import ON_META, SHAPE, WIDTH, DataDependent, pooled
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision import models

from headstrip.network.width import ProbeError, probe_width

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")


class MetaAlone(TorchDispatchMode):
    """Fail if an operation returns a tensor with memory; count the meta tensors."""

    seen = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                assert value.is_meta, f"{function} gave a tensor on {value.device}"
                self.seen += 1
        return out


@pytest.mark.parametrize("make", ON_META)
def test_the_probe_allocates_no_memory_for_activations(make: Callable[[], nn.Module]) -> None:
    model = make()
    with MetaAlone() as mode:
        assert probe_width(model, SHAPE) == WIDTH
    assert mode.seen > 2


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32", "swin_t", "r3d_18", "mobilenet_v3_small"])
def test_the_probe_allocates_no_memory_for_a_large_network(name: str) -> None:
    with torch.device("meta"):
        model = models.get_model(name, weights=None)
    shape = (3, 16, 112, 112) if name == "r3d_18" else (3, 224, 224)
    with MetaAlone() as mode:
        assert probe_width(model, shape) == (400 if name == "r3d_18" else 1000)
    assert mode.seen > 50


def test_a_network_that_reads_a_value_runs_once_for_real() -> None:
    calls: list[tuple[str, bool, bool]] = []

    class Counted(DataDependent):
        def forward(self, x: Tensor) -> Tensor:
            calls.append((x.device.type, self.training, torch.is_inference_mode_enabled()))
            return super().forward(x)

    assert probe_width(Counted().train(), SHAPE) == WIDTH
    assert calls == [("meta", False, False), ("cpu", False, True)]


layers = st.sampled_from(["conv", "norm", "relu", "pool", "residual", "dropout"])


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(4, 12), st.integers(4, 12)))
    channels, parts = shape[0], list[nn.Module]()
    for layer in draw(st.lists(layers, max_size=5)):
        if layer == "conv":
            wider = draw(st.integers(1, 9))
            parts.append(nn.Conv2d(channels, wider, 3, padding=1, stride=draw(st.integers(1, 2))))
            channels = wider
        parts += {
            "norm": [nn.BatchNorm2d(channels)],
            "relu": [nn.ReLU(inplace=True)],
            "pool": [nn.AdaptiveMaxPool2d(draw(st.integers(1, 4)))],
            "residual": [Residual(channels)],
            "dropout": [nn.Dropout(0.5)],
        }.get(layer, [])
    head = [nn.LazyLinear(draw(st.integers(1, 9)))] if draw(st.booleans()) else []
    model = nn.Sequential(*parts, nn.Flatten(), *head).eval()
    with torch.no_grad():
        model(torch.zeros(1, *shape))
    return model.train(draw(st.booleans())), shape


@given(networks())
@settings(max_examples=60, deadline=None)
def test_the_probed_width_is_correct(drawn: tuple[nn.Module, tuple[int, ...]]) -> None:
    model, shape = drawn
    width = probe_width(model, shape)
    with torch.no_grad():
        assert model.eval()(torch.rand(3, *shape)).shape == (3, width)


class Giving(nn.Module):
    """Returns the result of a function of its input."""

    def __init__(self, output: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> object:
        return self.output(x)


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (lambda x: x, r"gave shape \(2, 3, 8, 8\) for input \(2, 3, 8, 8\) instead of \(N, dim\)"),
        (lambda x: x.mean((1, 2, 3)), r"gave shape \(2,\)"),
        (lambda x: x.reshape(6, 64), r"gave shape \(6, 64\)"),
        (lambda x: (x.flatten(1), x), "gave a tuple instead of a tensor"),
        (lambda x: {"features": x}, "gave a dict instead of a tensor"),
        (lambda x: None, "gave a NoneType instead of a tensor"),
        (lambda x: x @ torch.ones(5, 5), r"failed on input \(2, 3, 8, 8\) with RuntimeError: "),
        (lambda x: x.flatten(1) + x.sum().item() + [], "failed .* with TypeError: "),
        (lambda x: x.features, "failed .* with AttributeError: "),
    ],
)
def test_an_output_that_is_not_an_embedding_is_refused(
    output: Callable[[Tensor], object], problem: str
) -> None:
    with pytest.raises(ProbeError, match=problem):
        probe_width(Giving(output), SHAPE)


def test_the_reason_of_a_failure_is_one_line() -> None:
    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("size of input\n    must be 9")

    with pytest.raises(ProbeError, match=r"RuntimeError: size of input must be 9$"):
        probe_width(Giving(fail), SHAPE)


def test_lazy_layers_are_refused_and_stay_lazy() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    with pytest.raises(ProbeError, match="lazy parameters"):
        probe_width(model, SHAPE)
    assert model[1].has_uninitialized_params()


def test_a_network_on_the_meta_device_has_a_width() -> None:
    with torch.device("meta"):
        model = pooled(nn.Conv2d(3, WIDTH, 1))
    assert probe_width(model, SHAPE) == WIDTH


def test_a_network_on_the_meta_device_that_reads_a_value_has_no_width() -> None:
    with torch.device("meta"):
        model = DataDependent()
    with pytest.raises(ProbeError, match="failed"):
        probe_width(model, SHAPE)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_scripted_network_has_a_width() -> None:
    model = torch.jit.script(pooled(nn.Conv2d(3, WIDTH, 1), nn.BatchNorm2d(WIDTH)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert probe_width(model, SHAPE) == WIDTH
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
