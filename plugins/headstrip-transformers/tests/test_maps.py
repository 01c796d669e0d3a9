"""Feature maps are the network's own hidden states."""

from __future__ import annotations

import pytest
import torch
from hf_checkpoints import OPTIONS, pixels
from torch import Tensor

from headstrip import Encoder, LevelError, build_encoder
from headstrip.network.levels import as_levels
from headstrip.network.taps import TappedMaps
from headstrip.testing import map_grids, map_proofs, perturb
from headstrip_transformers.levels import levels_of
from headstrip_transformers.towers import TOWERS

DEEPER = {"num_hidden_layers": 3}
PREFIX = {
    "clip_vision_model": 1,
    "dinov2": 1,
    "vit": 1,
    "dinov3_vit": 5,
    "dinov2_with_registers": 5,
}
WITHOUT_TOKENS = {"convnext", "convnextv2", "dinov3_convnext"}
NORMED_LAST = set(TOWERS) - WITHOUT_TOKENS - {"clip_vision_model"}


def made(kind: str) -> Encoder:
    torch.manual_seed(0)
    more = DEEPER if "num_hidden_layers" in OPTIONS[kind] else {}
    encoder = build_encoder(f"hf:{kind}", weights=None, options={**OPTIONS[kind], **more})
    perturb(encoder.backbone)
    return encoder


@pytest.mark.parametrize("kind", TOWERS)
@torch.no_grad()
def test_each_map_determines_the_embedding(kind: str) -> None:
    encoder, x = made(kind), pixels(kind)
    levels = as_levels(levels_of(encoder.backbone, kind))
    embedding, maps = encoder.with_maps(x)
    assert torch.equal(embedding, encoder(x))
    assert map_proofs.cut_misses(encoder.backbone, levels, x[:1], x[1:]) == []
    assert map_proofs.too_early(encoder.backbone, levels, x[:1], x[1:]) == {}
    assert map_proofs.overwritten(encoder.backbone, levels, x) == []
    pyramid = encoder.pyramid()
    assert pyramid.channels == tuple(one.shape[1] for one in maps)
    sides = [x.shape[-1] // one.shape[-1] for one in maps]
    assert list(pyramid.strides) == sides


@pytest.mark.parametrize("kind", TOWERS)
@torch.no_grad()
def test_each_patch_of_a_map_has_the_position_of_its_pixels(kind: str) -> None:
    encoder, x = made(kind), pixels(kind)
    levels = as_levels(levels_of(encoder.backbone, kind))
    maps_of, stride = TappedMaps(encoder.backbone, levels), encoder.pyramid().strides[-1]
    if kind in WITHOUT_TOKENS:
        proof = map_grids.grid_by_shift(maps_of, (3, 64, 96), encoder.pyramid().strides)
    else:
        proof = map_grids.grid_by_locality(maps_of, tuple(x.shape[1:]), stride)
    assert proof.wrong == ()


def as_map(hidden: Tensor, prefix: int, like: Tensor) -> Tensor:
    if hidden.ndim == 4:
        return hidden
    return hidden[:, prefix:].transpose(1, 2).reshape(like.shape)


@pytest.mark.parametrize("kind", TOWERS)
@torch.no_grad()
def test_maps_without_the_norm_equal_the_hidden_states_of_transformers(kind: str) -> None:
    encoder, x = made(kind), pixels(kind)
    states = encoder.backbone.network(
        pixel_values=x, return_dict=True, output_hidden_states=True
    ).hidden_states
    maps = encoder.maps(x, norm=False)
    if kind in {"swin", "swinv2"}:
        # Except for the last stage, transformers returns the state after merging patches.
        states, maps = states[-1:], maps[-1:]
    states = states[-len(maps) :]
    prefix = PREFIX.get(kind, 0)
    assert all(
        torch.equal(own, as_map(state, prefix, own))
        for own, state in zip(maps, states, strict=True)
    )


@pytest.mark.parametrize("kind", sorted(NORMED_LAST))
@torch.no_grad()
def test_the_last_map_has_the_final_norm_applied(kind: str) -> None:
    encoder, x = made(kind), pixels(kind)
    normed, raw = (encoder.tokens(x, norm=norm) for norm in (True, False))
    assert normed.prefix.shape[1] == PREFIX.get(kind, 0)
    assert not torch.equal(normed.patches, raw.patches)
    if encoder.head is None and kind == "dinov3_vit":
        assert torch.equal(normed.prefix[:, 0], encoder(x))
    if kind in {"ijepa", "siglip_vision_model", "swin", "swinv2"}:
        assert torch.allclose(normed.patches.mean(1), encoder(x), atol=1e-5)


@torch.no_grad()
def test_a_small_image_does_not_change_the_windows_of_swin() -> None:
    encoder = made("swinv2")
    pyramid, large = encoder.pyramid(), torch.randn(1, 3, 64, 64)
    expected = pyramid(large)
    pyramid(torch.randn(1, 3, 8, 8))
    assert all(map(torch.equal, pyramid(large), expected))


def test_a_convnext_has_no_tokens() -> None:
    with pytest.raises(LevelError, match="has no tokens at level 3, but a map of 32 channels"):
        made("convnext").tokens(pixels("convnext"))
