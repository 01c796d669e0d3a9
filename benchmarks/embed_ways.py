"""One way of embedding a folder of photographs, measured in this process; `embed.py` starts it.

    python benchmarks/embed_ways.py WAY BACKBONE PHOTOS OUT

It prints the seconds from the image files to the Parquet file as JSON. The time contains neither
imports, nor building the network (with random weights, on which the speed does not depend), nor a
small run to warm up, because these do not matter for a million images.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 16
"""Batch size of the ways that have no default."""

Embed = Callable[[list[str], Path], int]


def backbone_name(name: str) -> str:
    """Return headstrip's name of a backbone in this benchmark."""
    return "timm:tf_efficientnet_lite0" if name == "efficientnet_lite0" else name


def network(name: str) -> tuple[Any, Any]:
    """Build a network without its head, in eval mode, and the transform of its preprocessing."""
    encoder = headstrip_encoder(name)
    return encoder.backbone.eval(), encoder.preprocessing.transform()


def headstrip_encoder(name: str) -> Any:
    """Build an encoder with random weights and the preprocessing of the published ones."""
    import torch

    from headstrip import build_encoder

    torch.manual_seed(0)
    tag = "in1k" if name == "efficientnet_lite0" else "DEFAULT"
    return build_encoder(backbone_name(name), weights=None, preprocessing=tag)


