"""A pyramid is an ordinary module: it composes, copies, compiles, exports and trains."""

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from headstrip import LevelError, build_encoder


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return build_encoder("resnet18", weights=None)


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def equal(found, expected):
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


@torch.no_grad()
def test_a_pyramid_returns_the_encoders_maps(encoder, x):
    pyramid = encoder.pyramid((8, 16, 32))
    assert equal(pyramid(x), encoder.maps(x, strides=(8, 16, 32)))
    assert (pyramid.channels, pyramid.strides) == ((128, 256, 512), (8, 16, 32))
    assert pyramid.out_channels == (3, 128, 256, 512)
    assert encoder.pyramid().strides == (2, 4, 8, 16, 32)


@torch.no_grad()
def test_names_return_a_dict_as_torchvisions_detectors_expect(encoder, x):
    named = encoder.pyramid((8, 32), names=True)(x)
    assert isinstance(named, OrderedDict)
    assert list(named) == ["0", "1"]
    assert equal(list(named.values()), encoder.maps(x, strides=(8, 32)))


def test_a_pyramid_shares_the_encoders_tensors_and_has_no_head(encoder):
    pyramid = encoder.pyramid()
    own = {id(one) for one in encoder.backbone.parameters()}
    assert {id(one) for one in pyramid.parameters()} == own
    assert len(pyramid.state_dict()) == len(encoder.backbone.state_dict())
    with torch.no_grad():
        encoder.backbone.conv1.weight.zero_()
    assert not pyramid(torch.ones(1, 3, 32, 32))[0].any()


@torch.no_grad()
def test_a_cast_of_the_encoder_or_the_pyramid_applies_to_both(encoder, x):
    pyramid = encoder.pyramid()
    encoder.double()
    assert pyramid(x.double())[0].dtype == torch.float64
    pyramid.float()
    assert encoder(x).dtype == torch.float32
    assert encoder.head.weight.dtype == torch.float32


@torch.no_grad()
def test_a_pyramid_and_its_backbone_share_the_training_mode(encoder, x):
    pyramid = encoder.pyramid()
    assert not pyramid.training
    pyramid.train()
    assert encoder.backbone.training
    assert encoder.backbone.layer1.training
    encoder.eval()
    expected = encoder.maps(x)
    assert equal(pyramid(x), expected)
    encoder.freeze()
    pyramid.train()
    assert not encoder.backbone.training
    assert equal(pyramid(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "timm:test_resnet"])
def test_statistics_that_the_encoder_freezes_stay_fixed_in_a_pyramid(name, x):
    encoder = build_encoder(name, weights=None).freeze(keep="norms")
    network = nn.Sequential(encoder.pyramid()).train()
    norms = [one for one in encoder.backbone.modules() if isinstance(one, nn.BatchNorm2d)]
    before = [one.running_mean.clone() for one in norms]
    network(x)
    assert equal([one.running_mean for one in norms], before)
    assert encoder.backbone.training
    encoder.unfreeze()
    network.train()(x)
    assert not equal([one.running_mean for one in norms], before)


def test_a_frozen_backbone_stays_frozen_in_a_pyramid(encoder):
    pyramid = encoder.freeze().pyramid()
    assert pyramid.requires_grad_() is pyramid
    assert not any(one.requires_grad for one in pyramid.parameters())
    encoder.unfreeze()
    pyramid.requires_grad_(False)
    assert not any(one.requires_grad for one in encoder.backbone.parameters())


@torch.no_grad()
def test_copied_norms_follow_the_training_mode_too(x):
    encoder = build_encoder("densenet121", weights=None)
    pyramid = encoder.pyramid(levels=[-1]).train()
    encoder.eval()
    assert equal(pyramid(x), encoder.maps(x, levels=[-1]))


@torch.no_grad()
@pytest.mark.slow
def test_a_compiled_pyramid_follows_the_modes_of_the_encoder():
    torch.manual_seed(0)
    encoder = build_encoder("densenet121", weights=None)
    x = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(encoder.pyramid(levels=[-1]), backend="eager", fullgraph=True)
    for _ in range(2):
        encoder.backbone.train()
        assert equal(compiled(x), encoder.maps(x, levels=[-1]))
        encoder.eval()
        assert equal(compiled(x), encoder.maps(x, levels=[-1]))


