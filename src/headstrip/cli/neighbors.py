"""``headstrip neighbors``: the images that are nearest to others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from headstrip.cli.backbone import open_registry
from headstrip.cli.failures import PARTLY, UsageFailure
from headstrip.cli.output import json_option, plugins_on_stderr, print_json, print_line, warn
from headstrip.cli.pixels import pixel_options, steps_of, warn_of_pages_in, with_pixels
from headstrip.errors import HeadstripError, ImageError, PreprocessingError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from headstrip.embed.output.loading import EmbeddingsFile
    from headstrip.encoder.encoder import Encoder
    from headstrip.search.neighbors import Neighbor

    Pictures = Callable[[Iterable[str]], dict[str, Image.Image | str]]


class Query(NamedTuple):
    """One image that was asked for.

    Attributes:
        image: Its file, as it was named.
        embedding: float32 array of shape (dim,), None where there is an error.
        picture: A small copy for the page, or why there is none.
        error: Why it was not embedded, else None.
    """

    image: str
    embedding: np.ndarray | None
    picture: Image.Image | str
    error: str | None


@click.command(name="neighbors")
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.option(
    "-q", "--query", "images", required=True, multiple=True, metavar="IMAGE",
    help="Image whose neighbours are wanted. May be given more than once.",
)  # fmt: skip
@click.option(
    "-k", "count", type=click.IntRange(min=1), default=5, show_default=True,
    help="Neighbours to find for each.",
)  # fmt: skip
@click.option(
    "--index", type=click.Choice(["exact", "faiss", "usearch"]), default="exact",
    show_default=True, help="Compare all rows, or those that a library proposes.",
)  # fmt: skip
@click.option(
    "--weights", metavar="PATH",
    help="Weights file of the encoder, where it was one of your own.",
)  # fmt: skip
@click.option(
    "--html", "page", metavar="PAGE", type=click.Path(path_type=Path),
    help="HTML file to write, with the pictures in it.",
)  # fmt: skip
@click.option(
    "--root", metavar="SOURCE", default=".",
    help="Folder, or other source, that was embedded, for the pictures.  [default: where you are]",
)  # fmt: skip
@pixel_options
@json_option
@click.pass_context
def command(
    context: click.Context, embeddings: Path, images: tuple[str, ...], count: int, index: Any,
    weights: str | None, page: Path | None, root: str, as_json: bool, background: Any,
    value_range: Any,
) -> None:  # fmt: skip
    """Find the images of a file of embeddings that are nearest to others.

    EMBEDDINGS is what `headstrip embed` wrote; the encoder is built from what it says of itself.
    There is a line a neighbour: the cosine of the angle between the two embeddings, and the path.
    A bad image is told, the others are searched for, and the exit code is 1 then.
    """
    from headstrip.embed.output.paths import rows_file

    files = [embeddings, *([Path(weights)] if weights else [])]
    _check_paths(files, page)
    _check_page(page, [*files, rows_file(embeddings), *map(Path, images)])

    from headstrip.embed.output.loading import open_embeddings
    from headstrip.search.neighbors import library_of, nearest

    file = open_embeddings(embeddings)
    library_of(index)
    pictures = None if page is None else _pictures(root)
    encoder = with_pixels(_encoder(context, file, weights), background, value_range)
    queries = _queries(encoder, images)
    for query in queries:
        if query.error is not None:
            warn(f"Error: {query.image}: {query.error}")
    warn_of_pages_in(images)
    good = [query.embedding for query in queries if query.embedding is not None]
    found = nearest(file, good, count, index=index) if good else []
    if good and not any(found):
        raise HeadstripError(
            f"{str(embeddings)!r} has no embedding, only images that are bad. Its column 'error' "
            "says why."
        )
    results = _results(queries, found)
    missing = 0
    if page is not None and pictures is not None:
        missing = _write_page(page, embeddings, pictures, results)
    if as_json:
        print_json([_as_json(query, neighbors) for query, neighbors in results])
    else:
        _print(results)
    if missing or len(good) < len(queries):
        context.exit(PARTLY)


def _check_paths(files: list[Path], page: Path | None) -> None:
    """Refuse paths that cannot work before anything heavy is imported."""
    from headstrip.embed.files import check_out

    for file in files:
        if not file.is_file():
            raise UsageFailure(f"There is no file {str(file)!r}. Check the path.")
    try:
        if page is not None:
            check_out(page)
    except HeadstripError as error:
        raise UsageFailure(str(error)) from error


def _check_page(page: Path | None, files: list[Path]) -> None:
    """Refuse to write the page over what is read, or under the name of an image or a table."""
    from headstrip.embed.files import SUFFIXES

    if page is None:
        return
    for file in files:
        if page.exists() and file.exists() and page.samefile(file):
            raise UsageFailure(f"--html {str(page)!r} is a file that is read. Name another page.")
    if page.suffix.lower() in {*SUFFIXES, ".parquet", ".npy", ".tar"}:
        raise UsageFailure(
            f"--html {str(page)!r} is the name of another kind of file. Name a page that ends in "
            ".html."
        )


def _pictures(root: str) -> Pictures:
    """Return what reads pictures by their paths.

    Raises:
        HeadstripError: There is no such source.
    """
    from headstrip.embed.sources import source_of
    from headstrip.search.thumbnails import pictures_of

    return partial(pictures_of, source_of(root), root)


def _encoder(context: click.Context, file: EmbeddingsFile, weights: str | None) -> Encoder:
    from headstrip.embed.rebuild_encoder import build_encoder_of, check_width

    open_registry(context)
    with plugins_on_stderr():
        encoder = build_encoder_of(file, weights=weights)
    check_width(file, encoder)
    return encoder


def _queries(encoder: Encoder, images: tuple[str, ...]) -> list[Query]:
    import numpy as np

    from headstrip.images.inputs import read_picture
    from headstrip.search.thumbnails import thumbnail

    queries = []
    for image in images:
        try:
            picture = read_picture(image, steps_of(encoder))
            (embedding,) = encoder.embed([picture], batch_size=1)
            if not np.isfinite(embedding).all() or not embedding.any():
                raise ImageError("its embedding is zero or not finite.")
            queries.append(Query(image, embedding, thumbnail(picture), None))
        except (ImageError, PreprocessingError) as error:
            queries.append(Query(image, None, str(error), str(error)))
    return queries


def _results(
    queries: list[Query], found: list[list[Neighbor]]
) -> list[tuple[Query, list[Neighbor]]]:
    """Put each query and its neighbours together; a bad one has none."""
    neighbors = iter(found)
    return [(query, [] if query.embedding is None else next(neighbors)) for query in queries]


def _print(results: list[tuple[Query, list[Neighbor]]]) -> None:
    for query, neighbors in results:
        if query.error is None:
            print_line(query.image)
        for neighbor in neighbors:
            print_line(f"  {neighbor.similarity:.4f}  {neighbor.path}")


def _write_page(
    page: Path, embeddings: Path, read: Pictures, results: list[tuple[Query, list[Neighbor]]]
) -> int:
    """Write the page, and return how many pictures are missing in it; each is told."""
    from headstrip.search.gallery import Picture, write_gallery

    pictures = read([one.path for _, neighbors in results for one in neighbors])
    missing = {path: why for path, why in pictures.items() if isinstance(why, str)}
    for path, why in missing.items():
        warn(f"No picture of {path}: {why}")
    rows = [
        [
            Picture(query.image, "asked for", query.picture),
            *(Picture(one.path, f"{one.similarity:.4f}", pictures[one.path]) for one in neighbors),
        ]
        for query, neighbors in results
    ]
    write_gallery(page, str(embeddings), rows)
    if missing:
        warn(f"{page} lacks {len(missing)} pictures. Name with --root what was embedded.")
    return len(missing)


def _as_json(query: Query, neighbors: list[Neighbor]) -> dict[str, Any]:
    return {
        "query": query.image,
        "error": query.error,
        "neighbors": None if query.error else [
            {"path": one.path, "similarity": one.similarity, "row": one.row} for one in neighbors
        ],
    }  # fmt: skip
