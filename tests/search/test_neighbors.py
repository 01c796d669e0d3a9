"""The nearest rows of a file of embeddings."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import SMALL, pixels
from tests.distributions import run_python
from tests.embed.written import write_npy, write_parquet

from headstrip import EmbedOptions, HeadstripError, ManifestError, OptionError, build_encoder
from headstrip.embed.output.loading import open_embeddings
from headstrip.embed.rebuild_encoder import build_encoder_of, check_encoder
from headstrip.embed.run import embed_source
from headstrip.encoder.encoder import Encoder
from headstrip.search.neighbors import Neighbor, find_neighbors, nearest

NAME = "shufflenet_v2_x0_5"
Save = Callable[..., Path]
QUERY = np.array([[1, 0, 0]], np.float32)


def named(found: list[Neighbor]) -> list[tuple[str, float]]:
    return [(one.path, one.similarity) for one in found]


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of vectors of integers, from exact products."""
    dot, lengths = int(a @ b), Fraction(int(a @ a) * int(b @ b))
    return round(math.copysign(math.sqrt(Fraction(dot * dot) / lengths), dot), 12)


@st.composite
def tables(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, set[int], int, int]:
    dim, rows = draw(st.integers(1, 4)), draw(st.integers(0, 40))
    numbers = st.lists(st.integers(-3, 3), min_size=dim, max_size=dim)
    embeddings = draw(st.lists(numbers, min_size=rows, max_size=rows))
    queries = draw(st.lists(numbers.filter(any), min_size=1, max_size=3))
    bad = draw(st.sets(st.integers(0, max(rows - 1, 0)), max_size=rows))
    return (
        np.array(embeddings, np.float32).reshape(rows, dim),
        np.array(queries, np.float32),
        bad,
        draw(st.integers(1, 45)),
        draw(st.integers(1, 50)),
    )


@given(drawn=tables(), order=st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_the_nearest_rows_match_a_comparison_of_all_rows(
    tmp_path_factory: pytest.TempPathFactory, drawn: Any, order: Any
) -> None:
    embeddings, queries, bad, k, rows_per_group = drawn
    paths = [f"{number:02}.png" for number in range(len(embeddings))]
    order.shuffle(paths)
    file = write_parquet(
        tmp_path_factory.mktemp("drawn") / "out",
        paths,
        embeddings,
        bad=sorted(bad),
        rows_per_group=rows_per_group,
    )
    good = [row for row in range(len(paths)) if row not in bad and embeddings[row].any()]
    expected = [
        sorted(
            ((paths[row], similarity(embeddings[row], query)) for row in good),
            key=lambda pair: (-pair[1], pair[0]),
        )[:k]
        for query in queries
    ]
    found = nearest(open_embeddings(file), queries, k)
    # A value half way between two roundings may round either way in the twelfth decimal.
    near = [[(path, pytest.approx(value, abs=2e-12)) for path, value in one] for one in expected]
    assert list(map(named, found)) == near
    assert all(paths[one.row] == one.path for neighbors in found for one in neighbors)


@pytest.mark.parametrize("write", [write_parquet, write_npy])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_without_a_direction_are_never_found(
    tmp_path: Path, write: Callable[..., Path], dtype: type
) -> None:
    embeddings = np.array(
        [[1, 1, 0], [0, 0, 0], [np.nan, 1, 1], [np.inf, 1, 1], [9, 9, 9], [-1, 0, 0]], dtype
    )
    file = write(tmp_path / "out", ["a", "zero", "nan", "inf", "bad", "b"], embeddings, bad=[4])
    (found,) = nearest(open_embeddings(file), QUERY, 10)
    assert named(found) == [("a", round(1 / math.sqrt(2), 12)), ("b", -1.0)]


def test_equally_similar_images_are_sorted_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstrip.embed.output.loading._BLOCK_ROWS", 7)
    one = np.random.default_rng(0).normal(size=(1, 333)).astype(np.float32)
    paths = [f"{number:03}.png" for number in range(100)][::-1]
    file = write_parquet(tmp_path / "out", paths, np.repeat(one, 100, axis=0), rows_per_group=23)
    (found,) = nearest(open_embeddings(file), one * 3, 5)
    assert named(found) == [(f"{number:03}.png", 1.0) for number in range(5)]


def test_the_length_of_a_vector_does_not_matter(tmp_path: Path) -> None:
    embeddings = np.array([[3e38, 3e38], [1e-40, 0], [0, 1]], np.float32)
    file = open_embeddings(write_parquet(tmp_path / "out", ["a", "b", "c"], embeddings))
    (found,) = nearest(file, np.array([[1e-30, 1e-30]], np.float32), 3)
    half = round(1 / math.sqrt(2), 12)
    assert named(found) == [("a", 1.0), ("b", half), ("c", half)]


@pytest.mark.parametrize("index", ["faiss", "usearch"])
def test_an_index_finds_the_same_rows_as_an_exact_search(tmp_path: Path, index: Any) -> None:
    pytest.importorskip(index, reason=f"{index} is not installed")
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(500, 16)).astype(np.float32)
    embeddings[7] = 0
    paths = [f"{number:03}.png" for number in range(500)]
    bad = [3, 4, 499]
    file = write_parquet(tmp_path / "out", paths, embeddings, bad=bad, rows_per_group=64)
    opened, queries = open_embeddings(file), embeddings[[1, 2, 499]] + np.float32(0.01)
    assert nearest(opened, queries, 5, index=index) == nearest(opened, queries, 5)


