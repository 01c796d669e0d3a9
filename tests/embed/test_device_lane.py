"""The route "device": JPEGs decoded where the network is, here on the CPU by the same functions."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tests.embed.conftest import SMALL, pixels

from headstrip import HeadstripError, Preprocessing, PreprocessingError
from headstrip.embed import device_lane
from headstrip.embed.decode import decode_bytes
from headstrip.embed.decoders import Decoders
from headstrip.embed.device_lane import DeviceLane, device_pixels
from headstrip.embed.engines.cosines import cosines
from headstrip.embed.loading import load_embeddings
from headstrip.embed.pixels import to_pixels
from headstrip.embed.plan import Settings
from headstrip.embed.run import EmbedReport, Options, embed_source
from headstrip.embed.sources import Item
from headstrip.encoder import Encoder

Save = Callable[..., Path]

CPU = torch.device("cpu")
ORIENTATION = 0x0112


def encoded(seed: int = 1, form: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed, 200, 300)).convert(mode).save(file, form, **options)
    return file.getvalue()


def oriented(turn: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    return encoded(exif=exif, quality=95)


def embed(encoder: Encoder, source: Path, out: Path, **asked: Any) -> EmbedReport:
    options = Options(workers=asked.pop("workers", 0), overwrite=asked.pop("overwrite", False))
    settings = Settings(**{"batch_size": 4, "shard_rows": 8, "route": "device"} | asked)
    return embed_source(encoder, source, out, settings=settings, options=options)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_those_of_the_exact_route_but_for_rounding(
    turn: int, interpolation: str
) -> None:
    steps = Preprocessing(
        crop=(64, 48), resize=72, interpolation=interpolation, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    data = oriented(turn)
    (came,) = device_pixels([data], steps, CPU)
    image = decode_bytes(data)
    assert came is not None
    assert (came.outcome.width, came.outcome.height) == image.size
    exact = to_pixels(image, steps)
    assert came.pixels.shape == exact.shape
    assert np.abs(came.pixels.astype(int) - exact).max() <= 2


def test_what_is_smaller_than_the_crop_has_its_border() -> None:
    steps = Preprocessing(
        crop=(240, 320), resize=None, mean=(0.5,) * 3, std=(0.5,) * 3, fill=(9, 8, 7)
    )
    (came,) = device_pixels([encoded()], steps, CPU)
    assert came is not None
    assert came.pixels[0, 0].tolist() == [9, 8, 7]
    exact = to_pixels(decode_bytes(encoded()), steps)
    assert np.abs(came.pixels.astype(int) - exact).max() <= 2


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff\xd8", b"not a picture", encoded(form="PNG"), encoded(mode="CMYK"),
        encoded(mode="L"), encoded()[:-400], encoded() + b"more", encoded(progressive=True),
    ],
    ids=["empty", "start", "text", "png", "cmyk", "grey", "torn", "trailing", "progressive"],
)  # fmt: skip
def test_what_is_no_plain_jpeg_does_not_come_out(data: bytes) -> None:
    whole, found = device_pixels([encoded(), data], SMALL, CPU)
    assert whole is not None
    assert found is None


def test_one_that_the_decoder_refuses_does_not_keep_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decode, bad = device_lane.decode_jpeg, encoded(2)

    def refusing(images: Any, *rest: Any, **options: Any) -> Any:
        if any(bytes(image.numpy()) == bad for image in images):
            raise RuntimeError("nvjpeg: bad")
        return decode(images, *rest, **options)

    monkeypatch.setattr(device_lane, "decode_jpeg", refusing)
    found = device_pixels([encoded(1), bad, encoded(3)], SMALL, CPU)
    assert [came is None for came in found] == [False, True, False]


def test_one_that_comes_out_in_another_size_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        device_lane, "decode_jpeg", lambda images, *_, **__: [torch.zeros(3, 4, 4)] * len(images)
    )
    assert device_pixels([encoded()], SMALL, CPU) == [None]


@pytest.mark.parametrize("changed", [{"interpolation": "lanczos"}, {"frames": 4}])
def test_a_preprocessing_that_torch_does_not_know_is_refused(changed: dict[str, Any]) -> None:
    steps = replace(SMALL, **changed)
    with pytest.raises(PreprocessingError, match="Use the route 'exact'"):
        DeviceLane(None, steps, CPU, 1)  # type: ignore[arg-type]


@pytest.fixture
def photos(save: Save) -> Path:
    """JPEGs, and among them a PNG, a torn one, a text, and one that is turned."""
    for number in range(12):
        path = save(f"{number:02}.jpg", number, quality=95)
    save("03.png", 3)
    path.with_name("05.jpg").write_bytes(path.with_name("05.jpg").read_bytes()[:-300])
    path.with_name("07.jpg").write_text("not a picture")
    path.with_name("09.jpg").write_bytes(oriented(6))
    return path.parent


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_those_of_the_exact_route_but_for_rounding(
    encoder: Encoder, photos: Path, tmp_path: Path, workers: int
) -> None:
    embed(encoder, photos, tmp_path / "exact.parquet", route="exact")
    report = embed(encoder, photos, tmp_path / "out.parquet", workers=workers, device_percent=40)
    assert (report.settings.route, report.settings.device_percent) == ("device", 40)
    columns = ["path", "width", "height", "error", "size", "checksum"]
    assert (
        pq.read_table(tmp_path / "out.parquet", columns=columns).to_pylist()
        == pq.read_table(tmp_path / "exact.parquet", columns=columns).to_pylist()
    )
    _, exact, ok = load_embeddings(tmp_path / "exact.parquet")
    _, found, _ = load_embeddings(tmp_path / "out.parquet")
    assert ok.tolist().count(False) == report.bad == 2
    assert cosines(found[ok], exact[ok]).min() > 0.999
    embed(encoder, photos, tmp_path / "again.parquet", workers=2 - workers, device_percent=40)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "out.parquet").read_bytes()


def test_the_share_is_measured_once_and_kept(
    encoder: Encoder, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    share = embed(encoder, photos, out).settings.device_percent
    assert 1 <= share <= 100
    (photos / "new.jpg").write_bytes(encoded(40))
    report = embed(encoder, photos, out)
    assert (report.computed, report.settings.device_percent) == (1, share)


def test_memory_that_is_gone_for_a_moment_changes_no_bit_and_for_ever_ends_the_run(
    encoder: Encoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(encoder, photos, tmp_path / "whole.parquet", device_percent=100)
    cut, calls = device_lane._cut, []

    def short(*asked: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return cut(*asked)

    monkeypatch.setattr(device_lane, "_MOMENT", 0.01)
    monkeypatch.setattr(device_lane, "_cut", short)
    embed(encoder, photos, tmp_path / "out.parquet", device_percent=100)
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "out.parquet").read_bytes()
    monkeypatch.setattr(device_lane, "_cut", lambda *asked: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embed(encoder, photos, tmp_path / "other.parquet", device_percent=100)

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(device_lane, "_cut", full)
    with pytest.raises(HeadstripError, match=r"memory of cpu ran out.*the route 'exact'\."):
        embed(encoder, photos, tmp_path / "other.parquet", device_percent=100)


def test_the_bits_of_an_image_depend_on_no_other_one(
    encoder: Encoder, photos: Path, tmp_path: Path
) -> None:
    embed(encoder, photos, tmp_path / "few.parquet", device_percent=50)
    (photos / "0first.jpg").write_bytes(encoded(30))
    embed(encoder, photos, tmp_path / "more.parquet", device_percent=50)
    paths, few, ok = load_embeddings(tmp_path / "few.parquet")
    names, more, _ = load_embeddings(tmp_path / "more.parquet")
    again = more[[names.index(path) for path in paths]]
    np.testing.assert_array_equal(few[ok], again[ok])


class _SlowReader:
    """Reads one image for longer than any run."""

    def read(self, item: Any) -> bytes:
        if item.path == "08.jpg":
            time.sleep(60)
        raise OSError(5, "Input/output error")


def test_a_lane_that_reads_for_ever_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_lane, "_PATIENCE", 0.1)
    lane = DeviceLane(_SlowReader(), SMALL, CPU, 100)
    given: list[Any] = []
    with Decoders(_SlowReader(), SMALL, batch_size=2, workers=0, slots=1, ahead=lane) as decoders:
        monkeypatch.setattr(decoders, "_decode", given.append)
        decoders.submit([Item("08.jpg", 0, 0)])
        started = time.perf_counter()
    assert time.perf_counter() - started < 5


def test_a_device_that_decodes_otherwise_is_refused(
    encoder: Encoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = device_lane._cut
    monkeypatch.setattr(device_lane, "_cut", lambda *asked: 255 - cut(*asked))
    with pytest.raises(HeadstripError, match=r"other pixels here.*Use the route 'exact'\."):
        embed(encoder, photos, tmp_path / "out.parquet")


@pytest.mark.gpu
def test_a_gpu_decodes_what_the_cpu_does() -> None:
    datas = [encoded(seed) for seed in range(8)]
    for came, data in zip(device_pixels(datas, SMALL, torch.device("cuda")), datas, strict=True):
        assert came is not None
        exact = to_pixels(decode_bytes(data), SMALL)
        assert np.abs(came.pixels.astype(int) - exact).mean() < 2
