"""Requests beyond the machine, and errors of the system: the message names the true cause."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import tiny_encoder
from tests.failing import failing

from headstrip import EmbedOptions, EmbedSettings, HeadstripError, OptionError
from headstrip.embed.calibrate import measure_engines
from headstrip.embed.engines.make import make_engine
from headstrip.embed.files import check_out
from headstrip.embed.run import embed_source
from headstrip.embed.sources import source_of

ROOT = Path(__file__).parents[2]
ENORMOUS = [
    ({"threads": 100_000}, {}, r"--threads 100000 \(threads=100000\) is more than .* cores\. Pass"),
    (
        {},
        {"inference_threads": 100_000},
        r"--inference-threads 100000 \(inference_threads=100000\) is more than this machine",
    ),
    ({}, {"workers": 10**30}, r"--workers 1000.* \(workers=1000.*\) is more than this machine"),
    (
        {"threads": 200},
        {"inference_threads": 200},
        r"--inference-threads 200 .* --threads 200 .* is 40000 threads",
    ),
    ({"batch_size": 10**11}, {}, r"--batch-size 1000.* \(batch_size=1000.*\) needs at least"),
    ({"batch_size": 10**30}, {}, r"--batch-size 1000.* this process can use .* Pass less than"),
    ({"shard_rows": 10**12}, {}, r"^shard_rows=1000.* needs at least"),
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (20, 20), (number, 9, 9)).save(folder / f"{number}.png")
    return folder


def embed(source: Any, out: Path, **options: Any) -> None:
    embed_source(
        tiny_encoder(),
        source,
        out,
        settings=EmbedSettings(batch_size=1, shard_rows=2, threads=1),
        options=EmbedOptions(**{"workers": 0, "inference_threads": 1} | options),
    )


@pytest.mark.parametrize(("settings", "options", "message"), ENORMOUS)
def test_an_option_beyond_the_machine_is_refused_and_named(
    photos: Path, tmp_path: Path, settings: dict[str, int], options: dict[str, int], message: str
) -> None:
    asked, out = EmbedSettings(**settings), tmp_path / "o.parquet"
    for call in (
        lambda: embed_source(
            tiny_encoder(), photos, out, settings=asked, options=EmbedOptions(**options)
        ),
        lambda: measure_engines(tiny_encoder(), source_of(photos), asked, EmbedOptions(**options)),
    ):
        with pytest.raises(OptionError, match=message):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_the_same_limits_apply_to_an_iterable_and_to_an_engine(tmp_path: Path) -> None:
    images = [np.zeros((9, 9, 3), np.uint8)]
    with pytest.raises(OptionError, match="--batch-size"):
        embed_source(
            tiny_encoder(), images, tmp_path / "o", settings=EmbedSettings(batch_size=10**11)
        )
    with pytest.raises(OptionError, match="--threads"):
        make_engine(tiny_encoder(), EmbedSettings(engine="torch", batch_size=1, threads=100_000))


def test_the_same_limits_apply_to_settings_read_from_a_file(photos: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "o.parquet"
    embed(photos, out)
    table = pq.read_table(out)
    metadata = json.loads(table.schema.metadata[b"headstrip"])
    metadata["plan"]["settings"]["threads"] = 100_000
    pq.write_table(table.replace_schema_metadata({"headstrip": json.dumps(metadata)}), out)
    with pytest.raises(OptionError, match="--threads 100000"):
        embed_source(tiny_encoder(), photos, out, options=EmbedOptions(workers=0))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Make room there"),
        (errno.EACCES, "Change the permissions"),
        (errno.EROFS, "writable file system"),
        (errno.EDQUOT, "quota"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EIO, "The disk reports an error"),
        (errno.EFBIG, "ulimit -f"),
        (errno.ENOMEM, "not enough memory"),
    ],
)
@pytest.mark.parametrize("call", ["mkdir", "fsync", "replace"])
def test_a_write_error_names_its_cause_and_mentions_kept_rows_only_if_any_exist(
    photos: Path, tmp_path: Path, number: int, remedy: str, call: str
) -> None:
    for at in (0, 4):
        out = tmp_path / f"{at}.parquet"
        with failing(call, at=at, error=number) as calls:
            try:
                embed(photos, out)
                message = ""
            except HeadstripError as error:
                message = str(error)
        if not calls.hit:
            continue
        assert f"({os.strerror(number)}" in message
        assert remedy in message
        assert ("headstrip keeps the finished rows in" in message) == out.with_name(
            f"{at}.parquet.parts"
        ).exists()
        assert number == errno.ENOSPC or "Make room there" not in message


@pytest.mark.parametrize("length", [248, 250, 254, 300])
def test_an_output_name_that_is_too_long_is_reported_as_too_long(
    photos: Path, tmp_path: Path, length: int
) -> None:
    for source in (photos, [np.zeros((9, 9, 3), np.uint8)]):
        out = tmp_path / ("x" * (length - 4) + ".npy")
        if isinstance(source, list):
            out = out.with_suffix(".out")
            if length < 255:
                continue
        with pytest.raises(HeadstripError, match=r"File name too long.*Choose a shorter name"):
            embed(source, out) if source is photos else embed_source(tiny_encoder(), source, out)
    with pytest.raises(HeadstripError, match="null"):
        check_out("a\0b")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")
@pytest.mark.parametrize("kind", ["files", "addresses", "sizes"])
def test_a_process_that_hits_a_resource_limit_reports_it_and_does_not_crash(
    tmp_path: Path, kind: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.embed.limited", str(tmp_path), kind],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    runs = json.loads(ended.stdout)
    assert {run["code"] for run in runs} == {0, 1}, runs
    for run in runs:
        assert run["code"] == 0 or run["message"].startswith("HeadstripError: "), run
        assert run["code"] == 0 or "ulimit" in run["message"], run
