"""Labelled pictures: stamps of Tux Paint, and attributes that are derived from their pixels."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(os.environ.get("HEADSTRIP_STAMPS", "/usr/share/tuxpaint/stamps"))
"""Where Debian's package tuxpaint-stamps-default puts the pictures."""

CLASSES = {
    "birds": "animals/birds",
    "mammals": "animals/mammals",
    "fish": "animals/fish",
    "insects": "animals/insects",
    "fruit": "food/fruit",
    "vegetables": "food/vegetables",
    "flowers": "plants/flowers",
    "household": "household",
    "clothes": "clothes",
    "vehicles": "vehicles",
    "instruments": "hobbies/music",
}
_HUES = {"red": (345, 20), "yellow": (35, 70), "green": (75, 160), "blue": (180, 260)}
_SHARE = 0.15
FOLDS = 5

Row = tuple[str, str, str, str]


def copy_stamps(folder: Path) -> list[Row]:
    """Copy the photographs of each class, and return path, class, covered share and colours."""
    rows = []
    for kind, inside in CLASSES.items():
        (folder / kind).mkdir(parents=True)
        files = sorted((FOLDER / inside).rglob("*.png"))
        for number, file in enumerate(one for one in files if "cartoon" not in one.parts):
            name = f"{kind}/{number:02d}.png"
            (folder / name).write_bytes(file.read_bytes())
            rows.append((name, kind, *_attributes(file)))
    return rows


def _attributes(file: Path) -> tuple[str, str]:
    """Return the share of the picture that is covered, and the colours of large parts of it."""
    with Image.open(file) as image:
        picture = image.convert("RGBA")
    covered = np.asarray(picture)[..., 3] > 127
    hue, saturation, value = np.moveaxis(
        np.asarray(picture.convert("RGB").convert("HSV"), float), 2, 0
    )
    degrees = hue * 360 / 255
    is_coloured = covered & (saturation > 90) & (value > 60)
    colours = []
    for name, (low, high) in _HUES.items():
        above, below = degrees >= low, degrees <= high
        within = above | below if low > high else above & below
        if (is_coloured & within).sum() > _SHARE * max(1, covered.sum()):
            colours.append(name)
    return f"{covered.mean():.4f}", "|".join(colours) or "|"


def folds_of(rows: list[Row], seed: int) -> list[int]:
    """Divide the pictures of each class into folds."""
    generator, members = np.random.default_rng(seed), defaultdict(list)
    for row, (_, kind, *_others) in enumerate(rows):
        members[kind].append(row)
    folds = [0] * len(rows)
    for chosen in members.values():
        for place, row in enumerate(generator.permutation(chosen).tolist()):
            folds[row] = place % FOLDS
    return folds