@pytest.mark.parametrize("index", ["faiss", "usearch"])
def test_an_index_without_good_rows_finds_nothing(tmp_path: Path, index: Any) -> None:
    pytest.importorskip(index, reason=f"{index} is not installed")
    file = write_parquet(tmp_path / "out", ["a"], QUERY, bad=[0])
    assert nearest(open_embeddings(file), QUERY, index=index) == [[]]


def test_a_missing_index_library_gives_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = open_embeddings(write_parquet(tmp_path / "out", ["a"], QUERY))
    for name, module in (("faiss", "faiss"), ("usearch", "usearch.index")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(HeadstripError, match=rf"pip install 'headstrip\[{name}\]'"):
            nearest(file, QUERY, index=name)  # type: ignore[arg-type]


def test_invalid_queries_and_options_give_a_clear_error(tmp_path: Path) -> None:
    file = open_embeddings(write_parquet(tmp_path / "out", ["a"], QUERY))
    for queries, k, index, message in (
        (QUERY, 0, "exact", "k=0 is not a number of neighbours"),
        (QUERY, 5, "hnsw", "index='hnsw' is unknown. Pass one of exact, faiss, usearch"),
        (QUERY[0], 5, "exact", r"got the shape \(3,\)"),
        (QUERY[:, :2], 5, "exact", "the embeddings in .* have 3 numbers"),
        (np.vstack([QUERY, QUERY * 0]), 5, "exact", "Query 1 .* is zero or not finite"),
        (QUERY * np.float32(np.nan), 5, "exact", "Query 0 .* is zero or not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            nearest(file, queries, k, index=index)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_memory_of_a_search_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not report its peak memory use")
    peaks = []
    for rows in (6_000, 50_000):
        embeddings = np.zeros((rows, 512), np.float32)
        embeddings[:, 0], embeddings[:, 1] = 1, np.linspace(2, 1, rows)
        file = write_parquet(tmp_path / f"{rows}", [f"{row:06}" for row in range(rows)], embeddings)
        code = (
            "import sys, numpy; from headstrip.embed.output.loading import open_embeddings\n"
            "from headstrip.search.neighbors import nearest\n"
            f"file = open_embeddings({str(file)!r})\n"
            "(found,) = nearest(file, numpy.eye(1, 512))\n"
            f"assert [one.row for one in found] == list(range({rows} - 1, {rows} - 6, -1))\n"
            "assert not {'torch', 'torchvision'} & set(sys.modules)\n"
            "print(next(x for x in open('/proc/self/status') if 'VmHWM' in x).split()[1])"
        )
        done = run_python("-c", code)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 32


def embed(encoder: Encoder, folder: Path, out: Path) -> None:
    embed_source(encoder, folder, out, options=EmbedOptions(workers=0))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Save a weights file of the user."""
    torch.manual_seed(0)
    path = tmp_path / "own.pth"
    torch.save(build_encoder(NAME, weights=None).backbone.state_dict(), path)
    return path


@pytest.fixture
def embedded(own: Path, save: Save, tmp_path: Path) -> Path:
    """Embed three pictures."""
    for seed in range(3):
        save(f"{seed}.png", seed)
    out = tmp_path / "out.parquet"
    embed(build_encoder(NAME, weights=own, preprocessing=SMALL), tmp_path / "photos", out)
    return out


def test_a_picture_in_the_file_is_its_own_nearest_neighbour(embedded: Path, own: Path) -> None:
    encoder = build_encoder(NAME, weights=own, preprocessing=SMALL)
    found = find_neighbors(embedded, [pixels(1), pixels(2)], k=2, encoder=encoder)
    assert [neighbors[0].path for neighbors in found] == ["1.png", "2.png"]
    assert all(neighbors[0].similarity > 0.9999 > neighbors[1].similarity for neighbors in found)


def test_the_encoder_of_a_file_is_built_from_its_metadata(embedded: Path, own: Path) -> None:
    encoder = build_encoder_of(open_embeddings(embedded), weights=own)
    expected = build_encoder(NAME, weights=own, preprocessing=SMALL).fingerprint.identity
    assert encoder.fingerprint.identity == expected
    assert encoder.preprocessing == SMALL


def test_the_encoder_of_a_file_of_an_earlier_headstrip_is_built_too(
    tmp_path: Path, own: Path
) -> None:
    made = build_encoder(NAME, weights=own, preprocessing=SMALL)
    metadata = {
        "headstrip": "0.1.0",
        "fingerprint": made.fingerprint.to_json(),
        "preprocessing": SMALL.to_json(),
        "options": dict(made.options),
        "batch_size": 16,
    }
    file = open_embeddings(write_parquet(tmp_path / "out", ["a"], QUERY, metadata=metadata))
    encoder = build_encoder_of(file, weights=own)
    assert encoder.fingerprint.identity == made.fingerprint.identity
    with pytest.raises(HeadstripError, match=r"with --weights PATH \(weights=path\)"):
        build_encoder_of(file)
    with pytest.raises(HeadstripError, match='dtype is "float32" in the file and "bfloat16" here'):
        check_encoder(file, made.to(torch.bfloat16))


@pytest.mark.parametrize("key", ["manifest", "encoder"])
def test_the_encoder_of_a_file_is_built_from_its_manifest(
    tmp_path: Path, own: Path, key: str
) -> None:
    made = build_encoder(NAME, weights=own, preprocessing=SMALL, dtype=torch.bfloat16)
    manifest = made.manifest() | {"versions": {"torch": "1.0"}}
    file = open_embeddings(write_parquet(tmp_path / "out", ["a"], QUERY, metadata={key: manifest}))
    encoder = build_encoder_of(file, weights=own)
    assert encoder.fingerprint.identity == made.fingerprint.identity
    assert encoder.dtype == torch.bfloat16
    check_encoder(file, made)
    other = build_encoder("squeezenet1_1", weights=None)
    with pytest.raises(HeadstripError, match='name is "torchvision:shufflenet_v2_x0_5" in the fi'):
        check_encoder(file, other)
    torch.save(build_encoder(NAME, weights=None).backbone.state_dict(), own)
    with pytest.raises(ManifestError, match=r"weights\.sha256"):
        build_encoder_of(file, weights=own)


def trained(encoder: Encoder) -> Encoder:
    with torch.no_grad():
        next(encoder.backbone.parameters()).add_(1)
    return encoder


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"encoder": "resnet18"}, r"encoder must be an Encoder, got 'resnet18'\. Pass build_enc"),
        ({"embeddings": None}, "embeddings must be a string or a path object, got None"),
        ({"embeddings": ""}, "embeddings is empty. Pass a path such as 'photos.parquet'."),
        ({"embeddings": 3}, "embeddings must be a string or a path object, got 3"),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused(
    embedded: Path, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        find_neighbors(**{"embeddings": embedded, "images": []} | asked)


def test_another_encoder_is_refused_and_the_difference_named(embedded: Path, own: Path) -> None:
    def built(**how: Any) -> Encoder:
        return build_encoder(NAME, **{"weights": own, "preprocessing": SMALL, **how})

    for encoder, message in {
        build_encoder("squeezenet1_1", weights=None, preprocessing=SMALL): "name is .*shufflenet",
        built(preprocessing="IMAGENET1K_V1"): 'preprocessing is .* in the file and .*"crop"',
        built(dtype=torch.bfloat16): 'dtype is "float32" in the file and "bfloat16" here',
        built(weights=None): 'weights.sha256 is ".*" in the file and null here',
        trained(built()): "another encoder: the values of the parameters differ",
    }.items():
        with pytest.raises(HeadstripError, match=message):
            find_neighbors(embedded, [pixels(1)], encoder=encoder)


def test_missing_weights_of_the_user_and_random_weights_give_a_clear_error(
    embedded: Path, tmp_path: Path, encoder: Encoder
) -> None:
    with pytest.raises(HeadstripError, match=r"with --weights PATH \(weights=path\)"):
        find_neighbors(embedded, [pixels(1)])
    embed(encoder, tmp_path / "photos", tmp_path / "random.parquet")
    with pytest.raises(HeadstripError, match="random weights, so its encoder cannot be built"):
        find_neighbors(tmp_path / "random.parquet", [pixels(1)])


def test_a_file_that_does_not_name_its_encoder_gives_a_clear_error(tmp_path: Path) -> None:
    for metadata in (None, {}, {"manifest": {}}, {"manifest": [1]}, {"fingerprint": {"name": 1}}):
        file = write_parquet(tmp_path / "out", ["a"], QUERY, metadata=metadata)
        with pytest.raises(HeadstripError, match="does not name the encoder of its embeddings"):
            find_neighbors(file, [pixels(1)])
