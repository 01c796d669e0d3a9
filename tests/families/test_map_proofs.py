"""The feature maps of all of torchvision's classifiers are right, and wrong levels are noticed."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from headstrip import build_encoder
from headstrip.encoder.maps import map_sizes
from headstrip.network.levels import as_levels
from headstrip.network.taps import TappedMaps
from headstrip.registry.registry import get_registry
from headstrip.testing import map_proofs, perturb
from headstrip.testing.perturb import FastRandom

SPECS = [s for s in get_registry().specs() if s.source == "torchvision" and s.task == "image"]
# One of each way in which levels are stated; the slow run has all 80.
LIGHT = {
    "densenet121",
    "efficientnet_b0",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "vit_b_32",
}
SIDES = {"maxvit": (224, 224), "swin": (128, 192)}
TAILS = {
    "alexnet": None,
    "convnext": None,
    "maxvit": None,
    "mobilenet_v3": None,
    "vgg": None,
    "vit": "token",
}


def _marked(specs):
    return [
        pytest.param(s, id=s.name, marks=() if s.name in LIGHT else pytest.mark.slow) for s in specs
    ]


@cache
def small(name):
    return made(next(spec for spec in SPECS if spec.name == name))


def made(spec):
    """Return an encoder whose every parameter matters, its levels, and a small input's shape."""
    patch = int(spec.name.rpartition("_")[2]) if spec.family == "vit" else 0
    options = {"image_size": 4 * patch} if patch else {}
    torch.manual_seed(0)
    with FastRandom():
        encoder = build_encoder(spec.name, weights=None, options=options)
        perturb(encoder.backbone)
    shape = (3, *((4 * patch,) * 2 if patch else SIDES.get(spec.family, (96, 128))))
    return encoder, levels_of(encoder), shape


def levels_of(encoder):
    plugin, family = get_registry().stripper(encoder.spec.family)
    backbone, spec = encoder.backbone, encoder.spec
    return as_levels(plugin.call("levels", spec.name, model=backbone, family=family, spec=spec))


def two(shape):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, *shape, generator=generator) for _ in range(2)]


def grid_proof(encoder, levels, shape):
    maps_of = TappedMaps(encoder.backbone, levels)
    strides = [size.stride for size in map_sizes(encoder)]
    if encoder.spec.family in {"swin", "maxvit"}:
        return map_proofs.grid_by_locality(maps_of, shape, max(strides))
    if encoder.spec.family == "vit":
        # A shift meets no border where all positions have the same vector.
        positions = encoder.backbone.encoder.pos_embedding
        kept = positions.clone()
        positions.zero_()
        proof = map_proofs.grid_by_shift(maps_of, shape, strides)
        positions.copy_(kept)
        return proof
    return map_proofs.grid_by_shift(maps_of, shape, strides)


@pytest.mark.parametrize("spec", _marked(SPECS))
@torch.no_grad()
def test_each_map_is_all_that_the_embedding_depends_on_and_lies_as_the_picture(spec):
    encoder, levels, shape = small(spec.name) if spec.name in LIGHT else made(spec)
    x, y = two(shape)
    embedding, maps = encoder.with_maps(x)
    assert torch.equal(embedding, encoder(x))
    assert map_proofs.cut_misses(encoder.backbone, levels, x, y) == []
    assert map_proofs.overwritten(encoder.backbone, levels, x) == []
    tail = map_proofs.tail_of(TappedMaps(encoder.backbone, levels)(x))
    assert tail == TAILS.get(spec.family, "mean")
    sizes = map_sizes(encoder)
    assert [found.shape[1] for found in maps] == [size.channels for size in sizes]
    strides = [size.stride for size in sizes]
    assert strides == sorted(strides)
    # These two do not pad.
    if spec.family not in {"inception", "squeezenet"}:
        sides = [-(-shape[1] // stride) for stride in strides]
        assert [found.shape[2] for found in maps] == sides
    # In maxvit's last block attention reaches every position.
    wrong = grid_proof(encoder, levels, shape).wrong
    assert wrong in ((), (4,)) if spec.family == "maxvit" else wrong == ()


def test_every_classifier_has_levels_and_no_video_network_has():
    assert len(SPECS) == 80


def caught(encoder, levels, shape):
    """Return the first proof that wrong levels fail, None if they pass all."""
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
        return "grid" if grid_proof(encoder, levels, shape).wrong else None
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
    ("vit_b_32", "one block early"): (
        lambda ls: changed(ls, 11, path="encoder.layers.encoder_layer_10"),
        "tail",
    ),
    ("vit_b_32", "prefix off by one"): (lambda ls: changed(ls, 5, prefix=0), "layout"),
    ("vit_b_32", "prefix of two"): (lambda ls: changed(ls, 5, prefix=2), "layout"),
    ("vit_b_32", "an attention"): (
        lambda ls: changed(ls, 5, path="encoder.layers.encoder_layer_5.self_attention"),
        "cut",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=" ".join)
@torch.no_grad()
def test_wrong_levels_are_noticed(mutant):
    name, _ = mutant
    change, proof = MUTANTS[mutant]
    encoder, levels, shape = small(name)
    assert caught(encoder, change(list(levels)), shape) == proof


class Changed(torch.nn.Module):
    """Maps whose grid is not that of the picture."""

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
def test_a_wrong_grid_is_noticed_by_shift_and_by_locality(problem, change):
    encoder, levels, shape = small("resnet18")
    maps_of = Changed(TappedMaps(encoder.backbone, levels), change)
    assert map_proofs.grid_by_shift(maps_of, shape, (2, 4, 8, 16, 32)).wrong == (0, 1, 2, 3, 4)
    encoder, levels, _ = small("swin_t")
    maps_of = Changed(TappedMaps(encoder.backbone, levels[2:]), change)
    proof = map_proofs.grid_by_locality(maps_of, (3, 128, 128), 32)
    assert proof.wrong == (0, 1)
    assert proof.misplaced == problem
