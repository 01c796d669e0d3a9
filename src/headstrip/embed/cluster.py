"""The same shards on a Ray cluster: names go out, and each actor writes its own files."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headstrip.embed.listing import read_listing
from headstrip.embed.loop import Loop, Task
from headstrip.embed.options import check_errors
from headstrip.embed.parallelism import cores, slots_for
from headstrip.embed.pipeline import RowProgress, Stages
from headstrip.errors import HeadstripError

if TYPE_CHECKING:
    from headstrip.embed.run import Compute, Run
    from headstrip.encoder.encoder import Encoder

_AT_ONCE = 4
_LOWEST = (2, 55)


def on_ray(address: str | None = None, *, actors: int | None = None) -> Compute:
    """Return what has the shards of a run computed by Ray Data, for ``embed_source(compute=...)``.

    Each actor of the pool runs the loop that a run on one machine runs, on four shards at a time,
    and writes them where that run would: the folder of the file must be one that all nodes see
    under the same name, and so must the images. A lost actor, or node, costs the shards it was at.

    Args:
        address: Of a cluster, as ``ray.init`` takes it; None for a cluster of this machine alone,
            unless the environment names one.
        actors: Actors of the pool, None for one a GPU where the encoder is on one, or else one a
            node.

    Raises:
        HeadstripError: Ray is not installed, or older than 2.55, below which a cluster lets others
            run code (CVE-2026-41486).
    """
    _check_ray()

    def compute(run: Run, todo: Sequence[int], told: RowProgress) -> tuple[Stages, int]:
        with _connected(address):
            return _compute(run, todo, told, actors)

    return compute


class ShardActor:
    """An actor that fills shards: a loop that is ready, for all that it is given."""

    def __init__(self, encoder: Any, place: str, parts: str, digest: str, task: Task) -> None:
        """Build the encoder and start the decoders.

        Args:
            encoder: A manifest, or the encoder itself where none can be written.
            place: Kind of device that it goes to.
            parts: The folder of parts.
            digest: Which listing in it.
            task: What the loop needs.
        """
        from pathlib import Path

        from headstrip.factory.build import build_encoder
        from headstrip.system.allocator import keep_freed_memory

        keep_freed_memory()
        if isinstance(encoder, Mapping):
            encoder = build_encoder(dict(encoder), allow_versions=True)
        encoder = encoder.to(place)
        self._listing, self._task = read_listing(Path(parts), digest), task
        self._loop = Loop(encoder, self._listing, task).__enter__()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Fill the shards whose numbers are in the column ``shard``."""
        before, bad = self._loop.computed, self._loop.bad
        numbers = [int(number) for number in batch["shard"]]
        # A node that was lost may have written one before it was.
        missing = [each for each in numbers if self._is_missing(each)]
        self._loop.run(missing, lambda done: None)
        rows = sum(stop - start for start, stop in map(self._task.shards.bounds, numbers))
        return {
            "rows": np.array([rows]), "computed": np.array([self._loop.computed - before]),
            "bad": np.array([self._loop.bad - bad]), "example": np.array([self._loop.example]),
        }  # fmt: skip

    def _is_missing(self, number: int) -> bool:
        again = self._task.retry_failed or self._task.checksum
        return again or not self._task.shards.is_done(number)


