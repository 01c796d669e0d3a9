"""Feature maps of backbones match their networks, and wrong levels are detected."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from tests.conftest import tiny_vit
from tests.sampling import LARGEST
from tools.map_proofs import TAILS, TOOL, grid_proof, levels_of, made, prove, subjects, two

from headstrip.encoder.maps import map_sizes
from headstrip.network.taps import TappedMaps
from headstrip.testing import map_grids, map_proofs, perturb

COMMITTED = {proof.name: proof for proof in TOOL.read().proofs}
# From timm, the smallest backbones, with one of every small family. Only the committed table has
# the largest ones of torchvision.
SIZES = {spec.qualified_name: spec.params for spec in subjects()}
TIMM = [name for name in SIZES if name.startswith("timm:")][:150]
REPEATED = [
    name
    for name in COMMITTED
    if (name in TIMM if name.startswith("timm:") else SIZES[name] < LARGEST)
]
# One backbone for each way to state levels; the slow tests cover the rest.
LIGHT = {
    "torchvision:densenet121",
    "torchvision:efficientnet_b0",
    "torchvision:mobilenet_v3_small",
    "torchvision:regnet_x_400mf",
    "torchvision:resnet18",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:squeezenet1_1",
    "torchvision:swin_t",
    "timm:test_resnet",
    "timm:test_vit",
    "hf:dinov2_with_registers",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=() if one in LIGHT else pytest.mark.slow) for one in REPEATED],
)
def test_each_map_determines_the_embedding_and_has_the_grid_of_the_image(name):
    proof = prove(name)
    assert proof.problems == []
    if not name.startswith("timm:"):
        # In the last block of maxvit attention reaches every position.
        assert set(proof.exceptions) == ({"grid"} if "maxvit" in name else set())


def test_the_committed_proofs_pass_and_cover_torchvision_and_transformers():
    assert not any(proof.problems for proof in COMMITTED.values())
    names = {spec.qualified_name for spec in subjects() if spec.source != "timm"}
    assert names <= {*COMMITTED}
    assert sum(name.startswith("torchvision:") for name in COMMITTED) == 80


@cache
def small(name):
    if name == "vit":
        # Like torchvision's ViTs for the proofs, with a thousandth of the parameters.
        encoder = tiny_vit()
        perturb(encoder.backbone)
        return encoder, levels_of(encoder), encoder.input_shape
    encoder, shape = made(f"torchvision:{name}")
    return encoder, levels_of(encoder), shape


def grid(encoder, levels, shape):
    strides = [size.stride for size in map_sizes(encoder)]
    return grid_proof(encoder, TappedMaps(encoder.backbone, levels), shape, strides)


def caught(encoder, levels, shape):
    """Return the first proof that the levels fail, or None if they pass all."""
    x, y = two(shape)
    try:
        if map_proofs.cut_misses(encoder.backbone, levels, x, y):
            return "cut"
        _, maps, _ = TappedMaps(encoder.backbone, levels)(x)
        claims = [size.channels for size in map_sizes(encoder)]
        if [found.shape[1] for found in maps] != claims:
            return "claims"
        if map_proofs.overwritten(encoder.backbone, levels, x):
            return "unwritten"
        tail = map_proofs.tail_of(TappedMaps(encoder.backbone, levels)(x))
        if tail != TAILS.get(encoder.spec.family, "mean"):
            return "tail"
        if map_proofs.too_early(encoder.backbone, levels, x, y):
            return "depth"
        return "grid" if grid(encoder, levels, shape).wrong else None
    except ValueError:
        return "layout"


def changed(levels, number, **fields):
    return [*levels[:number], replace(levels[number], **fields), *levels[number + 1 :]]


MUTANTS = {
    ("resnet18", "a branch"): (lambda ls: changed(ls, 3, path="layer3.0.conv2"), "cut"),
    ("resnet18", "no such module"): (lambda ls: changed(ls, 3, path="layer9"), "layout"),
    ("resnet18", "one stage early"): (lambda ls: changed(ls, 3, path="layer2"), "claims"),
    ("resnet18", "before the ReLU"): (
        lambda ls: changed(ls, 0, path="bn1", reads=False),
        "unwritten",
    ),
    ("resnet18", "axes swapped"): (lambda ls: changed(ls, 4, layout="NHWC"), "claims"),
    ("swin_t", "NHWC as NCHW"): (lambda ls: changed(ls, 3, layout="NCHW"), "claims"),
    ("swin_t", "a stage early"): (lambda ls: changed(ls, 2, path="features.3"), "claims"),
    ("swin_t", "before the norm"): (lambda ls: changed(ls, 3, path="features.7"), "tail"),
    ("vit", "one block early"): (
        lambda ls: changed(ls, 2, path="encoder.layers.encoder_layer_1"),
        "tail",
    ),
    ("resnet18", "one block early"): (lambda ls: changed(ls, 2, path="layer2.0"), "depth"),
    ("swin_t", "one block early"): (lambda ls: changed(ls, 1, path="features.3.0"), "depth"),
    ("squeezenet1_1", "one block early"): (
        lambda ls: changed(ls, 2, path="features.6", reads=False),
        "depth",
    ),
    ("vgg11", "one layer early"): (
        lambda ls: changed(ls, 2, path="features.7", reads=False),
        "depth",
    ),
    ("vit", "one inner block early"): (
        lambda ls: changed(ls, 1, path="encoder.layers.encoder_layer_0"),
        "depth",
    ),
    ("vit", "all but the last early"): (
        lambda ls: [
            replace(ls[0], path="encoder.dropout"),
            *ls[:-2],
            ls[-1],
        ],
        "depth",
    ),
    ("vit", "prefix off by one"): (lambda ls: changed(ls, 1, prefix=0), "layout"),
    ("vit", "prefix of two"): (lambda ls: changed(ls, 1, prefix=2), "layout"),
    ("vit", "an attention"): (
        lambda ls: changed(ls, 1, path="encoder.layers.encoder_layer_1.self_attention"),
        "cut",
    ),
}


@torch.no_grad()
def test_the_levels_of_the_small_transformer_pass():
    encoder, levels, shape = small("vit")
    assert caught(encoder, list(levels), shape) is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=" ".join)
@torch.no_grad()
def test_wrong_levels_are_detected(mutant):
    name, _ = mutant
    change, proof = MUTANTS[mutant]
    encoder, levels, shape = small(name)
    assert caught(encoder, change(list(levels)), shape) == proof


class Padded(torch.nn.Module):
    """Two layers with extra padding below and to the right, as in TensorFlow."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(3, 3, 3, 2) for _ in range(2))

    def forward(self, x):
        maps = []
        for layer in self.layers:
            x = layer(torch.nn.functional.pad(x, (0, 1, 0, 1)))
            maps.append(x)
        return x.mean((2, 3)), maps, [None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_a_shift_proves_the_grid_of_a_network_that_pads_its_images(dtype):
    network = Padded().to(dtype)
    assert not map_grids.grid_by_shift(network, (3, 24, 32), (2, 4), dtype).wrong
    for change in (lambda one: one.mT, lambda one: one.flip(2)):
        wrong = map_grids.grid_by_shift(Changed(network, change), (3, 24, 24), (2, 4), dtype)
        assert wrong.wrong == (0, 1)


class Changed(torch.nn.Module):
    """Maps with another grid than the image."""

    def __init__(self, maps_of, change):
        super().__init__()
        self.maps_of, self.change = maps_of, change

    def forward(self, x):
        embedding, maps, prefixes = self.maps_of(x)
        return embedding, [self.change(one) for one in maps], prefixes


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        ("has its rows for columns", lambda one: one.transpose(2, 3)),
        (
            "counts a prefix token as a patch",
            lambda one: one.flatten(2).roll(1, 2).unflatten(2, one.shape[2:]),
        ),
        ("is upside down", lambda one: one.flip(2)),
        ("is mirrored", lambda one: one.flip(3)),
    ],
)
@torch.no_grad()
def test_shift_and_locality_detect_a_wrong_grid(problem, change):
    encoder, levels, shape = small("resnet18")
    maps_of = Changed(TappedMaps(encoder.backbone, levels), change)
    assert map_grids.grid_by_shift(maps_of, shape, (2, 4, 8, 16, 32)).wrong == (0, 1, 2, 3, 4)
    encoder, levels, _ = small("swin_t")
    maps_of = Changed(TappedMaps(encoder.backbone, levels[2:]), change)
    proof = map_grids.grid_by_locality(maps_of, (3, 128, 128), 32)
    assert proof.wrong == (0, 1)
    assert proof.misplaced == problem
