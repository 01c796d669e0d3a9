"""Write an encoder to a folder, from which ``build_encoder`` builds the same encoder."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.encoder.attribute import Attribute
from headstrip.encoder.encoder import Encoder
from headstrip.encoder.fingerprint import head_digest
from headstrip.encoder.manifest import embedding_manifest
from headstrip.encoder.predictors import Predictors
from headstrip.encoder.predictors_file import FittedPredictors, content_of
from headstrip.encoder.saved_folder import (
    NAMES,
    PREDICTORS,
    WEIGHTS,
    OtherNetworkError,
    SavedFolder,
    is_own,
)
from headstrip.errors import HeadstripError, ManifestError, one_line
from headstrip.network.checkpoints import extra_states
from headstrip.network.load_hooks import keeps_more
from headstrip.registry.catalog import (
    CATALOG_COLUMNS,
    WEIGHTS_COLUMNS,
    row_of_entry,
    row_of_spec,
)
from headstrip.registry.registry import get_registry
from headstrip.spec import SAVED
from headstrip.system import bounded_json
from headstrip.system.arguments import type_of
from headstrip.system.atomic import write_atomically, written_beside
from headstrip.system.file_lock import file_lock
from headstrip.system.os_errors import explain
from headstrip.weights.safetensors_file import write_safetensors
from headstrip.weights.trust import hash_of

_LOCK = ".saving.lock"
# Some network file systems have no locks, and fail with these errors.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_UNDO = (
    "Undo that before you save, or save it with torch.save(encoder.state_dict(), path) and keep "
    "the code that changed it."
)

_LOGGER = logging.getLogger("headstrip.factory")

PARTS = ("backbone", "head", "expand")
"""The parts of an encoder whose tensors a folder has."""

Rebuild = Callable[[SavedFolder], Encoder]


def save_encoder(
    encoder: Encoder,
    path: str | os.PathLike[str],
    *,
    include_weights: bool,
    rebuild: Rebuild,
) -> None:
    """Write an encoder to a folder; see ``Encoder.save``.

    Args:
        encoder: The encoder.
        path: The folder.
        include_weights: Whether to write the tensors of the backbone even if they are the
            catalog's.
        rebuild: Builds the encoder of a folder again, predictors included.

    Raises:
        HeadstripError: The encoder cannot be built again, or a file cannot be written.
    """
    if not os.fspath(path):
        raise HeadstripError("The path to save the encoder to is empty. Pass a folder.")
    _refuse_unsaveable(encoder)
    fitted = _fitted(encoder)
    folder = Path(os.path.expanduser(path))
    described = embedding_manifest(encoder)
    _refuse_odd_options(described)
    manifest = {
        **described,
        "head": head_digest(encoder.head),
        "frozen": encoder.frozen,
    }
    saved = SavedFolder(folder, manifest, encoder.labels)
    try:
        with _files_in(folder) as write:
            if fitted is not None:
                saved = replace(
                    saved, predictors=write(PREDICTORS, *content_of(fitted, "The encoder"))
                )
            again = None if include_weights else _from_catalog(encoder, saved, rebuild)
            if again is None:
                network = _network(encoder)
                saved = replace(
                    saved, network=network, weights=write(WEIGHTS, _tensors(encoder), {})
                )
                again = _built_again(encoder, saved, rebuild)
            _refuse_other(encoder, again)
            text = _text(saved)
            write_atomically(folder / SAVED, text, durable=True)
    except OSError as error:
        raise HeadstripError(explain(error, f"{saved.shown} could not be written")) from error


Write = Callable[[str, Mapping[str, Tensor], Mapping[str, str]], Path]


@contextmanager
def _files_in(folder: Path) -> Iterator[Write]:
    """Yield a function that writes files into a folder, and names them by their content.

    The files of an earlier ``encoder.json`` stay until the body ends, because the earlier encoder
    is valid until the body replaces that file. At the end, the earlier files are removed; if the
    body fails, the files that it wrote are removed. Another process that saves into the folder
    waits.
    """
    with _locked(folder):
        _refuse_foreign(folder)
        before = {one for one in folder.iterdir() if NAMES.fullmatch(one.name)}
        written: set[Path] = set()

        def write(kind: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
            digest = _Digest()
            write_safetensors(digest, tensors, metadata)
            path = folder / f"{kind}-{digest.hexdigest()[:8]}.safetensors"
            with written_beside(path, durable=True) as file:
                write_safetensors(file, tensors, metadata)
            written.add(path)
            return path

        try:
            yield write
        except BaseException:
            _remove(written - before)
            raise
        # A file whose name does not match its content was not written by headstrip.
        _remove({one for one in before - written if _is_named_by_content(one)})


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Create a folder if necessary, and hold its lock; an empty new folder is removed again."""
    from filelock import Timeout

    lock, is_new, timeout = file_lock(folder / _LOCK), False, 0.0
    while True:
        try:
            folder.mkdir()
            is_new = True
        except FileExistsError:
            if not folder.is_dir():
                raise HeadstripError(
                    f"{os.fspath(folder)!r} is a file, and encoder.save writes a folder. Pass "
                    "another path."
                ) from None
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            _LOGGER.warning("waiting for another process, which saves into %r", str(folder))
            timeout = -1.0
            continue
        except NotImplementedError:
            break
        except OSError as error:
            if error.errno in _NO_LOCKS:
                break
            if folder.exists():
                raise
            continue
        if os.path.exists(lock.lock_file):
            break
        # Its holder removed the file while this process waited for it.
        lock.release()
    try:
        yield
    finally:
        # Remove the file while the lock is held: a process that waits sees that the file is gone.
        with suppress(OSError):
            os.unlink(lock.lock_file)
        with suppress(OSError):
            lock.release()
        if is_new:
            with suppress(OSError):
                folder.rmdir()