def write(out: Path, paths: list[str], embeddings: Any) -> int:
    """Write a Parquet file, as a user's script would."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.FixedSizeListArray.from_arrays(
        pa.array(embeddings.reshape(-1)), embeddings.shape[1]
    )
    pq.write_table(pa.table({"path": paths, "embedding": column}), out, compression="zstd")
    return len(paths)


def loop_way(name: str) -> Embed:
    """A plain loop: open and transform a batch of images, run the network, repeat."""
    import numpy as np
    import torch
    from PIL import Image

    model, transform = network(name)

    def embed(paths: list[str], out: Path) -> int:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(paths), BATCH):
                names = paths[start : start + BATCH]
                batch = torch.stack([transform(Image.open(each).convert("RGB")) for each in names])
                parts.append(model(batch).numpy())
        return write(out, paths, np.concatenate(parts))

    return embed


def dataloader_way(name: str, workers: int) -> Embed:
    """A DataLoader script: a dataset of files, and batches from worker processes."""
    import numpy as np
    import torch
    from PIL import Image

    model, transform = network(name)

    class Photographs(torch.utils.data.Dataset):
        def __init__(self, paths: list[str]) -> None:
            self.paths = paths

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> Any:
            return transform(Image.open(self.paths[index]).convert("RGB"))

    def embed(paths: list[str], out: Path) -> int:
        loader = torch.utils.data.DataLoader(Photographs(paths), BATCH, num_workers=workers)
        with torch.inference_mode():
            parts = [model(batch).numpy() for batch in loader]
        return write(out, paths, np.concatenate(parts))

    return embed


def transformers_way(name: str) -> Embed:
    """The image-feature-extraction pipeline of transformers, with the same architecture."""
    import numpy as np
    import torch
    import transformers

    if name == "resnet50":
        model: Any = transformers.ResNetModel(transformers.ResNetConfig())
    elif name == "vit_b_16":
        model = transformers.ViTModel(transformers.ViTConfig())
    else:
        config = transformers.TimmWrapperConfig(architecture="tf_efficientnet_lite0")
        model = transformers.TimmWrapperModel(config)
    processor = transformers.ViTImageProcessor(
        size={"height": 224, "width": 224}, do_resize=True, do_rescale=True, do_normalize=True
    )
    pipeline = transformers.pipeline(
        "image-feature-extraction",
        model=model.eval(),
        image_processor=processor,
        pool=True,
        device=torch.device("cpu"),
        batch_size=BATCH,
    )

    def embed(paths: list[str], out: Path) -> int:
        found = [np.asarray(each, np.float32).reshape(-1) for each in pipeline(paths)]
        return write(out, paths, np.stack(found))

    return embed


def ray_way(name: str) -> Embed:
    """The batch inference template of Ray Data: read_images, map_batches with a class."""
    import ray

    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)

    class Model:
        def __init__(self) -> None:
            self.model, self.transform = network(name)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            import torch
            from PIL import Image

            images = [self.transform(Image.fromarray(each)) for each in batch["image"]]
            with torch.inference_mode():
                embeddings = self.model(torch.stack(images)).numpy()
            return {"path": batch["path"], "embedding": list(embeddings)}

    def embed(paths: list[str], out: Path) -> int:
        read = ray.data.read_images(paths, include_paths=True, mode="RGB")
        done = read.map_batches(Model, batch_size=BATCH, concurrency=1, num_cpus=1)
        done.write_parquet(str(out))
        return len(paths)

    return embed


PREPARED: list[float] = []
"""Seconds in which headstrip started decoders and converted the network for the engine."""


def headstrip_way(name: str, **settings: Any) -> Embed:
    """Run headstrip, including the start of decoders and writing resumable shards."""
    from headstrip import EmbedSettings
    from headstrip.embed.run import embed_source
    from headstrip.system.allocator import keep_freed_memory

    # `headstrip embed` does the same.
    keep_freed_memory()
    encoder = headstrip_encoder(name)

    def embed(paths: list[str], out: Path) -> int:
        chosen = EmbedSettings(**settings)
        report = embed_source(encoder, Path(paths[0]).parent, out, settings=chosen)
        PREPARED.append(report.stages.prepared)
        return report.rows

    return embed


def calibrated_way(name: str) -> Embed:
    """Run headstrip with the options that `headstrip embed --calibrate` prints."""
    from headstrip import EmbedSettings
    from headstrip.embed.calibrate import choose_engine, measure_engines
    from headstrip.embed.sources import source_of
    from headstrip.system.allocator import keep_freed_memory

    keep_freed_memory()
    found, measured = measure_engines(
        headstrip_encoder(name), source_of(sys.argv[3]), EmbedSettings()
    )
    best = choose_engine(measured)
    return headstrip_way(
        name,
        batch_size=found.batch_size,
        threads=found.threads,
        engine=best.engine,
        precision=best.precision,
    )


WAYS: dict[str, Callable[[str], Embed]] = {
    "headstrip": headstrip_way,
    "headstrip calibrated": calibrated_way,
    "loop": loop_way,
    "dataloader 0": lambda name: dataloader_way(name, 0),
    "dataloader 1": lambda name: dataloader_way(name, 1),
    "dataloader 2": lambda name: dataloader_way(name, 2),
    "transformers": transformers_way,
    "ray data": ray_way,
}


def floor(name: str, paths: list[str]) -> dict[str, float]:
    """Measure a lower bound for any pipeline: the network alone, and decoding alone.

    Returns:
        Processor seconds of each for all images, with all cores busy, because cores that share
        units are slower then. The network runs as in the pipeline, on images decoded before.
    """
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import torch
    from PIL import Image

    from headstrip import EmbedSettings
    from headstrip.embed.engines.make import make_engine
    from headstrip.embed.parallelism import choose_parallelism
    from headstrip.images.pixels import to_pixels
    from headstrip.system.allocator import keep_freed_memory

    keep_freed_memory()
    encoder = headstrip_encoder(name)

    def decode(path: str) -> np.ndarray:
        return to_pixels(Image.open(path).convert("RGB"), encoder.preprocessing)

    with ThreadPoolExecutor(os.cpu_count()) as cores:
        started = time.process_time()
        pixels = list(cores.map(decode, paths))
        decoded = time.process_time() - started
    layout = choose_parallelism(EmbedSettings())
    size = int(layout.settings.batch_size or 1)
    batches = [np.stack(pixels[start : start + size]) for start in range(0, len(pixels), size)]
    batches = [batch for batch in batches if len(batch) == size]
    threads = int(layout.settings.threads or 1)
    torch.set_num_threads(threads)
    with encoder.evaluating():
        forward = make_engine(encoder, layout.settings)
        with ThreadPoolExecutor(
            layout.inference_threads, initializer=torch.set_num_threads, initargs=(threads,)
        ) as pool:
            list(pool.map(forward, batches[: layout.inference_threads]))
            started = time.process_time()
            list(pool.map(forward, batches))
            spent = time.process_time() - started
    return {"decode": decoded, "forward": spent * len(paths) / (len(batches) * size)}


def photographs(folder: Path) -> list[str]:
    """List the photographs of the benchmark."""
    return sorted(map(str, folder.glob("*.jpg")))


def main() -> None:
    """Measure one way, and print the seconds."""
    way, name, folder, out = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    paths = photographs(folder)
    if way == "floor":
        print(json.dumps(floor(name, paths)))
        return
    embed = WAYS[way](name)
    warm = folder.with_name(f"{folder.name}-warm")
    embed(photographs(warm), out.with_name(f"warm-{out.name}"))
    started = time.perf_counter()
    rows = embed(paths, out)
    seconds = time.perf_counter() - started
    assert rows == len(paths), (rows, len(paths))
    print(json.dumps({"seconds": seconds, "images": rows, "prepared": sum(PREPARED[-1:])}))


if __name__ == "__main__":
    main()
