"""A source of images into one file of embeddings, with nothing done twice and nothing lost."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstrip.embed.engine_choice import chosen
from headstrip.embed.files import check_out, check_suffix, writing
from headstrip.embed.limits import check_addresses, check_limits
from headstrip.embed.listing import listing_file, write_listing
from headstrip.embed.loop import Loop, Task
from headstrip.embed.options import Options, check_errors
from headstrip.embed.output.array_file import KEY as ARRAY
from headstrip.embed.output.damage import DamagedFile
from headstrip.embed.output.merging import DamagedShard, merge
from headstrip.embed.output.paths import check_apart, refusing, rows_file
from headstrip.embed.output.provenance import environment_of, metadata_for, origin_of
from headstrip.embed.output.report import EmbedReport, bad_in, count_bad
from headstrip.embed.output.table import metadata_of, schema_of
from headstrip.embed.output.wholeness import broken_pair, damage_in
from headstrip.embed.output.work_dir import Parts, Shards, metadata_in, opened_parts, parts_folder
from headstrip.embed.pages import PageReader, split_into_pages
from headstrip.embed.parallelism import lay_out
from headstrip.embed.pipeline import RowProgress, Stages
from headstrip.embed.plan import Plan, Settings, check_plan, encoder_in_plan
from headstrip.embed.sources import LeftOut, Reader, Source, StreamSource, items_of, source_of
from headstrip.embed.streaming import embed_stream
from headstrip.errors import HeadstripError, PreprocessingError
from headstrip.system.os_errors import explain

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

__all__ = ["Compute", "EmbedReport", "Options", "Progress", "Run", "compute_here", "embed_source"]

Progress = Callable[[int, int], None]
Said = Callable[[str], None]
Compute = Callable[["Run", Sequence[int], RowProgress], tuple[Stages, int]]

_LOGGER = logging.getLogger("headstrip.embed")

_DAMAGES = 3
"""Times that a shard may be damaged on the disk before the run ends."""


def embed_source(
    encoder: Encoder,
    source: Source | str | os.PathLike[str] | Iterable[Any],
    out: str | os.PathLike[str],
    *,
    settings: Settings | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    say: Said | None = None,
    compute: Compute | None = None,
) -> EmbedReport:
    """Embed all images of a source into one file: Parquet, or ``.npy`` with a Parquet beside it.

    A row an image, sorted by path: ``path``, ``embedding`` (null for a bad image), ``width`` and
    ``height`` (pixels as shown), ``error`` (null when all is well), ``size``, ``modified`` and
    ``checksum`` of the file. What is done is kept in ``OUT.parts`` until all is: the same call
    goes on after any end, and gives what one run gives. A second call on a finished file computes
    what was changed or added since, and drops what was removed.

    Args:
        encoder: An encoder of images, with a preprocessing.
        source: A source, or what ``source_of`` makes one of.
        out: The file to write; it appears when it is whole.
        settings: How embeddings are computed and kept; what is None is chosen, or is that of the
            rows that are there.
        options: What else the run does.
        progress: Called with the numbers of images done and of all.
        say: Called with each sentence that is worth a line: another version, other settings.
        compute: What fills the shards, None for this process; ``cluster`` has another.

    Returns:
        The number of rows, and how many images were bad.

    Raises:
        HeadstripError: There is no such source, no image in it, the file cannot be written, or it
            has rows of another encoder or of other settings.
        OptionError: A setting or an option is beyond this machine.
        PreprocessingError: The encoder takes clips, or has no preprocessing.

    Example:
        >>> report = embed_source(encoder, "photos", "photos.parquet")  # doctest: +SKIP
        >>> report.rows, report.failed  # doctest: +SKIP
        (3, {'torn.jpg': 'image file is truncated (12 bytes not processed).'})
    """
    check_encoder(encoder)
    target = check_out(out)
    check_suffix(out)
    images = source if isinstance(source, Source) else source_of(source)
    options = options or Options()
    check_limits(encoder, settings or Settings(), options)
    check_addresses(settings or Settings(), options)
    if isinstance(images, StreamSource):
        if compute is not None:
            raise HeadstripError(
                "Images of an iterable are embedded in this process, and not by Ray. Name a "
                "folder, a list or an archive, or leave out compute=."
            )
        return embed_stream(encoder, images, target, settings or Settings(), options, progress)
    with writing(target, parts=parts_folder(target)):
        check_apart(images.describe(), target)
        with opened_parts(target) as parts:
            asked = settings or Settings()
            run = Run(encoder, images, target, parts, asked, options, say, str(out))
            with closing(run.listing):
                report = run.finish(progress or _ignore, compute or compute_here)
    return replace(report, out=Path(out))


def _ignore(done: int, total: int) -> None:
    """Take progress that nobody asked for."""


def check_encoder(encoder: Encoder) -> None:
    """Refuse an encoder that takes no images.

    Raises:
        PreprocessingError: It takes clips, or has no preprocessing.
    """
    if encoder.spec.task == "video":
        raise PreprocessingError(
            f"{encoder.spec.qualified_name} takes clips of frames, and a source has images. "
            "Use a backbone of task 'image', or embed your clips with encoder.embed."
        )
    if encoder.preprocessing is None:
        # Asking for it raises the encoder's own sentence.
        encoder.preprocess(None)


class Run:
    """One run over one source, on this machine, into one file."""

    def __init__(
        self,
        encoder: Encoder,
        source: Source,
        out: Path,
        parts: Parts,
        asked: Settings,
        options: Options,
        say: Said | None,
        shown: str,
    ) -> None:
        """List the source and settle how its images are embedded, or refuse."""
        self.encoder, self.source, self.out = encoder, source, out
        self.parts, self.options, self._say = parts, options, say or (lambda sentence: None)
        self._shown, self._origin, self._bad = shown, origin_of(source), 0
        self._broken: bool | None = None
        now = Plan(encoder_in_plan(encoder), asked, environment_of(encoder))
        found = self._found(now)
        parts.sweep()
        self._reader: Reader = source.reader()
        left_out = LeftOut()
        items = refusing(items_of(source, left_out.note), out, self._reader)
        if options.pages == "all":
            items = split_into_pages(items, self._reader)
            self._reader = PageReader(self._reader)
        self.listing = write_listing(parts.folder, source.describe(), items)
        self._left_out = left_out.counts()
        settings = asked.over(found.settings if found else Settings())
        check_limits(encoder, settings, options)
        settings = chosen(encoder, self.listing, self._reader, settings, self._say, options)
        self.layout = lay_out(
            settings, lanes=options.lanes, workers=options.workers,
            device=encoder.place()[0].type,
        )  # fmt: skip
        self.plan = found or replace(now, settings=self.layout.settings)
        if parts.plan is None:
            parts.begin(self.plan, anew=options.overwrite)
        self.shards = self._open_shards()
        _LOGGER.info(
            "embedding with %s; %d batches in the network at once, %d processes that decode",
            ", ".join(f"{name}={value}" for name, value in asdict(self.layout.settings).items()),
            self.layout.lanes, self.layout.workers,
        )  # fmt: skip

    def finish(self, progress: Progress, compute: Compute) -> EmbedReport:
        """Compute what is missing, and write the file."""
        stages, computed, damages = Stages(), 0, 0
        while not self._is_written():
            stages, more = self._fill(progress, compute)
            computed += more
            try:
                merge(self.parts, self.shards, self.out)
                break
            except DamagedShard as damaged:
                # It was removed, and is computed again.
                damages += 1
                if damages == _DAMAGES:
                    raise HeadstripError(
                        f"Files were damaged {damages} times between writing and reading them, at "
                        f"last {damaged}. Check the disk, or write to another one."
                    ) from damaged
                self._say(f"{damaged} was damaged on the disk, and is computed again.")
        rows, bad = len(self.listing), count_bad(rows_file(self.out))
        # Windows removes no file that is mapped.
        self.listing.close()
        self._remove_parts()
        return EmbedReport(
            rows, bad, computed, self.out, self.plan.settings, stages, self._left_out
        )

    def _remove_parts(self) -> None:
        """Remove what was kept meanwhile; the file is whole, so nothing here ends the run."""
        folder = str(self.parts.folder)
        try:
            left = self.parts.remove()
        except OSError as error:
            self._say(explain(error, f"The folder {folder!r} is not needed any more, and stays"))
            return
        if left:
            self._say(
                f"The folder {folder!r} has files that headstrip did not write "
                f"({', '.join(left[:3])}): it stays."
            )

    def _fill(self, progress: Progress, compute: Compute) -> tuple[Stages, int]:
        """Have all shards computed that are missing; return what it took, and how many images."""
        todo, total = self._todo(), len(self.listing)
        if self.options.max_errors is not None:
            self._bad = self._bad_before(todo)
        done = total - sum(stop - start for start, stop in map(self.shards.bounds, todo))
        _LOGGER.info(
            "%d of %d images are done; %d of %d shards are to do",
            done, total, len(todo), len(self.shards),
        )  # fmt: skip
        progress(done, total)

        def told(rows: int) -> None:
            nonlocal done
            done += rows
            progress(done, total)

        return compute(self, todo, told) if todo else (Stages(), 0)

    def task(self) -> Task:
        """Return what a loop needs, here or on another machine."""
        options, priors = self.options, self._priors()
        # Two files of the same name, size and time may differ where they are not the same file.
        is_elsewhere = any(origin != self._origin for origin in priors.values())
        return Task(
            self._reader, self.shards, tuple(priors), self.layout, options.retry_failed,
            options.checksum or is_elsewhere, options.max_errors, self._bad, options.timeout,
        )  # fmt: skip

    def _todo(self) -> list[int]:
        """Return the numbers of the shards that are missing, or to be looked at again."""
        return [
            number
            for number in range(len(self.shards))
            if not self.shards.is_done(number) or self._is_again(number)
        ]

    def _bad_before(self, todo: Sequence[int]) -> int:
        """Count the bad images of the shards that are done, or refuse to go on with so many."""
        count = 0
        for number in sorted({*range(len(self.shards))} - {*todo}):
            try:
                found, example = bad_in(self.shards.path(number))
            except DamagedFile:
                # Merging removes it; it is counted when it is computed again.
                continue
            count += found
            check_errors(count, self.options.max_errors, example)
        return count

    def _is_again(self, number: int) -> bool:
        if self.options.checksum or self.listing.has_clipped_times(*self.shards.bounds(number)):
            return True
        if not self.options.retry_failed:
            return False
        try:
            return count_bad(self.shards.path(number)) > 0
        except DamagedFile:
            return True

    def _priors(self) -> dict[Path, str | None]:
        """Return the files whose rows may hold, and which source each is of.

        They are shards of this and of other listings, and the file.
        """
        files, table = self.parts.shards(), rows_file(self.out)
        if not self.parts.anew and os.path.lexists(self.out):
            files.append(table)
        plan = self.plan.to_json()
        found = {path: metadata_in(path) or {} for path in files}
        if found.get(table, {}).get("plan") == plan and self._is_broken_pair(found[table]):
            del found[table]
        return {
            path: metadata.get("source")
            for path, metadata in found.items()
            if metadata.get("plan") == plan
        }

    def _found(self, now: Plan) -> Plan | None:
        """Return the plan of the rows that are there, or refuse what does not go with them."""
        begun = self.parts.plan
        if begun is not None and self.options.overwrite and now.refuses(begun):
            self.parts.clear()
            return None
        found = begun or (None if self.options.overwrite else self._plan_in_out())
        if found is None:
            return None
        check_plan(now, found, self._shown)
        changes = now.changes(found)
        if changes and self.options.exact:
            raise HeadstripError(
                f"{self._shown!r} has rows of another environment: {'; '.join(changes)}. "
                "Leave out --exact (exact=True), or name another file."
            )
        if changes:
            self._say(
                f"{self._shown!r} has rows of another environment, and the last bits of this "
                f"run's may differ from theirs: {'; '.join(changes)}."
            )
        return found

    def _plan_in_out(self) -> Plan | None:
        there = [path for path in (self.out, rows_file(self.out)) if os.path.lexists(path)]
        if not there:
            return None
        metadata = metadata_in(rows_file(self.out)) or {}
        plan = Plan.from_json(metadata.get("plan") or {})
        if plan is None:
            shown = self._shown if there[0] == self.out else str(there[0])
            raise HeadstripError(
                f"{shown!r} is there, and no file of embeddings that can be gone on with. "
                "Name another file, or replace it with --overwrite (overwrite=True)."
            )
        if metadata.get("source") != self._origin:
            self._say(
                f"{self._shown!r} has rows of another source: those of images that are not in "
                "this one are left out of it."
            )
        return plan

    def _open_shards(self) -> Shards:
        settings = self.plan.settings
        schema = schema_of(
            self.encoder.output_dim,
            str(settings.dtype),
            metadata_for(self.plan, self._origin, self.listing.digest),
        )
        folder = listing_file(self.parts.folder, self.listing.digest).parent
        return Shards(folder, schema, int(settings.shard_rows or 0), len(self.listing))

    def _is_written(self) -> bool:
        """Whether the file is there already, with nothing to be done to it."""
        if self.options.retry_failed or self.options.checksum or self.parts.anew:
            return False
        if self.listing.has_clipped_times():
            return False
        metadata = metadata_in(rows_file(self.out))
        if metadata is None or not self.out.exists():
            return False
        described = {name: value for name, value in metadata.items() if name != ARRAY}
        if described != metadata_of(self.shards.schema) or self._is_broken_pair(metadata):
            return False
        problem = damage_in(rows_file(self.out))
        if problem is not None:
            self._say(f"{str(rows_file(self.out))!r} {problem}, and is written again.")
        return problem is None

    def _is_broken_pair(self, metadata: dict[str, Any]) -> bool:
        """Whether the array is not that of its rows; it is looked at once, and said once."""
        if self._broken is None:
            problem = broken_pair(self.out, metadata)
            self._broken = problem is not None
            if problem is not None:
                self._say(
                    f"{self._shown!r} {problem}. Its rows are not used again, and it is replaced."
                )
        return self._broken


def compute_here(run: Run, todo: Sequence[int], told: RowProgress) -> tuple[Stages, int]:
    """Fill shards in this process, and return what it took and how many images were read."""
    with Loop(run.encoder, run.listing, run.task()) as loop:
        loop.run(todo, told)
    return loop.stages, loop.computed
