"""Files of WBCAtt (NeurIPS 2023): its checkpoints as encoders, and its tables as labels.

The layouts are those of ``submission/`` in apple2373/wbcatt on GitHub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.attributes.labels import Cell, read_labels
from headstrip.compat.names import name_of
from headstrip.encoder.attribute import Attribute, AttributesArgument, attributes_of
from headstrip.encoder.encoder import Encoder
from headstrip.encoder.predictors import Predictors
from headstrip.encoder.predictors_file import FittedPredictors
from headstrip.errors import HeadstripError, WeightsError
from headstrip.factory.build import build_encoder
from headstrip.images.preprocessing import Preprocessing
from headstrip.system.arguments import type_of
from headstrip.system.atomic import written_beside
from headstrip.system.os_errors import explain
from headstrip.weights.reading import ReadOptions, read_weights

__all__ = ["ATTRIBUTES", "PREPROCESSING", "load_checkpoint", "read_tables", "save_checkpoint"]

_NO_YES = ("no", "yes")
ATTRIBUTES = (
    Attribute("cell_size", "class", ("big", "small")),
    Attribute("cell_shape", "class", ("irregular", "round")),
    Attribute(
        "nucleus_shape",
        "class",
        (
            "irregular",
            "segmented-bilobed",
            "segmented-multilobed",
            "unsegmented-band",
            "unsegmented-indented",
            "unsegmented-round",
        ),
    ),
    Attribute("nuclear_cytoplasmic_ratio", "class", ("high", "low")),
    Attribute("chromatin_density", "class", ("densely", "loosely")),
    Attribute("cytoplasm_vacuole", "class", _NO_YES),
    Attribute("cytoplasm_texture", "class", ("clear", "frosted")),
    Attribute("cytoplasm_colour", "class", ("blue", "light blue", "purple blue")),
    Attribute("granule_type", "class", ("coarse", "nil", "round", "small")),
    Attribute("granule_colour", "class", ("nil", "pink", "purple", "red")),
    Attribute("granularity", "class", _NO_YES),
)
"""The 11 attributes of WBCAtt and their classes, in the order of its predictors."""

PREPROCESSING = Preprocessing(
    crop=(224, 224), resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
"""The preprocessing of WBCAtt for evaluation. It is the same for all weights."""

_KEY = "model"
_ENCODER = "image_encoder"
_PREDICTORS = "attribute_predictors"
_PREDICTOR = re.compile(rf"{_PREDICTORS}\.(0|[1-9][0-9]{{0,5}})\.(weight|bias)")
_PARTS = {"train": "train", "val": "validation", "test": "test"}
_TABLE = "pbc_attr_v1_{}.csv"
_SHOWN = 5


def load_checkpoint(
    path: str | os.PathLike[str],
    name: str = "resnet50",
    *,
    attributes: AttributesArgument = ATTRIBUTES,
) -> Encoder:
    """Load a checkpoint that WBCAtt's ``traineval.py`` wrote, as an encoder with predictors.

    headstrip executes nothing in the file. The file does not name the network, the attributes or
    the classes, so these are arguments.

    Args:
        path: The file, such as ``log/best_model.pth``.
        name: The value of ``--backbone`` in the training: any name that ``build_encoder`` takes, or
            the form ``timm.NAME`` of WBCAtt's later code.
        attributes: The attributes in the order of the predictors, as ``build_encoder`` takes them.

    Returns:
        The encoder, in eval mode, with WBCAtt's preprocessing. Its tensors are those of the file,
        bit for bit.

    Raises:
        WeightsError: The file cannot be read, has another layout, belongs to another network, or
            has predictors of other sizes.
        UnknownBackboneError: No installed source has the name.
        ValueError: ``attributes`` cannot be used.

    Example:
        >>> encoder = load_checkpoint("best_model.pth")  # doctest: +SKIP
        >>> encoder.predict_labels(["cell.jpg"])[0]["cell_size"].value  # doctest: +SKIP
        'big'
    """
    chosen = attributes_of(attributes)
    weights, biases = _predictors_in(path, chosen)
    encoder = build_encoder(name_of(name), weights=path, preprocessing=PREPROCESSING)
    fitted = FittedPredictors(chosen, weights, biases, {}, {}, os.fspath(path))
    if fitted.dim != encoder.output_dim:
        raise WeightsError(
            f"{os.fspath(path)!r} has predictors for embeddings of {fitted.dim} numbers, and "
            f"{encoder.spec.qualified_name} gives {encoder.output_dim}. Pass the name of the "
            "network that was trained."
        )
    dtype = weights[chosen[0].name].dtype
    encoder.predictors = fitted.predictors().to(dtype).eval()
    return encoder


def save_checkpoint(encoder: Encoder, path: str | os.PathLike[str]) -> None:
    """Write an encoder with predictors as a checkpoint that WBCAtt's code loads.

    ``traineval.py --resume`` and ``resume_model`` load it strictly. headstrip writes predictors of
    WBCAtt's attributes and their classes in WBCAtt's order, and other attributes in the order of
    the encoder. The file does not name attributes and classes.

    Args:
        encoder: The encoder. Its attributes must have the kind ``class``.
        path: The file. headstrip replaces an existing file; a failure leaves it unchanged.

    Raises:
        HeadstripError: WBCAtt's layout cannot express the encoder, or the file cannot be written.

    Example:
        >>> from headstrip import build_encoder
        >>> encoder = build_encoder("resnet50", weights=None, predictors=ATTRIBUTES)
        >>> save_checkpoint(encoder, "resume.pth")  # doctest: +SKIP
    """
    predictors = _checked(encoder)
    names = [one.name for one in ATTRIBUTES]
    if set(predictors.names) != set(names):
        names = predictors.names
    state = {
        f"{_ENCODER}.{key.removeprefix('backbone.')}": value
        for key, value in encoder.state_dict().items()
        if key.startswith("backbone.")
    }
    for position, name in enumerate(names):
        for key, value in predictors[name].state_dict().items():
            state[f"{_PREDICTORS}.{position}.{key}"] = value[_order(predictors, name)]
    content = {_KEY: {key: value.detach().cpu() for key, value in state.items()}}
    try:
        with written_beside(Path(path), durable=True) as file:
            torch.save(content, file)
    except OSError as error:
        raise HeadstripError(explain(error, f"{os.fspath(path)!r} could not be written")) from error


def read_tables(folder: str | os.PathLike[str]) -> dict[str, list[Cell]]:
    """Read WBCAtt's tables of labels as one table, which ``fit_predictors`` takes.

    Args:
        folder: The folder with ``pbc_attr_v1_train.csv``, ``pbc_attr_v1_val.csv`` and
            ``pbc_attr_v1_test.csv``: ``submission`` of WBCAtt's repository.

    Returns:
        The cells of each column: ``path``; the 11 attributes; ``label``, the type of the cell; and
        ``split``, which is ``train``, ``validation`` or ``test``.

    Raises:
        HeadstripError: A table is missing, cannot be read, or lacks a column.

    Example:
        >>> table = read_tables("wbcatt/submission")  # doctest: +SKIP
        >>> len(table["path"]), table["cell_size"][0]  # doctest: +SKIP
        (10298, 'big')
    """
    wanted = [*(one.name for one in ATTRIBUTES), "label"]
    found: dict[str, list[Cell]] = {name: [] for name in ("path", *wanted, "split")}
    for part, split in _PARTS.items():
        table = read_labels(Path(folder) / _TABLE.format(part), path_column="path")
        if missing := [name for name in wanted if name not in table.columns]:
            raise HeadstripError(
                f"{table.shown} has no column {missing[0]!r}, so it is not a table of WBCAtt. Pass "
                "the folder 'submission' of its repository."
            )
        found["path"] += table.paths
        for name in wanted:
            found[name] += table.columns[name]
        found["split"] += [split] * len(table.paths)
    return found


def _predictors_in(
    path: str | os.PathLike[str], attributes: tuple[Attribute, ...]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return weights and biases by attribute, after checking the layout of the file."""
    shown = repr(os.fspath(path))
    file = read_weights(Path(os.path.expanduser(path)), options=ReadOptions(mapped=False))
    content = file.content
    model = content.get(_KEY) if isinstance(content, Mapping) else None
    if not isinstance(model, Mapping):
        raise WeightsError(
            f"{shown} has no state dict under the key {_KEY!r}, so it is not a checkpoint of "
            "WBCAtt. Load it with build_encoder(name, weights=path)."
        )
    layers: dict[int, dict[str, Tensor]] = {}
    has_encoder, others = False, []
    for key, value in model.items():
        if matched := _PREDICTOR.fullmatch(str(key)):
            layers.setdefault(int(matched[1]), {})[matched[2]] = value
        elif str(key).startswith(f"{_ENCODER}."):
            has_encoder = True
        else:
            others.append(str(key))
    if others or not layers or not has_encoder:
        layout = f"'{_ENCODER}.*' and '{_PREDICTORS}.N.*'"
        what = f"has {others[0]!r:.80} beside" if others else "lacks tensors of"
        raise WeightsError(
            f"{shown} is not a checkpoint of WBCAtt: under {_KEY!r} it {what} {layout}. Load it "
            "with build_encoder(name, weights=path)."
        )
    ordered = [layers[position] for position in sorted(layers)]
    if sorted(layers) != list(range(len(layers))) or not all(map(_is_linear, ordered)):
        raise WeightsError(
            f"{shown} is damaged: its predictors are not linear layers 0 to {len(layers) - 1} with "
            "weight and bias. Get the file again."
        )
    sizes = [len(layer["weight"]) for layer in ordered]
    if sizes != [one.outputs for one in attributes]:
        wanted = ", ".join(f"{one.name!r:.40} {one.outputs}" for one in attributes[:_SHOWN])
        more = f" and {len(attributes) - _SHOWN} more" if len(attributes) > _SHOWN else ""
        raise WeightsError(
            f"{shown} has predictors of the sizes {', '.join(map(str, sizes))}, and the attributes "
            f"are {wanted}{more}. Pass attributes= in the order in which they were trained, such "
            "as {'colour': 12}."
        )
    named = dict(zip((one.name for one in attributes), ordered, strict=True))
    return (
        {name: layer["weight"] for name, layer in named.items()},
        {name: layer["bias"] for name, layer in named.items()},
    )


