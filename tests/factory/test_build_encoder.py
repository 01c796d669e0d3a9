"""build_encoder: the parts and the settings of an encoder."""

import copy
import io
import pickle
import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

import headstrip
from headstrip import (
    CatalogMismatchError,
    CatalogMismatchWarning,
    HeadNotFoundError,
    PluginError,
    Preprocessing,
    PreprocessingError,
    UnknownBackboneError,
    build_encoder,
)
from headstrip.registry.registry import get_registry

RESNEXT = ["resnext50_32x4d", "wide_resnet50_2", "densenet121", "mobilenet_v2"]


@pytest.fixture(scope="module")
def encoder():
    return build_encoder("resnet18", weights=None, predictors={"colour": 12, "type": 3})


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "resnet18.pth"
    torch.save(models.resnet18().state_dict(), path)
    return path


@pytest.mark.parametrize("name", RESNEXT)
def test_backbones_of_several_families_have_the_width_of_the_catalog(name):
    assert build_encoder(name, weights=None).output_dim == get_registry().resolve(name)[0].dim


def test_the_encoder_is_in_eval_mode_and_forward_returns_only_embeddings(encoder):
    assert not any(module.training for module in encoder.modules())
    output = encoder(torch.zeros(2, 3, 64, 64))
    assert output.shape == (2, 512)


def test_predictions_have_the_names_of_the_attributes(encoder):
    predicted = encoder.predict(torch.zeros(2, 3, 64, 64))
    assert {name: tuple(logits.shape) for name, logits in predicted.items()} == {
        "colour": (2, 12),
        "type": (2, 3),
    }


def test_predicting_without_predictors_says_what_to_do():
    encoder = build_encoder("shufflenet_v2_x0_5", weights=None)
    with pytest.raises(ValueError, match="no predictors"):
        encoder.predict(torch.zeros(1, 3, 64, 64))


def test_the_kept_head_does_not_train(encoder):
    trainable = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert not any(name.startswith("head.") for name in trainable)
    assert any(name.startswith("backbone.") for name in trainable)
    assert any(name.startswith("predictors.") for name in trainable)


def test_freezing_survives_train_and_leaves_the_predictors_free():
    encoder = build_encoder("resnet18", weights=None, predictors={"colour": 2}).freeze()
    encoder.train()
    assert encoder.training
    assert encoder.frozen
    assert not any(module.training for module in encoder.backbone.modules())
    assert encoder.predictors.training
    before = copy.deepcopy(encoder.backbone.state_dict())
    encoder.predict(torch.randn(4, 3, 64, 64))["colour"].sum().backward()
    assert all(p.grad is None for p in encoder.backbone.parameters())
    assert all(p.grad is not None for p in encoder.predictors.parameters())
    after = encoder.backbone.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_unfreezing_lets_the_backbone_train_again():
    encoder = build_encoder("resnet18", weights=None).freeze().unfreeze().train()
    assert encoder.backbone.training
    encoder(torch.randn(2, 3, 64, 64)).sum().backward()
    assert encoder.backbone.conv1.weight.grad is not None
    assert not encoder.head.training


def test_a_gradient_reaches_the_first_layer(encoder):
    encoder.zero_grad()
    encoder(torch.randn(2, 3, 64, 64)).sum().backward()
    assert float(encoder.backbone.conv1.weight.grad.abs().sum()) > 0


def test_a_seed_fixes_random_weights_and_predictors():
    def build():
        torch.manual_seed(7)
        return build_encoder("shufflenet_v2_x0_5", weights=None, predictors={"a": 2}).state_dict()

    first, second = build(), build()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_building_with_weights_draws_random_values_only_for_predictors(file):
    torch.manual_seed(3)
    encoder = build_encoder("resnet18", weights=file, predictors={"a": 4})
    torch.manual_seed(3)
    alone = nn.init.kaiming_normal_(nn.Linear(512, 4).weight, nonlinearity="relu")
    assert torch.equal(encoder.predictors[0].weight, alone)


def test_building_with_weights_leaves_all_random_generators_unchanged(file):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    build_encoder("resnet18", weights=file)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