class EncoderUDF:
    """An encoder for ``map_batches`` of a pipeline of one's own.

    Example:
        >>> images = ray.data.read_images("photos")  # doctest: +SKIP
        >>> images.map_batches(
        ...     EncoderUDF, fn_constructor_kwargs={"name": "resnet50"}, batch_size=16, concurrency=2
        ... )  # doctest: +SKIP
    """

    def __init__(
        self, name: Any, *, column: str = "image", output: str = "embedding", **build: Any
    ) -> None:
        """Build the encoder.

        Args:
            name: What ``build_encoder`` takes as the name.
            column: Column of the images: what ``encoder.preprocess`` takes, or encoded bytes.
            output: Column that the embeddings are put in.
            build: What else ``build_encoder`` takes.
        """
        from headstrip.factory.build import build_encoder

        self._encoder = build_encoder(name, **build)
        self._column, self._output = column, output

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the embeddings to a batch: float32 (rows, output_dim).

        Raises:
            HeadstripError: There is no such column.
            ImageError: An image cannot be read.
            PreprocessingError: It is no image.
        """
        if self._column not in batch:
            raise HeadstripError(
                f"The batch has no column {self._column!r}, but {', '.join(map(repr, batch))}. "
                "Pass column=NAME to EncoderUDF."
            )
        images = list(batch[self._column])
        embeddings = self._encoder.embed(images, batch_size=max(1, len(images)))
        return {**batch, self._output: embeddings}


def _compute(
    run: Run, todo: Sequence[int], told: RowProgress, actors: int | None
) -> tuple[Stages, int]:
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    place = run.encoder.place()[0].type
    gpus = _gpus(place)
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    count = actors or gpus or max(1, sum(bool(node["Alive"]) for node in nodes))
    share = cores() if actors is None else max(1, cores() // count)
    task = run.task()
    # The bad images of all actors count together, here.
    bad, limit, task = task.bad, task.max_errors, replace(task, max_errors=None)
    if run.options.lanes is None or run.options.workers is None:
        task = replace(task, layout=_for_share(task, run, share))
    numbers = ray.data.from_items(
        [{"shard": number} for number in todo], override_num_blocks=-(-len(todo) // _AT_ONCE)
    )
    done = numbers.map_batches(
        ShardActor,
        fn_constructor_args=(
            _portable(run.encoder), place, os.fspath(run.parts.folder), run.listing.digest, task
        ),
        batch_size=_AT_ONCE,
        concurrency=count,
        num_cpus=None if gpus else share,
        num_gpus=1 if gpus else None,
    )  # fmt: skip
    computed = 0
    for row in done.iter_rows():
        computed += int(row["computed"])
        told(int(row["rows"]))
        bad += int(row["bad"])
        check_errors(bad, limit, str(row["example"]))
    return Stages(), computed


def _gpus(place: str) -> int:
    """Return how many GPUs the cluster has for encoders that are on one, 0 for the others.

    Raises:
        HeadstripError: The encoder is on a GPU, and the cluster has none.
    """
    import ray

    if place == "cpu":
        return 0
    found = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    if not found:
        raise HeadstripError(
            f"The encoder is on {place!r}, and the cluster has no GPU. Use --device cpu "
            "(encoder.cpu()), or add nodes with GPUs."
        )
    return found


def _for_share(task: Task, run: Run, share: int) -> Any:
    """Lay out what an actor runs at once, on so many cores."""
    threads = task.layout.settings.threads or 1
    lanes = run.options.lanes or max(1, share // threads)
    workers = share if run.options.workers is None else run.options.workers
    slots = slots_for(lanes, workers)
    return replace(task.layout, lanes=lanes, workers=workers, slots=slots)


def _portable(encoder: Encoder) -> Any:
    """Return what an actor builds the encoder from: names where they suffice, else itself."""
    from headstrip.encoder.manifest import embedding_manifest

    manifest = embedding_manifest(encoder)
    if manifest["weights"]["tag"] is None or manifest["weights"]["file"] or manifest["not_json"]:
        return _on_cpu(encoder)
    return manifest


def _on_cpu(encoder: Encoder) -> Encoder:
    """Return an encoder that can be unpickled where there is no GPU."""
    is_there = encoder.place()[0].type == "cpu"
    return encoder if is_there else copy.deepcopy(encoder).cpu()


def _check_ray() -> None:
    try:
        import ray
    except ImportError as error:
        raise HeadstripError(
            "Ray is not installed, and a cluster needs it. Run `pip install 'headstrip[ray]'`."
        ) from error
    found = tuple(int(part) for part in ray.__version__.split(".")[:2])
    if found < _LOWEST:
        raise HeadstripError(
            f"Ray {ray.__version__} is installed, and a cluster of it lets others run code "
            "(CVE-2026-41486). Run `pip install 'headstrip[ray]'`, which asks for 2.55 or newer."
        )


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Use the cluster that this process is connected to, or connect it meanwhile."""
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        ray.init(
            address=address, include_dashboard=False, log_to_driver=False,
            logging_level=logging.WARNING,
        )  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise HeadstripError(
            f"There is no Ray cluster at {address!r} ({' '.join(str(error).split())[:200]}). "
            "Start one with `ray start --head`, or leave --address out."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
