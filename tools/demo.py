"""Run real photographs through a real network: ``make demo`` runs this script.

It uses photographs from scikit-image and scikit-learn, and weights from a Python package, so it
downloads nothing. It embeds the photographs into a Parquet file like ``headstrip embed``,
classifies them with the head, finds the nearest ones, and proves that the embedding loses nothing.

    python tools/demo.py --out demo/demo.parquet
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn

from headstrip import EmbedOptions, Encoder, HeadstripError, build_encoder
from headstrip.embed.run import embed_source
from headstrip.weights import locate, read_weights

BACKBONE = "efficientnet-lite:efficientnet_lite0"
FOLDER = Path(__file__).parents[1] / "demo"
SINGLE = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "moon",
    "rocket",
)


def photographs() -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the pixels of each photograph."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    for name in SINGLE:
        yield name, getattr(skimage.data, name)()
    yield "hubble", skimage.data.hubble_deep_field()
    left, right, _ = skimage.data.stereo_motorcycle()
    yield "motorcycle_left", left
    yield "motorcycle_right", right
    yield "china", load_sample_image("china.jpg")
    yield "flower", load_sample_image("flower.jpg")


def write_photographs(folder: Path) -> None:
    """Write the photographs as files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in photographs():
        Image.fromarray(pixels).save(folder / f"{name}.png")


def read_embeddings(file: Path) -> tuple[list[str], np.ndarray]:
    """Read the paths and the embeddings (N, dim) of the images without an error."""
    rows = [row for row in pq.read_table(file).to_pylist() if row["error"] is None]
    return [row["path"] for row in rows], np.array([row["embedding"] for row in rows], np.float32)


def top_classes(encoder: Encoder, logits: Tensor, k: int = 3) -> list[list[str]]:
    """Return the ``k`` most likely classes of each row of logits, with their probabilities."""
    labels = encoder.labels or ()
    best = logits.softmax(dim=1).topk(k)
    return [
        [f"{labels[c]} {p:.0%}" for p, c in zip(*row, strict=True)]
        for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def nearest(names: Sequence[str], embeddings: np.ndarray) -> list[str]:
    """Return each row's nearest other row, with the cosine between them."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    best = cosines.argmax(axis=1)
    return [f"{names[j]} {cosines[i, j]:.2f}" for i, j in enumerate(best)]


def untouched_network(encoder: Encoder) -> nn.Module:
    """Build the network again, with the same weights and with its head."""
    from headstrip_efficientnet_lite.plugin import adapt_state_dict, build_model

    model = build_model(encoder.spec, {}).eval()
    file = read_weights(locate(encoder.weights, BACKBONE), encoder.weights.sha256)
    model.load_state_dict(adapt_state_dict(file.content, model, encoder.weights))
    return model


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align rows of cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def run(out: Path, folder: Path) -> bool:
    """Run the demo and print the results.

    Args:
        out: The Parquet file to write.
        folder: Folder for the photographs.

    Returns:
        Whether every image was embedded and the logits are equal.
    """
    started = time.perf_counter()
    write_photographs(folder)
    encoder = build_encoder(BACKBONE)
    report = embed_source(encoder, folder, out, options=EmbedOptions(overwrite=True))
    paths, embeddings = read_embeddings(report.out)
    batch = torch.stack([encoder.preprocess(folder / path) for path in paths])
    with torch.inference_mode():
        logits = encoder.head(encoder(batch))
        lossless = torch.equal(logits, untouched_network(encoder)(batch))
    names = [Path(path).stem for path in paths]
    print(f"{len(names)} photographs from scikit-image and scikit-learn, in {folder}")
    print(f"{BACKBONE}.{encoder.weights.tag}, {encoder.output_dim} wide\n")
    heading = ["photograph", "first class", "second", "third", "nearest, cosine"]
    found = zip(names, top_classes(encoder, logits), nearest(names, embeddings), strict=True)
    print(*aligned([heading, *([name, *top, near] for name, top, near in found)]), sep="\n")
    print(
        f"\nencoder.head(encoder(x)) {'equals' if lossless else 'DIFFERS FROM'} the untouched "
        f"network's logits, bit for bit, for {len(names)} of {report.rows} photographs."
    )
    print(f"Wrote {report.out}: {report.rows} rows x {encoder.output_dim}.")
    print(f"It took {time.perf_counter() - started:.1f} s.")
    for path, reason in report.failed.items():
        print(f"{path} was not embedded: {reason}", file=sys.stderr)
    return lossless and not report.failed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo from the command line, and return the exit code."""
    parser = argparse.ArgumentParser(description="Embed and classify real photographs.")
    parser.add_argument("--out", type=Path, default=FOLDER / "demo.parquet", metavar="FILE")
    parser.add_argument("--photographs", type=Path, default=FOLDER / "photographs", metavar="DIR")
    arguments = parser.parse_args(argv)
    try:
        return 0 if run(arguments.out, arguments.photographs) else 1
    except ImportError as error:
        print(f"{error}. Run `pip install 'headstrip[demo]'`.", file=sys.stderr)
    except (HeadstripError, OSError) as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
