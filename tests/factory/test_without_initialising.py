"""Building with weights skips the initialisation of tensors that the file has."""

from __future__ import annotations

import copy
import gc
import hashlib
import os
import pickle
import threading

import pytest
import torch
from tests.factory.nets_plugin import SHAPE, registered
from torch import nn
from torch.nn import functional as F

from headstrip import (
    PluginError,
    WeightsError,
    build_encoder,
)
from headstrip.factory.construction import build_stripped
from headstrip.network.assigning import assign
from headstrip.network.meta_init import Replaced, meta_parameters


class Net(nn.Module):
    """A small network; subclasses add parts that are hard to build without values."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, num_classes)

    def features(self, x):
        return self.norm(self.conv(x)).mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))


class Constants(Net):
    """Keeps constants everywhere except in the state dict."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.register_buffer("window", torch.linspace(0.5, 1, 8), persistent=False)
        self.scale = torch.arange(1.0, 9.0)
        self.tables = {"shift": [torch.full((8,), 0.25)]}
        self.rate = torch.linspace(0, 1, 3)[1].item()

    def features(self, x):
        y = super().features(x) * self.window * self.scale
        return y + self.tables["shift"][0] * self.rate


class Tied(Net):
    """Has one parameter in two places."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.mix = nn.Linear(8, 8)
        self.again = nn.Linear(8, 8)
        self.again.weight = self.mix.weight

    def features(self, x):
        return self.again(self.mix(super().features(x)))


class Alias(Net):
    """Also keeps a parameter's memory in an attribute."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.kernel = self.conv.weight.data

    def features(self, x):
        return F.conv2d(x, self.kernel).mean((2, 3))


class Reads(Net):
    """Computes a number from the values of a parameter."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.gain = nn.Parameter(torch.ones(1))
        self.factor = 2 * self.gain.item()

    def features(self, x):
        return super().features(x) * self.factor


class Twice(Net):
    """Has two parameters that a file may fill from one tensor."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.one = nn.Parameter(torch.zeros(8))
        self.two = nn.Parameter(torch.zeros(8))

    def features(self, x):
        return super().features(x) * self.one + self.two


