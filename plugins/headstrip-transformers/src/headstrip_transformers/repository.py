"""Read the configuration of a hub repository, or of a folder like one. No code of it runs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstrip import (
    HeadstripError,
    Preprocessing,
    PreprocessingError,
    UnknownBackboneError,
    WeightsError,
)
from headstrip.plugin_api import (
    format_shape,
    hub_json,
    one_line,
    parse_hub_location,
    read_json_object,
)
from headstrip_transformers.configs import input_shape_of, options_of, vision_part
from headstrip_transformers.preprocessing import preprocessing_of
from headstrip_transformers.towers import TOWERS, Tower, config_class

_FILES = ("model.safetensors", "model.safetensors.index.json")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_FOLDER = re.compile(r"/|~/|\\|(\.\.?|[A-Za-z]:)[/\\]")
"""Start of the path of a folder. On Windows it may be a backslash or a drive."""

_WHOLE = {tower.whole: kind for kind, tower in TOWERS.items() if tower.whole}
_CLASSIFIER = "ForImageClassification"
_MOST = 1_000_000
_PATCHES = {"siglip2", "siglip2_vision_model"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The image tower of a checkpoint, from its configuration.

    Attributes:
        kind: Model type of the image tower.
        config: Its configuration, as transformers reads it.
        num_classes: Width of the head in the file, None if there is no head.
        class_names: Names of the classes, empty if the configuration does not state them.
    """

    kind: str
    config: Any
    num_classes: int | None
    class_names: tuple[str, ...] = ()

    @property
    def tower(self) -> Tower:
        """The tower of this model type."""
        return TOWERS[self.kind]

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        """Constructor options that build the tower."""
        return (*options_of(self.tower, self.config), ("num_classes", self.num_classes or 0))

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Return whether the tower takes input of a shape (C, H, W)."""
        own = input_shape_of(self.config)
        any_size = not self.tower.one_size or getattr(self.config, "is_native", False)
        return shape[0] == own[0] if any_size else shape == own


def is_repository(name: str) -> bool:
    """Return whether a name is that of a repository or a folder, not of a model type."""
    return "/" in name or is_folder(name)


def is_folder(name: str) -> bool:
    """Return whether a name is a path: it begins with the root, the home or a dot."""
    return _FOLDER.match(name) is not None


def _folder(name: str) -> Path:
    # Unlike Path.expanduser, this raises no error if there is no home.
    return Path(os.path.expanduser(name))


def read_json(name: str, filename: str) -> dict[str, Any]:
    """Return the content of a JSON file in a repository or a folder.

    Raises:
        UnknownBackboneError: The name is neither a repository nor a folder.
        WeightsError: The file does not exist, or is not a JSON object.
    """
    if not is_folder(name):
        _check_id(name)
        return hub_json(name, filename)
    path = _folder(name) / filename
    if not path.is_file():
        raise WeightsError(
            f"There is no file {filename} in the folder {name!r}. Pass a folder written by "
            "save_pretrained() of transformers."
        )
    return read_json_object(path)


def _check_id(name: str) -> None:
    """Refuse a name that is neither a repository's id nor a path, and suggest a path."""
    try:
        fits = parse_hub_location(f"hf:{name}").file is None
    except WeightsError:
        fits = False
    if fits:
        return
    here = f"For the folder of that name, write 'hf:./{name}'. " if Path(name).is_dir() else ""
    raise UnknownBackboneError(
        f"hf:{name} is neither a repository of the hub nor a folder. {here}Write hf:org/name, "
        "hf:org/name@revision, or 'hf:' and a path that begins with '/', './', '../' or '~/'."
    )


def weights_locations(name: str) -> tuple[str, ...]:
    """Return the possible locations of the weights. Pickle files are not among them."""
    if is_folder(name):
        return tuple(str(_folder(name) / file) for file in _FILES)
    return tuple(f"hf:{name}/{file}" for file in _FILES)


def revision_of(name: str) -> str:
    """Return the tag of the weights: the revision in the name."""
    return "main" if is_folder(name) else parse_hub_location(f"hf:{name}").revision or "main"


def read_checkpoint(name: str) -> Checkpoint:
    """Read ``config.json`` of a repository or a folder.

    Raises:
        UnknownBackboneError: It is not a vision tower in ``TOWERS``, it needs code in the
            repository, or the name is neither a repository nor a folder.
        WeightsError: There is no ``config.json``.
    """
    stated = read_json(name, "config.json")
    kind = _model_type(name, stated)
    tower_kind = _WHOLE.get(kind, kind)
    try:
        part = dict(_image_part(stated, kind))
        _refuse_large_numbers({**part, "num_labels": stated.get("num_labels")})
        config = vision_part(config_class(TOWERS[tower_kind]).from_dict(part))
    # transformers checks fields in ways that change with its releases.
    except Exception as error:
        raise UnknownBackboneError(
            f"transformers cannot read the config.json of hf:{name} ({one_line(error, 200)}). "
            "Compare it with what save_pretrained writes."
        ) from error
    classes = _classes(stated, TOWERS[tower_kind])
    return Checkpoint(tower_kind, config, classes, _class_names(stated, classes))