def _refuse_foreign(folder: Path) -> None:
    """Refuse to replace an ``encoder.json`` that another program wrote."""
    file = folder / SAVED
    if file.exists() and not is_own(file):
        raise HeadstripError(
            f"The folder {os.path.join(folder, '')!r} has a file {SAVED} that encoder.save did not "
            "write, and saving would replace it. Pass another folder."
        )


def _is_named_by_content(file: Path) -> bool:
    try:
        with open(file, "rb") as opened:
            return file.stem.endswith(f"-{hash_of(opened)[:8]}")
    except OSError:
        return False


class _Digest:
    """A sha256 of what is written to it."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.hexdigest = self._digest.hexdigest

    def write(self, data: bytes, /) -> None:
        self._digest.update(data)


def _remove(files: set[Path]) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink()


def _text(saved: SavedFolder) -> bytes:
    text = json.dumps(saved.to_json(), indent=1, allow_nan=False).encode()
    if len(text) > bounded_json.MAX_BYTES:
        raise HeadstripError(
            f"{saved.shown} cannot be written: the names of the classes take {len(text):,} bytes, "
            f"and headstrip reads at most {bounded_json.MAX_BYTES:,}. Set encoder.labels = None."
        )
    return text


def _refuse_unsaveable(encoder: Encoder) -> None:
    """Refuse encoders that can never be built again, before anything is written."""
    name = encoder.spec.qualified_name
    if any(_is_of_peft(module) for module in encoder.modules()):
        how = (
            "Write encoder.backbone = encoder.backbone.merge_and_unload() first."
            if _is_of_peft(encoder.backbone)
            else "Call merge_and_unload() of the peft model, and save the encoder that it returns."
        )
        raise HeadstripError(
            f"The encoder of {name} has adapters of peft, such as LoRA, and encoder.save writes "
            f"networks without adapters. {how}"
        )
    if keeps_more(encoder.backbone) and extra_states(encoder.backbone.state_dict()):
        raise HeadstripError(
            f"The backbone of {name} keeps more than tensors in its state dict, and encoder.save "
            "writes tensors. Save it with torch.save(encoder.state_dict(), path)."
        )


def _refuse_odd_options(described: Mapping[str, Any]) -> None:
    if described["not_json"]:
        shown = ", ".join(f"{key}={value:.60}" for key, value in described["not_json"].items())
        raise HeadstripError(
            f"The encoder of {described['name']} was built with options that JSON cannot express "
            f"({shown}), and encoder.save writes JSON. Save it with "
            "torch.save(encoder.state_dict(), path), and keep the code that built it."
        )


def _is_of_peft(module: nn.Module) -> bool:
    return any(kind.__module__.partition(".")[0] == "peft" for kind in type(module).__mro__)


def _fitted(encoder: Encoder) -> FittedPredictors | None:
    """Return the predictors as the content of a file, None if the encoder has no predictors.

    Raises:
        HeadstripError: A predictor is not a linear layer that fits its attribute.
    """
    predictors = encoder.predictors
    if predictors is None or not len(predictors):
        return None
    if not isinstance(predictors, Predictors):
        raise HeadstripError(
            f"encoder.predictors is {type_of(predictors)}, and encoder.save writes those "
            "that build_encoder made. Save yours with torch.save(encoder.predictors.state_dict(), "
            "path), set encoder.predictors = None, and save the encoder."
        )
    layers = {
        one.name: _linear(one, predictors.named()[one.name], encoder.output_dim)
        for one in predictors.attributes
    }
    return FittedPredictors(
        predictors.attributes,
        {name: _float32(layer.weight) for name, layer in layers.items()},
        {name: _float32(layer.bias) for name, layer in layers.items()},
        embedding_manifest(encoder),
        predictors._report(),
    )


def _linear(attribute: Attribute, module: nn.Module, dim: int) -> nn.Linear:
    """Return the predictor of an attribute.

    Raises:
        HeadstripError: The predictor is not a linear layer that fits the attribute.
    """
    found = type(module).__name__
    if type(module) is nn.Linear and module.bias is not None:
        if (module.in_features, module.out_features) == (dim, attribute.outputs):
            return module
        found += f" {module.in_features} to {module.out_features}"
    raise HeadstripError(
        f"The predictor of {attribute.name!r:.60} is a {found}, and encoder.save writes linear "
        f"layers with a bias, {dim} to {attribute.outputs} for this attribute. Save yours with "
        "torch.save(encoder.predictors.state_dict(), path), set encoder.predictors = None, and "
        "save the encoder."
    )


def _float32(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().float()


def _from_catalog(encoder: Encoder, saved: SavedFolder, rebuild: Rebuild) -> Encoder | None:
    """Build the encoder from the catalog's weights; None if the encoder has other weights."""
    is_own = encoder.weights is None or encoder.weights_file is not None
    if is_own or not get_registry().is_in_catalog(encoder.spec):
        return None
    try:
        return rebuild(saved)
    except HeadstripError as error:
        _LOGGER.info("the folder gets the weights of %s: %s", saved.manifest["name"], error)
        return None


