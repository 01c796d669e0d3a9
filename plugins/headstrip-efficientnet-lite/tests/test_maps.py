"""The feature maps of the networks with their real weights."""

from __future__ import annotations

import timm
import torch

from headstrip.network.levels import as_levels
from headstrip.testing import map_grids, map_proofs
from headstrip_efficientnet_lite.plugin import LEVELS


@torch.no_grad()
def test_each_map_determines_the_embedding_and_is_the_last_of_its_stride(encoder):
    levels = as_levels(LEVELS)
    x, y = torch.randn(2, 1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    assert map_proofs.cut_misses(encoder.backbone, levels, x, y) == []
    assert map_proofs.too_early(encoder.backbone, levels, x, y) == {}
    assert map_proofs.overwritten(encoder.backbone, levels, x) == []
    # In trained networks changes spread, so this proves only that no grid is rotated or shifted.
    grid = map_grids.grid_by_locality(encoder.pyramid().maps, (3, 96, 128), 32)
    assert grid.misplaced is None
    assert not {0, 1, 2} & {*grid.wrong}


@torch.no_grad()
def test_the_embedding_is_the_mean_of_the_last_map(encoder):
    embedding, (last,) = encoder.with_maps(torch.randn(2, 3, 64, 96), levels=[-1])
    assert torch.allclose(last.mean((2, 3)), embedding, atol=1e-6)


@torch.no_grad()
def test_the_finer_maps_equal_those_of_timm(encoder, name):
    x = torch.randn(1, 3, 64, 96)
    theirs = timm.create_model(f"tf_{name.partition(':')[2]}", features_only=True).eval()
    theirs.load_state_dict(encoder.backbone.state_dict(), strict=False)
    assert encoder.spec.strides == encoder.pyramid().strides == (2, 4, 8, 16, 32)
    assert encoder.spec.channels == encoder.pyramid().channels
    assert all(map(torch.equal, encoder.maps(x)[:4], theirs(x)[:4]))
