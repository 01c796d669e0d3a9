"""What a run will do, decided before any image is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.conftest import tiny_encoder

from headstrip import HeadstripError
from headstrip.embed.execute import execute
from headstrip.embed.output.work_dir import open_work_dir
from headstrip.embed.plan import RunPlan, make_plan, plan_missing_shards
from headstrip.embed.run import embed_source
from headstrip.embed.settings import EmbedOptions, EmbedSettings
from headstrip.embed.sources import source_of

SETTINGS = EmbedSettings(batch_size=2, shard_rows=2, threads=1)
ENCODER = tiny_encoder()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (9, 9), (40 * number, 9, 9)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"torn")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.parquet"


def embed(photos: Path, out: Path, **how: Any) -> None:
    options = EmbedOptions(workers=0, inference_threads=1)
    embed_source(ENCODER, photos, out, settings=SETTINGS, options=options, **how)


def planned(
    photos: Path,
    out: Path,
    settings: EmbedSettings = SETTINGS,
    check: Callable[[RunPlan], None] = lambda plan: None,
    notify: Callable[[str], None] = lambda sentence: None,
    **options: Any,
) -> RunPlan:
    """Plan a run; ``check`` is called while the work folder is open."""
    with open_work_dir(out) as work_dir:
        plan = make_plan(
            ENCODER,
            source_of(photos),
            out,
            work_dir,
            settings,
            EmbedOptions(workers=0, inference_threads=1, **options),
            shown=str(out),
            notify=notify,
        )
        check(plan)
        return plan


def test_the_plan_of_a_new_source_contains_all_its_shards(photos: Path, out: Path) -> None:
    plan = planned(photos, out)
    assert (len(plan.listing), plan.todo) == (5, (0, 1, 2))
    assert (plan.reusable, plan.is_written, plan.bad_before) == ((), False, 0)


def test_unset_settings_get_the_defaults(photos: Path, out: Path) -> None:
    settings = planned(photos, out, EmbedSettings()).settings
    assert (settings.batch_size, settings.threads, settings.engine) == (16, 1, "torch")
    assert None not in (
        settings.precision,
        settings.decode_mode,
        settings.dtype,
        settings.shard_rows,
    )


def test_unset_settings_are_taken_from_existing_rows(photos: Path, out: Path) -> None:
    embed(photos, out)
    assert planned(photos, out, EmbedSettings()).settings.batch_size == 2
    with pytest.raises(HeadstripError, match="batch_size is 2 in the file and 3 is requested"):
        planned(photos, out, EmbedSettings(batch_size=3))


def test_the_plan_of_a_complete_file_is_empty(photos: Path, out: Path) -> None:
    embed(photos, out)
    plan = planned(photos, out)
    assert (plan.is_written, plan.todo) == (True, ())


@pytest.mark.parametrize("option", ["checksum", "retry_failed", "overwrite"])
def test_a_complete_file_is_planned_again_on_request(photos: Path, out: Path, option: str) -> None:
    embed(photos, out)
    plan = planned(photos, out, **{option: True})
    assert (plan.is_written, plan.todo) == (False, (0, 1, 2))
    assert plan.reusable == (() if option == "overwrite" else (out,))
    assert plan.checks_bytes == (option == "checksum")


def test_the_plan_of_a_stopped_run_contains_the_missing_shards(photos: Path, out: Path) -> None:
    def stop(plan: RunPlan, progress: Callable[[int], None]) -> Any:
        execute(replace(plan, todo=plan.todo[:2]), progress)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(photos, out, compute=stop)
    assert planned(photos, out).todo == (2,)
    assert planned(photos, out, max_errors=1).bad_before == 1
    assert planned(photos, out, retry_failed=True).todo == (1, 2)
    with pytest.raises(HeadstripError, match="1 images could not be embedded, and max_errors is 0"):
        planned(photos, out, max_errors=0)


def test_only_a_damaged_shard_is_planned_again(photos: Path, out: Path) -> None:
    def damage(plan: RunPlan) -> None:
        execute(plan, lambda rows: None)
        plan.shards.path(1).unlink()
        assert plan_missing_shards(plan).todo == (1,)

    planned(photos, out, check=damage)


def test_rows_of_another_source_are_compared_by_their_bytes(
    photos: Path, out: Path, tmp_path: Path
) -> None:
    embed(photos, out)
    photos.rename(tmp_path / "moved")
    messages: list[str] = []
    plan = planned(tmp_path / "moved", out, notify=messages.append)
    assert (plan.checks_bytes, plan.reusable) == (True, (out,))
    assert "has rows of another source" in messages[0]
