"""The removed head must be the layer that computes the network's logits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headstrip import Stripped, detach
from headstrip.network.head_check import logits_without_memory, strip_own, width_of_stripped
from headstrip.network.width import HeadError, ProbeError, run_once

SHAPE = (3, 4, 4)


class Net(nn.Module):
    """A stem, and the layer that computes the logits."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, classes)
        self.unused = nn.Linear(6, classes)

    def features(self, x: Tensor) -> Tensor:
        return self.stem(x).mean((2, 3))

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.features(x))


class OfAView(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))[:, :, None].flatten(1)


class OnARealDevice(Net):
    """Reads a value, which the meta device does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x) * (1 + int(x.sum().item())))


class AddsSomething(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x)) + 1


class CallsTwice(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.fc(x) if self.training else self.fc(self.fc(x))


class GivesAPairToItsHead(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.fc((x, 1))[0]


def never() -> tuple[int, ...]:
    raise AssertionError("The untouched network is not needed.")


def stripped_of(
    network: nn.Module, head: nn.Module | None, *paths: str, law: Any = "exact"
) -> Stripped:
    """Return a network with an identity in place of ``fc``, and any head."""
    network.fc = nn.Identity()
    return Stripped(network, head, paths or ("fc",), law)


@pytest.mark.parametrize("network", [Net, OfAView, OnARealDevice])
def test_the_last_layer_is_accepted_without_a_comparison(network: type[Net]) -> None:
    assert width_of_stripped(detach(network(), "fc"), SHAPE, never) == 6


@pytest.mark.parametrize(
    ("network", "path", "reason"),
    [
        (Net, "unused", "was at 'unused', which the network's forward pass never calls"),
        (
            AddsSomething,
            "fc",
            "was at 'fc', but the network's forward pass computes more with its output",
        ),
        (CallsTwice, "fc", "was at 'fc', which the network's forward pass calls 2 times"),
        (
            GivesAPairToItsHead,
            "fc",
            "was at 'fc', but the network's forward pass computes more with its output",
        ),
    ],
)
def test_a_layer_that_is_not_the_last_is_refused(
    network: type[Net], path: str, reason: str
) -> None:
    stripped = detach(network(classes=6), path)
    stripped.backbone.fc = nn.Identity() if path == "fc" else nn.Linear(6, 6)
    with pytest.raises(HeadError) as caught:
        width_of_stripped(stripped, SHAPE, never)
    assert str(caught.value) == reason


class Renamed(nn.Identity):
    """A module that may do more than an identity."""


def with_a_renamed_identity() -> Stripped:
    stripped = stripped_of(Net(), nn.Linear(6, 5))
    stripped.backbone.fc = Renamed()
    return stripped


COMPARED: list[Callable[[], Stripped]] = [
    lambda: stripped_of(Net(), nn.Linear(6, 5), law="declared"),
    lambda: stripped_of(Net(), nn.Linear(6, 5), law="rounding"),
    lambda: stripped_of(Net(), nn.Sequential(nn.ReLU(), nn.Linear(6, 5))),
    lambda: stripped_of(Net(), nn.Linear(6, 5), "fc", "aux"),
    lambda: stripped_of(Net(), nn.Linear(6, 5), "nowhere"),
    lambda: stripped_of(Net(), nn.Linear(6, 5), "stem"),
    lambda: stripped_of(OnARealDevice(), nn.Linear(6, 5), law="declared"),
    with_a_renamed_identity,
]


@pytest.mark.parametrize("make", COMPARED)
def test_other_heads_are_compared_with_the_untouched_network(make: Callable[[], Stripped]) -> None:
    assert width_of_stripped(make(), SHAPE, lambda: (2, 5)) == 6
    assert width_of_stripped(make(), SHAPE, lambda: None) == 6
    with pytest.raises(HeadError) as caught:
        width_of_stripped(make(), SHAPE, lambda: (2, 7))
    assert str(caught.value) == "gives the shape (2, 5), but the untouched network gives (2, 7)"


class Giving(nn.Module):
    """Returns the result of a function of its input."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: (x, x), "gives a tuple instead of a tensor of logits"),
        (lambda x: x[:, :, None], "gives the shape (2, 6, 1) instead of (N, classes)"),
        (lambda x: x[:1], "gives the shape (1, 6) instead of (N, classes)"),
        (lambda x: x.sum(1), "gives the shape (2,) instead of (N, classes)"),
    ],
)
def test_a_head_with_an_output_that_is_not_logits_is_refused(
    function: Callable[[Tensor], Any], reason: str
) -> None:
    with pytest.raises(HeadError) as caught:
        width_of_stripped(stripped_of(Net(), Giving(function)), SHAPE, never)
    assert str(caught.value) == reason


@pytest.mark.parametrize("network", [Net, OnARealDevice])
def test_a_head_that_does_not_accept_the_embedding_is_refused(network: type[Net]) -> None:
    stripped = stripped_of(network(), nn.Linear(7, 5))
    with pytest.raises(
        HeadError, match=r"^fails on the backbone's output of shape \(2, 6\): RuntimeError: "
    ):
        width_of_stripped(stripped, SHAPE, never)


@pytest.mark.parametrize("head", [None, nn.LazyLinear(5)])
def test_a_missing_or_lazy_head_is_not_run(head: nn.Module | None) -> None:
    assert width_of_stripped(stripped_of(Net(), head), SHAPE, never) == 6


