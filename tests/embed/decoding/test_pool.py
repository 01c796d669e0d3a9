"""Worker processes decode to the same pixels, and a crash costs only the image that caused it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import SMALL, pixels
from tests.distributions import run_python
from tests.embed.readers import FolderReader, PickyReader, StuckReader

from headstrip import HeadstripError
from headstrip.embed.decoding.pool import DecodedBatch, DecodePool
from headstrip.embed.decoding.worker import checksum_of
from headstrip.embed.sources import Item
from headstrip.images.pixels import to_pixels

ROOT = Path(__file__).parents[3]
STEPS = replace(SMALL, crop=(24, 24), resize=28)
COUNT = 8
GOOD = [f"{number}.jpg" for number in range(COUNT)]


def item(name: str) -> Item:
    return Item(name, 0, 0, "", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(GOOD):
        Image.fromarray(pixels(number, 60 + number, 90)).save(folder / name)
    (folder / "torn.jpg").write_bytes((folder / "0.jpg").read_bytes()[:-300])
    (folder / "empty.jpg").touch()
    Image.new("F", (30, 20)).save(folder / "float.tif")
    return folder


@pytest.fixture(scope="module")
def open_pool(folder: Path) -> Callable[..., DecodePool]:
    def open_pool(**how: object) -> DecodePool:
        given = {"batch_size": COUNT, "workers": 2, "slots": 2, "timeout": 30.0, **how}
        return DecodePool(FolderReader(str(folder)), STEPS, **given)  # type: ignore[arg-type]

    return open_pool


@pytest.fixture(scope="module")
def pool(open_pool: Callable[..., DecodePool]) -> Iterator[DecodePool]:
    """Two worker processes that many tests share, as a run shares them."""
    with open_pool() as pool:
        yield pool


def decoded(pool: DecodePool, names: list[str]) -> DecodedBatch:
    """Decode a batch and copy its pixels."""
    future = pool.submit([item(name) for name in names])
    found = future.result()
    copy = replace(found, pixels=found.pixels.copy())
    pool.release(future)
    return copy


def errors(batch: DecodedBatch) -> list[str | None]:
    return [image.error for image in batch.images]


def expected(folder: Path, name: str) -> np.ndarray:
    return to_pixels(Image.open(folder / name), STEPS)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


def wait_until(true: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def test_a_batch_keeps_its_order_and_has_the_pixels_of_the_preprocessing(
    pool: DecodePool, folder: Path
) -> None:
    names = GOOD[::-1]
    found = decoded(pool, names)
    assert found.pixels.dtype == np.uint8
    assert np.array_equal(found.pixels, np.stack([expected(folder, name) for name in names]))
    assert [image.width for image in found.images] == [90] * COUNT
    assert errors(found) == [None] * COUNT
    assert [image.height for image in found.images] == [67, 66, 65, 64, 63, 62, 61, 60]
    assert [image.checksum for image in found.images] == [
        checksum_of((folder / name).read_bytes()) for name in names
    ]


def test_a_short_batch_is_padded_with_zeros_even_in_a_reused_slot(pool: DecodePool) -> None:
    for _ in range(3):
        decoded(pool, GOOD)
    short = decoded(pool, GOOD[:3])
    assert short.pixels.shape == (COUNT, 24, 24, 3)
    assert short.pixels[:3].any(axis=(1, 2, 3)).all()
    assert not short.pixels[3:].any()
    assert len(errors(short)) == 3


def test_an_empty_batch_is_zeros(pool: DecodePool) -> None:
    found = decoded(pool, [])
    assert not found.pixels.any()
    assert errors(found) == []


BAD = {
    "torn.jpg": "truncated",
    "empty.jpg": "the file is empty.",
    "none.jpg": "No such file or directory.",
    "raise": "the disk is on fire.",
    "refuse": "nobody may see it.",
    "float.tif": "The image has pixels of mode 'F', whose range is not known.",
}


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_become_zeros_with_a_reason_and_the_others_are_unchanged(
    workers: int, open_pool: Callable[..., DecodePool], folder: Path
) -> None:
    with open_pool(workers=workers) as pool:
        found = decoded(pool, [*BAD, GOOD[4], GOOD[5]])
    for message, error in zip(BAD.values(), errors(found), strict=False):
        assert message in str(error)
    assert not found.pixels[:6].any()
    assert np.array_equal(found.pixels[6], expected(folder, GOOD[4]))
    assert errors(found)[6:] == [None, None]
    assert [image.width for image in found.images] == [None, None, None, None, None, 30, 90, 90]
    assert [image.checksum is None for image in found.images] == [
        False,
        False,
        True,
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crash", "the process that decoded it ended (signal 11)."),
        ("kill", "the process that decoded it ended (signal 9)."),
        ("exit", "the process that decoded it ended (exit status 3)."),
        ("leave", "the process that decoded it ended (exit status 5)."),
    ],
)
def test_an_image_that_ends_its_process_costs_no_other_image(
    pool: DecodePool, folder: Path, name: str, message: str
) -> None:
    names = [*GOOD[:5], name, *GOOD[6:]]
    found = decoded(pool, names)
    assert errors(found) == [None] * 5 + [message] + [None] * 2
    assert not found.pixels[5].any()
    good = np.stack([expected(folder, name) for name in GOOD])
    good[5] = 0
    assert np.array_equal(found.pixels, good)


def test_a_batch_of_images_that_all_end_the_process_has_a_reason_for_each(pool: DecodePool) -> None:
    found = decoded(pool, ["exit"] * COUNT)
    assert errors(found) == ["the process that decoded it ended (exit status 3)."] * COUNT
    assert errors(decoded(pool, GOOD)) == [None] * COUNT


@pytest.mark.parametrize("name", ["hang", "deaf"])
def test_an_image_that_takes_too_long_costs_no_other_image(
    open_pool: Callable[..., DecodePool], folder: Path, name: str
) -> None:
    with open_pool(timeout=1.5) as pool:
        found = decoded(pool, [GOOD[0], name, *GOOD[2:]])
        again = decoded(pool, GOOD)
    assert errors(found)[1] == "it took longer than 1.5 s to decode."
    assert [error for place, error in enumerate(errors(found)) if place != 1] == [None] * 7
    assert np.array_equal(found.pixels[2:], again.pixels[2:])
    assert not found.pixels[1].any()


def test_the_pool_refuses_a_decompression_bomb_and_decodes_its_neighbours(
    pool: DecodePool, folder: Path
) -> None:
    bomb = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(bomb, "PNG")
    (folder / "bomb.png").write_bytes(bomb.getvalue())
    found = decoded(pool, [GOOD[0], "bomb.png", GOOD[2]])
    assert "exceeds limit of" in str(errors(found)[1])
    assert (errors(found)[0], errors(found)[2]) == (None, None)


def test_workers_apply_the_pillow_pixel_limit_of_the_main_process(
    open_pool: Callable[..., DecodePool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)
    with open_pool(workers=1) as pool:
        assert "exceeds limit of 5000 pixels" in str(errors(decoded(pool, GOOD[:1]))[0])


def test_output_that_a_library_prints_does_not_disturb_decoding(
    pool: DecodePool, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = decoded(pool, ["print 0.jpg", GOOD[1]])
    assert errors(found) == [None, None]
    assert np.array_equal(found.pixels[0], expected(folder, GOOD[0]))


def test_workers_import_neither_torch_nor_the_main_module(pool: DecodePool) -> None:
    assert errors(decoded(pool, ["modules"])) == ["[] None"]


def test_a_script_without_a_main_guard_works(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "mark = 'imported'\n"
        "import sys\n"
        "from headstrip import Preprocessing\n"
        "from headstrip.embed.decoding.pool import DecodePool\n"
        "from headstrip.embed.sources import Item\n"
        "from tests.embed.readers import FolderReader\n"
        "steps = Preprocessing(crop=(9, 9), resize=9, mean=(0.5,) * 3, std=(0.5,) * 3)\n"
        f"reader = FolderReader({str(folder)!r})\n"
        "with DecodePool(reader, steps, batch_size=2, workers=2, slots=1) as pool:\n"
        "    found = pool.submit([Item('0.jpg', 0, 0), Item('modules', 0, 0)]).result()\n"
        "    print([image.error for image in found.images])\n"
        "print('torch' in sys.modules)\n"
    )
    # Modules of the user with names from the standard library do no harm either.
    for name in ("signal", "pickle", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported by mistake')")
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    code = f"import sys; sys.path.remove(''); exec(open({str(script)!r}).read())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (done.stdout, done.stderr) == ("[None, '[] None']\nFalse\n", "")


def test_importing_the_pool_imports_no_torch() -> None:
    code = (
        "import sys, headstrip.embed.decoding.pool\n"
        "print({'torch', 'torchvision'} & set(sys.modules))\n"
    )
    done = run_python("-c", code)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_slots_are_reused_and_may_be_released_twice(pool: DecodePool) -> None:
    for number in range(10):
        futures = [pool.submit([item(GOOD[number % 8])]), pool.submit([item(GOOD[1])])]
        for future in futures:
            assert errors(future.result()) == [None]
            pool.release(future)
            pool.release(future)


def test_releasing_an_unread_batch_frees_its_memory(pool: DecodePool) -> None:
    for _ in range(6):
        pool.release(pool.submit([item(name) for name in GOOD]))
    assert errors(decoded(pool, GOOD)) == [None] * COUNT


def test_ctrl_c_does_not_end_the_workers(open_pool: Callable[..., DecodePool]) -> None:
    with open_pool() as pool:
        decoded(pool, GOOD)
        before = pool.pids
        for pid in before:
            os.kill(pid, signal.SIGINT)
        assert errors(decoded(pool, GOOD)) == [None] * COUNT
        assert pool.pids == before


def test_killing_idle_workers_costs_no_image(
    open_pool: Callable[..., DecodePool],
) -> None:
    with open_pool() as pool:
        decoded(pool, GOOD)
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        assert errors(decoded(pool, GOOD)) == [None] * COUNT


def test_an_error_ends_the_workers_even_while_they_decode(
    open_pool: Callable[..., DecodePool],
) -> None:
    pool = open_pool()
    with contextlib.suppress(KeyboardInterrupt), pool:
        future = pool.submit([item("hang"), item("hang")])
        assert wait_until(lambda: len(pool.pids) == 2)
        pids = pool.pids
        raise KeyboardInterrupt
    assert not any(map(is_alive, pids))
    with pytest.raises(HeadstripError, match="stopped before these images were decoded"):
        future.result()
    with pytest.raises(HeadstripError, match="stopped"):
        pool.submit([])


def test_an_error_ends_the_processes_also_while_they_start() -> None:
    pool = DecodePool(StuckReader(), STEPS, batch_size=2, workers=2, slots=1)
    with contextlib.suppress(KeyboardInterrupt), pool:
        assert wait_until(lambda: len(pool.pids) == 2)
        pids, started = pool.pids, time.monotonic()
        raise KeyboardInterrupt
    assert not any(map(is_alive, pids))
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("name", ["hang", pytest.param("deaf", marks=pytest.mark.slow), "0.jpg"])
def test_the_workers_end_when_their_parent_is_killed(folder: Path, name: str) -> None:
    code = (
        "import sys, time\n"
        "from headstrip import Preprocessing\n"
        "from headstrip.embed.decoding.pool import DecodePool\n"
        "from headstrip.embed.sources import Item\n"
        "from tests.embed.readers import FolderReader\n"
        "steps = Preprocessing(crop=(9, 9), resize=9, mean=(0.5,) * 3, std=(0.5,) * 3)\n"
        "reader = FolderReader(sys.argv[1])\n"
        "how = {'batch_size': 2, 'workers': 2, 'slots': 2, 'timeout': 1}\n"
        "with DecodePool(reader, steps, **how) as pool:\n"
        "    pool.submit([Item('0.jpg', 0, 0)] * 2).result()\n"
        "    pool.submit([Item(sys.argv[2], 0, 0)] * 2)\n"
        "    print(*pool.pids, flush=True)\n"
        "    time.sleep(600)\n"
    )
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder), name],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as parent:
        assert parent.stdout
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    assert wait_until(lambda: not any(map(is_alive, pids)))
    if before:
        assert {name for name in os.listdir("/dev/shm") if "headstrip" in name} <= before


def test_a_reader_that_cannot_be_sent_to_workers_gives_a_clear_error(folder: Path) -> None:
    with DecodePool(PickyReader(), STEPS, batch_size=2, workers=2, slots=1) as pool:
        future = pool.submit([item("0.jpg")])
        with pytest.raises(HeadstripError, match=r"no number.*workers=0"):
            future.result()

    class Local(FolderReader):
        pass

    with pytest.raises(HeadstripError, match=r"cannot send .* to other processes.*workers=0"):
        DecodePool(Local(str(folder)), STEPS, batch_size=2, workers=2, slots=1)


def test_workers_that_cannot_start_give_a_clear_error(
    open_pool: Callable[..., DecodePool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    message = r"cannot start a process .*No such file"
    # Either call may raise the error, depending on timing.
    with open_pool() as pool, pytest.raises(HeadstripError, match=message):
        pool.submit([item(GOOD[0])]).result()


def test_workers_that_end_at_once_give_a_clear_error(
    open_pool: Callable[..., DecodePool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    message = r"before they decode any.*\(exit status 1\)"
    with open_pool() as pool, pytest.raises(HeadstripError, match=message):
        pool.submit([item(GOOD[0])]).result()


def test_a_pool_that_is_not_open_refuses_batches(open_pool: Callable[..., DecodePool]) -> None:
    with pytest.raises(HeadstripError, match="not open"):
        open_pool(workers=0).submit([])