@torch.no_grad()
@pytest.mark.parametrize("path", ["", "layer2", "layer2.0"])
def test_an_existing_pyramid_follows_hooks_that_are_added_and_removed(encoder, x, path):
    pyramid, seen = encoder.pyramid((8, 32)), []
    expected = pyramid(x)
    module = encoder.backbone.get_submodule(path)
    handles = [
        module.register_forward_hook(lambda *_: seen.append("gives")),
        module.register_forward_pre_hook(lambda *_, **__: seen.append("reads")),
    ]
    assert equal(pyramid(x), expected)
    assert seen == ["reads", "gives"]
    for handle in handles:
        handle.remove()
    assert equal(pyramid(x), expected)
    assert len(seen) == 2


@torch.no_grad()
def test_a_hook_added_later_can_replace_a_map(encoder, x):
    pyramid = encoder.pyramid((8, 32))
    encoder.backbone.layer2.register_forward_hook(lambda *_: torch.zeros(2, 128, 8, 8))
    assert not pyramid(x)[0].any()
    assert equal(pyramid(x), encoder.maps(x, strides=(8, 32)))


@torch.no_grad()
def test_hooks_do_not_collide_in_an_unpickled_pyramid(encoder, x, monkeypatch):
    # torch numbers the hooks of each process from 0.
    monkeypatch.setattr(RemovableHandle, "next_id", 0)
    kept = pickle.dumps((encoder, encoder.pyramid((8, 32))))
    (encoder, pyramid), seen = pickle.loads(kept), []
    expected = pyramid(x)
    monkeypatch.setattr(RemovableHandle, "next_id", 0)
    for number in range(20):
        encoder.backbone.layer2.register_forward_hook(lambda *_, number=number: seen.append(number))
    assert equal(pyramid(x), expected)
    assert seen == list(range(20))


@torch.no_grad()
def test_an_existing_pyramid_follows_changed_attributes_of_modules(x):
    encoder = build_encoder("densenet121", weights=None)
    pyramid = encoder.pyramid(levels=[-1])
    before = pyramid(x)
    norm = encoder.backbone.features.norm5
    norm.eps, norm.momentum = 1.0, 0.0
    assert equal(pyramid(x), encoder.maps(x, levels=[-1]))
    assert not equal(pyramid(x), before)
    statistics = norm.running_mean.clone()
    pyramid.train()(x)
    assert torch.equal(norm.running_mean, statistics)


def test_gradient_hooks_added_later_receive_the_gradient(encoder, x):
    pyramid, seen = encoder.pyramid((4, 32)), []
    encoder.backbone.layer2.register_full_backward_hook(
        lambda _, inputs, outputs: seen.append((inputs[0].shape, outputs[0].shape))
    )
    sum(one.sum() for one in pyramid(x)).backward()
    assert seen == [((2, 64, 16, 16), (2, 128, 8, 8))]


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_gradient_hooks_that_miss_the_gradient_of_a_map_are_refused(encoder, x, kind):
    pyramid = encoder.pyramid((8, 32))
    handle = getattr(encoder.backbone.layer2, kind)(lambda *_: None)
    for call in (pyramid, encoder.maps, encoder.with_maps):
        with pytest.raises(
            LevelError, match=r"a backward hook on its module 'layer2'.*\.register_"
        ):
            call(x)
        with torch.no_grad():
            call(x)
    handle.remove()
    pyramid(x)


@torch.no_grad()
def test_copies_and_pickles_give_the_same_maps_from_separate_tensors(encoder, x):
    pyramid = encoder.pyramid((8, 16, 32))
    expected = pyramid(x)
    for one in (copy.deepcopy(pyramid), pickle.loads(pickle.dumps(pyramid))):
        assert equal(one(x), expected)
        next(one.parameters()).zero_()
        assert equal(pyramid(x), expected)


def test_a_pyramid_can_be_exported(encoder, x):
    pyramid = encoder.pyramid((8, 16, 32))
    exported = torch.export.export(pyramid, (x,)).module()
    with torch.no_grad():
        assert all(map(torch.allclose, exported(x), pyramid(x)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "vit_b_16", "swin_t", "timm:convnext_tiny"])
def test_a_pyramid_can_be_compiled_exported_and_converted_to_onnx(name, tmp_path):
    import onnxruntime

    torch.manual_seed(0)
    pyramid = build_encoder(name, weights=None).pyramid()
    x = torch.randn(1, 3, 224, 224)
    # After other networks torch would compile a Swin for any size, which takes over 15 minutes.
    torch.compiler.reset()
    with torch.no_grad():
        expected = pyramid(x)
        compiled = torch.compile(pyramid, fullgraph=True)(x)
        exported = torch.export.export(pyramid, (x,)).module()(x)
        path = tmp_path / "pyramid.onnx"
        torch.onnx.export(pyramid, (x,), path, dynamo=True)
    session = onnxruntime.InferenceSession(path)
    converted = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for found in (compiled, exported, [torch.from_numpy(one) for one in converted]):
        for one, own in zip(found, expected, strict=True):
            assert (one - own).abs().max() <= 1e-5 * own.abs().max()


