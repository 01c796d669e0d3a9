"""Decoding in other processes: the same pixels, and what ends a process costs one image."""

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
from tests.embed.readers import FolderReader, PickyReader

from headstrip import HeadstripError, PreprocessingError
from headstrip.embed.decoding.checksum import checksum_of
from headstrip.embed.decoding.decoders import Decoded, Decoders
from headstrip.embed.sources import Item
from headstrip.images.pixels import to_pixels

ROOT = Path(__file__).parents[2]
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
def open_decoders(folder: Path) -> Callable[..., Decoders]:
    def open_decoders(**how: object) -> Decoders:
        given = {"batch_size": COUNT, "workers": 2, "slots": 2, "timeout": 30.0, **how}
        return Decoders(FolderReader(str(folder)), STEPS, **given)  # type: ignore[arg-type]

    return open_decoders


@pytest.fixture(scope="module")
def decoders(open_decoders: Callable[..., Decoders]) -> Iterator[Decoders]:
    """Two processes that many tests share, as a run shares them."""
    with open_decoders() as decoders:
        yield decoders


def decoded(decoders: Decoders, names: list[str]) -> Decoded:
    """Decode a batch and copy its pixels."""
    ticket = decoders.submit([item(name) for name in names])
    found = ticket.result()
    copy = replace(found, pixels=found.pixels.copy())
    ticket.release()
    return copy


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


def test_a_batch_comes_in_its_order_with_the_pixels_of_the_preprocessing(
    decoders: Decoders, folder: Path
) -> None:
    names = GOOD[::-1]
    found = decoded(decoders, names)
    assert found.pixels.dtype == np.uint8
    assert np.array_equal(found.pixels, np.stack([expected(folder, name) for name in names]))
    assert (found.widths, found.errors) == ([90] * COUNT, [None] * COUNT)
    assert found.heights == [67, 66, 65, 64, 63, 62, 61, 60]
    assert found.checksums == [checksum_of((folder / name).read_bytes()) for name in names]


def test_a_short_batch_is_followed_by_zeros_also_where_another_was(decoders: Decoders) -> None:
    for _ in range(3):
        decoded(decoders, GOOD)
    short = decoded(decoders, GOOD[:3])
    assert short.pixels.shape == (COUNT, 24, 24, 3)
    assert short.pixels[:3].any(axis=(1, 2, 3)).all()
    assert not short.pixels[3:].any()
    assert len(short.errors) == 3


def test_an_empty_batch_is_zeros(decoders: Decoders) -> None:
    found = decoded(decoders, [])
    assert not found.pixels.any()
    assert found.errors == []


BAD = {
    "torn.jpg": "truncated",
    "empty.jpg": "the file is empty.",
    "none.jpg": "No such file or directory.",
    "raise": "the disk is on fire.",
    "refuse": "nobody may see it.",
    "float.tif": "The image has pixels of mode 'F', whose range is not known.",
}


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_zeros_with_a_reason_and_the_others_are_what_they_are(
    workers: int, open_decoders: Callable[..., Decoders], folder: Path
) -> None:
    with open_decoders(workers=workers) as decoders:
        found = decoded(decoders, [*BAD, GOOD[4], GOOD[5]])
    for told, error in zip(BAD.values(), found.errors, strict=False):
        assert told in str(error)
    assert not found.pixels[:6].any()
    assert np.array_equal(found.pixels[6], expected(folder, GOOD[4]))
    assert found.errors[6:] == [None, None]
    assert found.widths == [None, None, None, None, None, 30, 90, 90]
    assert [checksum is None for checksum in found.checksums] == [
        False, False, True, True, True, False, False, False
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("crash", "the process that decoded it ended (signal 11)."),
        ("kill", "the process that decoded it ended (signal 9)."),
        ("exit", "the process that decoded it ended (exit status 3)."),
        ("leave", "the process that decoded it ended (exit status 5)."),
    ],
)
def test_an_image_that_ends_its_process_costs_itself_alone(
    decoders: Decoders, folder: Path, name: str, told: str
) -> None:
    names = [*GOOD[:5], name, *GOOD[6:]]
    found = decoded(decoders, names)
    assert found.errors == [None] * 5 + [told] + [None] * 2
    assert not found.pixels[5].any()
    good = np.stack([expected(folder, name) for name in GOOD])
    good[5] = 0
    assert np.array_equal(found.pixels, good)


def test_a_batch_of_nothing_but_ends_has_a_reason_for_each(decoders: Decoders) -> None:
    found = decoded(decoders, ["exit"] * COUNT)
    assert found.errors == ["the process that decoded it ended (exit status 3)."] * COUNT
    assert decoded(decoders, GOOD).errors == [None] * COUNT


