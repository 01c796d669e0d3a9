"""Sizes of batches and numbers of threads."""

from __future__ import annotations

import pytest
import torch
from tests.embed.engines.networks import Failing, with_backbone

from headstrip import PreprocessingError, build_encoder
from headstrip.embed.layouts import BATCH_SIZES, Layout, best_batch, images_per_second, usable_cores


@pytest.mark.parametrize("cores", [1, 2])
def test_the_fastest_layout_uses_the_cores_that_it_may(encoder, cores):
    layout = best_batch(encoder, seconds=0.5, cores=cores)
    assert layout.lanes * layout.threads == cores
    assert layout.batch_size in BATCH_SIZES


def test_a_network_that_is_too_slow_to_try_others_has_the_first_layout(encoder):
    assert best_batch(encoder, seconds=0) == Layout(4, usable_cores(), 1, True)


def test_measuring_leaves_the_threads_of_the_process_alone(encoder):
    before = torch.get_num_threads()
    images_per_second(encoder, Layout(1, 1, before + 1, True))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("lanes", [1, 3])
def test_what_stops_a_lane_is_raised_and_ends_the_others(encoder, lanes):
    failing = with_backbone(encoder, Failing())
    with pytest.raises(NotImplementedError, match="this network cannot be run"):
        images_per_second(failing, Layout(1, lanes, 1, True))


def test_an_encoder_without_preprocessing_is_refused():
    with pytest.raises(PreprocessingError, match="has no preprocessing"):
        best_batch(build_encoder("shufflenet_v2_x0_5", weights=None))