def test_building_twice_from_one_file_gives_identical_embeddings(file):
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        first = build_encoder("resnet18", weights=file)(x)
        assert torch.equal(first, build_encoder("resnet18", weights=file)(x))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("vit_h_14", (3, 518, 518)),
        ("inception_v3", (3, 299, 299)),
        ("swin_v2_t", (3, 256, 256)),
        ("efficientnet_b7", (3, 600, 600)),
        ("resnet50.IMAGENET1K_V1", (3, 224, 224)),
        ("r3d_18", (3, 16, 112, 112)),
        ("vit_h_14.IMAGENET1K_SWAG_LINEAR_V1", (3, 224, 224)),
    ],
)
def test_input_size_and_preprocessing_come_from_the_weights(name, shape):
    spec, parts = get_registry().resolve(name)
    entries = get_registry().weights(spec)
    entry = next((e for e in entries if e.tag == parts.tag), entries[0])
    assert entry.input_shape == shape
    assert entry.preprocessing.input_shape == shape


def test_weights_can_set_constructor_options(tmp_path):
    model = models.googlenet(init_weights=False, transform_input=True)
    torch.save(model.state_dict(), tmp_path / "googlenet.pth")
    encoder = build_encoder("googlenet", weights=f"DEFAULT={tmp_path / 'googlenet.pth'}")
    assert encoder.backbone.transform_input is True
    assert encoder.options["transform_input"] is True
    assert build_encoder("googlenet", weights=None).backbone.transform_input is False


def test_options_reach_the_constructor_and_change_the_input_shape(tmp_path):
    encoder = build_encoder(
        "vit_b_32", weights=None, options={"image_size": 96}, preprocessing="IMAGENET1K_V1"
    )
    assert encoder.input_shape == (3, 96, 96)
    assert encoder.preprocessing.crop == (96, 96)
    assert encoder.preprocess(np.zeros((50, 70, 3), np.uint8)).shape == (3, 96, 96)
    assert encoder(torch.zeros(1, 3, 96, 96)).shape == (1, 768)


@pytest.mark.parametrize("name", [123, None, 3.5, ["resnet18"], b"resnet18"])
def test_a_name_that_is_not_a_string_is_refused(name):
    with pytest.raises(UnknownBackboneError, match=r"name is a string, and .*such as 'resnet50'"):
        build_encoder(name, weights=None)


def test_num_classes_is_refused_as_an_option():
    with pytest.raises(ValueError, match=r"num_classes=5.*predictors="):
        build_encoder("resnet18", weights=None, options={"num_classes": 5})


def test_the_error_names_an_unknown_option():
    with pytest.raises(PluginError, match="unexpected keyword argument 'depth'"):
        build_encoder("resnet18", weights=None, options={"depth": 5})


def test_random_weights_have_no_preprocessing():
    encoder = build_encoder("resnet18", weights=None)
    with pytest.raises(PreprocessingError, match="without weights"):
        encoder.preprocess(np.zeros((64, 64, 3), np.uint8))


def test_a_preprocessing_can_be_given_or_borrowed_from_weights():
    borrowed = build_encoder("resnet50", weights=None, preprocessing="IMAGENET1K_V2").preprocessing
    assert borrowed.resize == 232
    given = replace(borrowed, crop=(96, 64))
    encoder = build_encoder("resnet18", weights=None, preprocessing=given)
    assert encoder.preprocessing is given
    assert encoder.input_shape == (3, 96, 64)
    with pytest.raises(PreprocessingError, match="preprocessing='V9' is not a tag of weights"):
        build_encoder("resnet18", weights=None, preprocessing="V9")


def test_a_function_can_change_the_preprocessing_of_the_weights(file):
    own = build_encoder("resnet18", weights=file).preprocessing
    changed = build_encoder(
        "resnet18",
        weights=file,
        img_size=96,
        preprocessing=lambda steps: replace(steps, antialias=False),
    )
    assert changed.preprocessing == replace(own.for_input((3, 96, 96)), antialias=False)
    assert changed.input_shape == (3, 96, 96)
    with pytest.raises(PreprocessingError, match="states no preprocessing"):
        build_encoder("resnet18", weights=None, preprocessing=lambda steps: steps)
    with pytest.raises(PreprocessingError, match="returned a NoneType"):
        build_encoder("resnet18", weights=file, preprocessing=lambda steps: None)


