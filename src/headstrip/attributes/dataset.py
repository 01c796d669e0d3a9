"""Images with labels as a dataset of torch, for training an encoder and its predictors."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from headstrip.attributes.joining import Images, join
from headstrip.attributes.labels import Cell, LabelTable, read_labels
from headstrip.attributes.targets import check_kinds, encoded, target_of
from headstrip.embed.engines.make import check_takes_images
from headstrip.embed.listing import list_items
from headstrip.embed.sources import Item, Source, StreamSource, source_of
from headstrip.encoder.attribute import Attribute
from headstrip.errors import HeadstripError, ImageError, OptionError, PreprocessingError
from headstrip.images.bands import Bands
from headstrip.images.decode import bytes_of
from headstrip.images.inputs import is_file, read_picture, to_input, to_picture

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

_log = logging.getLogger("headstrip.attributes")

Transform = Callable[[Any], Tensor]


class LabelledImages(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """The images of a source that have a row in a table of labels, sorted by path.

    Each item is an input of the encoder, float32 (C, H, W), and the labels by attribute, in the
    form that ``encoder.predictors.loss`` takes: for a ``class`` an int64 index, -1 where missing;
    for ``labels`` zeros and ones (labels,), for a ``number`` a float, NaN where missing. A
    DataLoader stacks them. headstrip decodes an image when its item is read, in the same way as
    ``headstrip embed`` with the decode mode ``exact``.

    A bad image raises ``ImageError`` with its path. ``bad_images`` finds all of them beforehand.

    The dataset does not contain the encoder, so the workers of a DataLoader can unpickle it.

    Attributes:
        attributes: The attributes of the encoder's predictors. If the encoder has no predictors,
            the attributes of the table; pass them to ``build_encoder(..., predictors=...)``.
        paths: The path of each image.
        targets: All labels by attribute, stacked as a DataLoader stacks them.
        join: The numbers of images and rows that were joined, and of those that were not.
        skipped: Columns of the table that cannot be attributes, and why.
        transform: The function that turns a picture into an input; None for the encoder's
            preprocessing.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from headstrip import Preprocessing, build_encoder
        >>> steps = Preprocessing(crop=(64, 64), resize=64, mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> colours = {"colour": ["red", "blue"]}
        >>> encoder = build_encoder(
        ...     "squeezenet1_1", weights=None, preprocessing=steps, predictors=colours
        ... )
        >>> Image.new("RGB", (80, 70), "red").save("a.png")
        >>> Image.new("RGB", (80, 70), "blue").save("b.png")
        >>> table = {"path": ["a.png", "b.png"], "colour": ["red", None]}
        >>> data = LabelledImages(".", table, encoder)
        >>> x, labels = data[0]
        >>> x.shape, labels
        (torch.Size([3, 64, 64]), {'colour': tensor(0)})
        >>> data.targets
        {'colour': tensor([ 0, -1])}
    """

    def __init__(
        self,
        source: Source | str | os.PathLike[str] | Iterable[Any],
        labels: Any,
        encoder: Encoder,
        *,
        transform: Transform | None = None,
        attributes: Sequence[str] | None = None,
        kinds: Mapping[str, str] | None = None,
        path_column: str | None = None,
        path_prefix: str = "",
        keep_nan_strings: bool = False,
    ) -> None:
        """List the images, read the labels, and join them by path. No image is decoded.

        Args:
            source: The images: anything that ``embed_source`` takes.
            labels: A table with one row per image, as for ``fit_predictors``.
            encoder: The encoder that the images are for.
            transform: Maps a picture to float32 (C, H, W), such as
                ``encoder.preprocessing.augmented()``. It gets a PIL image of mode RGB, or of mode L
                if the encoder takes 1 channel, or uint8 (C, H, W) if it takes other channels. None
                applies the steps of ``encoder.preprocess``.
            attributes: For an encoder without predictors: columns to use, by default all.
            kinds: For an encoder without predictors: the kinds of attributes, as for
                ``fit_predictors``.
            path_column: As for ``fit_predictors``.
            path_prefix: As for ``fit_predictors``.
            keep_nan_strings: As for ``fit_predictors``.

        Raises:
            HeadstripError: The source or the table cannot be read, less than half of the paths
                join, a column is missing, or a label is not one of the classes.
            OptionError: An option has an invalid value, or does not apply to an encoder with
                predictors.
            PreprocessingError: The encoder takes clips, or has no preprocessing.
        """
        check_takes_images(encoder)
        assert encoder.preprocessing is not None
        self.transform, self._preprocessing = transform, encoder.preprocessing
        table = read_labels(
            labels,
            path_column=path_column,
            path_prefix=path_prefix,
            keep_nan_strings=keep_nan_strings,
        )
        given = source if isinstance(source, Source) else source_of(source)
        self._reader = given.reader()
        described = given.describe()
        self._content: list[Any] | None = None
        if isinstance(given, StreamSource):
            pairs = list(given.pairs())
            items = [item for item, _ in pairs]
        else:
            listing = list_items(described, given.items())
            items = listing.slice(0, len(listing))
        count = len(items)
        images = Images(
            repr(described.get("where", described)),
            [item.path for item in items],
            np.empty((count, 0), np.float32),
            np.ones(count, bool),
            [None] * count,
            {},
        )
        joined = join(images, table)
        self.paths, self.join = joined.paths, joined.report
        rows = {item.path: row for row, item in enumerate(items)}
        chosen = [rows[path] for path in self.paths]
        self._items: list[Item] = [items[row] for row in chosen]
        if isinstance(given, StreamSource):
            self._content = [self._held(pairs[row][1]) for row in chosen]
        if encoder.predictors is not None:
            if attributes is not None or kinds is not None:
                raise OptionError(
                    "The predictors of the encoder say which attributes there are. Leave out "
                    "attributes= and kinds=, or pass an encoder without predictors."
                )
            self.attributes: tuple[Attribute, ...] = encoder.predictors.attributes
            self.skipped: dict[str, str] = {}
            named = [one.name for one in self.attributes]
            _check_columns(named, table)
        else:
            self.attributes, self.skipped = _inferred(joined.columns, attributes, kinds, table)
        self.targets = {
            one.name: torch.from_numpy(encoded(one, joined.columns[one.name], self.paths))
            for one in self.attributes
        }

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return an input and its labels.

        Raises:
            ImageError: The image cannot be used; the message names it.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range: there are {len(self)} images.")
        try:
            x = self._input(index)
        except (ImageError, PreprocessingError) as error:
            raise ImageError(
                f"The image {self.paths[index]!r:.200} cannot be used: {error} Leave it out; "
                "bad_images() finds all such images."
            ) from error
        return x, {name: values[index] for name, values in self.targets.items()}

    def bad_images(self) -> dict[str, str]:
        """Decode every image once, and return the paths of unusable images with the reasons.

        To train without them, take a part of the dataset::

            bad = data.bad_images()
            good = [row for row, path in enumerate(data.paths) if path not in bad]
            data = torch.utils.data.Subset(data, good)
        """
        bad = {}
        for row, path in enumerate(self.paths):
            try:
                self._picture(row)
            except (ImageError, PreprocessingError) as error:
                bad[path] = str(error)
        return bad

    def _input(self, row: int) -> Tensor:
        picture = self._picture(row)
        if self.transform is None:
            return to_input(picture, self._preprocessing)
        if isinstance(picture, Bands):
            picture = torch.from_numpy(np.stack([np.asarray(one) for one in picture.planes]))
        return self.transform(picture)

    def _picture(self, row: int) -> Image.Image | Bands | Tensor:
        content = None if self._content is None else self._content[row]
        if content is None:
            content = self._reader.read(self._items[row])
        if isinstance(content, bytes):
            return read_picture(content, self._preprocessing)
        return to_picture(content, self._preprocessing)

    def _held(self, content: Any) -> Any:
        """Return the form in which the dataset keeps an image; open files cannot be pickled."""
        if content is None or isinstance(content, (bytes, np.ndarray)):
            return content
        if is_file(content):
            return bytes_of(content)
        picture = to_picture(content, self._preprocessing)
        return picture.copy() if isinstance(picture, Image.Image) else picture


def _check_columns(names: Sequence[str], table: LabelTable) -> None:
    table.check_columns(names)
    for name in names:
        if (why := table.why_unusable(name)) is not None:
            raise HeadstripError(
                f"The column {name!r:.60} cannot be an attribute: {why}. Write it as one of these."
            )


def _inferred(
    columns: Mapping[str, list[Cell]],
    names: Sequence[str] | None,
    kinds: Mapping[str, str] | None,
    table: LabelTable,
) -> tuple[tuple[Attribute, ...], dict[str, str]]:
    """Return the attributes of a table, and why other columns cannot be attributes."""
    names = [names] if isinstance(names, str) else list(columns) if names is None else list(names)
    _check_columns(names, table)
    checked = {**table.kinds, **check_kinds(kinds or {}, names)}
    found: list[Attribute] = []
    skipped: dict[str, str] = {}
    for name in dict.fromkeys(names):
        target = target_of(name, columns[name], checked.get(name))
        if isinstance(target, str):
            skipped[name] = target
            _log.info("the column %r cannot be an attribute: %s", name, target)
        else:
            found.append(target.attribute)
    if not found:
        why = "; ".join(f"{name!r:.60}: {reason}" for name, reason in skipped.items())
        raise HeadstripError(
            f"The table has no labels to train with: {why or 'it has paths only'}. Correct the "
            "labels, or pass another table."
        )
    return tuple(found), skipped
