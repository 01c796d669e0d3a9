"""Normalise: the last step of the preprocessing, for a whole batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from headstrip import Preprocessing
from headstrip.embed.engines.network import Normalise

CROP = (6, 7)
BATCHES = arrays.arrays(np.uint8, (2, *CROP, 3))
SHIFTS = st.tuples(*[st.floats(-300, 300, width=32)] * 3)
DIVISORS = st.tuples(*[st.floats(2**-10, 300, width=32)] * 3)


@given(BATCHES, SHIFTS, DIVISORS, st.sampled_from([1.0, 127.5, 255.0, 256.0]), st.booleans())
def test_normalise_gives_the_same_bits_as_the_transform(pixels, mean, std, rescale, last):
    preprocessing = Preprocessing(CROP, None, mean, std, rescale=rescale)
    images = [preprocessing.transform()(Image.fromarray(one)) for one in pixels]
    got = Normalise(preprocessing, channels_last=last)(torch.from_numpy(pixels))
    assert torch.equal(got, torch.stack(images))


@given(st.integers(0, 255), st.floats(-1, 1), st.floats(0.125, 2))
def test_normalise_supports_one_channel(value, mean, std):
    preprocessing = Preprocessing(CROP, None, (mean,), (std,))
    pixels = np.full((1, *CROP, 1), value, np.uint8)
    wanted = preprocessing.transform()(Image.fromarray(pixels[0, ..., 0]))
    assert torch.equal(Normalise(preprocessing)(torch.from_numpy(pixels))[0], wanted)


@pytest.mark.parametrize(
    ("last", "form"), [(True, torch.channels_last), (False, torch.contiguous_format)]
)
def test_the_result_has_the_requested_memory_format(last, form):
    preprocessing = Preprocessing(CROP, None, (0.5,) * 3, (0.5,) * 3)
    got = Normalise(preprocessing, channels_last=last)(torch.zeros(2, *CROP, 3, dtype=torch.uint8))
    assert got.is_contiguous(memory_format=form)


def test_normalise_does_not_change_its_input():
    pixels = torch.arange(6 * 7 * 3, dtype=torch.uint8).view(1, *CROP, 3)
    before = pixels.clone()
    Normalise(Preprocessing(CROP, None, (0.5,) * 3, (0.5,) * 3))(pixels)
    assert torch.equal(pixels, before)