def test_building_refuses_a_preprocessing_that_the_network_does_not_accept():
    small = Preprocessing(crop=(96, 96), resize=96, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(PreprocessingError, match=r"does not accept .*\(3, 96, 96\)"):
        build_encoder("vit_b_32", weights=None, preprocessing=small)


def test_a_wrong_catalog_claim_warns_and_the_probed_width_wins(monkeypatch):
    registry = get_registry()
    spec, parts = registry.resolve("resnet18")
    wrong = replace(spec, dim=500)
    monkeypatch.setattr(registry, "resolve", lambda name: (wrong, parts))
    claim = "The catalog claims the width 500 for .*, and the network has the width 512. "
    with pytest.warns(CatalogMismatchWarning, match=f"{claim}The encoder has the width 512"):
        assert build_encoder("resnet18", weights=None).output_dim == 512
    with pytest.raises(CatalogMismatchError, match=f"{claim}Update headstrip, or leave out strict"):
        build_encoder("resnet18", weights=None, strict=True)


def test_options_that_change_the_width_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = build_encoder("mobilenet_v2", weights=None, options={"width_mult": 2.0})
    assert encoder.output_dim == 2560


def test_the_encoder_has_the_requested_dtype_and_device():
    encoder = build_encoder("resnet18", weights=None, dtype=torch.bfloat16, device="cpu")
    assert encoder(torch.zeros(1, 3, 64, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert (encoder.device, encoder.dtype) == (torch.device("cpu"), torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_an_encoder_on_a_gpu_returns_embeddings_on_the_gpu():
    encoder = build_encoder("resnet18", weights=None, device="cuda")
    assert encoder(torch.zeros(1, 3, 64, 64, device="cuda")).device.type == "cuda"


def test_a_copied_pickled_or_reloaded_encoder_gives_the_same_embeddings(encoder):
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = encoder(x)
        assert torch.equal(copy.deepcopy(encoder)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(encoder))(x), expected)
        other = build_encoder("resnet18", weights=None, predictors={"colour": 12, "type": 3})
        buffer = io.BytesIO()
        torch.save(encoder.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        assert torch.equal(other(x), expected)


def test_an_exported_encoder_gives_the_same_embeddings(encoder):
    x = torch.zeros(1, 3, 64, 64)
    exported = torch.export.export(encoder, (x,))
    assert torch.allclose(exported.module()(x), encoder(x), atol=1e-5)


def test_the_repr_names_the_backbone_the_weights_and_the_width(encoder):
    assert "torchvision:resnet18, weights=None, output_dim=512" in repr(encoder)


def test_logits_without_a_head_give_a_clear_error():
    encoder = build_encoder("squeezenet1_1", weights=None)
    with pytest.raises(HeadNotFoundError, match="cannot be computed from the embedding"):
        encoder.logits(torch.zeros(1, 3, 64, 64))


def test_embedding_keeps_the_training_mode_of_each_module():
    encoder = build_encoder("resnet18", weights=None, preprocessing="IMAGENET1K_V1")
    encoder.train()
    encoder.backbone.bn1.eval()
    before = copy.deepcopy(encoder.backbone.bn1.running_mean)
    encoder.embed([np.zeros((64, 64, 3), np.uint8)])
    assert encoder.training
    assert encoder.backbone.layer1.training
    assert not encoder.backbone.bn1.training
    assert torch.equal(encoder.backbone.bn1.running_mean, before)


def test_requires_grad_skips_the_head_and_a_frozen_backbone():
    encoder = build_encoder("resnet18", weights=None, predictors={"a": 2}).freeze()
    encoder.requires_grad_(True)
    on = {name.partition(".")[0] for name, p in encoder.named_parameters() if p.requires_grad}
    assert on == {"predictors"}
    encoder.unfreeze().requires_grad_(True)
    assert not any(p.requires_grad for p in encoder.head.parameters())


def test_unfreezing_skips_parameters_that_did_not_train_before():
    encoder = build_encoder("resnet18", weights=None)
    encoder.backbone.conv1.requires_grad_(False)
    encoder.freeze().freeze().unfreeze()
    assert not encoder.backbone.conv1.weight.requires_grad
    assert encoder.backbone.layer1[0].conv1.weight.requires_grad


def test_an_encoder_built_in_inference_mode_can_train(file):
    with torch.inference_mode():
        encoder = build_encoder("resnet18", weights=file, predictors={"a": 2})
    encoder.predict(torch.randn(2, 3, 64, 64))["a"].sum().backward()
    assert encoder.backbone.conv1.weight.grad is not None


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"options": 5}, ValueError, r"options=5 is an int\..*mapping"),
        ({"options": {"weights": "DEFAULT"}}, ValueError, "options has weights='DEFAULT'"),
        ({"dtype": "float16"}, ValueError, "torch.bfloat16, got 'float16'"),
        ({"dtype": torch.int8}, ValueError, "floating-point"),
        ({"device": "nope"}, ValueError, "device='nope' cannot be used here"),
        ({"preprocessing": 5}, PreprocessingError, "preprocessing=5 is an int"),
        ({"preprocessing": nn.Identity()}, PreprocessingError, "is an Identity"),
    ],
)
def test_an_invalid_argument_is_refused_with_a_clear_error(keywords, error, message):
    with pytest.raises(error, match=message):
        build_encoder("resnet18", weights=None, **keywords)


