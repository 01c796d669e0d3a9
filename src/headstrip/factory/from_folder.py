"""Build an encoder from a folder that ``Encoder.save`` wrote, if the folder has the weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstrip.encoder.bounds import refuse_large_network, refuse_large_options
from headstrip.encoder.encoder import Encoder, Save
from headstrip.encoder.manifest import manifest_of, refuse_differences
from headstrip.encoder.saved_folder import OtherNetworkError, SavedFolder
from headstrip.errors import HeadstripError, ManifestError, WeightsError, one_line
from headstrip.factory.construction import Built
from headstrip.factory.from_manifest import (
    as_options,
    changed_options,
    inputs_in,
    preprocessing_in,
)
from headstrip.factory.inputs import plan_channels
from headstrip.factory.instantiate import generator_untouched
from headstrip.factory.maker import NetworkMaker
from headstrip.factory.measure import width_of_built
from headstrip.factory.saving import tensors_of
from headstrip.factory.selection import Selection
from headstrip.network.assigning import has_meta_tensors
from headstrip.network.channels import ExpandGrey
from headstrip.network.head import Stripped
from headstrip.network.meta_init import Replaced, meta_parameters, share_memory
from headstrip.registry.catalog import (
    CATALOG_COLUMNS,
    UNREADABLE,
    WEIGHTS_COLUMNS,
    entry_from_row,
    spec_from_row,
)
from headstrip.registry.distributions import find_described
from headstrip.registry.index import row_problem
from headstrip.registry.registry import get_registry
from headstrip.spec import BackboneSpec, WeightsEntry, effective_shape
from headstrip.system.os_errors import explain
from headstrip.weights.safetensors_file import read_safetensors

_AGAIN = "Get the whole folder again, or save the encoder again."
_MOST_CHANNELS = 1024
_MOST_SHOWN, _LONGEST = 3, 200


def build_from_weights(
    saved: SavedFolder,
    wanted: Mapping[str, Any],
    device: torch.device | None,
    allow_versions: bool,
    save: Save,
) -> Encoder:
    """Build the encoder of a folder that has its weights, without predictors and labels.

    headstrip opens no other file of weights, and no socket.

    Args:
        saved: The folder.
        wanted: Its manifest, after the check of its fields.
        device: Device of the encoder, None for the CPU.
        allow_versions: Whether library versions may differ from those in the manifest.
        save: The function that ``Encoder.save`` of the encoder calls.

    Raises:
        ManifestError: The folder is damaged, or the encoder differs from the manifest. The message
            names each difference.
        UnknownBackboneError: No installed source has the name.
        PluginError: The plugin that owns the name cannot be used.
    """
    assert saved.weights is not None
    about = f"The folder {saved.shown}"
    tensors = _read(saved.weights, about)
    spec, entry, classes = _network(saved, wanted, about)
    options, inputs = as_options(wanted["options"]), inputs_in(wanted)
    refuse_large_options(_not_listed(spec, options, wanted), about)
    expand = _expand(tensors, about)
    widening = plan_channels(
        get_registry().owner(spec),
        spec,
        Selection(entry),
        changed_options(spec, entry, wanted["options"]) or {},
        inputs,
        is_trained=inputs.in_chans == 1 and expand is None,
    ).widening
    stripper = get_registry().stripper(spec.family)
    maker = NetworkMaker(get_registry().owner(spec), stripper, spec, entry, widening)
    stripped = _filled(maker, options, classes, tensors, wanted["law"] == "headless", about)
    shape = tuple(wanted["input_shape"])
    channels = effective_shape(stripped.input_shape, entry, spec)[0]
    taken = (widening.channels if widening else channels, *shape[1:])
    built = Built(stripped, spec, Selection(entry, saved.weights), options, taken, None)
    encoder = Encoder(
        stripped.backbone,
        stripped.head,
        law=stripped.law,
        output_dim=width_of_built(built, taken, given=True),
        spec=spec,
        weights=entry,
        weights_sha256=wanted["weights"]["sha256"],
        options=options,
        input_shape=shape,
        preprocessing=preprocessing_in(wanted),
        predictors=None,
        labels=None,
        weights_file=wanted["weights"]["file"],
        weights_key=wanted["weights"].get("key"),
        inputs=inputs.to_json(),
        expand=expand,
        save=save,
    ).to(device=device)
    if wanted.get("frozen"):
        encoder.freeze()
    refuse_differences(wanted, manifest_of(encoder), allow_versions, _AGAIN)
    return encoder


def _read(path: Path, about: str) -> dict[str, Tensor]:
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            return read_safetensors(path, file, size, mapped=False, limit=None)[0]
    except OSError as error:
        raise ManifestError(explain(error, f"{about} cannot be read")) from error
    except (WeightsError, ValueError) as error:
        # The rest of the message is about a single file, and not about a folder.
        reason = one_line(error, 300).partition(". headstrip executed")[0]
        raise ManifestError(f"{about} is damaged: {reason}. {_AGAIN}") from error


def _network(
    saved: SavedFolder, wanted: Mapping[str, Any], about: str
) -> tuple[BackboneSpec, WeightsEntry | None, int | None]:
    """Return the backbone (the installed catalog's, else the folder's), its weights and classes."""
    stated = saved.network or {}
    try:
        spec = spec_from_row([stated["backbone"][column] for column in CATALOG_COLUMNS])
        row, classes = stated["weights"], stated["classes"]
        entry = None if row is None else entry_from_row([row[column] for column in WEIGHTS_COLUMNS])
        if not (classes is None or (type(classes) is int and classes > 0)):
            raise ValueError(f"'classes' is {classes!r:.60}")
    except (KeyError, *UNREADABLE) as error:
        raise ManifestError(
            f"{about} is damaged: its network cannot be read ({one_line(error, 200)}). {_AGAIN}"
        ) from error
    if classes is not None:
        refuse_large_options({"classes": classes}, about)
    registry = get_registry()
    listed = {one.name: one for one in registry.specs_of(spec.source)}
    if spec.name in listed:
        return listed[spec.name], entry, classes
    is_installed = spec.source in {record.name for record in registry.records()}
    if not is_installed or row_problem(spec, spec.source):
        # This raises an error that says what to install.
        return (*find_described(wanted), classes)
    return spec, entry, classes


def _not_listed(
    spec: BackboneSpec, options: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options that no installed catalog has for these weights."""
    registry = get_registry()
    if not registry.is_in_catalog(spec):
        return dict(options)
    entries = {entry.tag: entry for entry in registry.listed_weights(spec)}
    listed = entries.get(wanted["weights"]["tag"])
    return changed_options(spec, listed, wanted["options"]) or {}


