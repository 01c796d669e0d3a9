"""headstrip refuses a head that does not compute the network's logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headstrip import (
    BackboneSpec,
    HeadNotFoundError,
    PluginError,
    Stripped,
    build_encoder,
    detach,
    hookimpl,
    register_plugin,
    strip_head,
)
from headstrip.registry.registry import use_registry


@pytest.fixture(autouse=True)
def _own_registry():
    use_registry(None)
    yield
    use_registry(None)


class Net(nn.Module):
    """A hidden layer, and the layer that gives the logits."""

    def __init__(self, hidden: int = 6, num_classes: int = 4) -> None:
        super().__init__()
        self.stem, self.aux = nn.Conv2d(3, 6, 3), nn.Linear(6, num_classes)
        self.hidden, self.fc = nn.Linear(6, hidden), nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.hidden(self.stem(x).mean((2, 3))).relu())


class AsLogProbabilities(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(super().forward(x), dim=1)


class UsedTwice(Net):
    """Applies its head twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.fc(self.hidden(self.stem(x).mean((2, 3)))).relu())


class ReadingAValue(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * (1 + int(x.sum().item() > 1e9)))


class Viewed(Net):
    """Computes nothing after its head."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x)[:, :, None].flatten(1), 0.5, self.training)


class Features(nn.Module):
    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.stem(x).mean((2, 3))


def plugin(network: type[Net], path: str, **options: Any) -> object:
    """Return a plugin with one network that has its head at a path."""

    class Lab:
        FAMILIES = ("net",)

        @hookimpl
        def backbones(self):
            return (BackboneSpec("net", "lab", "lab:net", "lab", "image", (3, 9, 9), 0, 0),)

        @hookimpl
        def build_model(self, spec, options):
            return network(**{**given, **options})

        @hookimpl
        def strip_head(self, model):
            if path == "features":
                return Stripped(Features(model), model.hidden, ("hidden",))
            return detach(model, path)

    given = options
    return Lab()


WRONG = [
    (Net, "hidden", {}, "the head fails on the backbone's output of shape (2, 4): RuntimeError"),
    # Every layer is as wide as the next: shapes alone say nothing.
    (Net, "hidden", {"num_classes": 6}, "was at 'hidden', but the network's forward pass computes"),
    (Net, "hidden", {"hidden": 5}, "does not work as an encoder .*: it failed on input"),
    (Net, "aux", {}, "fails on the backbone's output"),
    (Net, "aux", {"num_classes": 6}, "was at 'aux', which the network's forward pass never calls"),
    (AsLogProbabilities, "fc", {}, "was at 'fc', but the network's forward pass computes more"),
    (ReadingAValue, "hidden", {"num_classes": 6}, "was at 'hidden', but the network's"),
    (UsedTwice, "fc", {"num_classes": 6}, "which the network's forward pass calls 2 times"),
    (Net, "features", {"hidden": 5}, "gives the shape (2, 5), but the untouched network gives"),
]


@pytest.mark.parametrize(("network", "path", "options", "reason"), WRONG)
def test_a_layer_that_does_not_compute_the_logits_is_refused_as_head(
    network, path, options, reason
):
    register_plugin(plugin(network, path, **options), "lab")
    with pytest.raises(PluginError, match=reason.replace("(", r"\(").replace(")", r"\)")):
        build_encoder("lab:net", weights=None)


@pytest.mark.parametrize("network", [Net, Viewed, ReadingAValue])
def test_the_layer_that_computes_the_logits_is_accepted_as_head(network):
    register_plugin(plugin(network, "fc"), "lab")
    encoder = build_encoder("lab:net", weights=None)
    assert (encoder.output_dim, encoder.head.out_features) == (6, 4)


def everything(model: nn.Module) -> list[Any]:
    modules = [(name, id(module), module.training) for name, module in model.named_modules()]
    return [
        modules,
        [(name, id(value)) for name, value in model.state_dict(keep_vars=True).items()],
    ]


@pytest.mark.parametrize(("network", "path", "options", "reason"), WRONG[:6])
def test_strip_head_refuses_a_wrong_layer_and_leaves_the_network_unchanged(
    network, path, options, reason
):
    register_plugin(plugin(network, path, **options), "lab")
    model = network(**options)
    before = everything(model)
    with pytest.raises(HeadNotFoundError, match="takes the wrong layer of this"):
        strip_head(model, family="lab:net")
    assert everything(model) == before
    assert model(torch.rand(1, 3, 9, 9)).shape == (1, options.get("num_classes", 4))


@pytest.mark.parametrize(
    ("network", "path"),
    [
        (Net, "hidden"),
        (Net, "aux"),
        (AsLogProbabilities, "fc"),
        (UsedTwice, "fc"),
    ],
)
def test_strip_head_refuses_a_wrong_layer_in_a_family_without_backbones(network, path):
    class Towers:
        FAMILIES = ("own",)

        @hookimpl
        def strip_head(self, model):
            return detach(model, path)

    register_plugin(Towers(), "towers")
    with pytest.raises(HeadNotFoundError, match="takes the wrong layer of this"):
        strip_head(network(num_classes=6), family="towers:own")


def test_strip_head_accepts_a_network_with_other_input_channels():
    register_plugin(plugin(Net, "fc"), "lab")
    model = Net()
    model.stem = nn.Conv2d(7, 6, 3)
    assert strip_head(model, family="lab:net").head.out_features == 4
