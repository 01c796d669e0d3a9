"""The pipeline by itself: small fakes decode, embed and write."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from headstrip.embed.decoding.pool import DecodedBatch
from headstrip.embed.decoding.worker import ImageResult
from headstrip.embed.output.table import Rows
from headstrip.embed.pipeline import Pipeline, ShardTask
from headstrip.embed.report import Stages
from headstrip.embed.sources import Item
from headstrip.system.out_of_memory import OutOfMemoryError

BATCH = 2


class FakePool:
    """Decodes the image "7" to the pixel 7, and "bad" not at all; counts the batches it holds."""

    def __init__(self, is_stuck: bool = False) -> None:
        self.held: set[Future[DecodedBatch]] = set()
        self.most_held = 0
        self.is_stuck = is_stuck

    def submit(self, items: Sequence[Item]) -> Future[DecodedBatch]:
        future: Future[DecodedBatch] = Future()
        self.held.add(future)
        self.most_held = max(self.most_held, len(self.held))
        pixels = np.zeros((BATCH, 1, 1, 1), np.uint8)
        images = []
        for position, item in enumerate(items):
            is_bad = item.path == "bad"
            pixels[position] = 0 if is_bad else int(item.path)
            images.append(ImageResult(9, 8, "torn." if is_bad else None, f"sum {item.path}", 3))
        if not self.is_stuck:
            future.set_result(DecodedBatch(pixels, images))
        return future

    def release(self, future: Future[DecodedBatch]) -> None:
        self.held.remove(future)

    def give_up(self) -> None:
        for future in self.held:
            if not future.done():
                future.set_exception(RuntimeError("the pool gave up"))


def embed(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(BATCH, 1).astype(np.float32)


def task(number: int, *names: str, missing: list[int] | None = None) -> ShardTask:
    rows = Rows.empty([Item(name, 0, 0) for name in names], 1)
    return ShardTask(number, rows, list(range(len(names))) if missing is None else missing)


class Run:
    """A run of a pipeline, with all that it wrote and reported."""

    def __init__(self, pool: FakePool | None = None, **fakes: Any) -> None:
        self.pool = pool or FakePool()
        self.written: dict[int, Rows] = {}
        self.progress: list[int] = []
        self.stages = Stages()
        forward: Callable[[np.ndarray], np.ndarray] = fakes.get("forward", embed)
        self.pipeline = Pipeline(
            self.pool,  # type: ignore[arg-type]
            lambda pixels: (forward(pixels),),
            fakes.get("write", self.written.__setitem__),
            batch_size=BATCH,
            inference_threads=fakes.get("inference_threads", 2),
            threads=1,
            slots=fakes.get("slots", 3),
            stages=self.stages,
        )

    def __call__(self, *tasks: ShardTask) -> Run:
        self.pipeline.run(tasks, self.progress.append)
        return self


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_each_row_has_the_values_of_its_image_in_the_order_of_the_shard() -> None:
    run = Run()(task(0, "5", "4", "3", "2", "1"))
    rows = run.written[0]
    assert rows.embeddings[:, 0].tolist() == [5, 4, 3, 2, 1]
    assert (rows.widths, rows.heights, rows.pages) == ([9] * 5, [8] * 5, [3] * 5)
    assert rows.checksums == ["sum 5", "sum 4", "sum 3", "sum 2", "sum 1"]


def test_a_batch_that_overtakes_another_fills_its_own_rows() -> None:
    second_is_done = threading.Event()

    def forward(pixels: np.ndarray) -> np.ndarray:
        if pixels.max() == 9:
            second_is_done.set()
        else:
            assert second_is_done.wait(5)
        return embed(pixels)

    assert Run(forward=forward)(task(0, "1", "2", "9", "8")).written[0].embeddings[
        :, 0
    ].tolist() == [1, 2, 9, 8]


def test_a_bad_image_keeps_its_reason_and_the_others_their_embeddings() -> None:
    rows = Run()(task(0, "1", "bad", "3")).written[0]
    assert rows.errors == [None, "torn.", None]
    assert rows.embeddings[[0, 2], 0].tolist() == [1, 3]


def test_a_batch_of_only_bad_images_is_not_sent_through_the_network() -> None:
    def forward(pixels: np.ndarray) -> np.ndarray:
        raise AssertionError(pixels)

    assert Run(forward=forward)(task(0, "bad", "bad")).written[0].errors == ["torn.", "torn."]


def test_rows_that_are_not_missing_are_unchanged() -> None:
    given = task(0, "1", "2", "3", missing=[1])
    given.rows.embeddings[:] = 7
    run = Run()(given)
    assert run.written[0].embeddings[:, 0].tolist() == [7, 2, 7]
    assert sum(run.progress) == 3


def test_a_shard_without_missing_rows_is_written_too() -> None:
    run = Run()(task(4, "1", missing=[]), task(5, "2"))
    assert sorted(run.written) == [4, 5]


def test_progress_counts_each_row_once() -> None:
    run = Run()(task(0, "1", "2", "3"), task(1, "4", "bad"), task(2))
    assert sum(run.progress) == 5
    assert all(run.progress)


def test_the_pipeline_decodes_no_more_batches_at_once_than_it_has_slots() -> None:
    run = Run(slots=2)(*[task(number, *"12345678") for number in range(4)])
    assert run.pool.most_held <= 2
    assert not run.pool.held


def test_a_slow_writer_stops_the_pipeline_from_taking_all_shards() -> None:
    taken: list[int] = []
    at_first_write: list[int] = []
    all_room_is_used = threading.Event()

    def write(number: int, rows: Rows) -> None:
        if not at_first_write:
            all_room_is_used.wait(0.5)
            at_first_write.append(len(taken))

    def tasks() -> Iterator[ShardTask]:
        for number in range(40):
            taken.append(number)
            yield task(number, "1")

    run = Run(write=write, slots=2, inference_threads=1)
    run.pipeline.run(tasks(), run.progress.append)
    assert at_first_write[0] < 15
    assert len(taken) == 40


@pytest.mark.parametrize("where", ["forward", "write", "tasks", "progress"])
def test_the_first_error_of_any_thread_ends_the_run_and_releases_all_batches(where: str) -> None:
    def fail(*_: object) -> Any:
        raise ValueError(where)

    fakes = {where: fail} if where in ("forward", "write") else {}
    run = Run(**fakes)
    tasks = map(fail, [0]) if where == "tasks" else (task(number, "1") for number in range(99))
    with pytest.raises(ValueError, match=where):
        run.pipeline.run(tasks, fail if where == "progress" else run.progress.append)
    assert len(run.written) < 99
    assert not run.pool.held


def test_nothing_is_written_after_an_error() -> None:
    def write(number: int, rows: Rows) -> None:
        written.append(number)
        raise OSError("the disk is full")

    written: list[int] = []
    with pytest.raises(OSError, match="the disk is full"):
        Run(write=write)(*[task(number, "1") for number in range(9)])
    assert len(written) == 1


def test_ctrl_c_ends_a_run_that_waits_for_images() -> None:
    pool = FakePool(is_stuck=True)

    def tasks() -> Iterator[ShardTask]:
        yield task(0, "1")
        raise KeyboardInterrupt

    run = Run(pool)
    with pytest.raises(KeyboardInterrupt):
        run.pipeline.run(tasks(), run.progress.append)
    assert (run.written, pool.held) == ({}, set())


def test_a_batch_that_does_not_fit_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    tries: list[int] = []

    def forward(pixels: np.ndarray) -> np.ndarray:
        tries.append(1)
        if len(tries) == 1:
            raise OutOfMemoryError("one image at once does not fit")
        return embed(pixels)

    assert Run(forward=forward)(task(0, "6")).written[0].embeddings.tolist() == [[6]]


def test_each_stage_records_its_seconds() -> None:
    def slow(value: Any, *_: object) -> Any:
        time.sleep(0.02)
        return embed(value) if isinstance(value, np.ndarray) else None

    stages = Run(forward=slow, write=slow)(task(0, "1")).stages
    assert min(stages.forward, stages.written) >= 0.02


def test_files_of_several_pages_are_counted_and_the_first_five_named() -> None:
    stages = Stages()
    for number in range(7):
        stages.note_pages(f"{number}.tif", number + 2)
    assert (stages.multipage_count, list(stages.multipage_examples)) == (
        7,
        [f"{number}.tif" for number in range(5)],
    )