def _filled(
    maker: NetworkMaker,
    options: Mapping[str, Any],
    classes: int | None,
    tensors: Mapping[str, Tensor],
    is_headless: bool,
    about: str,
) -> Stripped:
    """Build the network without its head, with the saved tensors as its parameters.

    If the network needs values before that, headstrip initialises it first.

    Raises:
        ManifestError: The network has other tensors than the folder.
    """
    replaced = Replaced()
    with torch.inference_mode(False), generator_untouched():
        with suppress(HeadstripError):
            stripped = _stripped(maker, options, classes, tensors, about, replaced)
            parts = _parts(stripped, is_headless)
            if not any(map(share_memory, parts.values())):
                _fill(parts, tensors, maker.spec.qualified_name, about)
                held = replaced.is_held(stripped.backbone)
                if not held and not any(map(has_meta_tensors, parts.values())):
                    return _without_head(stripped, is_headless)
        stripped = _stripped(maker, options, classes, tensors, about, None)
        _fill(_parts(stripped, is_headless), tensors, maker.spec.qualified_name, about)
        return _without_head(stripped, is_headless)


def _without_head(stripped: Stripped, is_headless: bool) -> Stripped:
    return replace(stripped, head=None, law="headless") if is_headless else stripped


def _parts(stripped: Stripped, is_headless: bool) -> dict[str, nn.Module]:
    head = {} if is_headless or stripped.head is None else {"head": stripped.head}
    return {"backbone": stripped.backbone, **head}


