"""Hypothesis strategies for any architectures and weights that a catalog can contain."""

from __future__ import annotations

import string
from dataclasses import replace

from hypothesis import strategies as st

from headstrip import BackboneSpec, Preprocessing, WeightsEntry
from headstrip.images.preprocessing import INTERPOLATIONS
from headstrip.spec import LAWS, freeze

COUNTS = st.integers(1, 10**12)
SHAPES = st.lists(st.integers(1, 4096), min_size=1, max_size=4).map(tuple)
TEXTS = st.text(
    st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1, max_size=12
)
NAMES = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=12)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children),
    max_leaves=5,
)
PAIRS = st.dictionaries(st.text(max_size=8), VALUES, max_size=3).map(freeze)
SIZES = st.integers(1, 4096)
NUMBERS = st.floats(0.001, 1000)

MAPS = st.lists(st.tuples(SIZES, SIZES), max_size=4)


def _with_maps(spec: BackboneSpec, maps: list[tuple[int, int]]) -> BackboneSpec:
    channels, strides = zip(*maps, strict=True) if maps else ((), ())
    return replace(spec, channels=channels, strides=strides)


_SPECS = st.builds(
    BackboneSpec,
    name=NAMES | st.builds("{}/{}".format, NAMES, NAMES),
    source=TEXTS,
    family=TEXTS,
    plugin=TEXTS,
    task=st.sampled_from(["image", "video"]),
    input_shape=SHAPES,
    dim=COUNTS,
    params=st.just(0) | COUNTS,
    default_weights=st.none() | TEXTS,
    options=PAIRS,
    law=st.sampled_from(LAWS),
)
SPECS = st.builds(_with_maps, _SPECS, MAPS)


@st.composite
def preprocessings(draw: st.DrawFn) -> Preprocessing:
    """Draw any preprocessing."""
    channels = draw(st.integers(1, 4))
    of_channels = st.lists(NUMBERS, min_size=channels, max_size=channels).map(tuple)
    return Preprocessing(
        crop=draw(st.tuples(SIZES, SIZES)),
        resize=draw(st.none() | SIZES | st.tuples(SIZES, SIZES)),
        mean=draw(of_channels),
        std=draw(of_channels),
        interpolation=draw(st.sampled_from(INTERPOLATIONS)),
        antialias=draw(st.booleans()),
        rescale=draw(NUMBERS),
        frames=draw(st.none() | st.integers(1, 64)),
    )


ENTRIES = st.builds(
    WeightsEntry,
    tag=TEXTS,
    locations=st.lists(st.text(), max_size=3).map(tuple),
    sha256=st.text("0123456789abcdef", max_size=64),
    options=PAIRS,
    num_classes=st.none() | COUNTS,
    input_shape=st.none() | SHAPES,
    labels=st.none() | TEXTS,
    preprocessing=st.none() | preprocessings(),
    license=st.none() | TEXTS,
    metrics=PAIRS,
)
