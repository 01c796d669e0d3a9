"""What the checks compare, preserve and block."""

import copy
import socket

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headstrip.testing import perturb
from headstrip.testing.perturb import FastRandom
from headstrip.testing.states import (
    Snapshot,
    blocked_network,
    digest,
    generators_restored,
    seed_generators,
)


class Various(nn.Module):
    """Zeros, a scalar, running statistics, a mask, integers, and a cache."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        nn.init.zeros_(self.layer.weight)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf))
        self.register_buffer("index", torch.arange(3))
        self.register_buffer("cache", torch.ones(3), persistent=False)


@given(st.integers(0, 2**32))
def test_perturb_changes_parameters_and_statistics_and_keeps_variances_positive(seed):
    torch.manual_seed(seed)
    after = Various()
    before = copy.deepcopy(after)
    perturb(after)
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        assert (old != new).all()
        assert new.isfinite().all()
    assert (after.norm.running_mean != 0).all()
    assert after.norm.running_var.min() > 0
    for name in ("mask", "index", "cache"):
        assert torch.equal(getattr(before, name), getattr(after, name))


def test_perturb_follows_torchs_seed():
    networks = [Various(), Various()]
    for network in networks:
        torch.manual_seed(3)
        nn.init.constant_(network.layer.bias, 0)
        perturb(network)
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_values_from_the_pool_have_the_requested_distribution():
    torch.manual_seed(0)
    with FastRandom():
        normal = nn.init.normal_(torch.empty(1200, 1000), mean=1.0, std=0.5)
        uniform = nn.init.uniform_(torch.empty(1200, 1000), -2.0, 4.0)
        truncated = nn.init.trunc_normal_(torch.empty(300, 1000), std=0.02)
        small = torch.empty(10).normal_()
    assert normal.mean() == pytest.approx(1.0, abs=0.01)
    assert normal.std() == pytest.approx(0.5, abs=0.01)
    assert uniform.min() >= -2
    assert uniform.max() <= 4
    assert uniform.mean() == pytest.approx(1.0, abs=0.02)
    assert truncated.std() == pytest.approx(0.02, abs=0.001)
    assert small.unique().numel() == 10
    assert not torch.equal(normal[0], normal[1])


def test_two_layers_with_values_from_the_pool_differ():
    with FastRandom():
        one, other = nn.Linear(200, 200), nn.Linear(200, 200)
    assert not torch.equal(one.weight, other.weight)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (socket.create_connection, (("192.0.2.1", 80),)),
        (socket.getaddrinfo, ("example.org", 80)),
        (socket.gethostbyname, ("example.org",)),
    ],
)
def test_a_blocked_network_refuses_and_records_connections(call, arguments):
    with blocked_network() as tried:
        with pytest.raises(ConnectionError, match="no network while backbones are verified"):
            getattr(socket, call.__name__)(*arguments)
        with socket.socket() as one, pytest.raises(ConnectionError):
            one.connect_ex(("192.0.2.1", 80))
    assert len(tried) == 2
    assert getattr(socket, call.__name__) is call


def test_unix_sockets_work_while_the_network_is_blocked(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        with blocked_network() as tried:
            client.connect(path)
        assert (client.getpeername(), tried) == (path, [])


def test_a_snapshot_detects_changed_modes_values_and_generators():
    network = Various()
    before = Snapshot(network)
    assert before.changes("nothing", network) == []
    network.norm.eval()
    network.norm.running_mean += 1
    torch.rand(1)
    assert before.changes("it", network) == [
        "it set 'norm' to another mode",
        "it changed the values of 'norm.running_mean'",
        "it moved torch's random number generator",
    ]


def test_seeding_is_repeatable_and_the_state_is_restored():
    before = torch.get_rng_state()
    with generators_restored():
        seed_generators(7)
        first = torch.rand(3)
        seed_generators(7)
        assert torch.equal(first, torch.rand(3))
    assert torch.equal(before, torch.get_rng_state())


def test_a_digest_depends_on_bits_and_not_on_layout():
    values = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    assert digest(values) == digest(values.t().contiguous().t())
    assert digest(values) != digest(-values)
    assert digest(torch.tensor(0.0)) != digest(torch.tensor(-0.0))
