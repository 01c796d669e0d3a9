"""Sizes of batches and numbers of threads."""

from __future__ import annotations

import pytest
import torch
from tests.embed.engines.networks import Failing, with_backbone

from headstrip import PreprocessingError, build_encoder
from headstrip.embed.calibrate import BATCH_SIZES, Batches, best_batch, images_per_second
from headstrip.embed.parallelism import cores as usable_cores


@pytest.mark.parametrize("cores", [1, 2])
def test_the_fastest_batches_use_the_cores_that_they_may(encoder, cores):
    found = best_batch(encoder, seconds=0.5, cores=cores)
    assert found.inference_threads * found.threads == cores
    assert found.batch_size in BATCH_SIZES


def test_a_network_that_is_too_slow_to_try_others_has_the_batches_of_a_plain_run(encoder):
    assert best_batch(encoder, seconds=0) == Batches(16, usable_cores(), 1)


def test_measuring_leaves_the_threads_of_the_process_alone(encoder):
    before = torch.get_num_threads()
    images_per_second(encoder, Batches(1, 1, before + 1))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("lanes", [1, 3])
def test_what_stops_a_lane_is_raised_and_ends_the_others(encoder, lanes):
    failing = with_backbone(encoder, Failing())
    with pytest.raises(NotImplementedError, match="this network cannot be run"):
        images_per_second(failing, Batches(1, lanes, 1))


def test_an_encoder_without_preprocessing_is_refused():
    with pytest.raises(PreprocessingError, match="has no preprocessing"):
        best_batch(build_encoder("shufflenet_v2_x0_5", weights=None))