def _stripped(
    maker: NetworkMaker,
    options: Mapping[str, Any],
    classes: int | None,
    tensors: Mapping[str, Tensor],
    about: str,
    replaced: Replaced | None,
) -> Stripped:
    """Build the network without its head, with the classes of the saved head.

    Args:
        maker: Makes the network.
        options: Its constructor arguments.
        classes: The number of classes of the saved head, None without a head.
        tensors: The saved tensors.
        about: The folder, as the subject of a message.
        replaced: Records the parameters that lose their memory, None to keep their memory.
    """
    # No network has more parameters than its file has values.
    spec = replace(maker.spec, params=sum(tensor.numel() for tensor in tensors.values()))
    entry = maker.entry

    def made(options: Mapping[str, Any]) -> Stripped:
        refuse_large_network(maker.owner, spec, options, about)
        with nullcontext() if replaced is None else meta_parameters(replaced):
            network = maker.network(options)
        return maker.stripped(network)

    if entry is not None and entry.num_classes and classes == entry.num_classes:
        return made({**options, "num_classes": classes})
    stripped = made(options)
    if classes is None or _fits(stripped.head, tensors):
        return stripped
    return made({**options, "num_classes": classes})


def _fits(head: nn.Module | None, tensors: Mapping[str, Tensor]) -> bool:
    own = {} if head is None else tensors_of(head)
    return head is not None and all(
        f"head.{name}" in tensors and tensors[f"head.{name}"].shape == one.shape
        for name, one in own.items()
    )


def _expand(tensors: Mapping[str, Tensor], about: str) -> ExpandGrey | None:
    """Return the module that expands grey to the network's channels, if the folder has it."""
    names = ("mean", "std", "shift", "scale")
    found = [tensors[f"expand.{name}"] for name in names if f"expand.{name}" in tensors]
    if not found:
        return None
    if len(found) != len(names) or any(tensor.numel() > _MOST_CHANNELS for tensor in found):
        raise ManifestError(f"{about} is damaged: its tensors for grey images are wrong. {_AGAIN}")
    mean, std, (shift, *_), (scale, *_) = (tensor.flatten().tolist() for tensor in found)
    return ExpandGrey(mean, std, grey_mean=shift, grey_std=scale).to(dtype=found[0].dtype)


def _fill(
    parts: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], name: str, about: str
) -> None:
    """Make the saved tensors the parameters of a network, and copy them into its buffers.

    Raises:
        ManifestError: The network has other tensors.
    """
    own = {
        f"{part}.{key}": tensor
        for part, module in parts.items()
        for key, tensor in tensors_of(module).items()
    }
    _refuse_other_tensors(own, tensors, name, about)
    key_of = {id(tensor): key for key, tensor in own.items()}
    made: dict[int, nn.Parameter] = {}
    for module in (one for part in parts.values() for one in part.modules()):
        for key, parameter in module._parameters.items():
            if parameter is not None:
                # A parameter that two modules share stays shared.
                if id(parameter) not in made:
                    given = _laid_out(tensors[key_of[id(parameter)]], parameter)
                    made[id(parameter)] = nn.Parameter(given, parameter.requires_grad)
                module._parameters[key] = made[id(parameter)]
        for key, buffer in module._buffers.items():
            if buffer is not None:
                given = tensors[key_of[id(buffer)]]
                # Other attributes may hold the buffer or views of it.
                module._buffers[key] = buffer.copy_(given) if buffer.dtype == given.dtype else given


def _laid_out(given: Tensor, own: Tensor) -> Tensor:
    """Return a tensor with the layout that a network's parameter has in memory."""
    if given.stride() == own.stride():
        return given
    return torch.empty_strided(own.shape, own.stride(), dtype=given.dtype).copy_(given)


def _refuse_other_tensors(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str, about: str
) -> None:
    lacking = [key for key in own if key not in tensors]
    unknown = [key for key in tensors if key not in own and not key.startswith("expand.")]
    differ = [
        f"{key} is {tuple(tensors[key].shape)} of {tensors[key].dtype} instead of "
        f"{tuple(one.shape)} of {one.dtype}"
        for key, one in own.items()
        if key in tensors
        and (one.shape, one.is_floating_point())
        != (tensors[key].shape, tensors[key].is_floating_point())
    ]
    problems = [
        *([f"it lacks {_listed(lacking)}"] if lacking else []),
        *([f"{name} has no {_listed(unknown)}"] if unknown else []),
        *([_listed(differ)] if differ else []),
    ]
    if problems:
        raise OtherNetworkError(
            f"{about} has tensors of another network than {name}: {'; '.join(problems)}. Install "
            "the versions of libraries that its manifest names, or save the encoder again.",
            "; ".join(problems),
        )


def _listed(names: list[str]) -> str:
    shown = ", ".join(name[:_LONGEST] for name in names[:_MOST_SHOWN])
    more = len(names) - _MOST_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
