"""strip_head accepts a user's network only if it runs timm's own code."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from headstrip import HeadNotFoundError, PluginError, strip_head

SMALL = ("resnet10t", "timm:resnet")


def own(name="resnet10t", num_classes=5, **options):
    """A network on the meta device, unless timm's constructor computes with tensors."""
    try:
        with torch.device("meta"):
            return timm.create_model(name, num_classes=num_classes, **options)
    except RuntimeError as error:
        if "meta tensor" not in str(error):
            raise
        return timm.create_model(name, num_classes=num_classes, **options)


def refused(model, family, match):
    """Check that strip_head refuses a network with a matching error and leaves it unchanged."""
    modules, training = list(model.named_modules()), model.training
    with pytest.raises(HeadNotFoundError, match=match):
        strip_head(model, family=family)
    assert list(model.named_modules()) == modules
    assert model.training == training


@torch.no_grad()
def test_strip_head_removes_the_head_of_a_users_network():
    model = timm.create_model("resnet10t", num_classes=5).eval()
    x = torch.randn(2, 3, 96, 96)
    expected = model(x)
    parts = strip_head(model, family="timm:resnet")
    assert parts.backbone is model
    assert torch.equal(parts.head(parts.backbone(x)), expected)


@torch.no_grad()
def test_strip_head_removes_a_custom_head_as_a_whole():
    model = timm.create_model("resnet10t").eval()
    model.fc = nn.Sequential(nn.Linear(model.num_features, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    head, x = model.fc, torch.randn(2, 3, 96, 96)
    expected = model(x)
    parts = strip_head(model, family="timm:resnet")
    assert parts.head is head
    assert torch.equal(parts.head(parts.backbone(x)), expected)


def test_the_family_may_be_the_module_of_the_builder_or_of_the_class():
    for family in ("timm:deit", "timm:vision_transformer"):
        parts = strip_head(own("deit_tiny_patch16_224", depth=1), family=family)
        assert parts.head.out_features == 5


def test_a_network_made_directly_from_timms_class_is_accepted():
    with torch.device("meta"):
        model = timm.models.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), num_classes=5)
    assert strip_head(model, family="timm:resnet").head.out_features == 5


def test_strip_head_keeps_the_dtype_and_the_training_mode():
    model = own().to(torch.bfloat16).train()
    parts = strip_head(model, family="timm:resnet")
    assert {p.dtype for p in (*model.parameters(), *parts.head.parameters())} == {torch.bfloat16}
    assert model.training
    assert parts.head.training


@pytest.mark.parametrize(
    ("name", "family"),
    [
        SMALL,
        ("crossvit_tiny_240", "timm:crossvit"),
        ("efficientvim_m1_dist", "timm:efficientvim"),
        ("efficientvit_m0", "timm:efficientvit_msra"),
        ("levit_128s", "timm:levit"),
        ("volo_d1_224", "timm:volo"),
    ],
)
def test_removing_the_head_twice_is_refused(name, family):
    if not timm.is_model(name):
        pytest.skip("this timm has not this architecture")
    model = own(name)
    strip_head(model, family=family)
    refused(model, family, "already been removed")


def test_a_network_built_without_a_head_is_refused():
    refused(own(num_classes=0), "timm:resnet", "already been removed")


def test_an_encoder_with_positions_in_its_output_is_refused():
    if not timm.is_model("qwen3_vit_88m_enc"):
        pytest.skip("this timm has no such encoder")
    model = own("qwen3_vit_88m_enc", num_classes=0, depth=1)
    refused(model, "timm:qwen3_vit", "has no head to remove")


def test_a_network_that_lacks_one_of_its_two_heads_is_refused():
    model = own("levit_128s")
    model.head_dist = nn.Identity()
    refused(model, "timm:levit", "'head_dist' .* has already been removed")


def test_the_error_for_a_wrong_family_names_the_right_one():
    refused(own(), "timm:vision_transformer", "Pass the family 'timm:resnet'")


def test_an_unknown_family_is_refused():
    with pytest.raises(PluginError, match="nosuchfamily"):
        strip_head(own(), family="timm:nosuchfamily")


def test_a_features_only_network_is_refused():
    refused(own(features_only=True), "timm:resnet", "is not a timm network with a classifier")


def test_a_block_of_a_network_is_refused():
    refused(own().layer1[0], "timm:resnet", "does not state where its head is")


def test_a_network_without_pooling_is_refused():
    refused(
        own("vit_tiny_patch16_224", depth=1, global_pool=""),
        "timm:vision_transformer",
        "no pooling",
    )


def test_a_network_that_is_not_timms_is_refused():
    refused(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), "timm:resnet", "is not a timm network")


def test_a_subclass_is_refused():
    class Mine(timm.models.ResNet):
        def forward(self, x):
            return super().forward(x).softmax(-1)

    with torch.device("meta"):
        model = Mine(timm.models.resnet.BasicBlock, (1, 1, 1, 1))
    refused(model, "timm:resnet", r"The class .*\.Mine is not a timm network")


@pytest.mark.parametrize("method", ["forward", "forward_head", "forward_features"])
def test_a_network_with_a_replaced_method_is_refused(method):
    model = own()
    setattr(model, method, lambda x: x)
    refused(model, "timm:resnet", f"The {method} of this ResNet is not")


def test_a_replaced_method_of_timms_class_is_refused(monkeypatch):
    model = own()
    monkeypatch.setattr(type(model), "forward", lambda self, x: x)
    refused(model, "timm:resnet", "The forward of this ResNet is not")


def test_layers_after_the_head_are_refused():
    model = timm.models.MetaFormer(depths=(1,), dims=(8,), token_mixers=nn.Identity)
    model.head.add_module("softmax", nn.Softmax(-1))
    refused(model, "timm:metaformer", "Other layers follow the head at 'head.fc'")


def test_a_head_inside_a_module_that_is_not_timms_is_refused():
    class Scaled(nn.Module):
        def __init__(self, fc):
            super().__init__()
            self.fc = fc

        def forward(self, x):
            return self.fc(x.mean((2, 3))) * 2

    model = own("convnext_atto")
    model.head = Scaled(model.head.fc)
    refused(model, "timm:convnext", "The forward of this Scaled is not")


def test_a_head_that_is_registered_twice_is_refused():
    for name, family in (SMALL, ("levit_128s", "timm:levit")):
        model = own(name)
        model.second = model.get_submodule("fc" if name == SMALL[0] else "head_dist")
        refused(model, family, "is also at 'second'")


@pytest.mark.parametrize("named", [None, (nn.Linear(3, 2), nn.Linear(3, 2)), nn.Linear(3, 2)])
def test_a_class_that_does_not_return_its_own_classifier_is_refused(monkeypatch, named):
    def get_classifier(self):
        return named

    model = own()
    get_classifier.__module__ = "timm.models.resnet"
    monkeypatch.setattr(type(model), "get_classifier", get_classifier)
    refused(model, "timm:resnet", "which is not one of its modules")


def test_a_replaced_head_that_the_network_cannot_locate_is_refused():
    model = own("convnext_atto")
    model.head = nn.Linear(3, 2)
    refused(model, "timm:convnext", "does not state where its head is")
