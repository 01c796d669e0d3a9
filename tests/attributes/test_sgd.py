"""``method="sgd"``: predictors for embeddings that do not fit in memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from tests.attributes.tables import clusters, names
from tests.conftest import tiny_encoder
from tests.embed.written import write_npy, write_parquet

from headstrip import HeadstripError, OptionError, fit_predictors
from headstrip.attributes import sgd
from headstrip.embed.output.provenance import Provenance, metadata_for
from headstrip.embed.settings import EmbedSettings

ROWS, DIM = 900, 8
Write = Callable[..., Path]


def metadata() -> dict[str, Any]:
    return metadata_for(Provenance.of(tiny_encoder(), EmbedSettings(engine="torch")), "s", None)


def table_of() -> tuple[np.ndarray, dict[str, Any]]:
    """Return embeddings that are sorted by class, as folders per class are, and their labels."""
    points, truth = clusters(ROWS, DIM, 3)
    order = np.argsort(truth, kind="stable")
    points, kinds = points[order], truth[order].tolist()
    generator = np.random.default_rng(1)
    colours = [("red", "blue", "grey")[one] if generator.random() > 0.15 else None for one in kinds]
    return points, {
        "path": names(ROWS),
        "colour": colours,
        "marks": ["|".join(["dot"] * (one > 0) + ["ring"] * (one < 2)) for one in kinds],
        "size": [100 + 20.0 * one + row / ROWS for row, one in enumerate(kinds)],
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, points = tmp_path_factory.mktemp("sgd"), table_of()[0]
    options: dict[str, Any] = {"metadata": metadata(), "bad": [5]}
    parquet = write_parquet(folder / "a", names(ROWS), points, rows_per_group=256, **options)
    return {"parquet": parquet, "npy": write_npy(folder / "b", names(ROWS), points, **options)}


@pytest.fixture(scope="module")
def streamed(files: dict[str, Path]) -> Any:
    return fit_predictors(files["parquet"], table_of()[1], method="sgd")


@pytest.mark.slow
def test_the_held_out_predictions_agree_with_the_measures(streamed: Any) -> None:
    held = streamed.held_out["colour"]
    found = streamed.report["attributes"]["colour"]["measures"]["accuracy"]["value"]
    assert (held.truth == held.predicted).mean() == found
    labels = dict(zip(names(ROWS), table_of()[1]["colour"], strict=True))
    assert [held.classes[one] for one in held.truth] == [labels[path] for path in held.paths]


def test_sgd_is_as_good_as_the_default_method(files: dict[str, Path], streamed: Any) -> None:
    default = fit_predictors(files["parquet"], table_of()[1]).report
    assert streamed.report["join"] == default["join"]
    for name in ("colour", "marks"):
        one, other = (report["attributes"][name] for report in (streamed.report, default))
        assert one["images"] == other["images"]
        assert one["converged"]
        losses = [each["measures"]["log_loss"]["value"] for each in (one, other)]
        assert losses[0] < losses[1] + 0.04
        assert one["shuffled"]["log_loss"] > 1.5 * losses[0]
        assert one["majority"]["accuracy"] == other["majority"]["accuracy"]
    sizes = streamed.report["attributes"]["size"], default["attributes"]["size"]
    assert abs(sizes[0]["measures"]["r2"]["value"] - sizes[1]["measures"]["r2"]["value"]) < 0.01
    assert streamed.report["settings"]["method"] == "sgd"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_file_and_another_seed_another(
    files: dict[str, Path], tmp_path: Path
) -> None:
    table = table_of()[1]
    written = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        file = tmp_path / f"{name}.safetensors"
        fit_predictors(files["parquet"], table, method="sgd", seed=seed, attributes=["size"]).save(
            file
        )
        written.append(file.read_bytes())
    assert written[0] == written[1]
    assert written[0] != written[2]


@pytest.mark.parametrize("name", ["colour", "marks", "size"])
def test_a_predictor_is_the_same_when_fitted_alone_or_with_others(
    files: dict[str, Path], streamed: Any, name: str
) -> None:
    alone = fit_predictors(files["parquet"], table_of()[1], method="sgd", attributes=[name])
    assert torch.equal(alone.weights[name], streamed.weights[name])
    assert alone.report["attributes"][name] == streamed.report["attributes"][name]


def test_an_array_on_the_disk_is_streamed_too(files: dict[str, Path], streamed: Any) -> None:
    found = fit_predictors(files["npy"], table_of()[1], method="sgd", attributes=["size"])
    ours, theirs = (one.report["attributes"]["size"]["measures"] for one in (found, streamed))
    assert ours["r2"]["value"] == pytest.approx(theirs["r2"]["value"], abs=0.01)


def test_sgd_supports_class_weights_split_columns_and_unseen_classes(
    files: dict[str, Path],
) -> None:
    table = table_of()[1]
    table["part"] = [("train", "validation", "test")[row % 3] for row in range(ROWS)]
    table["colour"][1], table["colour"][2] = "only validated", "only tested"
    found = fit_predictors(
        files["parquet"],
        table,
        method="sgd",
        attributes=["colour"],
        split_column="part",
        class_weight="balanced",
    )
    assert found.attributes[0].classes == ("blue", "grey", "red")
    assert found.report["attributes"]["colour"]["measures"]["accuracy"]["value"] > 0.6


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a method": ({"method": "adam"}, "method must be 'default' or 'sgd'"),
    "near": ({"near_duplicates": True}, "--near-duplicates .* compares all embeddings"),
    "strengths": ({"strengths": [1.0]}, "--strength .* has no effect with --method sgd"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_sgd_does_not_support_are_refused(files: dict[str, Path], case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(OptionError, match=message):
        fit_predictors(files["parquet"], table_of()[1], **{"method": "sgd", **options})


def test_an_array_in_memory_is_refused() -> None:
    points, table = table_of()
    with pytest.raises(OptionError, match="an array is in memory already"):
        fit_predictors(points, table, paths=names(ROWS), method="sgd")


def test_equal_embeddings_are_refused(tmp_path: Path) -> None:
    points = np.ones((20, 3), np.float32)
    file = write_parquet(tmp_path / "a", names(20), points, metadata=metadata())
    table = {"path": names(20), "a": ["x", "y"] * 10}
    with pytest.raises(HeadstripError, match="1 without copies of the same image"):
        fit_predictors(file, table, method="sgd")


PEAK = """
    import sys
    from tests.attributes.test_sgd import peak_of
    print(peak_of(sys.argv[1]))
"""


def peak_of(folder: str) -> int:
    """Fit a file, and return the peak memory of the process in bytes."""
    with mock.patch.object(sgd, "_EPOCHS", 3):  # each reads all of the file
        fit_predictors(Path(folder, "big.parquet"), Path(folder, "labels.csv"), method="sgd")
    # Unlike ru_maxrss, it does not count the memory of the process that started this one.
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in one]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
def test_memory_does_not_grow_with_the_embeddings(tmp_path: Path) -> None:
    rows, dim = 100_000, 768
    generator = np.random.default_rng(0)
    points = generator.normal(size=(rows, dim)).astype(np.float32)
    truth = (points[:, 0] + points[:, 1] > 0).tolist()
    size = points.nbytes
    write_parquet(tmp_path / "big", names(rows), points, metadata=metadata(), rows_per_group=8192)
    del points
    lines = [f"{path},{'ab'[one]}\n" for path, one in zip(names(rows), truth, strict=True)]
    (tmp_path / "labels.csv").write_text("path,side\n" + "".join(lines))
    command = [sys.executable, "-c", textwrap.dedent(PEAK), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert size > 300e6
    assert int(done.stdout) < 1.3e9
