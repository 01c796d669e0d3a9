"""Plans a run: which rows exist, which settings apply, and which shards to compute."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstrip.embed.calibrate import resolve_settings
from headstrip.embed.dense import dense_columns, size_sentence
from headstrip.embed.engines.registry import check_engine
from headstrip.embed.limits import check_limits
from headstrip.embed.listing import Listing, listing_file, write_listing
from headstrip.embed.output.array_file import KEY as ARRAY
from headstrip.embed.output.damage import (
    ROWS,
    DamagedFile,
    array_problem,
    rows_in,
    table_problem,
)
from headstrip.embed.output.paths import check_items, root_of, rows_file
from headstrip.embed.output.provenance import Provenance, metadata_for, source_id
from headstrip.embed.output.table import metadata_in, metadata_of, schema_of
from headstrip.embed.output.work_dir import Shards, WorkDir
from headstrip.embed.pages import PageReader, split_into_pages
from headstrip.embed.parallelism import Parallelism, choose_parallelism
from headstrip.embed.report import check_errors, count_bad
from headstrip.embed.settings import EmbedOptions, EmbedSettings
from headstrip.embed.sources import (
    LeftOut,
    ListSource,
    Reader,
    Source,
    is_url,
    items_of,
    joined,
)
from headstrip.errors import HeadstripError

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

__all__ = [
    "EmbedSettings",
    "Notify",
    "RunPlan",
    "check_may_replace",
    "make_plan",
    "plan_missing_shards",
]

Notify = Callable[[str], None]
"""Gets a sentence for the user."""

_LOGGER = logging.getLogger("headstrip.embed")


@dataclass(frozen=True)
class RunPlan:
    """Everything that a run does, here or on a cluster.

    Attributes:
        encoder: The encoder.
        listing: The images, numbered.
        reader: Reads their bytes.
        parallelism: The resolved settings, and what runs at once.
        options: The options of the caller.
        shards: Where the rows are written.
        todo: Numbers of the shards to compute.
        bad_before: Bad images in the other shards; 0 if ``max_errors`` is None.
        reusable: Files of earlier rows, the newest first.
        checks_bytes: Whether the bytes of an image decide if an earlier row is reused.
        is_written: Whether the file is complete and there is nothing to do.
        left_out: Number of files of the source that are not images, by suffix.
    """

    encoder: Encoder
    listing: Listing
    reader: Reader
    parallelism: Parallelism
    options: EmbedOptions
    shards: Shards
    todo: tuple[int, ...]
    bad_before: int
    reusable: tuple[Path, ...]
    checks_bytes: bool
    is_written: bool
    left_out: dict[str, int]

    @property
    def settings(self) -> EmbedSettings:
        """How the embeddings are computed and stored; nothing is None or "auto"."""
        return self.parallelism.settings


def make_plan(
    encoder: Encoder,
    source: Source,
    out: Path,
    work_dir: WorkDir,
    requested: EmbedSettings,
    options: EmbedOptions,
    *,
    shown: str,
    notify: Notify,
) -> RunPlan:
    """List the source, and decide what to compute and how.

    Args:
        encoder: The encoder.
        source: The images.
        out: The file to write, links resolved.
        work_dir: Its work folder, locked by this process.
        requested: The settings of the caller; what is None is that of the existing rows, or is
            chosen.
        options: The options of the caller.
        shown: The file, as messages name it.
        notify: Called with each sentence that the user should read.

    Raises:
        HeadstripError: The source has no images, or the file has rows of another encoder or of
            other settings, or is something else.
        OptionError: A setting or an option is too large for this machine.
        ValueError: No installed engine has the name in the settings or in the existing rows.
    """
    here, source_here = Provenance.of(encoder, requested), source_id(source)
    earlier = _earlier_provenance(
        here, source_here, out, work_dir, options, shown=shown, notify=notify
    )
    work_dir.remove_temporary_files()

    reader, left_out = source.reader(), LeftOut()
    items = check_items(items_of(source, left_out.note), out, reader)
    if options.pages == "all":
        items, reader = split_into_pages(items, reader), PageReader(reader)
    listing = write_listing(work_dir.folder, source.describe(), items)

    settings = requested.over(earlier.settings) if earlier else requested
    check_engine(settings.engine)
    columns = dense_columns(encoder, settings)
    tensor_bytes = sum(one.bytes_per_image for one in columns)
    check_limits(encoder, settings, options, tensor_bytes=tensor_bytes)
    settings = resolve_settings(encoder, listing, reader, settings, options, notify)
    parallelism = choose_parallelism(
        settings, options, device=encoder.device.type, tensor_bytes=tensor_bytes
    )
    settings = parallelism.settings
    _LOGGER.info(
        "embedding with %s; %d inference threads, %d worker processes",
        ", ".join(f"{name}={value}" for name, value in asdict(settings).items()),
        parallelism.inference_threads,
        parallelism.workers,
    )

    provenance = earlier or here.with_settings(settings)
    if work_dir.provenance is None:
        work_dir.begin(provenance, replaces=options.overwrite)
    metadata = metadata_for(provenance, source_here, listing.digest, columns)
    fields = [one.field() for one in columns]
    kept = source.kept_fields() if isinstance(source, ListSource) else []
    schema = schema_of(encoder.output_dim, str(settings.dtype), metadata, fields, kept)
    folder = listing_file(work_dir.folder, listing.digest).parent
    shards = Shards(folder, schema, int(settings.shard_rows or 0), len(listing))

    existing = _reusable_metadata(out, work_dir, provenance, shown=shown, notify=notify)
    if existing is not None and not options.checksum:
        _notify_of_unknown_times(listing, reader, notify)
    is_written = existing is not None and _is_written(
        out, existing, shards, listing, options, notify
    )
    todo = () if is_written else _shards_to_do(shards, listing, options)
    if columns and todo:
        notify(size_sentence(columns, len(listing)))
    sources = _reusable_files(out, existing, work_dir, provenance) if todo else {}
    return RunPlan(
        encoder=encoder,
        listing=listing,
        reader=reader,
        parallelism=parallelism,
        options=options,
        shards=shards,
        todo=todo,
        bad_before=0 if is_written else _count_bad_before(shards, todo, options),
        reusable=tuple(sources),
        # Two files with one name, size and time may differ if they belong to different sources.
        checks_bytes=options.checksum or any(each != source_here for each in sources.values()),
        is_written=is_written,
        left_out=left_out.counts(),
    )


def plan_missing_shards(plan: RunPlan) -> RunPlan:
    """Return the plan for the shards that were damaged after they had been computed."""
    shards = plan.shards
    missing = tuple(number for number in range(len(shards)) if not shards.is_done(number))
    return replace(plan, todo=missing, bad_before=_count_bad_before(shards, missing, plan.options))


def _earlier_provenance(
    here: Provenance,
    source_here: str,
    out: Path,
    work_dir: WorkDir,
    options: EmbedOptions,
    *,
    shown: str,
    notify: Notify,
) -> Provenance | None:
    """Return the provenance of the existing rows, None without any; refuse incompatible rows."""
    earlier = work_dir.provenance
    if options.overwrite:
        # The shards of a run that replaces the file too are its own, when it was interrupted.
        if earlier is not None and (not work_dir.replaces or here.conflicts(earlier)):
            work_dir.clear()
            return None
    else:
        existing, source = _existing_provenance(out, shown)
        if existing is not None:
            # The file may have been replaced after an earlier run was interrupted.
            (earlier or here).check_compatible(existing, shown)
            if source != source_here:
                notify(
                    f"{shown!r} has rows of another source. headstrip removes those of images that "
                    "are not in this source."
                )
        earlier = earlier or existing
    if earlier is None:
        return None
    here.check_compatible(earlier, shown)
    here = here.with_settings(here.settings.over(earlier.settings))
    if changes := "; ".join(here.changes(earlier)):
        if options.exact:
            raise HeadstripError(
                f"{shown!r} has rows of another environment: {changes}. Leave out --exact "
                "(exact=True), or pass another file."
            )
        notify(
            f"{shown!r} has rows of another environment, and the last bits of new rows may differ "
            f"from theirs: {changes}."
        )
    return earlier


def _existing_provenance(out: Path, shown: str) -> tuple[Provenance | None, Any]:
    """Return how the rows of an existing file were computed, and the identifier of their source.

    Both are None without a file. A file of something else is refused.
    """
    existing = [path for path in (out, rows_file(out)) if os.path.lexists(path)]
    if not existing:
        return None, None
    metadata = metadata_in(rows_file(out)) or {}
    provenance = Provenance.from_json(metadata.get("plan"))
    if provenance is None:
        raise HeadstripError(
            f"{shown if existing[0] == out else str(existing[0])!r} exists, and headstrip can "
            "update only a file of embeddings. Pass another file, or replace this one with "
            "--overwrite (overwrite=True)."
        )
    return provenance, metadata.get("source")


def check_may_replace(plan: RunPlan, out: Path) -> None:
    """Refuse to replace a file that somebody wrote while the run computed.

    Raises:
        HeadstripError: It is not a file of embeddings, or has rows of another encoder or of other
            settings.
    """
    if plan.options.overwrite:
        return
    existing, _ = _existing_provenance(out, str(out))
    computed = Provenance.from_json((metadata_of(plan.shards.schema) or {}).get("plan"))
    if existing is not None and computed is not None:
        computed.check_compatible(existing, str(out))


def _reusable_metadata(
    out: Path, work_dir: WorkDir, provenance: Provenance, *, shown: str, notify: Notify
) -> dict[str, Any] | None:
    """Return the metadata of the existing file if the run may use its rows, else None."""
    if work_dir.replaces or not out.exists():
        return None
    metadata = metadata_in(rows_file(out))
    if metadata is None or Provenance.from_json(metadata.get("plan")) != provenance:
        return None
    if problem := array_problem(out, metadata):
        notify(f"{shown!r} {problem}. headstrip computes its rows again and replaces it.")
        return None
    return metadata


def _notify_of_unknown_times(listing: Listing, reader: Reader, notify: Notify) -> None:
    """Name images behind urls whose changes headstrip cannot see."""
    root = root_of(reader) or ""
    names = ((item.path, item.container or item.path) for item in listing.of_unknown_time())
    paths = [path for path, name in names if is_url(joined(root, name))]
    if paths:
        more = f" and {len(paths) - 1:,} more images" if len(paths) > 1 else ""
        notify(
            f"headstrip does not ask servers whether {paths[0]!r}{more} changed, and keeps their "
            "rows. Pass --checksum (checksum=True) to download them and compare their bytes."
        )


def _is_written(
    out: Path,
    existing: dict[str, Any],
    shards: Shards,
    listing: Listing,
    options: EmbedOptions,
    notify: Notify,
) -> bool:
    """Whether the existing file is complete, whole, and of this listing."""
    if options.retry_failed or options.checksum or listing.has_clipped_times():
        return False
    described = {name: value for name, value in existing.items() if name not in (ARRAY, ROWS)}
    if described != metadata_of(shards.schema):
        return False
    if rows_in(rows_file(out)) != len(listing):
        # Another program removed rows.
        return False
    if problem := table_problem(rows_file(out)):
        notify(f"{str(rows_file(out))!r} {problem}. headstrip writes it again.")
        return False
    return True


def _shards_to_do(shards: Shards, listing: Listing, options: EmbedOptions) -> tuple[int, ...]:
    """Return the numbers of the shards that are missing, or have rows to check again."""

    def is_to_check(number: int) -> bool:
        if options.checksum or listing.has_clipped_times(*shards.bounds(number)):
            return True
        bad = _bad_rows(shards, number) if options.retry_failed else (0, "")
        return bad is None or bad[0] > 0

    return tuple(
        number for number in range(len(shards)) if not shards.is_done(number) or is_to_check(number)
    )


def _count_bad_before(shards: Shards, todo: Sequence[int], options: EmbedOptions) -> int:
    """Count the bad images of the shards that are done, if their number is limited.

    Raises:
        HeadstripError: There are too many already.
    """
    bad = 0
    if options.max_errors is None:
        return bad
    for number in sorted({*range(len(shards))} - {*todo}):
        # Merging removes a damaged shard, and its bad images count when it is computed again.
        found, example = _bad_rows(shards, number) or (0, "")
        bad += found
        check_errors(bad, options.max_errors, example)
    return bad


def _bad_rows(shards: Shards, number: int) -> tuple[int, str] | None:
    """Return the number of bad images in a shard, and one of them; None if it is damaged."""
    try:
        return count_bad(shards.path(number))
    except DamagedFile:
        return None


def _reusable_files(
    out: Path, existing: dict[str, Any] | None, work_dir: WorkDir, provenance: Provenance
) -> dict[Path, str | None]:
    """Return the files whose rows have this provenance, and the source that each is of.

    They are shards of this and of earlier listings, and the existing file.
    """
    found = {path: metadata_in(path) or {} for path in work_dir.shard_files()}
    if existing is not None:
        found[rows_file(out)] = existing
    return {
        path: metadata.get("source")
        for path, metadata in found.items()
        if Provenance.from_json(metadata.get("plan")) == provenance
    }