@torch.no_grad()
def test_a_plain_vit_is_resampled_only_on_request():
    vit = build_encoder("vit_b_32", weights=None, options={"image_size": 96})
    x = torch.randn(1, 3, 96, 96)
    assert vit.pyramid().strides == (32,) * 12
    with pytest.raises(LevelError, match="has no map of stride 8"):
        vit.pyramid((8, 16, 32))
    pyramid = vit.pyramid((8, 16, 32), resample=True)
    assert [tuple(one.shape) for one in pyramid(x)] == [
        (1, 768, 12, 12),
        (1, 768, 6, 6),
        (1, 768, 3, 3),
    ]
    assert equal(pyramid(x)[2:], vit.maps(x, levels=[-1]))
    assert pyramid.strides == (8, 16, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strides": (8, 16)}, "has maps of the strides 2, 4, 8, 16, 32, and resample=True is"),
        ({}, "resample=True needs strides"),
        ({"levels": [0]}, "resample=True needs strides"),
    ],
)
def test_resampling_is_refused_for_a_pyramid_that_does_not_need_it(encoder, arguments, message):
    with pytest.raises(LevelError, match=message):
        encoder.pyramid(**arguments, resample=True)


@pytest.mark.parametrize("strides", [(16, 8), (0, 8), (), (8.0,), 8, "8", (True, 2)])
def test_resampling_refuses_strides_that_are_not_rising_integers(strides):
    vit = build_encoder("vit_b_32", weights=None, options={"image_size": 64})
    with pytest.raises(LevelError, match="must be rising integers above zero"):
        vit.pyramid(strides, resample=True)


def test_resampling_an_image_to_less_than_one_cell_is_refused():
    vit = build_encoder("vit_b_32", weights=None, options={"image_size": 64})
    with pytest.raises(LevelError, match=r"have no map of stride 128\. Pass larger"):
        vit.pyramid((16, 128), resample=True)(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    "arguments", [{"names": ["p3", "p4"]}, {"norm": "yes"}, {"resample": "bilinear"}, {"names": 1}]
)
def test_switches_that_are_not_booleans_are_refused(encoder, arguments):
    (name,) = arguments
    with pytest.raises(LevelError, match=f"{name} must be True or False, got "):
        encoder.pyramid((8, 16), **arguments)


def detector(pyramid):
    from torchvision.models.detection import FasterRCNN
    from torchvision.ops import FeaturePyramidNetwork

    backbone = nn.Sequential(pyramid, FeaturePyramidNetwork(pyramid.channels, 32))
    backbone.out_channels = 32
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    count = len(pyramid.channels)
    anchors = AnchorGenerator(((32,),) * count, ((0.5, 1.0, 2.0),) * count)
    return FasterRCNN(backbone, 3, rpn_anchor_generator=anchors, min_size=64, max_size=64)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_detector_can_train_one_step_with_a_pyramid(encoder, frozen):
    if frozen:
        encoder.freeze()
    pyramid = encoder.pyramid((8, 16, 32), names=True)
    model = detector(pyramid).train()
    assert encoder.backbone.training != frozen
    target = {"boxes": torch.tensor([[5.0, 5, 40, 50]]), "labels": torch.tensor([1])}
    losses = model([torch.rand(3, 64, 64)], [target])
    sum(losses.values()).backward()
    gradient = encoder.backbone.conv1.weight.grad
    assert (gradient is None) if frozen else gradient.abs().max() > 0


def train_a_step(rank, port, expected):
    import os

    from torch import distributed

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    pyramid = build_encoder("resnet18", weights=None).pyramid((8, 16, 32)).train()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))[rank : rank + 1]
    parallel = nn.parallel.DistributedDataParallel(pyramid)
    sum(one.mean() for one in parallel(x)).backward()
    gradient = next(pyramid.parameters()).grad
    distributed.destroy_process_group()
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_two_processes_can_train_one_step_together(encoder, x):
    import socket

    from torch import multiprocessing

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gradients = []
    for one in x.split(1):
        pyramid = copy.deepcopy(encoder).pyramid((8, 16, 32)).train()
        sum(found.mean() for found in pyramid(one)).backward()
        gradients.append(next(pyramid.parameters()).grad)
    multiprocessing.spawn(train_a_step, (port, sum(gradients) / 2), nprocs=2)