@pytest.mark.parametrize("head", [None, nn.Linear(6, 5)])
def test_an_output_that_is_not_an_embedding_is_refused(head: nn.Module | None) -> None:
    stripped = stripped_of(Giving(lambda x: x), head, "function")
    with pytest.raises(ProbeError) as caught:
        width_of_stripped(stripped, SHAPE, never)
    assert str(caught.value) == (
        "gave shape (2, 3, 4, 4) for input (2, 3, 4, 4) instead of (N, dim)"
    )


class Watch(nullcontext[None]):
    """Counts how often a block enters it."""

    entered = 0

    def __enter__(self) -> None:
        self.entered += 1


@pytest.mark.parametrize("head", [None, nn.Linear(6, 5)])
@pytest.mark.parametrize(("network", "runs"), [(Net, 1), (OnARealDevice, 2)])
def test_the_network_runs_under_the_watch(
    network: type[Net], runs: int, head: nn.Module | None
) -> None:
    watch = Watch()
    width_of_stripped(stripped_of(network(), head), SHAPE, never, watch)
    assert watch.entered == runs


@pytest.mark.parametrize("network", [Net, OnARealDevice])
def test_a_run_records_the_output_the_logits_and_the_watched_output(
    network: type[Net],
) -> None:
    stripped = detach(network(), "fc")
    assert stripped.head is not None
    identity = stripped.backbone.fc
    run = run_once(stripped.backbone, SHAPE, head=stripped.head, watched=identity)
    assert (run.output.shape, run.logits.shape, len(run.passed)) == ((2, 6), (2, 5), 1)
    assert run.passed[0] is run.output
    assert not run.logits.requires_grad
    assert "forward" not in vars(identity)
    assert run_once(stripped.backbone, SHAPE).logits is None


@pytest.mark.parametrize("network", [Net, OnARealDevice])
def test_the_head_runs_in_eval_mode_and_stays_unchanged(network: type[Net]) -> None:
    head = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 5)).train()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    width_of_stripped(stripped_of(network(), head), SHAPE, lambda: (2, 5))
    assert all(module.training for module in head.modules())
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_the_shape_of_the_logits_is_found_without_memory() -> None:
    built: list[Net] = []

    def build() -> Net:
        built.append(Net())
        return built[0]

    assert logits_without_memory(build, SHAPE) == (2, 5)
    assert built[0].fc.weight.is_meta


@pytest.mark.parametrize(
    "build",
    [lambda: 1 / 0, OnARealDevice, lambda: Giving(lambda x: (x, x)), lambda: nn.Linear(7, 5)],
)
def test_a_shape_of_logits_that_needs_memory_is_unknown(
    build: Callable[[], nn.Module],
) -> None:
    assert logits_without_memory(build, SHAPE) is None


def test_the_layer_that_computes_the_logits_of_a_users_network_is_removed() -> None:
    model = Net()
    fc = model.fc
    stripped = strip_own(model, lambda: detach(model, "fc"), [(1, 4, 4), SHAPE])
    assert stripped.backbone is model
    assert stripped.head is fc


@pytest.mark.parametrize(
    "network",
    [
        lambda: AddsSomething(classes=6),
        lambda: CallsTwice(classes=6).train(),
    ],
)
@pytest.mark.parametrize("shapes", [[SHAPE], [(1, 4, 4), SHAPE]])
def test_a_users_network_with_a_wrong_head_is_refused_and_stays_whole(
    network: Callable[[], Net], shapes: list[tuple[int, ...]]
) -> None:
    model = network()
    before = [(id(module), dict(vars(module))) for module in model.modules()]
    registered = dict(model.named_modules())
    with pytest.raises(HeadError, match="was at 'fc'"):
        strip_own(model, lambda: detach(model, "fc"), shapes)
    assert dict(model.named_modules()) == registered
    assert [(id(module), dict(vars(module))) for module in model.modules()] == before


def test_a_head_with_other_logits_than_a_users_network_is_refused() -> None:
    model = Net()
    with pytest.raises(HeadError, match=r"gives the shape \(2, 7\), but .* gives \(2, 5\)"):
        strip_own(model, lambda: stripped_of(model, nn.Linear(6, 7), law="declared"), [SHAPE])
    assert isinstance(model.fc, nn.Linear)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_while_stripping_leaves_a_users_network_whole(
    error: type[BaseException],
) -> None:
    model = Net()

    def strip() -> Stripped:
        model.fc = nn.Identity()
        raise error

    with pytest.raises(error):
        strip_own(model, strip, [SHAPE])
    assert isinstance(model.fc, nn.Linear)


@pytest.mark.parametrize(
    ("network", "shapes"),
    [
        (AddsSomething, []),
        (AddsSomething, [(1, 4, 4)]),
        (OnARealDevice, [SHAPE]),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.Unflatten(1, (2, 3))), [SHAPE]),
        (lambda: nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (6, 16))), [SHAPE]),
        (lambda: Giving(lambda x: [x.flatten(1), x]), [SHAPE]),
    ],
)
def test_a_users_network_without_known_logits_is_stripped_unchecked(
    network: Callable[[], nn.Module], shapes: list[tuple[int, ...]]
) -> None:
    model = network()
    wrong = Stripped(model, nn.Linear(1, 1), ("nowhere",))
    assert strip_own(model, lambda: wrong, shapes) is wrong


def test_a_users_network_without_a_head_is_not_checked() -> None:
    model = Net()
    headless = Stripped(model, None, (), "headless")
    assert strip_own(model, lambda: headless, [SHAPE]) is headless