@pytest.mark.parametrize("name", ["hang", "deaf"])
def test_an_image_that_takes_too_long_costs_itself_alone(
    open_decoders: Callable[..., Decoders], folder: Path, name: str
) -> None:
    with open_decoders(timeout=1.5) as decoders:
        found = decoded(decoders, [GOOD[0], name, *GOOD[2:]])
        again = decoded(decoders, GOOD)
    assert found.errors[1] == "it took longer than 1.5 s to decode."
    assert [error for place, error in enumerate(found.errors) if place != 1] == [None] * 7
    assert np.array_equal(found.pixels[2:], again.pixels[2:])
    assert not found.pixels[1].any()


def test_a_bomb_is_refused_and_its_neighbours_are_not(decoders: Decoders, folder: Path) -> None:
    bomb = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(bomb, "PNG")
    (folder / "bomb.png").write_bytes(bomb.getvalue())
    found = decoded(decoders, [GOOD[0], "bomb.png", GOOD[2]])
    assert "exceeds limit of" in str(found.errors[1])
    assert (found.errors[0], found.errors[2]) == (None, None)


def test_pillows_limit_of_pixels_holds_as_it_is_set_here(
    open_decoders: Callable[..., Decoders], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)
    with open_decoders(workers=1) as decoders:
        assert "exceeds limit of 5000 pixels" in str(decoded(decoders, GOOD[:1]).errors[0])


def test_what_a_library_prints_does_no_harm(
    decoders: Decoders, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = decoded(decoders, ["print 0.jpg", GOOD[1]])
    assert found.errors == [None, None]
    assert np.array_equal(found.pixels[0], expected(folder, GOOD[0]))


def test_the_processes_import_neither_torch_nor_the_main_module(decoders: Decoders) -> None:
    assert decoded(decoders, ["modules"]).errors == ["[] None"]


def test_a_script_without_a_guard_of_its_main_part_works(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "mark = 'imported'\n"
        "import sys\n"
        "from headstrip import Preprocessing\n"
        "from headstrip.embed.decoding.decoders import Decoders\n"
        "from headstrip.embed.sources import Item\n"
        "from tests.embed.readers import FolderReader\n"
        "steps = Preprocessing(crop=(9, 9), resize=9, mean=(0.5,) * 3, std=(0.5,) * 3)\n"
        f"reader = FolderReader({str(folder)!r})\n"
        "with Decoders(reader, steps, batch_size=2, workers=2, slots=1) as decoders:\n"
        "    print(decoders.submit([Item('0.jpg', 0, 0), Item('modules', 0, 0)]).result().errors)\n"
        "print('torch' in sys.modules)\n"
    )
    # Modules of the user's with the names of Python's do no harm either.
    for name in ("signal", "pickle", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported by mistake')")
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    code = f"import sys; sys.path.remove(''); exec(open({str(script)!r}).read())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[None, '[] None']\nFalse\n", "")


def test_importing_the_decoders_imports_no_torch() -> None:
    names = ("embed.decoding.decoders", "embed.decoding.decoder_worker", "images.decode",
             "images.modes", "images.pixels", "images.reduced")  # fmt: skip
    code = "import sys\n" + "".join(f"import headstrip.{name}\n" for name in names)
    done = run_python("-c", code + "print({'torch', 'torchvision'} & set(sys.modules))\n")
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_more_batches_than_slots_wait_for_a_release(decoders: Decoders) -> None:
    for number in range(10):
        tickets = [decoders.submit([item(GOOD[number % 8])]), decoders.submit([item(GOOD[1])])]
        for ticket in tickets:
            assert ticket.result().errors == [None]
            ticket.release()
            ticket.release()


def test_a_batch_that_nobody_waits_for_gives_its_memory_back(decoders: Decoders) -> None:
    for _ in range(6):
        decoders.submit([item(name) for name in GOOD]).release()
    assert decoded(decoders, GOOD).errors == [None] * COUNT


def test_ctrl_c_does_not_end_the_processes(open_decoders: Callable[..., Decoders]) -> None:
    with open_decoders() as decoders:
        decoded(decoders, GOOD)
        before = decoders.pids
        for pid in before:
            os.kill(pid, signal.SIGINT)
        assert decoded(decoders, GOOD).errors == [None] * COUNT
        assert decoders.pids == before


def test_a_process_killed_while_it_waits_costs_no_image(
    open_decoders: Callable[..., Decoders],
) -> None:
    with open_decoders() as decoders:
        decoded(decoders, GOOD)
        for pid in decoders.pids:
            os.kill(pid, signal.SIGKILL)
        assert decoded(decoders, GOOD).errors == [None] * COUNT


def test_an_error_ends_the_processes_also_while_they_decode(
    open_decoders: Callable[..., Decoders],
) -> None:
    decoders = open_decoders()
    with contextlib.suppress(KeyboardInterrupt), decoders:
        ticket = decoders.submit([item("hang"), item("hang")])
        assert wait_until(lambda: len(decoders.pids) == 2)
        pids = decoders.pids
        raise KeyboardInterrupt
    assert not any(map(is_alive, pids))
    with pytest.raises(HeadstripError, match="closed before this batch was decoded"):
        ticket.result()
    with pytest.raises(HeadstripError, match="closed"):
        decoders.submit([])


@pytest.mark.parametrize("name", ["hang", pytest.param("deaf", marks=pytest.mark.slow), "0.jpg"])
def test_the_processes_end_with_a_parent_that_is_killed(folder: Path, name: str) -> None:
    code = (
        "import sys, time\n"
        "from headstrip import Preprocessing\n"
        "from headstrip.embed.decoding.decoders import Decoders\n"
        "from headstrip.embed.sources import Item\n"
        "from tests.embed.readers import FolderReader\n"
        "steps = Preprocessing(crop=(9, 9), resize=9, mean=(0.5,) * 3, std=(0.5,) * 3)\n"
        "reader = FolderReader(sys.argv[1])\n"
        "how = {'batch_size': 2, 'workers': 2, 'slots': 2, 'timeout': 1}\n"
        "with Decoders(reader, steps, **how) as decoders:\n"
        "    decoders.submit([Item('0.jpg', 0, 0)] * 2).result()\n"
        "    decoders.submit([Item(sys.argv[2], 0, 0)] * 2)\n"
        "    print(*decoders.pids, flush=True)\n"
        "    time.sleep(600)\n"
    )
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder), name], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as parent:  # fmt: skip
        assert parent.stdout
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    assert wait_until(lambda: not any(map(is_alive, pids)))
    if before:
        assert {name for name in os.listdir("/dev/shm") if "headstrip" in name} <= before