def _is_linear(layer: Mapping[str, Any]) -> bool:
    weight, bias = layer.get("weight"), layer.get("bias")
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor):
        return False
    return (
        weight.ndim == 2
        and bias.shape == weight.shape[:1]
        and weight.is_floating_point()
        and bias.dtype == weight.dtype
    )


def _order(predictors: Predictors, name: str) -> list[int]:
    """Return the positions of the classes of an attribute in the order of the file.

    Raises:
        HeadstripError: The attribute is one of WBCAtt's, but has other classes.
    """
    (own,) = (one.classes for one in predictors.attributes if one.name == name)
    known = {one.name: one.classes for one in ATTRIBUTES}
    is_wbcatt = set(predictors.names) == known.keys()
    if not is_wbcatt or own == tuple(map(str, range(len(known[name])))):
        return list(range(len(own)))
    if sorted(own) != sorted(known[name]):
        found, expected = (", ".join(map(repr, one[:_SHOWN])) for one in (own, known[name]))
        raise HeadstripError(
            f"The attribute {name!r} has the classes {found}, and in a checkpoint of WBCAtt it has "
            f"{expected}. Rename the attribute, and pass the attributes when you load the file."
        )
    return [own.index(one) for one in known[name]]


def _checked(encoder: Encoder) -> Predictors:
    """Return the predictors of an encoder, after checking that WBCAtt's layout can express it."""
    if encoder.predictors is None:
        raise HeadstripError(
            "The encoder has no predictors, and a checkpoint of WBCAtt has some. Build it with "
            "predictors=."
        )
    for one in encoder.predictors.attributes:
        module = encoder.predictors[one.name]
        if one.kind != "class":
            raise HeadstripError(
                f"The attribute {one.name!r:.60} is of kind {one.kind!r}, and WBCAtt's code "
                "predicts one class of several. Use encoder.state_dict() instead."
            )
        if not isinstance(module, nn.Linear) or module.bias is None:
            raise HeadstripError(
                f"The predictor of {one.name!r:.60} is {type_of(module)}, and WBCAtt's "
                "code has linear layers with a bias. Use encoder.state_dict() instead."
            )
    if encoder.inputs:
        given = ", ".join(f"{key}={value!r:.40}" for key, value in encoder.inputs.items())
        raise HeadstripError(
            f"The encoder was built with {given}, and WBCAtt's code cannot build such a network. "
            "Use encoder.state_dict() instead."
        )
    return encoder.predictors
