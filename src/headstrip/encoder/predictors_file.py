"""Files of fitted predictors: safetensors files that also describe attributes and the encoder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headstrip._version import __version__
from headstrip.encoder.attribute import Attribute, attributes_of
from headstrip.encoder.comparison import describe_encoder, encoder_differences
from headstrip.encoder.held_out import HeldOut
from headstrip.encoder.prediction import Prediction, predict_embeddings
from headstrip.encoder.predictors import Predictors, key_of
from headstrip.encoder.saved_folder import PREDICTORS_KEY
from headstrip.errors import HeadstripError, one_line
from headstrip.registry.distributions import versions_changed
from headstrip.system import bounded_json
from headstrip.system.arguments import check_path, type_of
from headstrip.system.atomic import written_beside
from headstrip.system.os_errors import explain
from headstrip.weights.safetensors_file import bytes_of, read_safetensors, write_safetensors

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from headstrip.encoder.encoder import Encoder

FORMAT = 1
"""Version of the format; a later headstrip writes a higher one."""

SUFFIX = ".safetensors"
_MAX_BYTES = 1 << 32
_REMEDY = "Pass a file that `headstrip fit` or fit_predictors wrote."
_FIT_AGAIN = "Get the whole file again, or fit the predictors again."


@dataclass(frozen=True)
class FittedPredictors:
    """Predictors that were fitted to embeddings, as ``fit_predictors`` returns them.

    Attributes:
        attributes: What each predictor predicts, in the order of the file.
        weights: float32 tensor of shape (outputs, dim) of each attribute, by its name.
        biases: float32 tensor of shape (outputs,) of each attribute, by its name.
        encoder: The encoder whose embeddings they were fitted to, as ``describe_encoder``
            returned it.
        report: The settings of the fit and the measures, as plain JSON values.
        path: The file that they were read from; empty for those that were not read from one.
        held_out: The predictions for the held-out images, by the name of the attribute. A file
            does not contain them, so this is empty for predictors that were read from a file.
    """

    attributes: tuple[Attribute, ...]
    weights: Mapping[str, Tensor] = field(repr=False)
    biases: Mapping[str, Tensor] = field(repr=False)
    encoder: Mapping[str, Any] = field(repr=False)
    report: Mapping[str, Any] = field(repr=False)
    path: str = ""
    held_out: Mapping[str, HeldOut] = field(default_factory=dict, repr=False, compare=False)

    @property
    def dim(self) -> int:
        """Width of the embeddings that the predictors take."""
        return self.weights[self.attributes[0].name].shape[1]

    def predictors(self) -> Predictors:
        """Return the predictors as a module, on the CPU, in float32."""
        state = torch.get_rng_state()
        try:
            # Tensors that torch creates in inference mode cannot be trained.
            with torch.inference_mode(False):
                made = Predictors(self.dim, self.attributes)
        finally:
            # The initial values are not used, so the caller's generator must not change.
            torch.set_rng_state(state)
        made.load_state_dict(_state(self.attributes, self.weights, self.biases))
        made._note_report(self.report)
        return made

    def predict(
        self, embeddings: ArrayLike, *, threshold: float = 0.5
    ) -> list[dict[str, Prediction]]:
        """Predict the attributes of images from their embeddings.

        Args:
            embeddings: Array of numbers of shape (N, dim).
            threshold: As in ``Encoder.predict_labels``.

        Returns:
            As ``Encoder.predict_labels``.

        Raises:
            ValueError: The array has another shape, an embedding is not finite, or ``threshold`` is
                not a probability.
        """
        import numpy as np

        try:
            array = np.asarray(embeddings)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"embeddings is {type_of(embeddings)} that numpy cannot read as an array "
                f"({one_line(error, 100)}). Pass an array."
            ) from error
        if array.ndim != 2 or array.shape[1] != self.dim or array.dtype.kind not in "fiu":
            raise ValueError(
                f"embeddings is an array of shape {array.shape} and dtype {array.dtype}, and these "
                f"predictors take numbers of shape (images, {self.dim}). Pass embeddings of the "
                "encoder that they were fitted to."
            )
        # Values that are too large for float32 become infinite, and are refused later.
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, np.float32)
        return list(predict_embeddings(self.predictors(), array, threshold))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the predictors to a safetensors file; a failure leaves no partial file.

        Equal predictors give equal bytes. ``build_encoder(..., predictors=path)`` reads the file.

        Args:
            path: The file; its name must end in ``.safetensors``.

        Raises:
            HeadstripError: The file cannot be written, or its name ends in something else.
        """
        write_predictors(path, self)

    def attach(self, encoder: Encoder) -> Encoder:
        """Give an encoder these predictors, on its device and in its dtype.

        Returns:
            The same encoder.

        Raises:
            HeadstripError: The predictors were fitted to another encoder; the message names each
                difference.
        """
        self.check_encoder(describe_encoder(encoder))
        device, dtype = encoder.device, encoder.dtype
        encoder.predictors = self.predictors().to(device=device, dtype=dtype).eval()
        return encoder

    def check_encoder(self, here: Mapping[str, Any], than: str = "this one") -> None:
        """Refuse an encoder that differs from the encoder of the file.

        Args:
            here: The encoder to check, as ``describe_encoder`` returned it.
            than: Words for it in the message, such as ``"that of 'photos.parquet'"``.

        Raises:
            HeadstripError: It differs; the message names each difference.
        """
        shown = repr(self.path) if self.path else "This FittedPredictors"
        if not self.encoder.get("identity"):
            raise HeadstripError(
                f"{shown} does not name the encoder of its predictors, because they were "
                "fitted to an array. Pass encoder=encoder to fit_predictors."
            )
        if differences := "; ".join(encoder_differences(self.encoder, here)):
            raise HeadstripError(
                f"{shown} has predictors for another encoder than {than}: {differences}."
                f"{versions_changed(self.encoder, here)} Use the encoder that they were fitted "
                "to, or fit predictors to embeddings of this one."
            )


