"""``headstrip classify``: print the most likely classes of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from headstrip.cli.backbone import backbone_option, build_image_encoder
from headstrip.cli.failures import PARTLY
from headstrip.cli.output import json_option, print_json, print_line, warn
from headstrip.cli.pixels import pixel_options, steps_of, warn_of_pages_in, with_pixels
from headstrip.errors import ImageError, PreprocessingError

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder


@dataclass(frozen=True, slots=True)
class Guess:
    """One class of an image.

    Attributes:
        index: Index of the class in the logits.
        label: Its name, None if the weights have no labels.
        probability: Its softmax over all classes.
    """

    index: int
    label: str | None
    probability: float


_EXAMPLES = """\b
Example:
  headstrip classify cat.jpg dog.jpg -b resnet50 -k 3
"""


@click.command(name="classify", epilog=_EXAMPLES)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@backbone_option
@click.option(
    "-k",
    "count",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Print the N most likely classes of each image.",
)
@click.option(
    "--labels",
    metavar="FILE",
    help="Read the names of the classes from this file: one per line, such as classes.txt, or "
    "JSON.  [default: the labels of the weights]",
)
@pixel_options
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    images: tuple[str, ...],
    name: str,
    weights: str,
    weights_key: str | None,
    allow_versions: bool,
    count: int,
    labels: str | None,
    as_json: bool,
    background: Any,
    value_range: Any,
    **inputs: Any,
) -> None:
    """Print the most likely classes of images.

    Each IMAGE is a file. headstrip prints the labels of the weights, or the class number if the
    weights have no labels. If an image cannot be read, headstrip prints the reason, classifies
    the others, and exits with code 1.
    """
    encoder = build_image_encoder(
        context, name, weights, weights_key, allow_versions, labels=labels, **inputs
    )
    with_pixels(encoder, background, value_range)
    results: list[dict[str, Any]] = []
    for image in images:
        try:
            guesses = _classify(encoder, image, count)
        except (ImageError, PreprocessingError) as error:
            warn(f"Error: {image}: {error}")
            results.append({"image": image, "classes": None, "error": str(error)})
            continue
        results.append({"image": image, "classes": [_as_json(g) for g in guesses], "error": None})
        if not as_json:
            _print_guesses(image, guesses)
    warn_of_pages_in(images)
    if as_json:
        print_json(results)
    if any(result["error"] for result in results):
        context.exit(PARTLY)


def _classify(encoder: Encoder, image: str, count: int) -> list[Guess]:
    """Return the most likely classes of one image, the most likely first.

    Raises:
        HeadNotFoundError: The encoder has no head.
        ImageError: The file cannot be read, or its logits are not finite.
    """
    from headstrip.images.inputs import read_picture

    ready = encoder.preprocess(read_picture(image, steps_of(encoder)))
    device, dtype = encoder.device, encoder.dtype
    with encoder.evaluating():
        logits = encoder.logits(ready[None].to(device, dtype))[0].float().cpu()
    if not logits.isfinite().all():
        raise ImageError("the network's output for this image is not finite. Use other weights.")
    best = logits.softmax(0).topk(min(count, len(logits)))
    labels = encoder.labels if encoder.labels and len(encoder.labels) == len(logits) else None
    return [
        Guess(index, labels[index] if labels else None, probability)
        for index, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _print_guesses(image: str, guesses: list[Guess]) -> None:
    print_line(image)
    for guess in guesses:
        label = guess.index if guess.label is None else guess.label
        print_line(f"  {guess.probability:.4f}  {label}")


def _as_json(guess: Guess) -> dict[str, Any]:
    return {"index": guess.index, "label": guess.label, "probability": guess.probability}