def test_a_reader_that_other_processes_cannot_use_is_told(folder: Path) -> None:
    with Decoders(PickyReader(), STEPS, batch_size=2, workers=2, slots=1) as decoders:
        ticket = decoders.submit([item("0.jpg")])
        with pytest.raises(HeadstripError, match=r"no number.*workers=0"):
            ticket.result()

    class Local(FolderReader):
        pass

    with pytest.raises(HeadstripError, match=r"cannot be sent to other processes.*workers=0"):
        Decoders(Local(str(folder)), STEPS, batch_size=2, workers=2, slots=1)


def test_processes_that_cannot_start_are_told(
    open_decoders: Callable[..., Decoders], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    told = r"No process can be started .*No such file"
    # It depends on the moment which of the two tells.
    with open_decoders() as decoders, pytest.raises(HeadstripError, match=told):
        decoders.submit([item(GOOD[0])]).result()


def test_processes_that_end_at_once_are_told(
    open_decoders: Callable[..., Decoders], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    told = r"before they decode any.*\(exit status 1\)"
    with open_decoders() as decoders, pytest.raises(HeadstripError, match=told):
        decoders.submit([item(GOOD[0])]).result()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"batch_size": 0}, "decode nothing"), ({"workers": -1}, "decode nothing"),
        ({"slots": 0}, "decode nothing"), ({"timeout": 0}, "is no time"),
        ({"timeout": float("nan")}, "is no time"), ({"route": "slow"}, "'exact', 'fast'"),
    ],
)  # fmt: skip
def test_numbers_that_decode_nothing_are_refused(
    open_decoders: Callable[..., Decoders], how: dict[str, object], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        open_decoders(**how)


def test_clips_are_refused() -> None:
    with pytest.raises(PreprocessingError, match="clips of 4 frames"):
        Decoders(FolderReader("."), replace(STEPS, frames=4), batch_size=1, workers=0, slots=1)


def test_too_many_images_and_closed_decoders_are_refused(
    open_decoders: Callable[..., Decoders],
) -> None:
    decoders = open_decoders(workers=0)
    with pytest.raises(HeadstripError, match="not open"):
        decoders.submit([])
    with decoders, pytest.raises(ValueError, match="9 images are no batch of 8"):
        decoders.submit([item(GOOD[0])] * 9)