def write_predictors(path: str | os.PathLike[str], content: FittedPredictors) -> None:
    """Write a file of predictors; a failure leaves no partial file.

    Equal content gives equal bytes.

    Raises:
        HeadstripError: The file cannot be written.
    """
    check_name(path)
    tensors, metadata = content_of(content, repr(os.fspath(path)))
    try:
        with written_beside(Path(path), durable=True) as file:
            write_safetensors(file, tensors, metadata)
    except OSError as error:
        raise HeadstripError(explain(error, f"{os.fspath(path)!r} could not be written")) from error


def content_of(content: FittedPredictors, shown: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file of predictors.

    Args:
        content: The predictors.
        shown: The file, as messages name it.

    Raises:
        HeadstripError: The names and measures take more bytes than headstrip reads, or a predictor
            has values that are not finite.
    """
    tensors = _state(content.attributes, content.weights, content.biases)
    for one in content.attributes:
        if not all(
            values[one.name].isfinite().all() for values in (content.weights, content.biases)
        ):
            raise HeadstripError(
                f"{shown} cannot be written: the predictor of {one.name!r:.60} has values that "
                "are not finite. Train it again, or leave it out."
            )
    metadata = {
        "format": FORMAT,
        "headstrip": __version__,
        "attributes": [one.to_json() for one in content.attributes],
        "encoder": dict(content.encoder),
        "report": dict(content.report),
        "sha256": _digest(tensors),
    }
    # A label may contain half of a surrogate pair. ASCII escapes can store it, UTF-8 cannot.
    text = json.dumps(metadata, sort_keys=True, allow_nan=False, ensure_ascii=True)
    if len(text) > bounded_json.MAX_BYTES:
        raise HeadstripError(
            f"{shown} cannot be written: its names and measures take {len(text):,} "
            f"bytes, and headstrip reads at most {bounded_json.MAX_BYTES:,}. Fit fewer attributes "
            "or classes into one file."
        )
    return tensors, {PREDICTORS_KEY: text}


def check_name(path: str | os.PathLike[str]) -> None:
    """Refuse a name that does not have the ending of a file of predictors.

    Raises:
        HeadstripError: It has another ending.
    """
    if not os.fspath(path).endswith(SUFFIX):
        raise HeadstripError(
            f"{os.fspath(path)!r} cannot be written: predictors are written as safetensors. Pass a "
            "name such as 'cells.predictors.safetensors'."
        )


def load_predictors(path: str | os.PathLike[str]) -> FittedPredictors:
    """Read a file that ``headstrip fit`` or ``FittedPredictors.save`` wrote.

    Nothing in the file is executed.

    Args:
        path: The file.

    Raises:
        HeadstripError: The file is missing, damaged, or is not a file of predictors.
        OptionError: ``path`` is not a path.

    Example:
        >>> fitted = load_predictors("cells.predictors.safetensors")  # doctest: +SKIP
        >>> fitted.report["attributes"]["colour"]["measures"]["accuracy"]  # doctest: +SKIP
        {'high': 0.93, 'low': 0.88, 'value': 0.91}
    """
    check_path("path", path, "cells.predictors.safetensors")
    shown = os.fspath(path)
    try:
        # Unlike Path.expanduser, this leaves the name of an unknown user unchanged.
        file_path = Path(os.path.expanduser(path))
        if not file_path.exists():
            raise HeadstripError(f"There is no file of predictors {shown!r}. Check the path.")
        if not file_path.is_file():
            raise HeadstripError(f"{shown!r} is not a regular file. {_REMEDY}")
        with open(file_path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            tensors, metadata, _ = read_safetensors(
                file_path, file, size, mapped=False, limit=_MAX_BYTES
            )
    except OSError as error:
        raise HeadstripError(explain(error, f"{shown!r} cannot be read")) from error
    except ValueError as error:
        raise HeadstripError(
            f"{shown!r} cannot be read: {one_line(error).rstrip('.')}. {_FIT_AGAIN}"
        ) from error
    if PREDICTORS_KEY not in metadata:
        raise HeadstripError(
            f"{shown!r} is a file of tensors without attributes, so it is not a file of "
            f"predictors. {_REMEDY}"
        )
    try:
        found = bounded_json.parse(metadata[PREDICTORS_KEY], "its metadata")
        return _content(shown, tensors, found)
    except HeadstripError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise HeadstripError(
            f"{shown!r} is damaged: {one_line(error).rstrip('.')}. {_FIT_AGAIN}"
        ) from error


def _content(path: str, tensors: dict[str, Tensor], found: Any) -> FittedPredictors:
    """Check each part of a file that was read, and return its content.

    Raises:
        HeadstripError: Another headstrip wrote it.
        ValueError: A part is missing or wrong.
    """
    if not isinstance(found, dict) or not isinstance(found.get("format"), int):
        raise ValueError("its metadata are not those of predictors")
    if found["format"] != FORMAT:
        raise HeadstripError(
            f"{path!r} has the format {found['format']}, and headstrip {__version__} reads the "
            f"format {FORMAT}. Install the headstrip that wrote it, {found.get('headstrip')!r:.40}."
        )
    if found.get("sha256") != _digest(tensors):
        raise ValueError("its tensors are not those that were written")
    attributes = _attributes(found.get("attributes"))
    encoder, report = found.get("encoder"), found.get("report")
    if not isinstance(encoder, dict) or not isinstance(report, dict):
        raise ValueError("its metadata have no encoder or no report")
    keys = {f"{key_of(one.name)}.{end}" for one in attributes for end in ("weight", "bias")}
    if keys != tensors.keys():
        raise ValueError("its tensors are not those of its attributes")
    weights = {one.name: tensors[f"{key_of(one.name)}.weight"] for one in attributes}
    biases = {one.name: tensors[f"{key_of(one.name)}.bias"] for one in attributes}
    dim = encoder.get("output_dim", weights[attributes[0].name].shape[-1])
    for one in attributes:
        weight, bias = weights[one.name], biases[one.name]
        shapes = (tuple(weight.shape), tuple(bias.shape))
        if shapes != ((one.outputs, dim), (one.outputs,)):
            raise ValueError(f"the tensors of {one.name!r:.60} have the shapes {shapes}")
        if weight.dtype != torch.float32 or bias.dtype != torch.float32:
            raise ValueError(f"the tensors of {one.name!r:.60} are {weight.dtype}, not float32")
        if not weight.isfinite().all() or not bias.isfinite().all():
            raise ValueError(f"the tensors of {one.name!r:.60} have values that are not finite")
    return FittedPredictors(attributes, weights, biases, encoder, report, path)


def _attributes(found: Any) -> tuple[Attribute, ...]:
    if not isinstance(found, list) or not found:
        raise ValueError("its metadata name no attributes")
    for one in found:
        if not isinstance(one, dict) or one.keys() != {"name", "kind", "classes"}:
            raise ValueError("an attribute must have exactly a name, a kind and classes")
    return attributes_of([Attribute(**one) for one in found])


def _state(
    attributes: tuple[Attribute, ...], weights: Mapping[str, Tensor], biases: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    state = {}
    for one in attributes:
        state[f"{key_of(one.name)}.weight"] = weights[one.name]
        state[f"{key_of(one.name)}.bias"] = biases[one.name]
    return state


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, list(tensor.shape)]).encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()
