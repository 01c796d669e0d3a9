"""headstrip loads networks with custom loading hooks as torch itself loads them."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from tests.factory.nets_plugin import SHAPE, registered
from torch import nn

from headstrip import (
    WeightsError,
    build_encoder,
)
from headstrip.factory.construction import build_stripped


class Net(nn.Module):
    """A small network; subclasses customise how it is loaded."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.before()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, num_classes)
        self.setup()

    def before(self):
        """Registers modules before the layers."""

    def setup(self):
        """Registers modules after the layers."""

    def features(self, x):
        return self.norm(self.conv(x)).mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))


def renamed(state, old, new):
    """Return the same tensors under other names, with the metadata of the state dict."""
    made = OrderedDict((key.replace(old, new, 1), value) for key, value in state.items())
    made._metadata = getattr(state, "_metadata", None)
    return made


class Renames(Net):
    """Renames the old names of its first layer and its head."""

    def setup(self):
        self._register_load_state_dict_pre_hook(self._rename)

    def _rename(self, state, prefix, *rest):
        for old, new in (("stem.", "conv."), ("top.", "fc.")):
            for key in [key for key in state if key.startswith(prefix + old)]:
                state[prefix + new + key.removeprefix(prefix + old)] = state.pop(key)


class OldNamesByVersion(Net):
    """Renames tensors of an older version, as torch's own modules do."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") is None or metadata["version"] < 2:
            for key in [key for key in state if key.startswith(f"{prefix}stem.")]:
                state[key.replace("stem.", "conv.", 1)] = state.pop(key)
        super()._load_from_state_dict(state, prefix, metadata, *rest)


class Halves(Net):
    """Changes values while they are loaded, and keeps their names."""

    def setup(self):
        self._register_load_state_dict_pre_hook(self._halve)

    def _halve(self, state, prefix, *rest):
        state[f"{prefix}conv.weight"] = state[f"{prefix}conv.weight"].double() / 2


class Forgives(Net):
    """Accepts a file that lacks tensors."""

    def setup(self):
        self.gain = nn.Parameter(torch.full((8,), 2.0))
        self.register_load_state_dict_post_hook(lambda module, keys: keys.missing_keys.clear())

    def features(self, x):
        return super().features(x) * self.gain


class OldNorm(Net):
    """Has a layer with a parametrization that torch once saved in another form."""

    def setup(self):
        self.mid = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))

    def features(self, x):
        return self.mid(super().features(x))


class Reads(Net):
    """Computes with the value of a parameter before a file has one."""

    def setup(self):
        self.number = self.conv.bias.sum().item()


class Refuses(Net):
    """Fails on a file that lacks a name."""

    def setup(self):
        self._register_load_state_dict_pre_hook(self._look)

    def _look(self, state, prefix, *rest):
        if f"{prefix}conv.weight" not in state:
            raise KeyError("no convolution")


class Extra(Net):
    """Computes with extra state: a number and a tensor that are not parameters or buffers."""

    def setup(self):
        self.factor, self.shift = 1.0, torch.zeros(8)

    def get_extra_state(self):
        return {"factor": self.factor, "shift": self.shift}

    def set_extra_state(self, state):
        self.factor, self.shift = state["factor"], state["shift"].clone()

    def features(self, x):
        return super().features(x) * self.factor + self.shift


class DoubleFirst(Net):
    """Has a float64 parameter before its layers."""

    def before(self):
        self.gain = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def features(self, x):
        return super().features(x) * self.gain.float()


NETS = {
    kind.__name__.lower(): kind
    for kind in (
        Net,
        Renames,
        OldNamesByVersion,
        Halves,
        Forgives,
        OldNorm,
        Reads,
        Refuses,
        Extra,
        DoubleFirst,
    )
}


@pytest.fixture(autouse=True)
def nets():
    with registered(NETS):
        yield


def network(name, num_classes=10):
    torch.manual_seed(3)
    model = NETS[name](num_classes).eval()
    for tensor in (*model.parameters(), model.norm.running_mean):
        tensor.data.normal_()
    return model


def as_torch_loads(name, path, num_classes=10):
    model = NETS[name](num_classes).eval()
    model.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return model


@pytest.fixture
def saved(tmp_path):
    def save(state):
        torch.save(state, tmp_path / "own.pth")
        return tmp_path / "own.pth"

    return save


def images():
    return torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(5))


def gives_what_torch_gives(name, path, num_classes=10):
    encoder, model = build_encoder(f"nets:{name}", weights=path), None
    model = as_torch_loads(name, path, num_classes)
    assert torch.equal(encoder(images()), model.features(images()))
    assert torch.equal(encoder.logits(images()), model(images()))
    return encoder


def mechanism(name, path):
    return build_stripped(f"nets:{name}", weights=path).mechanism


def test_tensors_that_a_hook_renames_are_loaded(saved):
    path = saved(renamed(network("renames").state_dict(), "conv.", "stem."))
    gives_what_torch_gives("renames", path)
    assert mechanism("renames", path) == "ordinary"


def test_a_network_with_an_idle_hook_is_built_without_initialising(saved):
    path = saved(network("renames").state_dict())
    gives_what_torch_gives("renames", path)
    assert mechanism("renames", path) == "assigned"


@pytest.mark.parametrize("old", ["conv.", "fc."])
def test_the_head_matches_a_file_with_tensors_that_a_hook_renames(saved, old):
    new = {"conv.": "stem.", "fc.": "top."}[old]
    path = saved(renamed(network("renames", num_classes=7).state_dict(), old, new))
    assert gives_what_torch_gives("renames", path, num_classes=7).head.out_features == 7


def test_a_headless_file_with_tensors_that_a_hook_renames_gives_no_head(saved):
    model = network("renames")
    state = renamed(model.state_dict(), "conv.", "stem.")
    path = saved({key: value for key, value in state.items() if not key.startswith("fc.")})
    encoder = build_encoder("nets:renames", weights=path)
    assert (encoder.law, encoder.head) == ("headless", None)
    assert torch.equal(encoder(images()), model.features(images()))


@pytest.mark.parametrize("stated", [1, None])
def test_old_names_of_an_older_module_version_are_loaded(saved, stated):
    state = renamed(network("oldnamesbyversion").state_dict(), "conv.", "stem.")
    if stated is None:
        del state._metadata
    else:
        state._metadata[""]["version"] = stated
    gives_what_torch_gives("oldnamesbyversion", saved(state))


def test_old_names_in_a_safetensors_file_are_loaded(tmp_path):
    model = network("oldnamesbyversion")
    save_file(renamed(model.state_dict(), "conv.", "stem."), tmp_path / "own.safetensors")
    encoder = build_encoder("nets:oldnamesbyversion", weights=tmp_path / "own.safetensors")
    assert torch.equal(encoder(images()), model.features(images()))


def test_old_names_in_a_file_of_the_current_version_are_refused(saved):
    path = saved(renamed(network("oldnamesbyversion").state_dict(), "conv.", "stem."))
    with pytest.raises(WeightsError, match=r"missing \('conv\.weight'.*unknown \('stem\.weight'"):
        build_encoder("nets:oldnamesbyversion", weights=path)


def test_values_that_a_hook_changes_match_those_that_torch_loads(saved):
    path = saved(network("halves").state_dict())
    encoder = gives_what_torch_gives("halves", path)
    assert encoder.backbone.conv.weight.dtype == torch.float32
    assert mechanism("halves", path) == "ordinary"


def test_a_missing_tensor_that_a_hook_allows_is_accepted(saved):
    state = network("forgives").state_dict()
    del state["gain"]
    gives_what_torch_gives("forgives", saved(state))


def test_an_unknown_tensor_that_no_hook_allows_is_refused(saved):
    state = network("forgives").state_dict()
    state["other"] = torch.zeros(3)
    with pytest.raises(WeightsError, match=r"does not fit nets:forgives.*unknown \('other'"):
        build_encoder("nets:forgives", weights=saved(state))


def test_the_old_form_of_torchs_weight_norm_is_loaded(saved):
    state = network("oldnorm").state_dict()
    names = {"parametrizations.weight.original0": "weight_g"}
    names["parametrizations.weight.original1"] = "weight_v"
    for new, old in names.items():
        state = renamed(state, new, old)
    assert {"mid.weight_g", "mid.weight_v"} < state.keys()
    gives_what_torch_gives("oldnorm", saved(state))


def test_a_hook_that_fails_on_another_networks_file_gives_a_clear_error(saved):
    path = saved(renamed(network("refuses").state_dict(), "conv.", "stem."))
    with pytest.raises(WeightsError, match=r"does not fit nets:refuses.*missing \('conv\.weight'"):
        build_encoder("nets:refuses", weights=path)


def test_the_error_for_a_wrong_shape_has_the_name_that_a_hook_gives(saved):
    state = renamed(network("renames").state_dict(), "conv.", "stem.")
    state["stem.weight"] = torch.zeros(9, 3, 3, 3)
    with pytest.raises(WeightsError, match=r"another shape \('conv\.weight' is 9x3x3x3 in"):
        build_encoder("nets:renames", weights=saved(state))


def test_rewriting_the_file_stops_only_an_encoder_that_may_still_map_it(saved):
    path = saved(network("halves").state_dict())
    kept, free = (
        build_encoder(f"nets:{name}", weights=path, map=True) for name in ("halves", "reads")
    )
    path.write_bytes(b"another file")
    assert free(images()).isfinite().all()
    # The hook of this network may have kept a mapped tensor.
    with pytest.raises(WeightsError, match="rewritten in place"):
        kept(images())


def extra():
    model = network("extra")
    model.factor, model.shift = 3.0, torch.arange(8.0)
    return model


@pytest.mark.parametrize("wrapped", [False, True])
def test_extra_state_is_loaded(saved, wrapped):
    model = extra()
    state = model.state_dict()
    path = saved({"state_dict": state} if wrapped else state)
    encoder = build_encoder("nets:extra", weights=path)
    assert torch.equal(encoder(images()), model.features(images()))
    assert encoder.backbone.factor == 3.0
    assert mechanism("extra", path) == "ordinary"


def test_extra_state_is_part_of_the_encoders_identity(saved):
    model = extra()
    one = build_encoder("nets:extra", weights=saved(model.state_dict())).fingerprint.identity
    model.factor = 4.0
    other = build_encoder("nets:extra", weights=saved(model.state_dict())).fingerprint.identity
    assert one != other


def test_the_head_matches_a_file_with_extra_state(saved):
    path = saved(network("extra", num_classes=7).state_dict())
    assert gives_what_torch_gives("extra", path, num_classes=7).head.out_features == 7


def test_a_file_that_lacks_the_extra_state_is_refused(saved):
    state = network("extra").state_dict()
    del state["_extra_state"]
    with pytest.raises(WeightsError, match=r"missing \('_extra_state'"):
        build_encoder("nets:extra", weights=saved(state))


def test_a_network_without_extra_state_refuses_a_file_that_has_it(saved):
    state = network("net").state_dict()
    state["_extra_state"] = 3
    with pytest.raises(WeightsError, match=r"unknown \('_extra_state'"):
        build_encoder("nets:net", weights=saved(state))


@pytest.mark.parametrize("weights", ["file", None])
def test_one_float64_parameter_does_not_set_the_dtype_of_the_input(saved, weights):
    model = network("doublefirst")
    path = saved(model.state_dict())
    encoder = build_encoder("nets:doublefirst", weights=weights and path)
    assert encoder.output_dim == 8
    assert (encoder.device, encoder.dtype) == (torch.device("cpu"), torch.float32)
    assert encoder.backbone.gain.dtype == torch.float64
    if weights:
        assert torch.equal(encoder(images()), model.features(images()))
        assert mechanism("doublefirst", path) == "assigned"


def test_an_encoder_can_be_built_in_float64_as_a_whole(saved):
    path = saved(network("doublefirst").state_dict())
    encoder = build_encoder("nets:doublefirst", weights=path, dtype=torch.float64)
    assert encoder.dtype == torch.float64
