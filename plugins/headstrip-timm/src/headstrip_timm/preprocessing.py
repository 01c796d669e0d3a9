"""Convert a resolved timm data config to a ``Preprocessing``, without importing timm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from headstrip import Preprocessing, PreprocessingError
from headstrip.plugin_api import Fit

_CROP_PCT = 0.875
"""Default of timm's transform if the config states none."""


def preprocessing_of(config: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that gives the same pixels as timm's evaluation transform.

    The rules come from ``transforms_imagenet_eval`` in ``timm/data/transforms_factory.py``. As in
    timm, a single mean or standard deviation applies to all channels.

    Args:
        config: The result of ``timm.data.resolve_data_config``: ``input_size`` (channels, height,
            width), ``interpolation``, ``mean``, ``std``, ``crop_pct`` and ``crop_mode``.

    Raises:
        PreprocessingError: A value is missing or not valid, the crop mode is unknown, or mean and
            standard deviation do not have one number per channel.
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
            f"{config!r} is not a timm data config ({type(error).__name__}: {error}). "
            "Pass the result of timm.data.resolve_data_config."
        ) from error
    if not len(mean) == len(std) == channels:
        raise PreprocessingError(
            f"mean={mean!r} and std={std!r} do not have one number for each of the "
            f"{channels} channels of the input. Pass one number for each channel, or one for all."
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
    """Return the resize to a size, and how it is fitted, for a crop mode of timm."""
    if mode == "squash":
        return size, "squash"
    if mode == "border":
        return size, "contain"
    if mode != "center":
        raise PreprocessingError(
            f"There is no crop mode {mode!r}. Use center, squash or border, or install a newer "
            "headstrip-timm."
        )
    # For a centre crop, timm has two ways to resize, which round the longer side differently.
    return (size[0], "squash") if size[0] == size[1] else (size, "cover")


def _per_channel(values: Any, channels: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    return numbers * channels if len(numbers) == 1 else numbers
