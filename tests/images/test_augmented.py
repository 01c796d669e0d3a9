"""``Preprocessing.augmented``: random variants with the size, mean and deviation of the model."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from headstrip import ImageError, OptionError, Preprocessing, PreprocessingError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
RGB = Preprocessing(crop=(24, 32), resize=40, mean=MEAN, std=STD)
GREY = replace(RGB, mean=MEAN[:1], std=STD[:1])
FIVE = replace(RGB, mean=(0.1,) * 5, std=(0.2,) * 5, value_range="dtype")


def values(channels: int, dtype: Any = np.uint8) -> np.ndarray:
    most = 65536 if dtype == np.uint16 else 256
    found = np.random.default_rng(0).integers(0, most, (50, 60, channels)).astype(dtype)
    return found[..., 0] if channels == 1 else found


def pictures() -> dict[str, Any]:
    deep = Image.fromarray(values(1, np.uint16))
    return {
        "RGB": Image.fromarray(values(3)),
        "L": Image.fromarray(values(1)),
        "I;16": deep,
        "RGBA": Image.fromarray(values(4), "RGBA"),
        "P": Image.fromarray(values(3)).convert("P"),
        "CMYK": Image.fromarray(values(3)).convert("CMYK"),
        "array": values(3),
        "grey array": values(1),
        "deep array": values(3, np.uint16),
        "tensor": torch.from_numpy(values(3)).permute(2, 0, 1),
    }


@pytest.mark.parametrize("trivial", [False, True])
@pytest.mark.parametrize("name", pictures())
def test_augmentation_accepts_the_same_images_as_the_plain_preprocessing(
    name: str, trivial: bool
) -> None:
    transform = RGB.augmented(trivial_augment=trivial)
    found = transform(pictures()[name])
    assert found.shape == RGB.input_shape
    assert found.dtype == torch.float32


@pytest.mark.parametrize("trivial", [False, True])
@pytest.mark.parametrize("name", ["L", "I;16", "grey array"])
def test_augmentation_for_one_channel_accepts_grey_images(name: str, trivial: bool) -> None:
    torch.manual_seed(0)
    transform = GREY.augmented(trivial_augment=trivial)
    # TrivialAugment picks one of 14 operations.
    for _ in range(40 if trivial else 1):
        assert transform(pictures()[name]).shape == (1, 24, 32)


def test_augmentation_reads_paths_and_bytes(tmp_path: Path) -> None:
    Image.fromarray(values(3)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    torch.manual_seed(1)
    first = RGB.augmented()(tmp_path / "a.png")
    torch.manual_seed(1)
    assert torch.equal(RGB.augmented()(data), first)
    with pytest.raises(ImageError, match="cannot be read"):
        RGB.augmented()(data[: len(data) // 2])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_all_channels_of_an_array_get_the_same_augmentation(dtype: Any) -> None:
    array = np.repeat(values(1, dtype)[..., None], 5, axis=-1)
    found = FIVE.augmented(flip=1.0)(array)
    assert found.shape == (5, 24, 32)
    assert all(torch.equal(found[0], channel) for channel in found)
    with pytest.raises(PreprocessingError, match="The image has 4 channels, and the encoder takes"):
        FIVE.augmented()(values(4))


def test_a_crop_of_the_whole_image_without_a_flip_is_a_plain_resize() -> None:
    image = Image.fromarray(values(3)).resize((64, 48))
    steps = RGB.augmented(scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3), flip=0.0)
    plain = replace(RGB, resize=(24, 32)).transform()
    assert torch.equal(steps(image), plain(image))
    mirrored = RGB.augmented(scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3), flip=1.0)(image)
    assert torch.equal(mirrored.flip(-1), steps(image))


def test_a_seed_fixes_the_variant_and_the_next_one_differs() -> None:
    image, transform = Image.fromarray(values(3)), RGB.augmented(trivial_augment=True)
    torch.manual_seed(3)
    first, second = transform(image), transform(image)
    torch.manual_seed(3)
    assert torch.equal(transform(image), first)
    assert not torch.equal(first, second)


def test_augmentation_equals_torchvisions_steps() -> None:
    image = Image.fromarray(values(3))
    torch.manual_seed(5)
    found = RGB.augmented(scale=(0.2, 0.9))(image)
    theirs = v2.Compose(
        [
            v2.RandomResizedCrop((24, 32), scale=(0.2, 0.9)),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    torch.manual_seed(5)
    torch.testing.assert_close(found, theirs(image))


class Variants:
    """A dataset of one picture."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(values(3))


def test_dataloader_workers_draw_different_random_variants() -> None:
    data = Variants(pickle.loads(pickle.dumps(RGB.augmented(trivial_augment=True))))
    batches = DataLoader(
        data, batch_size=1, num_workers=2, generator=torch.Generator().manual_seed(0)
    )
    first, *others = list(batches)
    assert not any(torch.equal(first, one) for one in others)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"scale": (0.5, 1.5)},
            r"scale must be two numbers above 0 and at most 1, .* \(0.5, 1.5\)",
        ),
        ({"scale": (0, 1)}, "scale must be two numbers above 0"),
        ({"scale": 0.5}, "got 0.5"),
        ({"ratio": (2, 1)}, "ratio must be two numbers above 0, the smaller one first"),
        ({"ratio": (1, float("inf"))}, "ratio must be"),
        ({"flip": 2}, "flip must be a probability, such as 0.5, got 2"),
        ({"flip": True}, "flip must be a probability, such as 0.5, got True"),
        ({"trivial_augment": "yes"}, "trivial_augment must be True or False, got 'yes'"),
    ],
)
def test_invalid_values_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        RGB.augmented(**arguments)


def test_inputs_that_cannot_be_augmented_are_refused() -> None:
    clips = replace(RGB, frames=8)
    with pytest.raises(PreprocessingError, match="clips of 8 frames, and only images"):
        clips.augmented()
    with pytest.raises(
        PreprocessingError, match="images of 1 or 3 channels, and the encoder takes 5"
    ):
        FIVE.augmented(trivial_augment=True)
    with pytest.raises(PreprocessingError, match="interpolation='lanczos'"):
        replace(FIVE, interpolation="lanczos").augmented()(values(5))
    assert replace(RGB, interpolation="lanczos").augmented()(values(3)).shape == (3, 24, 32)
    with pytest.raises(PreprocessingError, match="An image cannot be an int"):
        RGB.augmented()(3)
