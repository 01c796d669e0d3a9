"""Embed one source on one machine, and on Ray while an actor or a node is lost.

    python -m tests.embed.on_ray FOLDER whole|maps|actor|node|errors

Prints as JSON the number of rows, whether the two files are equal, and what was lost.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.embed.ended import photographs

SHARD, BATCH, IMAGES = 8, 4, 160


def once_shards_exist(parts: Path, count: int, act: Callable[[], None]) -> threading.Thread:
    """Act in a separate thread as soon as this many shards exist."""

    def wait() -> None:
        while len(list(parts.glob("*/[0-9]*.parquet"))) < count:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def kill_an_actor(lost: list[str]) -> None:
    """Kill one of the processes that embed."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:
            continue
        if name.startswith("ray::MapWorker"):
            os.kill(int(folder.name), signal.SIGKILL)
            lost.append("actor")
            return


def main() -> None:
    """Embed on one machine and on Ray, and compare the files."""
    import ray
    import torch
    from PIL import Image
    from ray.cluster_utils import Cluster
    from tests.conftest import SMALL

    from headstrip import EmbedOptions, EmbedSettings, build_encoder
    from headstrip.embed.cluster import on_ray
    from headstrip.embed.run import embed_source
    from headstrip.errors import HeadstripError

    folder, kind = Path(sys.argv[1]), sys.argv[2]
    torch.manual_seed(0)
    if kind == "whole":
        encoder = build_encoder("efficientnet-lite:efficientnet_lite0", preprocessing=SMALL)
        with torch.no_grad():
            next(encoder.backbone.parameters()).mul_(1.5)
    else:
        encoder = build_encoder("shufflenet_v2_x0_5", weights=None, preprocessing=SMALL)
    source = photographs(folder / "photographs", IMAGES - 1)
    frames = [Image.new("RGB", (9, 9), (9, number, 9)) for number in range(3)]
    frames[0].save(source / "pages.tif", save_all=True, append_images=frames[1:])
    maps = [-1] if kind == "maps" else None
    settings = EmbedSettings(batch_size=BATCH, shard_rows=SHARD, maps=maps)
    here, there = folder / "here.parquet", folder / "there.parquet"
    alone = embed_source(encoder, source, here, settings=settings)
    lost: list[str] = []
    parts = there.with_name("there.parquet.parts")
    cluster = None
    if kind == "node":
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        node = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)

        def remove() -> None:
            assert cluster is not None
            cluster.remove_node(node, allow_graceful=False)
            lost.append("node")

        once_shards_exist(parts, 3, remove)
    elif kind == "actor":
        once_shards_exist(parts, 3, lambda: kill_an_actor(lost))
    if kind == "errors":
        try:
            embed_source(
                encoder,
                source,
                there,
                settings=settings,
                compute=on_ray(),
                options=EmbedOptions(max_errors=9),
            )
        except HeadstripError as error:
            print(json.dumps({"error": str(error), "left": sorted(os.listdir(folder))}))
        return
    actors = 2 if kind == "node" else None
    report = embed_source(encoder, source, there, settings=settings, compute=on_ray(actors=actors))
    if cluster is not None:
        ray.shutdown()
        cluster.shutdown()
    print(
        json.dumps(
            {
                "rows": report.rows,
                "bad": report.bad,
                "lost": lost,
                "pages": [one.stages.multipage_examples for one in (alone, report)],
                "equal": here.read_bytes() == there.read_bytes(),
                "left": sorted(path.name for path in folder.iterdir()),
            }
        )
    )


if __name__ == "__main__":
    main()
