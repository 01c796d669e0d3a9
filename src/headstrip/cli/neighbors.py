"""``headstrip neighbors``: find the most similar images in an embeddings file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from headstrip.cli.backbone import open_registry, weights_key_option
from headstrip.cli.failures import PARTLY, UsageFailure
from headstrip.cli.help_sections import SectionedCommand
from headstrip.cli.output import json_option, plugins_on_stderr, print_json, print_line, warn
from headstrip.cli.page import check_page, pictures_in, root_option, warn_of_missing
from headstrip.cli.pixels import pixel_options, steps_of, warn_of_pages_in, with_pixels
from headstrip.errors import HeadstripError, ImageError, PreprocessingError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from headstrip.cli.page import ReadPictures
    from headstrip.embed.output.loading import EmbeddingsFile
    from headstrip.encoder.encoder import Encoder
    from headstrip.search.neighbors import Neighbor


class Query(NamedTuple):
    """One query image.

    Attributes:
        image: Path of the file, as the user wrote it.
        embedding: float32 array of shape (dim,), None if there is an error.
        picture: Thumbnail for the page, or why it is missing.
        error: Why the image could not be embedded, else None.
    """

    image: str
    embedding: np.ndarray | None
    picture: Image.Image | str
    error: str | None


_SECTIONS = {
    "Searching": ("images", "count", "index", "weights", "weights_key"),
    "Reading query images": ("background", "value_range"),
    "Output": ("page", "root", "as_json"),
}
_EXAMPLES = """\b
Examples:
  headstrip neighbors photos.parquet -q cat.jpg
  headstrip neighbors photos.parquet -q cat.jpg --html page.html --root photos