def _network(encoder: Encoder) -> dict[str, Any]:
    """Describe the network, so that no catalog and no repository is needed to build it."""
    entry, classes = encoder.weights, None
    if encoder.head is not None:
        device, dtype = encoder.device, encoder.dtype
        with encoder.evaluating():
            one = torch.zeros(1, encoder.output_dim, device=device, dtype=dtype)
            classes = int(encoder.head(one).shape[-1])
    spec, name = encoder.spec, encoder.spec.name
    row = None if entry is None else row_of_entry(name, replace(entry, class_names=()))
    return {
        "backbone": dict(zip(CATALOG_COLUMNS, row_of_spec(spec), strict=True)),
        "weights": None if row is None else dict(zip(WEIGHTS_COLUMNS, row, strict=True)),
        "classes": classes,
    }


def _tensors(encoder: Encoder) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for part in PARTS:
        module = getattr(encoder, part)
        if module is not None:
            found |= {f"{part}.{name}": one for name, one in tensors_of(module).items()}
    return found


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a fingerprint hashes: every parameter and buffer, by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _built_again(encoder: Encoder, saved: SavedFolder, rebuild: Rebuild) -> Encoder:
    try:
        return rebuild(saved)
    except OtherNetworkError as error:
        raise HeadstripError(
            "The network of the encoder was changed, so headstrip cannot build it again as "
            f"{encoder.spec.qualified_name}: {error.problems}. {_UNDO}"
        ) from error
    except ManifestError as error:
        raise HeadstripError(
            f"encoder.save cannot save the encoder of {encoder.spec.qualified_name}, because "
            f"headstrip cannot build it again: {one_line(error)}"
        ) from error


def _refuse_other(encoder: Encoder, again: Encoder) -> None:
    """Compare an encoder with the one that was built from its folder.

    Raises:
        HeadstripError: A layer differs, or a predictor has values that the folder does not keep.
    """
    name = encoder.spec.qualified_name
    for part in PARTS:
        here, there = (repr(getattr(one, part)).splitlines() for one in (encoder, again))
        for mine, built in zip_longest(here, there, fillvalue="nothing"):
            if mine != built:
                raise HeadstripError(
                    f"The {part} of {name} was changed: it has {mine.strip():.100} where headstrip "
                    f"builds {built.strip():.100}. {_UNDO}"
                )
    if encoder.predictors is None or again.predictors is None:
        return
    values = again.predictors.state_dict()
    for key, value in encoder.predictors.state_dict().items():
        if value.dtype != values[key].dtype or not torch.equal(value.cpu(), values[key].cpu()):
            raise HeadstripError(
                f"The predictors of {name} are {value.dtype}, and a file of predictors has float32 "
                f"values for an encoder of {encoder.dtype}. Cast the whole encoder with "
                "encoder.float(), and save it."
            )
