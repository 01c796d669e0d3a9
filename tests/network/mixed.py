"""Small random networks with layers that together need every rule."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: F.relu(x, inplace=True),
    lambda x: F.relu6(x, True),
    F.elu,
    F.selu,
    F.celu,
    lambda x: F.leaky_relu(x, 0.2),
    lambda x: F.gelu(x, approximate="tanh"),
    F.silu,
    F.mish,
    F.hardtanh,
    F.hardswish,
    F.hardsigmoid,
    F.softplus,
    torch.relu,
    torch.sigmoid,
    torch.tanh,
    lambda x: x.relu(),
    lambda x: x.sigmoid(),
    lambda x: x.tanh(),
    F.sigmoid,
    F.tanh,
    lambda x: F.softmax(x, -1),
    lambda x: x.softmax(1),
    lambda x: torch.softmax(x, dim=-1),
    lambda x: F.log_softmax(x, dim=1),
    lambda x: F.normalize(x, dim=-1),
    lambda x: F.dropout(x, 0.5, False),
    lambda x: F.dropout(x, 0.1),
)


class Function(nn.Module):
    """Applies a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class AttentionPool(nn.Module):
    """CLIP's pooling: attention over a map's positions, projected to another width."""

    def __init__(self, width: int, out: int, heads: int, named: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.c, self.heads, self.named = nn.Linear(width, out), heads, named

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x])
        bias = torch.cat([self.q.bias, self.k.bias, self.v.bias])
        parts = {
            "use_separate_proj_weight": True,
            "q_proj_weight": self.q.weight,
            "k_proj_weight": self.k.weight,
            "v_proj_weight": self.v.weight,
            "training": False,
            "need_weights": self.named,
        }
        first = (
            x,
            x,
            x,
            x.shape[-1],
            self.heads,
            None,
            bias,
            None,
            None,
            False,
            0.0,
            self.c.weight,
            self.c.bias,
        )
        return F.multi_head_attention_forward(*first, **parts)[0][0]


class Attention(nn.Module):
    """``nn.MultiheadAttention`` or the scaled product on the positions of a map, and their mean."""

    def __init__(self, width: int, draw: random.Random) -> None:
        super().__init__()
        self.first, self.weights = draw.random() < 0.5, draw.random() < 0.5
        self.plain, self.values = draw.random() < 0.4, nn.Linear(width, draw.randint(1, 9))
        self.attention = nn.MultiheadAttention(
            width, draw.choice([1, 2]), batch_first=self.first, add_bias_kv=draw.random() < 0.3
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        if self.plain:
            query, values = x[:, None], self.values(x)[:, None]
            mask = x.new_zeros(x.shape[1], x.shape[1])
            found = F.scaled_dot_product_attention(query, query, values, attn_mask=mask)
            return found[:, 0].mean(1)
        x = x if self.first else x.transpose(0, 1)
        found, _ = self.attention(x, x, x, need_weights=self.weights)
        return found.mean(1 if self.first else 0)


class Encoder(nn.Module):
    """A layer of torch's own transformer."""

    def __init__(self, width: int, first: bool) -> None:
        super().__init__()
        self.layer, self.first = nn.TransformerEncoderLayer(width, 2, 8, batch_first=first), first

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).permute(0, 2, 1) if self.first else x.flatten(2).permute(2, 0, 1)
        return self.layer(x)[:, 0] if self.first else self.layer(x)[0]


def mixed_network(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a network and the shape of its input without the batch."""
    draw = random.Random(seed)
    shape = (draw.choice([1, 3, 4]), draw.randint(8, 16), draw.randint(48, 64))
    channels, layers = shape[0], list[nn.Module]()
    for _ in range(draw.randint(1, 4)):
        wider = 2 * draw.randint(1, 6)
        layers.append(
            nn.Conv2d(
                channels,
                wider,
                draw.choice([1, 3, (1, 3)]),
                stride=draw.choice([1, (1, 2)]),
                padding=draw.choice([1, (1, 2), (1,)]),
                bias=draw.random() < 0.5,
            )
        )
        channels = wider
        norms = (nn.BatchNorm2d(wider), nn.GroupNorm(2, wider), nn.Identity())
        layers += [draw.choice(norms), Function(draw.choice(_ACTIVATIONS))]
        if draw.random() < 0.1:
            layers.append(nn.Conv2d(wider, wider, 3, padding="same", groups=2))
        if draw.random() < 0.2:
            layers.append(Function(lambda x: x.contiguous(memory_format=torch.channels_last)))
    layers += draw.choice(
        [
            [nn.AdaptiveAvgPool2d(1), nn.Flatten()],
            [nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.LayerNorm(2 * channels)],
            [AttentionPool(channels, draw.randint(1, 9), 2, draw.random() < 0.5)],
            [Attention(channels, draw)],
            [Encoder(channels, draw.random() < 0.5)],
        ]
    )
    layers += [Function(draw.choice(_ACTIVATIONS))]
    model = nn.Sequential(*layers)
    dtype = draw.choice([torch.float32, torch.float32, torch.float64])
    return Cast(model.to(dtype), dtype), shape


class Cast(nn.Module):
    """Casts the input to the dtype of the network."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.to(self.dtype))