def read_preprocessing(name: str) -> Preprocessing:
    """Read the image processor of a repository or a folder.

    Raises:
        PreprocessingError: There is no image processor, a ``Preprocessing`` cannot express one of
            its steps, or the network does not take its output.
    """
    preprocessing = _stated_preprocessing(name)
    checkpoint = read_checkpoint(name)
    if not checkpoint.takes(preprocessing.input_shape):
        raise PreprocessingError(
            f"The image processor of hf:{name} gives input of "
            f"{format_shape(preprocessing.input_shape)}, but its network takes "
            f"{format_shape(input_shape_of(checkpoint.config))}. Pass "
            "preprocessing=Preprocessing(...) for that size."
        )
    return preprocessing


def _stated_preprocessing(name: str) -> Preprocessing:
    failures = []
    for filename in _PROCESSORS:
        try:
            stated = read_json(name, filename)
        except WeightsError as error:
            failures.append(str(error))
            continue
        part = stated.get("image_processor")
        return preprocessing_of(part if isinstance(part, dict) else stated, f"hf:{name}")
    # save_pretrained of a network does not write this file.
    damaged = (
        failure
        for failure, filename in zip(failures, _PROCESSORS, strict=True)
        if is_folder(name) and (_folder(name) / filename).exists()
    )
    missing = (
        f"There is no file {_PROCESSORS[0]} in the folder: save the image processor there too, "
        "with its method save_pretrained."
    )
    advice = next(damaged, missing if is_folder(name) else failures[0])
    raise PreprocessingError(
        f"hf:{name} does not state its preprocessing. {advice} Or pass "
        "preprocessing=Preprocessing(...)."
    )


def preprocessing_or_none(name: str) -> Preprocessing | None:
    """Return the preprocessing, or None if ``read_preprocessing`` raises an error."""
    try:
        return read_preprocessing(name)
    except HeadstripError:
        return None


def _image_part(stated: dict[str, Any], kind: str) -> Any:
    """Return the image tower's part of a configuration."""
    if kind not in _WHOLE:
        return stated
    # Early CLIP files contain it twice, and transformers uses this one.
    early = stated.get("vision_config_dict") if kind == "clip" else None
    return (stated.get("vision_config") or {}) if early is None else early


def _model_type(name: str, stated: dict[str, Any]) -> str:
    """Return the model type of a checkpoint: a tower, or a pair of towers.

    Raises:
        UnknownBackboneError: The plugin does not have the type, or it needs code in the repository.
    """
    kind = stated.get("model_type")
    if stated.get("auto_map"):
        raise UnknownBackboneError(
            f"hf:{name} is built by code in the repository (auto_map in its config.json), which "
            "headstrip never runs. Choose a repository whose network is part of transformers."
        )
    if not isinstance(kind, str):
        raise UnknownBackboneError(
            f"hf:{name} is not a transformers checkpoint: its config.json has no model_type. "
            "Choose one that save_pretrained wrote. Use timm:... for checkpoints of timm."
        )
    if kind in _PATCHES:
        raise UnknownBackboneError(
            f"hf:{name} is a {kind!r}: a SigLIP2 of variable resolution (NaFlex), which takes "
            "patches and a mask instead of pixels. Choose one of fixed resolution, such as "
            "'hf:google/siglip2-base-patch16-224'."
        )
    if kind not in TOWERS and kind not in _WHOLE:
        known = ", ".join(sorted([*TOWERS, *_WHOLE]))
        raise UnknownBackboneError(
            f"hf:{name} is a {kind!r}, which this plugin does not support. "
            f"Choose one of these model types: {known}."
        )
    return kind


def _refuse_large_numbers(value: Any) -> None:
    """Refuse numbers so large that transformers would loop for a long time."""
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            _refuse_large_numbers(inner)
    elif isinstance(value, int) and abs(value) > _MOST:
        raise ValueError(f"the number {value} is out of range")


def _class_names(stated: dict[str, Any], classes: int | None) -> tuple[str, ...]:
    """Return ``id2label`` in the order of the logits, empty if it does not name each class.

    transformers itself writes LABEL_0, LABEL_1 and so on if the configuration names no classes.
    """
    named = stated.get("id2label")
    if not classes or not isinstance(named, dict):
        return ()
    found = (named.get(str(index)) for index in range(classes))
    names = tuple(name for name in found if isinstance(name, str))
    default = tuple(f"LABEL_{index}" for index in range(classes))
    return names if len(names) == len(named) == classes and names != default else ()


def _classes(stated: dict[str, Any], tower: Tower) -> int | None:
    """Return the number of classes of a checkpoint's head, None if it has no head."""
    if tower.output != "logits":
        return None
    labels = stated.get("id2label")
    classes = len(labels) if isinstance(labels, dict) else stated.get("num_labels")
    architectures = stated.get("architectures")
    if not architectures:
        return classes
    # transformers does not write the labels of a head with the default two classes.
    return (classes or 2) if str(architectures[0]).endswith(_CLASSIFIER) else None
