"""Maps and tokens of an encoder: what callers may request, and what a call leaves unchanged."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.feature_extraction import create_feature_extractor

from headstrip import LevelError, build_encoder

STRIDES = (2, 4, 8, 16, 32)


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return build_encoder("resnet18", weights=None)


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return build_encoder("vit_b_32", weights=None, options={"image_size": 96})


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def square():
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def shapes(maps):
    return [tuple(one.shape[1:]) for one in maps]


@torch.no_grad()
def test_maps_are_ordered_from_fine_to_coarse_and_equal_torchvisions(resnet, x):
    maps = resnet.maps(x)
    assert shapes(maps) == [
        (64, 32, 48),
        (64, 16, 24),
        (128, 8, 12),
        (256, 4, 6),
        (512, 2, 3),
    ]
    names = ["relu", "layer1", "layer2", "layer3", "layer4"]
    theirs = create_feature_extractor(resnet.backbone, names)(x)
    assert all(map(torch.equal, maps, (theirs[name] for name in names)))


@torch.no_grad()
def test_levels_and_strides_select_maps(resnet, x):
    every = resnet.maps(x)
    assert [one.shape for one in resnet.maps(x, levels=[-1])] == [every[4].shape]
    assert shapes(resnet.maps(x, levels=[1, 3])) == shapes([every[1], every[3]])
    assert all(map(torch.equal, resnet.maps(x, strides=(8, 16, 32)), every[2:]))
    embedding, maps = resnet.with_maps(x, strides=[32])
    assert torch.equal(embedding, resnet(x))
    assert torch.equal(maps[0].mean((2, 3)), embedding)


@torch.no_grad()
def test_tokens_have_patches_a_prefix_and_a_grid(vit, square):
    tokens = vit.tokens(square)
    assert (tokens.patches.shape, tokens.prefix.shape) == ((2, 9, 768), (2, 1, 768))
    assert tokens.grid == (3, 3)
    assert torch.equal(tokens.prefix[:, 0], vit(square))
    (last,) = vit.maps(square, levels=[-1])
    assert torch.equal(last.flatten(2).transpose(1, 2), tokens.patches)


@torch.no_grad()
def test_norm_applies_the_final_norm_to_the_last_map_only(vit, square):
    raw, normed = (vit.tokens(square, norm=norm).patches for norm in (False, True))
    assert not torch.equal(raw, normed)
    assert torch.equal(vit.backbone.encoder.ln(raw), normed)
    first = [vit.maps(square, levels=[0], norm=norm)[0] for norm in (False, True)]
    assert torch.equal(*first)


BAD = [
    ({"levels": [9]}, r"has no level 9: it has 5, numbered 0 to 4"),
    ({"levels": [-6]}, r"has no level -6: it has 5, .* 64 at stride 2, 64 at stride 4"),
    (
        {"levels": [3, 1]},
        r"levels=\[3, 1\] names .* in ascending order. Pass levels=\[1, 3\]",
    ),
    ({"levels": [4, -1]}, r"names the levels \[4, 4\], and each must .* Pass levels=\[4\]"),
    ({"levels": -1}, r"levels must be a list of one or more integers, got -1"),
    ({"levels": []}, r"levels must be a list .* got \[\]"),
    ({"levels": [True]}, r"levels must be a list"),
    ({"levels": ["layer1"]}, r"levels must be a list"),
    ({"strides": (-8,)}, r"has no map of stride -8\. .* 128 at stride 8"),
    ({"strides": (7, 8)}, r"has no map of stride 7\. Its maps have these channels: 64 at"),
    ({"strides": (32, 8)}, r"Pass strides=\(8, 32\)"),
    ({"strides": 8}, r"strides must be a list of one or more integers, got 8"),
    ({"strides": "8"}, r"strides must be a list"),
    ({"levels": [0], "strides": (8,)}, r"Pass one of them"),
    ({"levels": b"\x01"}, r"levels must be a list"),
    ({"norm": "no"}, r"norm must be True or False, got 'no'\."),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_the_error_for_an_invalid_level_or_stride_lists_the_valid_ones(
    resnet, x, arguments, message
):
    for method in (resnet.maps, resnet.with_maps):
        with pytest.raises(LevelError, match=message):
            method(x, **arguments)
    with pytest.raises(LevelError, match=message):
        resnet.pyramid(**arguments)


@pytest.mark.parametrize("level", ["last", [1], None, True, 1.0])
def test_tokens_refuse_a_level_that_is_not_an_integer(vit, square, level):
    with pytest.raises(LevelError, match=r"level must be an integer, got .* Pass for example lev"):
        vit.tokens(square, level=level)


@torch.no_grad()
def test_numpy_integers_select_maps_too(resnet, vit, x, square):
    expected = resnet.maps(x, levels=[1, 4])
    assert all(map(torch.equal, resnet.maps(x, levels=list(np.array([1, 4]))), expected))
    assert all(map(torch.equal, resnet.maps(x, strides=list(np.array([4, 32]))), expected))
    assert vit.tokens(square, level=np.int64(2)).grid == (3, 3)


def test_networks_without_tokens_or_maps_give_a_clear_error(resnet, vit, x, square):
    with pytest.raises(LevelError, match="has no tokens at level 4, but a map of 512 channels"):
        resnet.tokens(x)
    with pytest.raises(LevelError, match=r"has no map of stride 8\. All its 12 maps have 768"):
        vit.maps(square, strides=(8,))
    with pytest.raises(LevelError, match=r"x must have the shape \(N, C, H, W\), got \(3, 64"):
        resnet.maps(x[0])
    video = build_encoder("r3d_18", weights=None)
    with pytest.raises(LevelError, match="takes video, and only encoders of images have"):
        video.maps(torch.zeros(1, 3, 8, 32, 32))
    with pytest.raises(LevelError, match="takes video"):
        video.pyramid()


@torch.no_grad()
def test_computing_maps_leaves_the_encoder_unchanged(x):
    encoder = build_encoder("resnet18", weights=None)
    before = encoder(x)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in encoder.modules()]
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    pickled = len(pickle.dumps(encoder))
    attributes = [set(vars(module)) for module in encoder.backbone.modules()]
    for _ in range(2):
        encoder.maps(x, strides=(8,))
        encoder.pyramid()(x)
    assert torch.equal(encoder(x), before)
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in encoder.modules()]
    assert after == hooks
    assert [set(vars(module)) for module in encoder.backbone.modules()] == attributes
    assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())
    assert abs(len(pickle.dumps(encoder)) - pickled) < 1000


@torch.no_grad()
def test_concurrent_threads_receive_their_own_maps(resnet):
    pictures = [torch.randn(1, 3, 32, 32) for _ in range(16)]
    expected = [resnet.maps(one, levels=[-1])[0] for one in pictures]
    pyramid = resnet.pyramid(levels=[-1])
    with ThreadPoolExecutor(4) as pool:
        found = [one[0] for one in pool.map(lambda one: resnet.maps(one, levels=[-1]), pictures)]
        again = [one[0] for one in pool.map(pyramid, pictures)]
    assert all(map(torch.equal, found, expected))
    assert all(map(torch.equal, again, expected))


@torch.no_grad()
def test_maps_follow_changes_and_hooks_of_the_network(x):
    encoder = build_encoder("resnet18", weights=None)
    encoder.backbone.layer4 = nn.Conv2d(256, 7, 1)
    assert encoder.maps(x, levels=[-1])[0].shape[1] == 7
    seen = []
    encoder.backbone.layer2.register_forward_hook(lambda *_: seen.append(1))
    encoder.maps(x)
    assert seen == [1]
    encoder.backbone.layer3 = nn.Identity()
    del encoder.backbone.layer4
    encoder.backbone.layer4 = nn.Identity()
    del encoder.backbone._modules["layer3"]
    with pytest.raises(LevelError, match="has no module at 'layer3'"):
        encoder.maps(x)


@torch.no_grad()
def test_channels_and_strides_follow_changes_of_the_network(x):
    encoder = build_encoder("resnet18", weights=None)
    assert encoder.pyramid().strides == (2, 4, 8, 16, 32)
    block = encoder.backbone.layer2[0]
    block.conv1.stride = block.downsample[0].stride = (1, 1)
    encoder.backbone.layer4 = nn.Conv2d(256, 100, 2, 2)
    pyramid = encoder.pyramid()
    assert pyramid.strides == (2, 4, 4, 8, 16)
    assert pyramid.channels == tuple(one.shape[1] for one in pyramid(x)) == (64, 64, 128, 256, 100)
    assert encoder.maps(x, strides=[4])[0].shape[2:] == (16, 24)
    encoder.backbone.layer4.weight = nn.Parameter(torch.zeros(7, 256, 2, 2))
    encoder.backbone.layer4.bias = None
    assert encoder.pyramid().channels[-1] == 7


@torch.no_grad()
def test_levels_follow_the_removal_of_blocks():
    encoder = build_encoder("vit_b_32", weights=None, img_size=64)
    x = torch.zeros(1, 3, 64, 64)
    assert len(encoder.pyramid().channels) == 12
    encoder.backbone.encoder.layers = encoder.backbone.encoder.layers[:6]
    assert len(encoder.pyramid()(x)) == 6
    assert encoder.maps(x, strides=(32,))[0].shape == (1, 768, 2, 2)
    with pytest.raises(LevelError, match=r"no level 9"):
        encoder.tokens(x, level=9)


def test_gradients_reach_the_first_layer_and_training_updates_statistics(x):
    encoder = build_encoder("resnet18", weights=None).train()
    mean = encoder.backbone.bn1.running_mean.clone()
    sum(one.sum() for one in encoder.maps(x)).backward()
    assert encoder.backbone.conv1.weight.grad.abs().max() > 0
    assert not torch.equal(encoder.backbone.bn1.running_mean, mean)


class Checkpointed(nn.Sequential):
    is_reentrant = False

    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=self.is_reentrant)


def test_maps_that_lose_gradients_to_checkpointing_are_refused():
    encoder = build_encoder("mobilenet_v2", weights=None)
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    features = encoder.backbone.features
    features.__class__ = Checkpointed
    pyramid = encoder.pyramid(levels=[0, -1])
    assert all(one.requires_grad for one in pyramid(x))
    features.is_reentrant = True
    with pytest.raises(LevelError, match=r"without gradients, .*; use_reentrant=False has"):
        encoder.maps(x, levels=[0])
    with pytest.raises(LevelError, match="without gradients"):
        pyramid(x)
    with torch.no_grad():
        assert len(pyramid(x)) == 2
    for parameter in features[:5].parameters():
        parameter.requires_grad_(False)
    assert len(pyramid(x)) == 2


@torch.no_grad()
def test_copies_of_an_encoder_have_maps(resnet, x):
    (expected,) = resnet.maps(x, levels=[-1])
    for one in (copy.deepcopy(resnet), pickle.loads(pickle.dumps(resnet))):
        assert torch.equal(one.maps(x, levels=[-1])[0], expected)


BATCHES = [
    ("cat.jpg", r"x must be a tensor \(N, C, H, W\), got a str\. Stack the outputs of encoder\."),
    ([torch.zeros(3, 64, 64)], r"x must be a tensor \(N, C, H, W\), got a list"),
    (torch.zeros(3, 64, 64), r"x must have the shape \(N, C, H, W\), got \(3, 64, 64\)"),
    (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"x is torch.uint8, and .* with torch.float32"),
    (torch.zeros(1, 3, 64, 64).double(), r"x is torch.float64.* Pass x.to\(torch.float32\)"),
    (torch.zeros(1, 1, 64, 64), r"x has 1 channel, and torchvision:resnet18 takes 3\. .*in_chans"),
    (torch.zeros(1, 3, 0, 8), r"resnet18 does not take images of 0 x 8: .* Pass 224 x 224, or see"),
    (torch.zeros(1, 3, 64, 64, device="meta"), r"x is on meta, .* Pass x.to\('cpu'\)"),
]


@pytest.mark.parametrize(("batch", "message"), BATCHES)
def test_the_error_for_a_wrong_batch_says_what_the_encoder_accepts(resnet, batch, message):
    for call in (resnet.maps, resnet.with_maps, resnet.tokens, resnet.pyramid()):
        with pytest.raises(LevelError, match=message):
            call(batch)


def test_a_size_that_the_network_refuses_gives_a_clear_error(vit):
    message = "vit_b_32 does not take images of 102 x 96: .*height.* Pass 96 x 96"
    for call in (vit.maps, vit.with_maps, vit.tokens, vit.pyramid()):
        with pytest.raises(LevelError, match=message):
            call(torch.zeros(1, 3, 102, 96))


def test_a_size_that_the_network_accepts_is_not_blamed(x):
    encoder = build_encoder("swin_t", weights=None)
    pyramid = encoder.pyramid()
    nn.utils.parametrize.register_parametrization(encoder.backbone.norm, "weight", nn.Identity())
    with pytest.raises(LevelError, match=r"but it takes this batch: .*'weight'.*pyramid again"):
        pyramid(torch.zeros(1, 3, 64, 64))


def test_a_compiled_encoder_survives_pickling(x):
    encoder = build_encoder("resnet18", weights=None)
    encoder.compile(backend="eager")
    expected = encoder(x)
    assert torch.equal(pickle.loads(pickle.dumps(encoder))(x), expected)


def test_an_error_of_the_network_for_a_correct_batch_passes_through(x):
    encoder = build_encoder("resnet18", weights=None)
    encoder.backbone.layer4 = nn.Conv2d(7, 7, 1)
    with pytest.raises(RuntimeError, match="7 channels"):
        encoder.maps(torch.zeros(1, *encoder.input_shape))


@torch.no_grad()
def test_maps_work_under_autocast_with_another_dtype(resnet, x):
    with torch.autocast("cpu", torch.bfloat16):
        assert resnet.maps(x, levels=[-1])[0].shape == (2, 512, 2, 3)
