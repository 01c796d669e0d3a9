"""``build_encoder`` builds an encoder; ``strip_head`` takes the head off your own network."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import nn

from headstrip.encoder.attribute import AttributesArgument, attributes_of
from headstrip.encoder.encoder import Encoder
from headstrip.encoder.manifest import checked
from headstrip.encoder.predictors import Predictors
from headstrip.encoder.predictors_file import FittedPredictors, load_predictors
from headstrip.encoder.saved_folder import SavedFolder, read_folder
from headstrip.errors import (
    CatalogMismatchError,
    CatalogMismatchWarning,
    HeadNotFoundError,
    ManifestError,
    OptionError,
    PluginError,
    PreprocessingError,
    UnknownBackboneError,
)
from headstrip.factory.construction import Built, build_stripped
from headstrip.factory.from_folder import build_from_weights
from headstrip.factory.from_manifest import (
    BuildRequest,
    PreprocessingArgument,
    complete_from_manifest,
    request_from_manifest,
)
from headstrip.factory.image_sizes import refused_size
from headstrip.factory.inputs import (
    InputRequest,
    adapted_steps,
    expansion,
    folded_statistics,
    parse_input,
)
from headstrip.factory.instantiate import BuildOptions
from headstrip.factory.maker import strip_with
from headstrip.factory.measure import build_network, width_of_built
from headstrip.factory.own_labels import LabelsArgument, read_labels, refuse_other_count
from headstrip.factory.saving import save_encoder
from headstrip.factory.selection import WeightsArgument
from headstrip.families import SOURCE
from headstrip.images.preprocessing import Preprocessing
from headstrip.network.head import Stripped
from headstrip.network.head_check import strip_own
from headstrip.network.meta_init import collector_held_back
from headstrip.network.width import HeadError, ProbeError
from headstrip.registry.registry import Registry, get_registry
from headstrip.spec import BackboneSpec, is_folder, merged_options
from headstrip.system.arguments import type_of
from headstrip.weights.hub import offline_call
from headstrip.weights.reading import VERIFY, ReadOptions


def build_encoder(
    name: str | Mapping[str, Any] | os.PathLike[str],
    *,
    weights: WeightsArgument = "DEFAULT",
    weights_key: str | None = None,
    predictors: AttributesArgument | str | os.PathLike[str] | None = None,
    preprocessing: PreprocessingArgument | None = None,
    labels: LabelsArgument | None = None,
    options: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    strict: bool = False,
    verify: Literal["changed", "always"] = "changed",
    map: bool | None = None,
    offline: bool = False,
    allow_versions: bool = False,
    in_chans: int | Sequence[str | None] | None = None,
    img_size: int | tuple[int, int] | None = None,
    new_channels: Literal["mean", "zero"] = "mean",
) -> Encoder:
    """Build an encoder: a pretrained backbone without its head.

    With weights, only the predictors draw from torch's global generator. With ``weights=None`` the
    network draws from it first, then the predictors.

    Args:
        name: ``[source:]arch[.weights]``, such as ``vit_b_16`` or
            ``torchvision:resnet50.IMAGENET1K_V1``; or the folder that ``encoder.save`` wrote, or a
            manifest, as ``encoder.manifest()`` returns it, or the path of a JSON file with one, for
            the same encoder bit for bit. A string means a folder if it ends with ``/`` or begins
            with ``/``, ``./``, ``../`` or ``~/``; a path object means one if it is a folder.
        weights: ``"DEFAULT"``, a tag, the path of a checkpoint (``.safetensors``, or anything that
            ``torch.load`` reads with ``weights_only=True``), ``"tag=path"`` for a file that has
            the options and the preprocessing of a tag other than the default, or None for random
            weights. headstrip finds the state dict that fits the architecture, wherever it is in
            the file and whatever prefix its names have. A file may have other classes or no head;
            the encoder's head is the file's.
        weights_key: Which state dict of the file, where several fit: its dotted path in the file,
            such as ``"state_dict.module.encoder_q"``, or a part of that, such as ``"teacher"``.
            ``""`` means the whole content. ``encoder.weights_key`` is the path that was used.
        predictors: Attributes to predict: with their numbers of classes, ``{"colour": 12}``, with
            the names of their classes, ``{"colour": ["red", "blue"]}``, or a list of ``Attribute``;
            or the path of a file that ``headstrip fit`` or ``fit_predictors`` wrote for this
            encoder. They replace the predictors of a folder or a manifest; ``{}`` builds none.
        preprocessing: The preprocessing; the tag of the weights that state it; or a function that
            is called with the preprocessing of the weights and returns the encoder's. By default
            it is that of the weights.
        labels: The names of the head's classes, in the order of the logits; a mapping of their
            indices to them, such as ``id2label``; or the path of a file with them: one per line, or
            JSON, such as a ``config.json`` with ``id2label``. By default those of the weights.
        options: Constructor arguments for the network, except ``num_classes``, which headstrip
            sets.
        device: Device of the encoder.
        dtype: Floating-point dtype of its parameters.
        strict: Whether to raise an error instead of a warning when the catalog claims another width
            than the network has.
        verify: ``"changed"`` hashes the weights file if its size, time or inode differ from those
            at the last hash; ``"always"`` reads every byte of it.
        map: Whether the parameters are pages of the weights file, mapped copy-on-write, instead of
            copies in memory. By default headstrip maps files in caches that users do not edit
            (torch hub's, the Hugging Face hub's, an installed package, headstrip's own), except on
            a network file system, and reads files that you name by their path. ``False`` reads
            every file, as does ``HEADSTRIP_MAP=0``. ``True`` maps every file, which is dangerous:
            a program that truncates a mapped file or overwrites it in place (``torch.save`` does
            both) makes the encoder unusable, and the process ends if anything reads a parameter
            without going through the encoder. See ``docs/reference/weights.md``.
        offline: Whether to open no socket; ``HEADSTRIP_OFFLINE=1`` sets it for all calls.
        allow_versions: Whether to accept library versions other than those in a folder or a
            manifest. The last bits of embeddings may differ then.
        in_chans: Channels of the images, by default those of the weights. ``1`` takes grey images,
            with the embeddings that the network has for them as RGB. A sequence names each
            channel, such as ``("R", "G", "B", None)``: red, green and blue keep their filters.
            Another integer follows timm's rule (repeat the three filters and rescale them) and
            needs a ``preprocessing`` with the statistics of each channel, such as
            ``lambda steps: dataclasses.replace(steps, mean=means, std=deviations)``.
        img_size: Height and width of the input in pixels, or one number for both; by default
            those of the weights. Position embeddings are interpolated as the network's library
            does it, and the preprocessing follows.
        new_channels: The filter of a channel that is not red, green or blue: ``"mean"``, the mean
            of their three filters, or ``"zero"``.

    Returns:
        The encoder, in eval mode.

    Raises:
        UnknownBackboneError: No installed source has the name.
        ValueError: The name's tag and ``weights`` differ, or ``options``, ``labels``,
            ``weights_key`` or ``predictors`` cannot be used.
        HeadstripError: The file of predictors is missing or damaged, or was fitted to embeddings of
            another encoder. The message names each difference.
        WeightsError: There are no such weights, or the file is missing, damaged or of another
            network.
        PluginError: The plugin that owns the name cannot be used, or broke its contract, for
            example by taking off a layer that does not give the logits.
        OptionError: ``in_chans``, ``img_size`` or ``new_channels`` has an invalid value, or
            something other than one convolution reads the images.
        PreprocessingError: The network does not accept the output of the preprocessing, or the
            ``img_size``; or a number of channels lacks its statistics.
        CatalogMismatchError: See ``strict``.
        ManifestError: The folder is damaged, or the encoder of a folder or a manifest cannot be
            built here. The message names each difference.

    Example:
        >>> encoder = build_encoder("resnet18", weights=None, predictors={"colour": 12})
        >>> encoder.output_dim
        512
        >>> build_encoder("resnet18", weights=None, in_chans=1, img_size=128).input_shape
        (1, 128, 128)
    """
    if not isinstance(name, (str, Mapping, os.PathLike)):
        raise UnknownBackboneError(
            f"A backbone's name is a string, and {name!r:.100} is {type_of(name)}. Pass a "
            "name that `headstrip list` prints, such as 'resnet50', or a manifest that "
            "encoder.manifest() returns."
        )
    fitted = None
    if isinstance(predictors, (str, os.PathLike)):
        fitted, predictors = load_predictors(predictors), {}
    else:
        predictors = predictors if predictors is None else attributes_of(predictors)
    inputs = parse_input(in_chans, img_size, new_channels)
    _check_dtype(dtype)
    target = checked_device(device)
    if verify not in VERIFY:
        raise ValueError(f"verify must be 'changed' or 'always', got {verify!r}.")
    if map not in (None, True, False):
        raise ValueError(f"map must be True, False or None, got {map!r}.")
    if offline not in (True, False):
        raise ValueError(f"offline must be True or False, got {offline!r}.")
    names = None if labels is None else read_labels(labels)
    with offline_call(offline):
        saved = read_folder(cast("str", name)) if is_folder(name) else None
        if saved is not None:
            stated = {
                "weights_key": weights_key,
                "preprocessing": preprocessing,
                "options": options,
                "dtype": dtype,
                **inputs.to_json(),
            }
            given = {name: value for name, value in stated.items() if value is not None}
            _refuse_stated(saved, given if weights == "DEFAULT" else {"weights": weights, **given})
            how = BuildOptions(ReadOptions(verify, map), offline, target)
            encoder = _from_folder(
                saved, how, allow_versions, fitted is None and predictors is None
            )
            if predictors:
                made = _predictors(encoder.output_dim, predictors)
                encoder.predictors = made and made.to(encoder.device, encoder.dtype)
            return _finished(encoder, names, fitted)
        if isinstance(name, str) and not name.endswith(".json"):
            request = BuildRequest(
                name,
                weights,
                predictors,
                preprocessing,
                options,
                dtype,
                inputs,
                weights_key=weights_key,
            )
        else:
            own = None if weights == "DEFAULT" else cast("str | os.PathLike[str] | None", weights)
            request = request_from_manifest(
                name,
                weights=own,
                predictors=predictors,
                preprocessing=preprocessing,
                options=options,
                dtype=dtype,
                inputs=inputs,
                weights_key=weights_key,
            )
        build_options = BuildOptions(ReadOptions(verify, map), offline, target, request.dtype)
        with collector_held_back(), _similar_sizes_named(request.name, request.options):
            encoder = _build(request, build_options, strict)
        if request.manifest is not None:
            encoder = complete_from_manifest(encoder, request, target, allow_versions)
        return _finished(encoder, names, fitted)


def _finished(
    encoder: Encoder, names: tuple[str, ...] | None, fitted: FittedPredictors | None
) -> Encoder:
    """Give an encoder the labels and the fitted predictors of the caller."""
    if names is not None:
        refuse_other_count(names, encoder)
        encoder.labels = names
    return encoder if fitted is None else fitted.attach(encoder)


def _refuse_stated(saved: SavedFolder, given: Mapping[str, Any]) -> None:
    """Refuse arguments for settings that a folder states.

    Raises:
        ValueError: The caller passed such an argument.
    """
    for name, value in given.items():
        raise ValueError(
            f"The folder {saved.shown} states {name} already, and {name}={value!r:.100} was "
            "passed. Leave it out, or build by name."
        )


def rebuild(saved: SavedFolder) -> Encoder:
    """Build the encoder that a folder describes, predictors included, from local files alone.

    Raises:
        HeadstripError: The encoder cannot be built, or differs from the saved one.
    """
    with offline_call(True):
        return _from_folder(saved, BuildOptions(offline=True), False, True)


_save = partial(save_encoder, rebuild=rebuild)


def _from_folder(
    saved: SavedFolder, how: BuildOptions, allow_versions: bool, has_predictors: bool
) -> Encoder:
    """Build the encoder of a folder with its labels, and with its predictors if asked for."""
    wanted = checked(saved.manifest, f"The manifest in the folder {saved.shown}")
    if saved.weights is not None:
        encoder = build_from_weights(saved, wanted, how.device, allow_versions, _save)
    else:
        request = request_from_manifest(wanted, predictors={})
        options = replace(how, dtype=request.dtype)
        with collector_held_back():
            encoder = _build(request, options, strict=False)
        encoder = complete_from_manifest(encoder, request, how.device, allow_versions)
    try:
        if saved.labels is not None:
            refuse_other_count(saved.labels, encoder)
    except ValueError as error:
        raise ManifestError(
            f"The folder {saved.shown} is damaged: {error} Get the whole folder again."
        ) from error
    encoder.labels = saved.labels
    if has_predictors and saved.predictors is not None:
        load_predictors(saved.predictors).attach(encoder)
    return encoder


def _build(request: BuildRequest, build_options: BuildOptions, strict: bool) -> Encoder:
    registry = get_registry()
    inputs = request.inputs
    built = build_stripped(
        request.name,
        weights=request.weights,
        options=request.options,
        build_options=build_options,
        inputs=inputs,
        weights_key=request.weights_key,
    )
    spec, stripped, entry = built.spec, built.stripped, built.selection.entry
    own, chosen = _preprocessing(registry, built, request.preprocessing, inputs)
    expand = expansion(inputs, own, chosen, built.input_shape[0])
    if expand is not None and own is not None and isinstance(request.preprocessing, str):
        # The encoder's own weights do not state these statistics, so its manifest states them.
        inputs = replace(inputs, expanded=(own.mean, own.std))
    shape = chosen.input_shape if chosen else built.input_shape
    if expand is not None:
        shape = (1, *shape[1:])
    dim = width_of_built(
        built,
        (built.input_shape[0], *shape[1:]) if expand is not None else shape,
        given=request.preprocessing is not None or inputs != InputRequest(),
    )
    if not spec.dim:
        # A registered plugin need not state the width.
        spec = replace(spec, dim=dim)
    elif not request.options and dim != spec.dim:
        _report_mismatch(spec, dim, registry.owner(spec).origin, strict)
    has_labels = _has_labels(built)
    encoder = Encoder(
        stripped.backbone,
        stripped.head,
        law=stripped.law,
        output_dim=dim,
        spec=spec,
        weights=entry,
        weights_sha256=built.sha256,
        options=built.options,
        input_shape=shape,
        preprocessing=chosen,
        # For a manifest, they are added after the encoder was compared with the manifest.
        predictors=None if request.manifest else _predictors(dim, request.predictors),
        labels=registry.labels(spec, entry) if entry and has_labels else None,
        guards=built.guards,
        weights_file=path.name if (path := built.selection.path) else None,
        weights_key=built.weights_key,
        inputs=inputs.to_json() if _changes_input(inputs, built, expand) else {},
        expand=expand,
        invented=inputs.invented if built.has_new_filters else 0,
        save=_save,
    )
    if build_options.device is None and build_options.dtype is None:
        return encoder
    return encoder.to(device=build_options.device, dtype=build_options.dtype)


@contextmanager
def _similar_sizes_named(name: str, options: Mapping[str, Any] | None) -> Iterator[None]:
    """If a network cannot be built with the image size in its options, name sizes that work."""
    try:
        yield
    except PluginError as error:
        if not options:
            raise
        spec, _ = get_registry().resolve(name)

        def build(size: Mapping[str, Any]) -> nn.Module:
            return build_network(spec, merged_options(spec, None, {**options, **size}))

        if (found := refused_size(spec, options, error, build)) is not None:
            raise found from error
        raise


def _has_labels(built: Built) -> bool:
    """Whether the labels of the weights fit the head; a user's file may have other classes."""
    head, entry = built.stripped.head, built.selection.entry
    if head is None or entry is None:
        return False
    if built.selection.path is None:
        return True
    return built.describes_weights and getattr(head, "out_features", None) == entry.num_classes


def _predictors(dim: int, classes: AttributesArgument | None) -> Predictors | None:
    # Tensors that are created in inference mode cannot be trained.
    with torch.inference_mode(False):
        return Predictors(dim, classes) if classes else None


def _check_dtype(dtype: Any) -> None:
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(
            f"dtype must be a floating-point torch.dtype, such as torch.bfloat16, got {dtype!r}."
        )


def checked_device(device: Any) -> torch.device | None:
    """Return a device after checking that it can be used, before anything is built.

    Raises:
        OptionError: The device cannot be used here.
    """
    if device is None:
        return None
    try:
        found = torch.empty(0, device=device).device
        if found.type == "meta":
            raise RuntimeError("tensors on the meta device have no values")
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise OptionError(
            f"device={device!r} cannot be used here: {reason}. Pass another device, such as 'cpu'."
        ) from error
    return found


def strip_head(model: nn.Module, *, family: str) -> Stripped:
    """Take the head off your own network, in place.

    Args:
        model: A network of the family, trained or not.
        family: A family of torchvision, such as ``resnet``, or of a plugin, ``source:family``.

    Returns:
        The two parts; ``backbone`` is ``model`` without its head.

    Raises:
        HeadNotFoundError: The network does not have the structure of the family, or the layer that
            the family takes off does not give its logits. The network is unchanged then.
        PluginError: There is no such family.

    Example:
        >>> import torchvision
        >>> parts = strip_head(torchvision.models.resnet18(num_classes=7), family="resnet")
        >>> parts.head
        Linear(in_features=512, out_features=7, bias=True)
    """
    if not isinstance(model, nn.Module):
        raise HeadNotFoundError(
            f"model must be a torch.nn.Module, got {type_of(model)}. Pass a network and its family."
        )
    registry = get_registry()
    plugin, own = registry.stripper(family)
    try:
        return strip_own(
            model,
            lambda: strip_with(plugin, own, model, None, None, family),
            _inputs_of(registry, family),
        )
    except (HeadError, ProbeError) as error:
        subject = "the head" if isinstance(error, HeadError) else "without its head it"
        raise HeadNotFoundError(
            f"The family {family!r} takes the wrong layer of this {type(model).__name__} for its "
            f"head: {subject} {error}. Name the family that the network belongs to, or take its "
            "head off with headstrip.detach(network, path)."
        ) from error


_COMMON_INPUTS = ((3, 224, 224), (3, 32, 32), (3, 64, 64), (1, 28, 28), (1, 32, 32))


def _inputs_of(registry: Registry, family: str) -> list[tuple[int, ...]]:
    """Return the most common inputs of a family's backbones."""
    own = family.removeprefix(f"{SOURCE}:")
    counts = Counter(spec.input_shape for spec in registry.specs() if spec.family == own)
    # A family without backbones is for users' own networks, whose sizes only the user knows.
    return [shape for shape, _ in counts.most_common(3)] or [*_COMMON_INPUTS]


def _changes_input(inputs: InputRequest, built: Built, expand: nn.Module | None) -> bool:
    """Whether the input of an encoder differs from that of its weights and options."""
    return inputs.img_size is not None or built.widening is not None or expand is not None


def _preprocessing(
    registry: Registry, built: Built, given: PreprocessingArgument | None, inputs: InputRequest
) -> tuple[Preprocessing | None, Preprocessing | None]:
    """Return the preprocessing of the weights, or else the plugin's, and that of the encoder."""
    expands = inputs.in_chans == 1 and built.input_shape[0] != 1
    if given is not None and not isinstance(given, (Preprocessing, str)):
        given = _changed(registry, built, given, inputs, expands=expands)
    if isinstance(given, Preprocessing) and not expands:
        # Only grey also needs the statistics of the weights, which may be unusable.
        _check_channels(given, inputs)
        if built.is_folded and built.widening is not None:
            given = folded_statistics(given, built.widening.mix)
        return None, given
    own = _of_weights(registry, built, None if isinstance(given, Preprocessing) else given)
    if isinstance(given, Preprocessing):
        _check_channels(given, inputs)
        return own, given
    if own is None:
        return None, None
    if built.widening is None and inputs.in_chans != 1:
        return own, own.for_input(built.input_shape)
    chosen = adapted_steps(own, inputs, is_trained=built.widening is not None)
    return own, chosen.for_input((chosen.channels, *built.input_shape[1:]))


def _of_weights(registry: Registry, built: Built, given: str | None) -> Preprocessing | None:
    """Return the preprocessing of ``_own_preprocessing``, with statistics that fit the network.

    A network with other channels may no longer change the statistics of its input itself.
    """
    own = _own_preprocessing(registry, built, given)
    return folded_statistics(own) if own is not None and built.is_folded else own


def _changed(
    registry: Registry,
    built: Built,
    change: Callable[[Preprocessing], Preprocessing],
    inputs: InputRequest,
    *,
    expands: bool,
) -> Preprocessing:
    """Return the result of the user's function for the preprocessing of the weights.

    The function gets a preprocessing with the channels of the images, if the weights have
    statistics for them.
    """
    # torchvision's transforms are callable modules, but they change images.
    if not callable(change) or isinstance(change, nn.Module):
        raise PreprocessingError(
            f"preprocessing={change!r} is {type_of(change)}. Pass a "
            "headstrip.Preprocessing, the tag of the weights that state it, or a function of the "
            "weights' preprocessing."
        )
    own = _own_preprocessing(registry, built, None)
    if own is None:
        raise PreprocessingError(
            f"preprocessing is a function, and {built.spec.qualified_name} states no preprocessing "
            "that it could change. Pass a headstrip.Preprocessing, or weights that state one."
        )
    if expands or isinstance(inputs.in_chans, tuple):
        own = adapted_steps(own, inputs)
    steps = own.for_input((own.channels, *built.input_shape[1:]))
    found = change(steps)
    if not isinstance(found, Preprocessing):
        raise PreprocessingError(
            f"The function given as preprocessing returned {type_of(found)}. Return a "
            "headstrip.Preprocessing."
        )
    if expands and (found.mean, found.std) != (steps.mean, steps.std):
        raise PreprocessingError(
            "in_chans=1 and weights for RGB: the encoder normalises grey with the mean and the "
            "standard deviation of the weights. Leave out your own (--mean and --std)."
        )
    return found


def _check_channels(given: Preprocessing, inputs: InputRequest) -> None:
    """Refuse a preprocessing with other channels or another size than the user asked for."""
    if inputs.count is not None and given.channels != inputs.count:
        raise PreprocessingError(
            f"in_chans={inputs.in_chans!r} and a preprocessing of {given.channels} channels do not "
            f"fit each other. Pass a preprocessing with {inputs.count} means and standard "
            "deviations."
        )
    if inputs.img_size is not None and given.crop != inputs.img_size:
        raise PreprocessingError(
            f"img_size={inputs.img_size!r} and crop={given.crop!r} in the preprocessing do not fit "
            f"each other. Pass preprocessing.for_input(({given.channels}, "
            f"{inputs.img_size[0]}, {inputs.img_size[1]})), or leave one of them out."
        )


def _own_preprocessing(registry: Registry, built: Built, given: str | None) -> Preprocessing | None:
    """Return the preprocessing of the weights with a tag or of the selected ones, or the plugin's.

    Args:
        registry: The registry that lists the weights.
        built: The network and its selected weights.
        given: The tag, None for the selected weights.
    """
    spec, entry = built.spec, built.selection.entry
    if given is not None:
        entries = registry.weights(spec)
        tags = {other.tag: other for other in entries}
        tags |= {"DEFAULT": entries[0]} if entries else {}
        if given not in tags:
            raise PreprocessingError(
                f"preprocessing={given!r} is not a tag of weights of {spec.qualified_name}. Pass "
                f"one of its tags ({', '.join(tags) or 'it has none'}), or a Preprocessing."
            )
        entry = tags[given]
    chosen = entry.preprocessing if entry else None
    if chosen is None:
        chosen = registry.owner(spec).call("preprocessing", spec.qualified_name, spec=spec)
    return chosen


def _report_mismatch(spec: BackboneSpec, dim: int, origin: str, strict: bool) -> None:
    found = (
        f"The catalog claims the width {spec.dim} for {spec.qualified_name}, and the network has "
        f"the width {dim}."
    )
    owner = {"built-in": "headstrip", "registered": f"the plugin {spec.plugin!r}"}.get(
        origin, origin.partition(" ")[0]
    )
    if strict:
        raise CatalogMismatchError(f"{found} Update {owner}, or leave out strict=True.")
    warnings.warn(
        f"{found} The encoder has the width {dim}. Update {owner}.",
        CatalogMismatchWarning,
        stacklevel=4,
    )
