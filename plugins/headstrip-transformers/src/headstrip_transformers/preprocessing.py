"""Convert an image processor's configuration to a ``Preprocessing``, without transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headstrip import Preprocessing, PreprocessingError

_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_SQUARE = {"height": 224, "width": 224}
_BILINEAR, _BICUBIC = 2, 3


def _defaults(
    size: Mapping[str, int], resample: int, mean: Any, std: Any, **more: Any
) -> dict[str, Any]:
    return {
        "do_resize": True,
        "size": size,
        "resample": resample,
        "do_center_crop": False,
        "crop_size": None,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
        "do_pad": False,
        **more,
    }


_SHORTER = {"shortest_edge": 224}
_CROPPED = {"do_center_crop": True, "crop_size": _SQUARE}

PROCESSORS: dict[str, dict[str, Any]] = {
    "Bit": _defaults(_SHORTER, _BICUBIC, *_CLIP, **_CROPPED),
    "CLIP": _defaults(_SHORTER, _BICUBIC, *_CLIP, **_CROPPED),
    "ConvNext": _defaults({"shortest_edge": 384}, _BICUBIC, _HALF, _HALF, crop_pct=224 / 256),
    "DINOv3ViT": _defaults(_SQUARE, _BILINEAR, *_IMAGENET),
    "DeiT": _defaults({"height": 256, "width": 256}, _BICUBIC, _HALF, _HALF, **_CROPPED),
    "Siglip": _defaults(_SQUARE, _BICUBIC, _HALF, _HALF),
    "ViT": _defaults(_SQUARE, _BILINEAR, _HALF, _HALF),
}
"""Defaults of the image processors of transformers."""

_KEEPS_RATIO = {"Bit", "CLIP", "ConvNext"}
"""Processors that read a single number as the size of the shorter side."""

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Filters by PIL's number."""

_STRETCHED_FROM = 384
"""Side from which ConvNeXt's processor stretches the image instead of cropping it."""

_SUFFIXES = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")
_PASS = "Pass preprocessing=Preprocessing(...) with the steps that the weights need."


def preprocessing_of(config: Mapping[str, Any], about: str) -> Preprocessing:
    """Return the preprocessing for the configuration of an image processor.

    Defaults and rules for sizes are those of the processors in ``PROCESSORS``.

    Args:
        config: The content of ``preprocessor_config.json``.
        about: Name of the repository, for messages.

    Raises:
        PreprocessingError: The processor is not in ``PROCESSORS``, or has a step that a
            ``Preprocessing`` cannot express.
    """
    kind = _kind(config, about)
    stated = {key: value for key, value in config.items() if value is not None}
    steps = {**PROCESSORS[kind], **stated}
    try:
        if steps["do_pad"]:
            raise _Inexpressible("pads images to a common size (do_pad)")
        resize, crop = _sizes(kind, steps)
        mean, std = _normalisation(steps)
        return Preprocessing(
            crop=crop,
            resize=resize,
            mean=mean,
            std=std,
            interpolation=_filter(steps["resample"]),
            rescale=_divisor(steps),
        )
    except _Inexpressible as error:
        raise PreprocessingError(f"The image processor of {about} {error}. {_PASS}") from None
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        if isinstance(error, PreprocessingError):
            raise
        raise PreprocessingError(
            f"The configuration of the image processor of {about} is not valid "
            f"({type(error).__name__}: {error}). {_PASS}"
        ) from error


class _Inexpressible(Exception):
    """A step that a ``Preprocessing`` cannot express."""


def _kind(config: Mapping[str, Any], about: str) -> str:
    name = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    kind = next((name.removesuffix(end) for end in _SUFFIXES if name.endswith(end)), name)
    if config.get("auto_map"):
        raise PreprocessingError(
            f"The image processor of {about} is code in the repository, which headstrip never "
            f"runs. {_PASS}"
        )
    if kind not in PROCESSORS:
        raise PreprocessingError(
            f"The image processor of {about} {f'is {name!r}' if name else 'has no type'}, so its "
            f"steps are unknown. {_PASS}"
        )
    return kind


def _sizes(kind: str, steps: Mapping[str, Any]) -> tuple[Any, tuple[int, int]]:
    """Return the resize and the crop."""
    crop = _pair(steps["crop_size"], "crop_size") if steps["do_center_crop"] else None
    resize: int | tuple[int, int] | None = None
    if steps["do_resize"]:
        resize = _size(kind, steps["size"])
        if kind == "ConvNext":
            resize, own = _of_convnext(resize, float(steps["crop_pct"]))
            crop = crop or own
    if crop is None and isinstance(resize, tuple):
        crop = resize
    if crop is None:
        how = (
            "does not resize" if resize is None else "keeps the ratio of the sides (shortest_edge)"
        )
        raise _Inexpressible(f"{how} and does not crop, so images would have different sizes")
    return resize, crop


def _size(kind: str, size: Any) -> int | tuple[int, int]:
    if isinstance(size, int):
        return size if kind in _KEEPS_RATIO else (size, size)
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return int(size["shortest_edge"])
    return _pair(size, "size")


def _pair(size: Any, name: str) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping):
        if set(size) != {"height", "width"}:
            raise _Inexpressible(
                f"states {name} as {', '.join(sorted(size))} instead of height and width"
            )
        return int(size["height"]), int(size["width"])
    height, width = size
    return int(height), int(width)


def _of_convnext(size: Any, percent: float) -> tuple[Any, tuple[int, int]]:
    """Return the resize and the crop of ConvNeXt's processor, which states one number."""
    if not isinstance(size, int):
        raise _Inexpressible("states a size that is not one number, the shorter side")
    own = (size, size)
    return (own if size >= _STRETCHED_FROM else int(size / percent)), own


def _normalisation(steps: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not steps["do_normalize"]:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    values = (steps["image_mean"], steps["image_std"])
    mean, std = (
        (float(value),) * 3 if isinstance(value, (int, float)) else tuple(map(float, value))
        for value in values
    )
    return mean, std


def _filter(resample: Any) -> str:
    if resample not in _FILTERS:
        raise _Inexpressible(
            f"resizes with the filter {resample!r}, but PIL has no filter of that number"
        )
    return _FILTERS[resample]


def _divisor(steps: Mapping[str, Any]) -> float:
    """Return the divisor of the pixels, an integer if the file's factor is a rounded 1/255."""
    if not steps["do_rescale"]:
        return 1.0
    divisor = 1 / float(steps["rescale_factor"])
    return float(round(divisor)) if abs(divisor - round(divisor)) < 1e-6 else divisor
