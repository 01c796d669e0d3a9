"""Choosing a batch size and a number of threads by measuring."""

from __future__ import annotations

import pytest
import torch
from tests.embed.engines.networks import Failing, with_backbone

from headstrip import PreprocessingError, build_encoder
from headstrip.embed.calibrate_batches import BATCH_SIZES, best_batch, images_per_second
from headstrip.embed.parallelism import choose_parallelism, cores
from headstrip.embed.settings import EmbedOptions, EmbedSettings


def one_image(threads=1, inference_threads=1):
    return choose_parallelism(
        EmbedSettings(batch_size=1, threads=threads),
        EmbedOptions(inference_threads=inference_threads),
    )


def test_best_batch_returns_a_tried_batch_size_and_threads_that_divide_the_cores(encoder):
    found = best_batch(encoder, seconds=0.5)
    assert found == EmbedSettings(batch_size=found.batch_size, threads=found.threads)
    assert cores() % found.threads == 0
    assert found.batch_size in BATCH_SIZES


def test_best_batch_returns_the_default_sizes_when_its_time_is_up(encoder):
    assert best_batch(encoder, seconds=0) == EmbedSettings(batch_size=16, threads=1)


def test_measuring_does_not_change_the_thread_count_of_the_process(encoder):
    before = torch.get_num_threads()
    images_per_second(encoder, one_image(threads=before + 1))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("inference_threads", [1, 3])
def test_an_error_in_an_inference_thread_is_raised_and_ends_the_others(encoder, inference_threads):
    failing = with_backbone(encoder, Failing())
    with pytest.raises(NotImplementedError, match="this network cannot be run"):
        images_per_second(failing, one_image(inference_threads=inference_threads))


def test_an_encoder_without_preprocessing_is_refused():
    with pytest.raises(PreprocessingError, match="has no preprocessing"):
        best_batch(build_encoder("shufflenet_v2_x0_5", weights=None))
