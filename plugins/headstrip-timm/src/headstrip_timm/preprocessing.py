"""The preprocessing that a resolved timm data config asks for, without timm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from headstrip import Preprocessing, PreprocessingError
from headstrip.plugin_api import Fit

_CROP_PCT = 0.875
"""What timm's transform takes where the config states none."""


def preprocessing_of(config: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing whose pixels are those of timm's evaluation transform.

    ``transforms_imagenet_eval`` in ``timm/data/transforms_factory.py`` is the source of every rule
    here. One number of mean or standard deviation stands for all channels, as it does in timm.

    Args:
        config: What ``timm.data.resolve_data_config`` gives: ``input_size`` (channels, height,
            width), ``interpolation``, ``mean``, ``std``, ``crop_pct`` and ``crop_mode``.

    Raises:
        PreprocessingError: A value is missing or of no use, the crop mode is unknown, or mean and
            standard deviation are of another number of channels than the input.
    """
    try:
        channels, height, width = (int(size) for size in config["input_size"])
        mean, std = (_per_channel(config[key], channels) for key in ("mean", "std"))
        percent = float(config.get("crop_pct") or _CROP_PCT)
        size = (math.floor(height / percent), math.floor(width / percent))
        fill = tuple(round(255 * value) for value in mean)
        interpolation = str(config["interpolation"])
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise PreprocessingError(
            f"{config!r} is no data config of timm ({type(error).__name__}: {error}). "
            "Pass what timm.data.resolve_data_config returns."
        ) from error
    if not len(mean) == len(std) == channels:
        raise PreprocessingError(
            f"mean={mean!r} and std={std!r} are not of the {channels} channels of the input. "
            "Pass one number for each channel, or one for all."
        )
    mode = config.get("crop_mode") or "center"
    resize, fit = _fitted(mode, size)
    return Preprocessing(
        crop=(height, width),
        resize=resize,
        mean=mean,
        std=std,
        interpolation=interpolation,
        fit=fit,
        fill=fill if mode == "border" else None,
        crop_pct=percent,
    )


def _fitted(mode: str, size: tuple[int, int]) -> tuple[int | tuple[int, int], Fit]:
    """Return the resize to a size, and how it is fitted, in a crop mode of timm's."""
    if mode == "squash":
        return size, "squash"
    if mode == "border":
        return size, "contain"
    if mode != "center":
        raise PreprocessingError(
            f"There is no crop mode {mode!r}. Use center, squash or border, or a headstrip-timm "
            "that knows it."
        )
    # timm's two resizes of a centre crop round the longer side differently.
    return (size[0], "squash") if size[0] == size[1] else (size, "cover")


def _per_channel(values: Any, channels: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    return numbers * channels if len(numbers) == 1 else numbers
