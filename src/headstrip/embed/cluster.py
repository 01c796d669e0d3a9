"""Computes the shards of a plan on a Ray cluster: each actor writes the shards that it computes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headstrip.embed.execute import Execute, ShardExecutor
from headstrip.embed.listing import read_listing
from headstrip.embed.parallelism import choose_parallelism, cores
from headstrip.embed.pipeline import RowProgress
from headstrip.embed.plan import RunPlan
from headstrip.embed.report import Stages, check_errors
from headstrip.errors import HeadstripError, ManifestError, one_line

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

_SHARDS_PER_CALL = 4
_OLDEST_RAY = (2, 55)


def on_ray(address: str | None = None, *, actors: int | None = None) -> Execute:
    """Return a function for ``embed_source(compute=...)`` that computes shards with Ray Data.

    Each actor of the pool does what a run on one machine does, four shards at a time, and writes
    them to the same place: all nodes must see the folder of the file, and the images, under the
    same paths. A lost actor or node costs the shards that it was computing.

    Args:
        address: Address of a cluster, as for ``ray.init``; None for the cluster that the
            environment names, or a new one on this machine.
        actors: Number of actors; None for one per GPU if the encoder is on one, else one per node.

    Raises:
        HeadstripError: Ray is not installed, or older than 2.55: anybody who reaches an older
            cluster can run code in it (CVE-2026-41486).
    """
    _check_ray()

    def execute(plan: RunPlan, progress: RowProgress) -> tuple[Stages, int]:
        with _connected(address):
            return _execute(plan, progress, actors)

    return execute


class ShardActor:
    """An actor that is ready to compute shards."""

    def __init__(self, plan: RunPlan, device: str, digest: str) -> None:
        """Build the encoder and start the workers.

        Args:
            plan: The plan, with an encoder as ``_portable`` returns it, and without a listing.
            device: Type of the device for the encoder.
            digest: Digest of the listing, which is read from the work folder.
        """
        from headstrip.factory.build import build_encoder
        from headstrip.system.allocator import keep_freed_memory

        keep_freed_memory()
        encoder: Any = plan.encoder
        if isinstance(encoder, Mapping):
            encoder = build_encoder(dict(encoder), allow_versions=True)
        listing = read_listing(plan.shards.folder.parent, digest)
        self._plan = replace(plan, encoder=encoder.to(device), listing=listing)
        self._executor = ShardExecutor(self._plan).__enter__()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the shards whose numbers are in the column ``shard``."""
        executor, shards = self._executor, self._plan.shards
        computed, bad = executor.computed, executor.bad
        executor.stages = Stages()
        numbers = [int(number) for number in batch["shard"]]
        # A node that was lost may have written one of them before.
        executor.run([each for each in numbers if self._is_missing(each)], lambda rows: None)
        return {
            "rows": np.array([shards.count_rows(numbers)]),
            "computed": np.array([executor.computed - computed]),
            "bad": np.array([executor.bad - bad]),
            "example": np.array([executor.example]),
            "stages": np.array([executor.stages.to_json()]),
        }

    def _is_missing(self, number: int) -> bool:
        plan = self._plan
        is_to_check = (
            plan.options.retry_failed
            or plan.checks_bytes
            or plan.listing.has_clipped_times(*plan.shards.bounds(number))
        )
        return is_to_check or not plan.shards.is_done(number)


