"""The transform for training: a random crop, a flip and other changes, then the normalisation.

Random numbers come from torch's global generator, which a DataLoader seeds in each worker.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from headstrip.errors import OptionError, PreprocessingError
from headstrip.images.bands import PICTURES, Bands
from headstrip.images.inputs import to_picture
from headstrip.images.preprocessing import Preprocessing
from headstrip.images.transforms import FOR_TENSORS


class Augmented(nn.Module):
    """Map an image to a random variant of it, which is the input of a network.

    See ``Preprocessing.augmented``, which makes this module.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        scale: tuple[float, float],
        ratio: tuple[float, float],
        flip: float,
        trivial_augment: bool,
    ) -> None:
        """Check the values and make the steps.

        Raises:
            PreprocessingError: The preprocessing is for clips, or its images have channels that
                TrivialAugment does not take.
            OptionError: A value is not possible.
        """
        super().__init__()
        if preprocessing.frames is not None:
            raise PreprocessingError(
                f"The preprocessing is for clips of {preprocessing.frames} frames, and only images "
                "can be augmented. Write the transform for your clips with torchvision."
            )
        _check_range("scale", scale, 1.0, "(0.08, 1.0)")
        _check_range("ratio", ratio, math.inf, "(0.75, 1.33)")
        if not _is_number(flip) or not 0 <= flip <= 1:
            raise OptionError(f"flip must be a probability, such as 0.5, got {flip!r:.60}.")
        if trivial_augment not in (True, False):
            raise OptionError(
                f"trivial_augment must be True or False, got {trivial_augment!r:.60}."
            )
        if trivial_augment and preprocessing.channels not in PICTURES:
            raise PreprocessingError(
                "TrivialAugment changes colours, so it takes images of 1 or 3 channels, and the "
                f"encoder takes {preprocessing.channels}. Leave out trivial_augment=True."
            )
        self.preprocessing = preprocessing
        mode = InterpolationMode(preprocessing.interpolation)
        fill = None if preprocessing.fill is None else list(preprocessing.fill)
        steps: list[nn.Module] = [
            v2.RandomResizedCrop(
                list(preprocessing.crop),
                scale=tuple(scale),
                ratio=tuple(ratio),
                interpolation=mode,
                antialias=preprocessing.antialias,
            ),
            v2.RandomHorizontalFlip(flip),
        ]
        if trivial_augment:
            steps.append(v2.TrivialAugmentWide(fill=fill))
        self.steps = v2.Compose(steps)
        self.normalising = preprocessing.normalising()

    def forward(self, image: Any) -> Tensor:
        """Map an image to float32 (C, H, W), the input of the network.

        Args:
            image: Any image that ``encoder.preprocess`` takes.

        Raises:
            PreprocessingError: As for ``encoder.preprocess``; or only Pillow has the filter, and
                the image is a tensor, or has channels that Pillow does not have.
            ImageError: The file cannot be read.
        """
        picture = to_picture(image, self.preprocessing)
        if isinstance(picture, Bands):
            picture = torch.from_numpy(np.stack([np.asarray(plane) for plane in picture.planes]))
        filter_name = self.preprocessing.interpolation
        if isinstance(picture, Tensor) and filter_name not in FOR_TENSORS:
            raise PreprocessingError(
                f"Only PIL images can be resized with interpolation={filter_name!r}, and this "
                "image is a tensor, or has channels that PIL images do not have. Pass a "
                "preprocessing with another interpolation to build_encoder, such as 'bilinear'."
            )
        changed = self.steps(picture)
        if not isinstance(changed, Tensor):
            changed = v2.functional.pil_to_tensor(changed)
        ready: Tensor = self.normalising(changed)
        return ready


def _check_range(name: str, value: object, most: float, example: str) -> None:
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_number, value))
    if not is_pair or not 0 < value[0] <= value[1] <= most or value[1] == math.inf:  # type: ignore[index]
        bound = "above 0" if most == math.inf else f"above 0 and at most {most:g}"
        raise OptionError(
            f"{name} must be two numbers {bound}, the smaller one first, such as {example}, got "
            f"{value!r:.60}."
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
