"""Embeds a source of images into one file: plan, execute, merge, report."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstrip.embed.dense import dense_columns, resolve_maps
from headstrip.embed.engines.make import check_takes_images
from headstrip.embed.engines.registry import check_engine
from headstrip.embed.execute import Execute, execute
from headstrip.embed.files import check_out, check_suffix, write_errors
from headstrip.embed.limits import check_addresses, check_limits
from headstrip.embed.output.merging import DamagedShard, merge
from headstrip.embed.output.paths import check_not_source, rows_file
from headstrip.embed.output.work_dir import WorkDir, open_work_dir, work_folder
from headstrip.embed.pipeline import RowProgress
from headstrip.embed.plan import (
    Notify,
    RunPlan,
    check_may_replace,
    make_plan,
    plan_missing_shards,
)
from headstrip.embed.report import EmbedReport, Stages, count_bad
from headstrip.embed.settings import EmbedOptions, EmbedSettings, settings_and_options
from headstrip.embed.sources import Source, StreamSource, source_of
from headstrip.embed.streaming import embed_stream
from headstrip.errors import HeadstripError
from headstrip.system.arguments import check_function
from headstrip.system.os_errors import explain

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

__all__ = ["EmbedOptions", "EmbedReport", "Progress", "embed_source"]

Progress = Callable[[int, int], None]
"""Gets the numbers of images done and of all images."""

_LOGGER = logging.getLogger("headstrip.embed")

_MAX_DAMAGES = 3
"""How often the disk may damage shards before the run stops."""


def embed_source(
    encoder: Encoder,
    source: Source | str | os.PathLike[str] | Iterable[Any],
    out: str | os.PathLike[str],
    *,
    settings: EmbedSettings | None = None,
    options: EmbedOptions | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
    compute: Execute | None = None,
) -> EmbedReport:
    """Embed all images of a source into one file: Parquet, or ``.npy`` with a Parquet beside it.

    The file has one row per image, sorted by path: ``path``, ``embedding`` (null for a bad image),
    ``width`` and ``height`` (pixels as shown), ``error`` (null for a good image), ``size``,
    ``modified`` and ``checksum`` of the image file. The settings ``maps`` and ``tokens`` add a
    column for each map, null for a bad image. Finished rows are kept in ``OUT.parts`` until the
    file is complete: after any interruption the same call resumes, and writes the file that an
    uninterrupted call would have written. A call for a complete file computes images that were
    changed or added, and removes the rows of those that are gone.

    Args:
        encoder: An encoder of images, with a preprocessing.
        source: A source, or anything that ``source_of`` accepts.
        out: The file to write; it appears when it is complete.
        settings: How embeddings are computed and stored. A setting that is None is that of the
            existing rows, or is chosen by a fixed rule of device and cores.
        options: What else the run does.
        progress: Called with the numbers of images done and of all images.
        notify: Called with each sentence that the user should read, such as about other versions.
        compute: What computes the shards: None for this process, ``cluster.on_ray()`` for Ray.

    Returns:
        The number of rows, and how many images were bad.

    Raises:
        HeadstripError: The source does not exist or has no images, the file cannot be written, or
            it has rows of another encoder or of other settings.
        OptionError: An argument has a wrong type, or a setting or an option is too large for this
            machine.
        PreprocessingError: The encoder takes clips, or has no preprocessing.
        LevelError: The encoder does not have the maps or tokens in the settings.
        ValueError: No installed engine has the name in the settings or in the existing rows.

    Example:
        >>> report = embed_source(encoder, "photos", "photos.parquet")  # doctest: +SKIP
        >>> report.rows, report.failed  # doctest: +SKIP
        (3, {'torn.jpg': 'image file is truncated (12 bytes not processed).'})
    """
    check_takes_images(encoder)
    settings, options = settings_and_options(settings, options)
    _check_functions(progress, notify, compute)
    target = check_out(out)
    check_suffix(out)
    images = source if isinstance(source, Source) else source_of(source)
    check_engine(settings.engine)
    settings = resolve_maps(encoder, settings)
    if settings.has_maps:
        # Illegal maps are refused before the source is read.
        dense_columns(encoder, settings)
    check_limits(encoder, settings, options)
    check_addresses(settings, options)
    encoder.warn_of_invented_channels()
    notify = notify or _ignore
    if isinstance(images, StreamSource):
        if compute is not None:
            raise HeadstripError(
                "Ray cannot embed the images of an iterable. Pass a folder, a list or an archive, "
                "or leave out compute=."
            )
        return embed_stream(encoder, images, target, settings, options, progress, notify)
    with write_errors(target, work_folder=work_folder(target)):
        check_not_source(images.describe(), target)
        with open_work_dir(target) as work_dir:
            plan = make_plan(
                encoder, images, target, work_dir, settings, options, shown=str(out), notify=notify
            )
            stages, computed = Stages(), 0
            if not plan.is_written:
                stages, computed = _compute_and_merge(
                    plan, target, compute or execute, progress or _ignore, notify
                )
            bad, _ = count_bad(rows_file(target))
            _remove(work_dir, notify)
    return EmbedReport(
        rows=len(plan.listing),
        bad=bad,
        computed=computed,
        out=Path(out),
        settings=plan.settings,
        stages=stages,
        left_out=plan.left_out,
    )


def _check_functions(progress: Any, notify: Any, compute: Any) -> None:
    """Refuse what a run could not call.

    Raises:
        OptionError: One is neither a function nor None.
    """
    advice = "Pass one that takes the number of images done and that of all images."
    check_function("progress", progress, advice)
    check_function("notify", notify, "Pass one that takes a sentence, such as print.")
    check_function("compute", compute, "Leave it out, or pass what cluster.on_ray() returns.")


def _ignore(*_: object) -> None:
    """Do nothing with progress or sentences that the caller does not want."""


def _compute_and_merge(
    plan: RunPlan, out: Path, compute: Execute, progress: Progress, notify: Notify
) -> tuple[Stages, int]:
    """Compute the missing shards and merge all; return the stages, and the images that were read.

    Raises:
        HeadstripError: The disk damages shards again and again.
    """
    shards, total, damages = plan.shards, len(plan.listing), 0
    stages, computed = Stages(), 0
    while True:
        done = total - shards.count_rows(plan.todo)
        _LOGGER.info(
            "%d of %d images are done; %d of %d shards are to do",
            done,
            total,
            len(plan.todo),
            len(shards),
        )
        progress(done, total)
        if plan.todo:
            found, images = compute(plan, _counting(progress, done, total))
            stages.include(found)
            computed += images
        check_may_replace(plan, out)
        try:
            merge(shards, out, shards.folder.parent)
        except DamagedShard as damaged:
            damages += 1
            if damages == _MAX_DAMAGES:
                raise HeadstripError(
                    f"Files were damaged {damages} times after headstrip wrote them, the last one "
                    f"{damaged}. Check the disk, or write to another one."
                ) from damaged
            notify(f"{damaged} was damaged on the disk. headstrip computes it again.")
            plan = plan_missing_shards(plan)
        else:
            return stages, computed


def _counting(progress: Progress, done: int, total: int) -> RowProgress:
    """Return a function that adds to the number of images done, and reports it."""

    def report(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, total)

    return report


def _remove(work_dir: WorkDir, notify: Notify) -> None:
    """Remove the work folder; the file is complete, so no problem here stops the run."""
    folder = str(work_dir.folder)
    try:
        left = work_dir.remove()
    except OSError as error:
        what = f"headstrip does not need the folder {folder!r} any more, and could not remove it"
        notify(explain(error, what))
        return
    if left:
        notify(
            f"The folder {folder!r} stays, because it has files that headstrip did not write "
            f"({', '.join(left[:3])})."
        )