class EncoderUDF:
    """An encoder for ``map_batches`` in your own pipeline.

    Example:
        >>> images = ray.data.read_images("photos")  # doctest: +SKIP
        >>> images.map_batches(
        ...     EncoderUDF,
        ...     fn_constructor_kwargs={"name": "resnet50"},
        ...     batch_size=16,
        ...     compute=ray.data.ActorPoolStrategy(size=2),
        ... )  # doctest: +SKIP
    """

    def __init__(
        self, name: Any, *, column: str = "image", output: str = "embedding", **build: Any
    ) -> None:
        """Build the encoder.

        Args:
            name: The name, as for ``build_encoder``.
            column: Column of the images, which are encoded bytes or anything else that
                ``encoder.preprocess`` accepts.
            output: Column for the embeddings.
            build: Other arguments of ``build_encoder``.
        """
        from headstrip.factory.build import build_encoder

        self._encoder = build_encoder(name, **build)
        self._column, self._output = column, output

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the embeddings to a batch: float32 (rows, output_dim).

        Raises:
            HeadstripError: The batch has no such column.
            ImageError: An image cannot be read.
            PreprocessingError: A value of the column is not an image.
        """
        if self._column not in batch:
            raise HeadstripError(
                f"The batch has no column {self._column!r}, but {', '.join(map(repr, batch))}. "
                "Pass column=NAME to EncoderUDF."
            )
        images = list(batch[self._column])
        embeddings = self._encoder.embed(images, batch_size=max(1, len(images)))
        return {**batch, self._output: embeddings}


def _execute(plan: RunPlan, progress: RowProgress, actors: int | None) -> tuple[Stages, int]:
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    device = plan.encoder.device.type
    gpus = _gpus(device)
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    count = actors or gpus or max(1, sum(bool(node["Alive"]) for node in nodes))
    share = cores() if actors is None else max(1, cores() // count)
    numbers = ray.data.from_items(
        [{"shard": number} for number in plan.todo],
        override_num_blocks=-(-len(plan.todo) // _SHARDS_PER_CALL),
    )
    done = numbers.map_batches(
        ShardActor,
        fn_constructor_args=(_for_actors(plan, device, share), device, plan.listing.digest),
        batch_size=_SHARDS_PER_CALL,
        compute=ray.data.ActorPoolStrategy(size=count),
        num_cpus=None if gpus else share,
        num_gpus=1 if gpus else None,
    )
    stages, computed, bad = Stages(), 0, plan.bad_before
    for row in done.iter_rows():
        computed += int(row["computed"])
        stages.include(Stages.from_json(str(row["stages"])))
        progress(int(row["rows"]))
        bad += int(row["bad"])
        check_errors(bad, plan.options.max_errors, str(row["example"]))
    return stages, computed


def _gpus(device: str) -> int:
    """Return how many GPUs the cluster has; 0 for an encoder that is not on a GPU.

    Raises:
        HeadstripError: The encoder is on a GPU, and the cluster has none.
    """
    import ray

    if device == "cpu":
        return 0
    found = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    if not found:
        raise HeadstripError(
            f"The encoder is on {device!r}, and the cluster has no GPU. Use --device cpu "
            "(encoder.cpu()), or add nodes with GPUs."
        )
    return found


def _for_actors(plan: RunPlan, device: str, share: int) -> RunPlan:
    """Return the plan as an actor receives it, for its share of the cores.

    Actors read the listing from the work folder. The bad images of all actors are counted together,
    so no actor has a limit.
    """
    portable: Any = _portable(plan.encoder)
    listing: Any = None
    return replace(
        plan,
        encoder=portable,
        listing=listing,
        todo=(),
        parallelism=choose_parallelism(
            plan.settings, plan.options, device=device, usable_cores=share
        ),
        options=replace(plan.options, max_errors=None),
    )


def _portable(encoder: Encoder) -> Any:
    """Return a manifest if an actor can build the encoder from it, else the encoder."""
    from headstrip.encoder.manifest import embedding_manifest

    manifest = embedding_manifest(encoder)
    weights = manifest["weights"]
    if weights["tag"] and not weights["file"] and not manifest["not_json"] and _is_built(manifest):
        return manifest
    # On the CPU, so that a node without a GPU can unpickle it.
    is_on_cpu = encoder.device.type == "cpu"
    return encoder if is_on_cpu else copy.deepcopy(encoder).cpu()


def _is_built(manifest: Mapping[str, Any]) -> bool:
    """Whether the encoder has the published weights unchanged, which training does not leave."""
    from headstrip.factory.build import build_encoder

    try:
        build_encoder(dict(manifest), allow_versions=True)
    except ManifestError:
        return False
    return True


def _check_ray() -> None:
    try:
        import ray
    except ImportError as error:
        raise HeadstripError(
            "Ray is not installed, and a cluster needs it. Run `pip install 'headstrip[ray]'`."
        ) from error
    found = tuple(int(part) for part in ray.__version__.split(".")[:2])
    if found < _OLDEST_RAY:
        raise HeadstripError(
            f"Ray {ray.__version__} is installed, and anybody who reaches a cluster of it can run "
            "code there (CVE-2026-41486). Run `pip install 'headstrip[ray]'`, which installs 2.55 "
            "or newer."
        )


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Use the cluster that this process is connected to, or connect to one."""
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        ray.init(
            address=address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise HeadstripError(
            f"headstrip cannot connect to a Ray cluster at {address!r} "
            f"({one_line(error, 200)}). Start one with `ray start --head`, or leave "
            "out --address."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
