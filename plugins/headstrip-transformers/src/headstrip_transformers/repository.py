"""What a repository of the hub, or a folder like one, says of itself; none of its code runs."""

from __future__ import annotations

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
"""How the path of a folder begins: on Windows with a backslash or a drive too."""

_WHOLE = {tower.whole: kind for kind, tower in TOWERS.items() if tower.whole}
_CLASSIFIER = "ForImageClassification"
_MOST = 1_000_000
_PATCHES = {"siglip2", "siglip2_vision_model"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the configuration of a checkpoint says of its image tower.

    Attributes:
        kind: Model type of the image tower.
        config: Its configuration, as transformers reads it.
        num_classes: Width of the head in the file, None where there is none.
    """

    kind: str
    config: Any
    num_classes: int | None

    @property
    def tower(self) -> Tower:
        """The tower that it is."""
        return TOWERS[self.kind]

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        """Constructor options that build it."""
        return (*options_of(self.tower, self.config), ("num_classes", self.num_classes or 0))

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether it takes input of a shape (C, H, W)."""
        own = input_shape_of(self.config)
        any_size = not self.tower.one_size or getattr(self.config, "is_native", False)
        return shape[0] == own[0] if any_size else shape == own


def is_repository(name: str) -> bool:
    """Whether a name means a repository or a folder, and no model type."""
    return "/" in name or is_folder(name)


def is_folder(name: str) -> bool:
    """Whether a name is the path of a folder: from the root, the home, or one begun with a dot."""
    return _FOLDER.match(name) is not None


def read_json(name: str, filename: str) -> dict[str, Any]:
    """Return what a JSON file of a repository or a folder holds.

    Raises:
        UnknownBackboneError: The name is of another form.
        WeightsError: There is none, or it holds something else.
    """
    if not is_folder(name):
        _check_id(name)
        return hub_json(name, filename)
    path = Path(name).expanduser() / filename
    if not path.is_file():
        raise WeightsError(
            f"There is no file {filename} in the folder {name!r}. Name a folder that "
            "transformers' save_pretrained wrote."
        )
    return read_json_object(path)


def _check_id(name: str) -> None:
    """Refuse what is neither a repository's id nor a path, with the path where a folder is."""
    try:
        fits = parse_hub_location(f"hf:{name}").file is None
    except WeightsError:
        fits = False
    if fits:
        return
    here = f"The folder of that name here is 'hf:./{name}'. " if Path(name).is_dir() else ""
    raise UnknownBackboneError(
        f"hf:{name} is neither a repository of the hub nor a folder. {here}Write hf:org/name, "
        "hf:org/name@revision, or a path that begins with '/', './', '../' or '~/'."
    )


def weights_locations(name: str) -> tuple[str, ...]:
    """List where the weights may be; never a file that has to be unpickled."""
    if is_folder(name):
        return tuple(str(Path(name).expanduser() / file) for file in _FILES)
    return tuple(f"hf:{name}/{file}" for file in _FILES)


def revision_of(name: str) -> str:
    """Return the tag of the weights: the revision that a name states."""
    return "main" if is_folder(name) else parse_hub_location(f"hf:{name}").revision or "main"


def read_checkpoint(name: str) -> Checkpoint:
    """Read ``config.json`` of a repository or a folder.

    Raises:
        UnknownBackboneError: It is no vision tower of ``TOWERS``, needs code of its own, or the
            name is of another form.
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
            f"transformers cannot read the config.json of hf:{name} ({one_line(error)[:200]}). "
            "Compare it with what save_pretrained writes."
        ) from error
    return Checkpoint(tower_kind, config, _classes(stated, TOWERS[tower_kind]))


def read_preprocessing(name: str) -> Preprocessing:
    """Read the image processor of a repository or a folder.

    Raises:
        PreprocessingError: There is none, it has a step that cannot be expressed, or the network
            does not take what it gives.
    """
    preprocessing = _stated_preprocessing(name)
    checkpoint = read_checkpoint(name)
    if not checkpoint.takes(preprocessing.input_shape):
        raise PreprocessingError(
            f"The image processor of hf:{name} gives input of "
            f"{format_shape(preprocessing.input_shape)}, and its network takes "
            f"{format_shape(input_shape_of(checkpoint.config))}. Pass "
            "preprocessing=Preprocessing(...) that gives that."
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
    # A network's own save_pretrained writes none.
    damaged = (
        failure
        for failure, filename in zip(failures, _PROCESSORS, strict=True)
        if is_folder(name) and (Path(name).expanduser() / filename).exists()
    )
    missing = (
        f"There is no file {_PROCESSORS[0]} in the folder: save the image processor there too, "
        "with its own save_pretrained."
    )
    advice = next(damaged, missing if is_folder(name) else failures[0])
    raise PreprocessingError(
        f"hf:{name} does not say how images are prepared. {advice} Or pass "
        "preprocessing=Preprocessing(...)."
    )


def preprocessing_or_none(name: str) -> Preprocessing | None:
    """Return the preprocessing, None where it cannot be had; ``read_preprocessing`` says why."""
    try:
        return read_preprocessing(name)
    except HeadstripError:
        return None


def _image_part(stated: dict[str, Any], kind: str) -> Any:
    """Return what a configuration states of the image tower."""
    if kind not in _WHOLE:
        return stated
    # Early files of CLIP state it twice, and transformers lets this one win.
    early = stated.get("vision_config_dict") if kind == "clip" else None
    return (stated.get("vision_config") or {}) if early is None else early


def _model_type(name: str, stated: dict[str, Any]) -> str:
    """Return the model type of a checkpoint, of a tower or of a pair.

    Raises:
        UnknownBackboneError: It is none of these, or needs code of its own.
    """
    kind = stated.get("model_type")
    if stated.get("auto_map"):
        raise UnknownBackboneError(
            f"hf:{name} is built by code in the repository (auto_map in its config.json), which is "
            "never executed. Name a repository of a network that transformers itself has."
        )
    if not isinstance(kind, str):
        raise UnknownBackboneError(
            f"hf:{name} is no checkpoint of transformers: its config.json names no model_type. "
            "Name one that save_pretrained wrote; those of timm have names of their own, timm:..."
        )
    if kind in _PATCHES:
        raise UnknownBackboneError(
            f"hf:{name} is a {kind!r}: a SigLIP2 of variable resolution (NaFlex), which takes "
            "patches and a mask instead of pixels. Name one of fixed resolution, such as "
            "'hf:google/siglip2-base-patch16-224'."
        )
    if kind not in TOWERS and kind not in _WHOLE:
        known = ", ".join(sorted([*TOWERS, *_WHOLE]))
        raise UnknownBackboneError(
            f"hf:{name} is a {kind!r}, which is no vision tower that this plugin has. "
            f"It has {known}."
        )
    return kind


def _refuse_large_numbers(value: Any) -> None:
    """Refuse numbers that transformers would loop up to; core parsed no file deeper than 64."""
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            _refuse_large_numbers(inner)
    elif isinstance(value, int) and abs(value) > _MOST:
        raise ValueError(f"the number {value} is out of range")


def _classes(stated: dict[str, Any], tower: Tower) -> int | None:
    """Return how many classes the head of a checkpoint has, None where it has no head."""
    if tower.output != "logits":
        return None
    labels = stated.get("id2label")
    classes = len(labels) if isinstance(labels, dict) else stated.get("num_labels")
    architectures = stated.get("architectures")
    if not architectures:
        return classes
    # transformers does not write the labels of a head that has its default two.
    return (classes or 2) if str(architectures[0]).endswith(_CLASSIFIER) else None
