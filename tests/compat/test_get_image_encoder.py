"""``get_image_encoder`` replaces the function of apple2373/wbcatt without other changes."""

from dataclasses import replace

import pytest
import torch
import torchvision
from tests.compat.wbcatt_modules import WbcattPredictor, wbcatt_encoder
from torch import nn

from headstrip import UnknownBackboneError, WeightsError, get_image_encoder
from headstrip.registry.registry import get_registry

NAMES = ["resnet18", pytest.param("vgg11", marks=pytest.mark.slow), "vit_b_32", "convnext_tiny"]


@pytest.mark.parametrize("name", NAMES)
def test_after_the_same_seed_the_parameters_equal_those_of_wbcatt(name):
    torch.manual_seed(5)
    expected = wbcatt_encoder(name).state_dict()
    torch.manual_seed(5)
    module, _ = get_image_encoder(name, pretrained=False)
    found = module.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_module_is_a_plain_torchvision_model_in_train_mode(name):
    module, dim = get_image_encoder(name, pretrained=False)
    assert type(module) is type(getattr(torchvision.models, name)(weights=None))
    assert all(part.training for part in module.modules())
    assert module.eval()(torch.zeros(2, 3, 224, 224)).shape == (2, dim)


def test_building_runs_no_batch_and_draws_the_same_random_numbers_as_wbcatt():
    torch.manual_seed(5)
    wbcatt_encoder("resnet18")
    expected = torch.get_rng_state()
    torch.manual_seed(5)
    module, _ = get_image_encoder("resnet18", pretrained=False)
    assert torch.equal(torch.get_rng_state(), expected)
    assert int(module.bn1.num_batches_tracked) == 0
    assert float(module.bn1.running_mean.abs().sum()) == 0


def test_a_checkpoint_of_wbcatt_loads_strictly_and_predicts_the_same(tmp_path):
    torch.manual_seed(0)
    old = WbcattPredictor(wbcatt_encoder("resnet18"), 512, [12, 3, 2])
    old(torch.randn(4, 3, 64, 64))
    torch.save(old.state_dict(), tmp_path / "project.pth")
    module, dim = get_image_encoder("resnet18", pretrained=False)
    new = WbcattPredictor(module, dim, [12, 3, 2])
    state = torch.load(tmp_path / "project.pth", weights_only=True)
    assert {key.partition(".")[0] for key in state} == {"image_encoder", "attribute_predictors"}
    new.load_state_dict(state, strict=True)
    x = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        pairs = zip(old.eval()(x), new.eval()(x), strict=True)
    assert all(torch.equal(before, after) for before, after in pairs)


def test_names_that_wbcatt_does_not_support_work():
    module, dim = get_image_encoder("densenet121", pretrained=False)
    assert dim == 1024
    assert isinstance(module.classifier, nn.Identity)


@pytest.mark.parametrize("name", ["resnet19", "timm.no_such_name", "", 5])
def test_an_unknown_name_is_a_value_error(name):
    with pytest.raises(ValueError, match=r"\w"):
        get_image_encoder(name, pretrained=False)


def test_a_name_that_starts_with_timm_and_a_dot_means_timm():
    with pytest.raises(UnknownBackboneError, match="'timm:no_such_name'"):
        get_image_encoder("timm.no_such_name")


def test_pretrained_loads_the_default_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(torchvision.models.resnet18().state_dict(), cache / "resnet18-f37072fd.pth")
    with pytest.raises(WeightsError, match=r"resnet18-f37072fd.pth has the sha256 .*f37072fd"):
        get_image_encoder("resnet18")


def test_the_network_is_independent_of_the_weights_file(tmp_path, monkeypatch):
    model = torchvision.models.resnet18()
    path = tmp_path / "published.pth"
    torch.save(model.state_dict(), path)
    registry = get_registry()
    weights = registry.weights

    def patched(spec):
        return tuple(replace(one, locations=(str(path),), sha256="") for one in weights(spec))

    monkeypatch.setattr(registry, "weights", patched)
    module, _ = get_image_encoder("resnet18")
    path.write_bytes(bytes(path.stat().st_size))
    found = module.state_dict()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in found.items())