def test_preprocessing_default_means_that_of_the_default_weights():
    encoder = build_encoder("resnet50", weights=None, preprocessing="DEFAULT")
    assert encoder.preprocessing.resize == 232


def test_the_same_tag_in_the_name_and_before_a_path_is_accepted(file):
    encoder = build_encoder("resnet18.IMAGENET1K_V1", weights=f"IMAGENET1K_V1={file}")
    assert encoder.weights.tag == "IMAGENET1K_V1"


class TestStripHead:
    def test_the_network_is_changed_in_place_and_returned(self):
        model = models.resnet18(num_classes=7).eval()
        x = torch.randn(2, 3, 64, 64)
        expected = model(x)
        parts = headstrip.strip_head(model, family="resnet")
        assert parts.backbone is model
        assert torch.equal(parts.head(parts.backbone(x)), expected)
        assert parts.paths == ("fc",)

    @pytest.mark.parametrize(
        "family",
        ["vgg", "vit", "s3d", "squeezenet", "densenet", "maxvit", "shufflenet", "googlenet"],
    )
    def test_a_network_of_another_family_is_refused_and_unchanged(self, family):
        model = models.resnet18()
        keys = list(model.state_dict())
        with pytest.raises(HeadNotFoundError, match="The class ResNet is not of the family"):
            headstrip.strip_head(model, family=family)
        assert list(model.state_dict()) == keys

    def test_a_network_with_layers_after_the_head_is_refused(self):
        model = models.mobilenet_v2()
        model.classifier.append(nn.LogSoftmax(1))
        with pytest.raises(HeadNotFoundError, match=r"Other layers follow .*classifier\.1"):
            headstrip.strip_head(model, family="mobilenet_v2")
        assert isinstance(model.classifier[1], nn.Linear)

    def test_a_subclass_that_overrides_forward_is_refused(self):
        class Softmaxed(models.ResNet):
            def forward(self, x):
                return super().forward(x).softmax(1)

        model = Softmaxed(models.resnet.BasicBlock, [1, 1, 1, 1])
        with pytest.raises(HeadNotFoundError, match="overrides forward"):
            headstrip.strip_head(model, family="resnet")

    def test_a_subclass_that_inherits_forward_is_accepted(self):
        class Mine(models.ResNet):
            pass

        parts = headstrip.strip_head(
            Mine(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3), family="resnet"
        )
        assert parts.head.out_features == 3

    def test_another_kind_of_head_is_refused(self):
        model = models.resnet18()
        model.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 3))
        with pytest.raises(HeadNotFoundError, match="at 'fc', where a Linear was expected"):
            headstrip.strip_head(model, family="resnet")

    def test_removing_the_head_twice_is_refused(self):
        model = models.resnet18()
        headstrip.strip_head(model, family="resnet")
        with pytest.raises(HeadNotFoundError, match="already been removed"):
            headstrip.strip_head(model, family="resnet")

    def test_the_error_for_an_unknown_family_suggests_a_similar_one(self):
        with pytest.raises(PluginError, match=r"no family 'resnets'.*resnet"):
            headstrip.strip_head(models.resnet18(), family="resnets")

    def test_an_object_that_is_not_a_module_is_refused(self):
        with pytest.raises(HeadNotFoundError, match=r"must be a torch\.nn\.Module, got a str"):
            headstrip.strip_head("resnet18", family="resnet")

    def test_all_layers_of_a_vit_head_are_removed(self):
        model = models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=5, representation_size=12)
        parts = headstrip.strip_head(model, family="vit")
        assert parts.backbone(torch.zeros(1, 3, 32, 32)).shape == (1, 16)
        assert parts.input_shape == (3, 32, 32)

    def test_the_input_size_of_maxvit_follows_its_options(self):
        encoder = build_encoder("maxvit_t", weights=None, options={"input_size": (448, 448)})
        assert encoder.input_shape == (3, 448, 448)