class Odd(Net):
    """Subclasses hold references to tensors outside the module's registers."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.setup()

    def features(self, x):
        return self.mid(super().features(x))


class InAList(Odd):
    def setup(self):
        self.w = w = nn.Parameter(torch.randn(8))
        self.kept = [w]

    def mid(self, x):
        return x * self.kept[0]


class InAClosure(Odd):
    def setup(self):
        w = nn.Parameter(torch.randn(8))
        self.w = w
        self.times = lambda x: x * w

    def mid(self, x):
        return self.times(x)


class TwinInAClosure(Odd):
    def setup(self):
        self.w = nn.Parameter(torch.randn(8))
        w = self.w
        self.times = lambda x: x * w

    def mid(self, x):
        return self.times(x)


class ViewInABuffer(Odd):
    def setup(self):
        w = nn.Parameter(torch.randn(8))
        self.w = w
        self.register_buffer("view", w.data.view(8), persistent=False)

    def mid(self, x):
        return x * self.view


class HalfOfABuffer(Odd):
    def setup(self):
        both = torch.randn(16)
        self.register_buffer("both", both)
        self.register_buffer("part", both[:8], persistent=False)

    def mid(self, x):
        return x * self.part


class BufferInAList(Odd):
    def setup(self):
        self.register_buffer("b", torch.randn(8))
        self.kept = [self.b]

    def mid(self, x):
        return x * self.kept[0]


class HiddenModule(Odd):
    def setup(self):
        self.hidden = [nn.Linear(8, 8)]
        with torch.no_grad():
            self.hidden[0].weight.fill_(0.5)
            self.hidden[0].bias.fill_(0.25)

    def mid(self, x):
        return self.hidden[0](x)


class KeepsItsDevice(Odd):
    def setup(self):
        self.device = self.conv.weight.device

    def mid(self, x):
        return x + torch.ones(8, device=self.device)


class TiedByData(Odd):
    def setup(self):
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight.data = self.one.weight.data

    def mid(self, x):
        return self.two(self.one(x))


class LoadsByData(Odd):
    def setup(self):
        self.w = nn.Parameter(torch.randn(8))

    def _load_from_state_dict(self, state, prefix, *rest):
        self.w.data = state[f"{prefix}w"].clone()
        super()._load_from_state_dict(state, prefix, *rest)

    def mid(self, x):
        return x * self.w


class LooksBeforeLoading(Odd):
    def setup(self):
        self.w = nn.Parameter(torch.randn(8))
        self.register_load_state_dict_pre_hook(lambda module, *rest: module.w.sum().item())

    def mid(self, x):
        return x * self.w


ODD = (
    InAList,
    InAClosure,
    TwinInAClosure,
    ViewInABuffer,
    HalfOfABuffer,
    BufferInAList,
    HiddenModule,
    KeepsItsDevice,
    TiedByData,
    LoadsByData,
    LooksBeforeLoading,
)
NETS = {kind.__name__.lower(): kind for kind in (Net, Constants, Tied, Alias, Reads, Twice, *ODD)}


@pytest.fixture(autouse=True)
def nets():
    with registered(NETS):
        yield


def network(name, seed=3):
    torch.manual_seed(seed)
    model = NETS[name]().eval()
    for tensor in (*model.parameters(), model.norm.running_mean):
        tensor.data.normal_()
    return model


@pytest.fixture
def saved(tmp_path):
    def save(name, change=lambda state: state, **options):
        model = network(name)
        path = tmp_path / f"{name}.pth"
        torch.save(change(model.state_dict()), path, **options)
        return model, path

    return save


def images(seed=5):
    return torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "mechanism"),
    [
        ("net", "assigned"),
        ("constants", "assigned"),
        ("tied", "assigned"),
        ("twice", "assigned"),
        ("alias", "ordinary"),
        ("reads", "ordinary"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_embeddings_match_those_of_the_saved_network(saved, name, mechanism, zipped):
    model, path = saved(name, _use_new_zipfile_serialization=zipped)
    encoder = build_encoder(f"nets:{name}", weights=path)
    assert torch.equal(encoder(images()), model.features(images()))
    assert torch.equal(encoder.logits(images()), model(images()))
    assert build_stripped(f"nets:{name}", weights=path).mechanism == mechanism
    assert not any(tensor.is_meta for tensor in (*encoder.parameters(), *encoder.buffers()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net", "nets:net is built without initialising it"),
        ("alias", "nets:alias is initialised before its weights are loaded: some of its tensors"),
        ("reads", "nets:reads is initialised before its weights are loaded: its constructor needs"),
    ],
)
def test_the_log_names_the_build_strategy_and_its_reason(saved, name, message, caplog):
    _, path = saved(name)
    with caplog.at_level("INFO", logger="headstrip.factory"):
        build_encoder(f"nets:{name}", weights=path)
    assert message in caplog.text


@pytest.mark.parametrize("name", ["net", "reads"])
def test_no_build_strategy_changes_the_random_generator(saved, name):
    _, path = saved(name)
    before = torch.get_rng_state()
    build_encoder(f"nets:{name}", weights=path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ODD, ids=lambda kind: kind.__name__)
def test_other_references_to_a_networks_tensors_stay_correct(saved, kind):
    model, path = saved(kind.__name__.lower())
    encoder = build_encoder(f"nets:{kind.__name__.lower()}", weights=path)
    assert torch.equal(encoder(images()), model.features(images()))


def test_parameters_that_share_memory_stay_tied(saved):
    backbone = build_encoder("nets:tiedbydata", weights=saved("tiedbydata")[1]).backbone
    backbone.one.weight.data.add_(1)
    assert torch.equal(backbone.one.weight, backbone.two.weight)


def test_tensors_that_overlap_in_the_file_are_separate_in_the_network(saved):
    def overlap(state):
        both = torch.arange(12.0)
        return {**state, "one": both[:8], "two": both[4:]}

    backbone = build_encoder("nets:twice", weights=saved("twice", overlap)[1]).backbone
    backbone.one.data.add_(1)
    assert torch.equal(backbone.two, torch.arange(4.0, 12.0))


def test_a_small_file_with_a_head_of_a_hundred_million_classes_is_refused(saved):
    def expand(state):
        many = 100_000_000
        weight, bias = torch.zeros(1).expand(many, 8), torch.zeros(1).expand(many)
        return {**state, "fc.weight": weight, "fc.bias": bias}

    _, path = saved("net", expand)
    with pytest.raises(WeightsError, match=r"has 3,600,.* bytes of tensors"):
        build_encoder("nets:net", weights=path)


def test_a_parameter_that_two_modules_share_stays_shared(saved):
    backbone = build_encoder("nets:tied", weights=saved("tied")[1]).backbone
    assert backbone.again.weight is backbone.mix.weight


def test_one_tensor_under_two_names_does_not_tie_two_parameters(saved):
    _, path = saved("twice", lambda state: {**state, "two": state["one"]})
    backbone = build_encoder("nets:twice", weights=path).backbone
    with torch.no_grad():
        backbone.one += 1
    assert torch.equal(backbone.one - 1, backbone.two)


@pytest.mark.parametrize("stored", [torch.float16, torch.float64])
@pytest.mark.parametrize("wanted", [None, torch.bfloat16])
def test_a_file_of_another_dtype_is_cast_as_torch_casts_it(saved, stored, wanted):
    def change(state):
        return {key: v.to(stored) if v.is_floating_point() else v for key, v in state.items()}

    _, path = saved("net", change)
    ordinary = NETS["net"]()
    ordinary.load_state_dict(torch.load(path, weights_only=True))
    encoder = build_encoder("nets:net", weights=path, dtype=wanted)
    expected = ordinary.to(wanted or torch.float32).state_dict()
    found = {**encoder.backbone.state_dict(), "fc.weight": encoder.head.weight}
    for key, value in found.items():
        assert value.dtype == expected[key].dtype
        assert torch.equal(value, expected[key])


def test_parameters_are_contiguous_even_if_the_file_is_channels_last(saved):
    def change(state):
        return {**state, "conv.weight": state["conv.weight"].to(memory_format=torch.channels_last)}

    _, path = saved("net", change)
    encoder = build_encoder("nets:net", weights=path)
    assert encoder.backbone.conv.weight.is_contiguous()


@pytest.mark.parametrize("mapped", [None, True, False])
def test_every_parameter_starts_at_a_multiple_of_64_bytes(saved, mapped):
    encoder = build_encoder("nets:twice", weights=saved("twice")[1], map=mapped)
    assert all(parameter.data_ptr() % 64 == 0 for parameter in encoder.parameters())


def test_a_slice_of_a_tensor_is_moved_to_a_multiple_of_64_bytes():
    with meta_parameters(Replaced()):
        model = Twice()
    part = torch.arange(9.0)[1:]
    state = {**Twice().state_dict(), "one": part}
    assign(model, state, state)
    assert model.one.data_ptr() % 64 == 0
    assert torch.equal(model.one, part)


def test_training_never_writes_the_file(saved):
    _, path = saved("net")
    before = path.read_bytes()
    encoder = build_encoder("nets:net", weights=path)
    optimizer = torch.optim.SGD(encoder.backbone.parameters(), 0.1)
    encoder.train()(images()).square().sum().backward()
    optimizer.step()
    assert all(parameter.grad is not None for parameter in encoder.backbone.parameters())
    assert path.read_bytes() == before
    assert not torch.equal(
        encoder.backbone.conv.weight, build_encoder("nets:net", weights=path).backbone.conv.weight
    )


def rewrite(path):
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 255
    with open(path, "r+b") as file:
        file.write(data)
    os.utime(path, ns=(1, 1))


def test_a_mapped_file_that_is_rewritten_in_place_stops_the_encoder(saved):
    _, path = saved("net")
    encoder = build_encoder("nets:net", weights=path, map=True)
    rewrite(path)
    for use in (
        lambda: encoder(images()),
        lambda: encoder.fingerprint,
        encoder.half,
        encoder.state_dict,
        encoder.share_memory,
        lambda: copy.deepcopy(encoder),
        lambda: pickle.dumps(encoder),
    ):
        with pytest.raises(WeightsError, match=r"rewritten in place while it was in use.*Load"):
            use()


def test_rewriting_a_file_that_is_not_mapped_changes_nothing(saved):
    model, path = saved("net")
    encoder = build_encoder("nets:net", weights=path, map=False)
    rewrite(path)
    assert torch.equal(encoder(images()), model.features(images()))


def test_renaming_a_file_over_the_mapped_one_changes_nothing(saved, tmp_path):
    model, path = saved("net")
    encoder = build_encoder("nets:net", weights=path, map=True)
    (tmp_path / "other").write_bytes(b"another file")
    os.replace(tmp_path / "other", path)
    assert torch.equal(encoder(images()), model.features(images()))


def test_touching_a_mapped_file_without_changing_it_stops_nothing(saved):
    model, path = saved("net")
    encoder = build_encoder("nets:net", weights=path, map=True)
    os.utime(path)
    assert torch.equal(encoder(images()), model.features(images()))


def test_a_file_that_is_cut_short_is_noticed_before_its_pages_are_read(saved):
    _, path = saved("net")
    encoder = build_encoder("nets:net", weights=path, map=True)
    os.truncate(path, 100)
    for use in (encoder.half, lambda: copy.deepcopy(encoder), encoder.state_dict):
        with pytest.raises(WeightsError, match="was rewritten in place"):
            use()


@pytest.mark.parametrize(
    "change",
    [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder)), lambda e: e.double()],
    ids=["deepcopy", "pickle", "cast"],
)
def test_copies_do_not_depend_on_the_mapped_file(saved, change):
    _, path = saved("net")
    encoder = change(build_encoder("nets:net", weights=path, map=True))
    rewrite(path)
    assert encoder(images().to(encoder.dtype)).isfinite().all()


def test_an_exported_encoder_gives_the_same_embeddings(saved):
    encoder = build_encoder("nets:net", weights=saved("net")[1], map=True)
    exported = torch.export.export(encoder, (images(),)).module()
    assert torch.equal(exported(images()), encoder(images()))


def test_another_thread_can_create_networks_during_a_build(saved):
    _, path = saved("net")
    begun, ended, made = threading.Event(), threading.Event(), []

    class Waits(Net):
        def __init__(self, num_classes=10):
            super().__init__(num_classes)
            begun.set()
            ended.wait(10)

    def other():
        begun.wait(10)
        made.append(nn.Linear(2, 2))
        ended.set()

    thread = threading.Thread(target=other)
    thread.start()
    NETS["net"], kept = Waits, NETS["net"]
    try:
        build_encoder("nets:net", weights=path)
    finally:
        NETS["net"] = kept
        thread.join()
    assert not made[0].weight.is_meta
    assert made[0].weight.isfinite().all()


@pytest.mark.parametrize("enabled", [True, False])
def test_building_restores_the_state_of_the_garbage_collector(saved, enabled):
    _, path = saved("net")
    (gc.enable if enabled else gc.disable)()
    try:
        build_encoder("nets:net", weights=path)
        assert gc.isenabled() is enabled
        with pytest.raises(WeightsError):
            build_encoder("nets:net", weights=path.with_suffix(".none.pth"))
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


def test_a_constructor_that_fails_gives_a_clear_error(saved):
    _, path = saved("net")
    with pytest.raises(PluginError, match="unexpected keyword"):
        build_encoder("nets:net", weights=path, options={"unknown": 1})


def test_the_value_always_of_verify_detects_a_silently_changed_byte(saved):
    _, path = saved("net")
    build_encoder("nets:net", weights=path)
    stat = path.stat()
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with open(path, "r+b") as file:
        file.write(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(
        WeightsError, match=rf"but its size and times did not.*its record has {found}"
    ):
        build_encoder("nets:net", weights=path, verify="always")


@pytest.mark.parametrize("verify", ["never", None, True])
def test_an_unknown_value_of_verify_is_refused(verify):
    with pytest.raises(ValueError, match=r"verify must be 'changed' or 'always', got"):
        build_encoder("nets:net", weights=None, verify=verify)


@pytest.mark.parametrize("wrong", [{"map": "x"}, {"offline": "no"}, {"device": "meta"}])
def test_invalid_switches_and_devices_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be True|Pass "):
        build_encoder("nets:net", weights=None, **wrong)


@pytest.mark.parametrize("name", ["a\0b.pth", "\ud800.pth", "pipe.pth"])
def test_a_path_that_is_not_a_weights_file_gives_a_clear_error(name, tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(WeightsError, match=r"cannot read|is not a regular file"):
        build_encoder("nets:net", weights=tmp_path / name)


def test_a_file_of_a_far_larger_network_is_refused_before_it_is_read(tmp_path):
    state = {"conv.weight": torch.zeros(100_000_000, dtype=torch.uint8)}
    torch.save(state, tmp_path / "large.pth")
    with pytest.raises(WeightsError, match=r"has 100,0.* this network needs at most"):
        build_encoder("nets:net", weights=tmp_path / "large.pth")
