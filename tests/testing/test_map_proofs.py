"""If a library computes the maps, the proof finds the modules that compute the same values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from headstrip.testing.map_proofs import cut_by_value, some_of


class Tokens(nn.Module):
    """Tokens after a class token, with windows that pass through the batch axis."""

    def __init__(self):
        super().__init__()
        self.stem, self.windows = nn.Conv2d(3, 4, 2, 2), nn.Linear(4, 4)
        self.block, self.side = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, *, with_side=False):
        stem = self.stem(x)
        rows = stem.flatten(2).transpose(1, 2)
        rows = self.windows(rows.reshape(2, -1, 4)).reshape(1, -1, 4)
        tokens = torch.cat([rows.mean(1, keepdim=True), rows], 1)
        found = self.block(tokens)
        self.maps = {
            "stem": stem,
            "block": found[:, 1:].transpose(1, 2).reshape(stem.shape),
            "doubled": 2 * stem,
        }
        return (found + self.side(tokens) if with_side else found).mean(1)


@pytest.mark.parametrize(
    ("name", "with_side", "outcome"),
    [
        ("stem", False, "proven"),
        ("block", False, "proven"),
        ("block", True, "partial"),
        ("doubled", False, "unseen"),
    ],
)
@torch.no_grad()
def test_a_map_is_proven_at_the_module_that_computes_it(name, with_side, outcome):
    torch.manual_seed(0)
    network, (x, y) = Tokens(), torch.randn(2, 1, 3, 4, 4)
    network.forward = lambda x: Tokens.forward(network, x, with_side=with_side)
    network(x)
    assert cut_by_value(network, [network.maps[name]], x, y) == [outcome]


class Repeated(nn.Module):
    """A network that uses one module twice, the second time without effect, as VOLO does."""

    def __init__(self):
        super().__init__()
        self.stem, self.drop = nn.Conv2d(3, 4, 2, 2), nn.Dropout()

    def forward(self, x):
        found = self.stem(x)
        embedding = self.drop(found.mean((2, 3)))
        self.drop(found)
        return embedding


@torch.no_grad()
def test_the_output_of_a_module_that_runs_twice_is_proven():
    torch.manual_seed(0)
    network, (x, y) = Repeated().eval(), torch.randn(2, 1, 3, 4, 4)
    assert cut_by_value(network, [network.stem(x)], x, y) == ["proven"]


@pytest.mark.parametrize(
    ("count", "numbers"), [(1, [0]), (5, [0, 1, 2, 3, 4]), (12, [1, 3, 5, 7, 9, 11])]
)
def test_at_most_six_levels_are_proven_with_the_last_one_included(count, numbers):
    assert some_of(count) == numbers
