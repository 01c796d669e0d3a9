"""Small networks with state that a probe must not change, and a record of that state."""

from __future__ import annotations

import random
from collections import OrderedDict, defaultdict, deque
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

SHAPE = (3, 8, 8)
WIDTH = 6


def pooled(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class WithBatchNorm(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(*pooled(nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.Dropout(0.5)))


class Shared(nn.Module):
    """One module under two names, and one tensor in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.out, self.tied = nn.Linear(3, WIDTH), nn.Linear(3, WIDTH)
        self.tied.weight = self.out.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x)).mean((2, 3))
        return self.out(x) + self.tied(x)


class Caching(nn.Module):
    """Caches tensors in attributes, as some networks cache attention biases between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTH, 1)
        self.cached: Tensor | None = None
        self.by_device: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.cached = self.conv.weight.sum()
        self.by_device.setdefault(str(x.device), torch.ones(WIDTH, device=x.device))
        self.another_attribute = x.shape
        return self.conv(x).mean((2, 3)) * self.by_device[str(x.device)] + self.cached


class Pair(NamedTuple):
    one: Tensor
    two: Tensor


class Keeping(nn.Module):
    """Keeps plain tensors in many containers, and changes every container when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTH, 1)
        self.plain = torch.rand(WIDTH)
        self.pair = Pair(torch.rand(WIDTH), torch.rand(WIDTH))
        self.listed = [torch.rand(WIDTH), (torch.rand(WIDTH), [torch.rand(WIDTH)])]
        self.named = OrderedDict(a=torch.rand(WIDTH), b={"c": torch.rand(WIDTH)})
        self.recent = deque([torch.rand(WIDTH)], maxlen=2)
        self.counts: defaultdict[str, list[int]] = defaultdict(list)
        self.seen = {"nothing"}
        self.ring: list[Any] = [1]
        self.ring.append(self.ring)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x).mean((2, 3)) * self.plain
        out = out + self.pair.one + self.listed[0] + self.listed[1][0] + self.listed[1][1][0]
        out = out + self.named["a"] + self.named["b"]["c"] + self.recent[0]
        self.plain += 1
        self.pair.two.zero_()
        self.listed.append(out)
        self.listed[1][1].append(out)
        self.listed[1][1][0].mul_(2)
        self.named["b"]["c"] = self.named.pop("a")
        self.recent.append(out)
        self.counts["forward"].append(1)
        self.seen.add("something")
        self.ring[1].append(2)
        self.calls += 1
        return out


class Drawing(nn.Module):
    """Draws from every global random generator."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(WIDTH) + random.random() + float(np.random.rand())
        return self.linear(x.flatten(1)) + noise


class DataDependent(nn.Module):
    """Reads a value, which fails on the meta device, and changes as much state as possible."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.linear = nn.Linear(3, WIDTH)
        self.register_buffer("steps", torch.zeros(()))
        self.plain, self.kept = torch.zeros(2), {"a": [torch.zeros(2)]}

    def forward(self, x: Tensor) -> Tensor:
        self.linear.weight.clamp_(-0.01, 0.01)
        before = self.steps
        before += 1
        self.steps = before * 2
        self.plain += 1
        self.kept["a"][0] += 1
        self.kept["a"].append(x)
        self.result = torch.rand(1).item() + random.random() + np.random.rand()
        scale = 1 + int(x.abs().sum().item())
        return self.linear(self.norm(x).mean((2, 3))) * scale


class Recurrent(nn.Module):
    """Also keeps its parameters in a list, as torch's recurrent layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(24, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.flatten(1).reshape(len(x), 8, 24))[0][:, -1]


def with_weight_norm() -> nn.Module:
    return pooled(weight_norm(nn.Conv2d(3, WIDTH, 1)))


def with_spectral_norm() -> nn.Module:
    return pooled(spectral_norm(nn.Conv2d(3, WIDTH, 1)))


def with_parametrizations() -> nn.Module:
    return pooled(
        parametrizations.weight_norm(nn.Conv2d(3, 4, 1)),
        parametrizations.spectral_norm(nn.Conv2d(4, WIDTH, 1)),
    )


def in_half_precision() -> nn.Module:
    return WithBatchNorm().half()


def in_bfloat16() -> nn.Module:
    return WithBatchNorm().bfloat16()


def without_parameters() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten())


ON_META = (
    WithBatchNorm,
    Shared,
    Caching,
    Keeping,
    Drawing,
    Recurrent,
    with_weight_norm,
    with_spectral_norm,
    with_parametrizations,
    in_half_precision,
    in_bfloat16,
    without_parameters,
)
NETWORKS = (*ON_META, DataDependent)


def random_states() -> tuple[Any, ...]:
    kind, numbers, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), kind, numbers.tolist(), *rest


def everything(model: nn.Module) -> list[Any]:
    """Record a network: each tensor by identity and bits, each attribute by key and content."""
    modules = [
        (name, id(module), type(module), recorded(vars(module), ()))
        for name, module in model.named_modules()
    ]
    return [modules, random_states()]


def recorded(value: Any, above: tuple[int, ...]) -> Any:
    if id(value) in above:
        return "itself"
    above = (*above, id(value))
    if isinstance(value, Tensor):
        plain = value.detach().cpu()
        bits = plain.contiguous().flatten().view(torch.uint8).tolist()
        return id(value), type(value), value.dtype, value.requires_grad, tuple(plain.shape), bits
    if isinstance(value, dict):
        return id(value), [(key, recorded(item, above)) for key, item in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return id(value), [recorded(item, above) for item in value]
    if isinstance(value, set):
        return id(value), sorted(map(repr, value))
    return value if isinstance(value, (bool, int, float, str)) else id(value)