"""


@click.command(name="neighbors", cls=SectionedCommand, sections=_SECTIONS, epilog=_EXAMPLES)
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.option(
    "-q",
    "--query",
    "images",
    required=True,
    multiple=True,
    metavar="IMAGE",
    help="Find the neighbours of this image file, such as cat.jpg. Repeat the option for several "
    "images.",
)
@click.option(
    "-k",
    "count",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Find N neighbours for each query image.",
)
@click.option(
    "--index",
    type=click.Choice(["exact", "faiss", "usearch"]),
    default="exact",
    show_default=True,
    help="Choose how to search. exact compares the query with every row; faiss and usearch hold "
    "all embeddings in memory and search faster (install headstrip[faiss] or headstrip[usearch]).",
)
@click.option(
    "--weights",
    metavar="PATH",
    help="Load the encoder's weights from this file, or the encoder from this folder that "
    "encoder.save wrote, if EMBEDDINGS was computed with your own weights.  [default: the weights "
    "that EMBEDDINGS names]",
)
@weights_key_option
@click.option(
    "--html",
    "page",
    metavar="PAGE",
    type=click.Path(path_type=Path),
    help="Write an HTML page that shows the query images and their neighbours, such as page.html.",
)
@root_option("--html")
@pixel_options
@json_option
@click.pass_context
def command(
    context: click.Context,
    embeddings: Path,
    images: tuple[str, ...],
    count: int,
    index: Any,
    weights: str | None,
    weights_key: str | None,
    page: Path | None,
    root: str,
    as_json: bool,
    background: Any,
    value_range: Any,
) -> None:
    """Find the images in an embeddings file that are most similar to query images.

    EMBEDDINGS is a file that `headstrip embed` wrote. headstrip builds the encoder that the file
    names, embeds each query image with it, and compares the embeddings.

    The command prints one line per neighbour: the cosine similarity (1 is the same direction), and
    the path. If a query image cannot be read, it prints the reason, continues with the others, and
    exits with code 1.
    """
    from headstrip.embed.output.paths import rows_file

    own = [Path(weights)] if weights and not Path(weights).is_dir() else []
    files = [embeddings, *own]
    _check_files(files)
    check_page("--html", page, [*files, rows_file(embeddings), *map(Path, images)])

    from headstrip.embed.output.loading import open_embeddings
    from headstrip.search.neighbors import library_of, nearest

    file = open_embeddings(embeddings)
    library_of(index)
    pictures = None if page is None else pictures_in(root)
    encoder = with_pixels(_encoder(context, file, weights, weights_key), background, value_range)
    queries = _queries(encoder, images)
    for query in queries:
        if query.error is not None:
            warn(f"Error: {query.image}: {query.error}")
    warn_of_pages_in(images)
    embedded = [query.embedding for query in queries if query.embedding is not None]
    found = nearest(file, embedded, count, index=index) if embedded else []
    if embedded and not any(found):
        raise HeadstripError(
            f"{str(embeddings)!r} contains no embeddings: none of its images could be embedded. "
            "Read the reasons in its column 'error'."
        )
    results = _results(queries, found)
    missing = 0
    if page is not None and pictures is not None:
        missing = _write_page(page, embeddings, pictures, results)
    if as_json:
        print_json([_as_json(query, neighbors) for query, neighbors in results])
    else:
        _print(results)
    if missing or len(embedded) < len(queries):
        context.exit(PARTLY)


def _check_files(files: list[Path]) -> None:
    for file in files:
        if not file.is_file():
            raise UsageFailure(f"There is no file {str(file)!r}. Check the path.")


def _encoder(
    context: click.Context, file: EmbeddingsFile, weights: str | None, weights_key: str | None
) -> Encoder:
    from headstrip.embed.rebuild_encoder import build_encoder_of, check_width

    open_registry(context)
    with plugins_on_stderr():
        encoder = build_encoder_of(file, weights=weights, weights_key=weights_key)
    check_width(file, encoder)
    return encoder


def _queries(encoder: Encoder, images: tuple[str, ...]) -> list[Query]:
    import numpy as np

    from headstrip.html.thumbnails import thumbnail
    from headstrip.images.inputs import read_picture

    queries = []
    for image in images:
        try:
            picture = read_picture(image, steps_of(encoder))
            (embedding,) = encoder.embed([picture], batch_size=1)
            if not np.isfinite(embedding).all() or not embedding.any():
                raise ImageError("its embedding is zero or not finite. Use another image.")
            queries.append(Query(image, embedding, thumbnail(picture), None))
        except (ImageError, PreprocessingError) as error:
            queries.append(Query(image, None, str(error), str(error)))
    return queries


def _results(
    queries: list[Query], found: list[list[Neighbor]]
) -> list[tuple[Query, list[Neighbor]]]:
    """Pair each query with its neighbours. A query that could not be embedded has none."""
    neighbors = iter(found)
    return [(query, [] if query.embedding is None else next(neighbors)) for query in queries]


def _print(results: list[tuple[Query, list[Neighbor]]]) -> None:
    for query, neighbors in results:
        if query.error is None:
            print_line(query.image)
        for neighbor in neighbors:
            print_line(f"  {neighbor.similarity:.4f}  {neighbor.path}")


def _write_page(
    page: Path, embeddings: Path, read: ReadPictures, results: list[tuple[Query, list[Neighbor]]]
) -> int:
    """Write the page. Warn of each missing picture, and return their number."""
    from headstrip.html.pictures import Picture
    from headstrip.search.gallery import write_gallery

    pictures = read([one.path for _, neighbors in results for one in neighbors])
    rows = [
        [
            Picture(query.image, "query", query.picture),
            *(Picture(one.path, f"{one.similarity:.4f}", pictures[one.path]) for one in neighbors),
        ]
        for query, neighbors in results
    ]
    write_gallery(page, str(embeddings), rows)
    return warn_of_missing(page, pictures)


def _as_json(query: Query, neighbors: list[Neighbor]) -> dict[str, Any]:
    return {
        "query": query.image,
        "error": query.error,
        "neighbors": None
        if query.error
        else [
            {"path": one.path, "similarity": one.similarity, "row": one.row} for one in neighbors
        ],
    }
