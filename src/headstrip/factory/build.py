"""The factory: from a name to an encoder that is right."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import nn

from headstrip.encoder.encoder import Encoder
from headstrip.encoder.predictors import Predictors, check_classes
from headstrip.errors import (
    CatalogMismatchError,
    CatalogMismatchWarning,
    HeadNotFoundError,
    PluginError,
    PreprocessingError,
    UnknownBackboneError,
)
from headstrip.factory.construction import Built, Wish, build_stripped, strip_with
from headstrip.factory.from_manifest import (
    BuildRequest,
    compare_with_manifest,
    request_from_manifest,
)
from headstrip.factory.image_sizes import refused_size
from headstrip.factory.selection import WeightsArgument
from headstrip.families import SOURCE
from headstrip.images.preprocessing import Preprocessing
from headstrip.network.head import Stripped
from headstrip.network.head_check import logits_without_memory, strip_own, width_of_stripped
from headstrip.network.meta_init import collector_held_back
from headstrip.network.patches import PatchWatch, unseen
from headstrip.network.width import BATCH, HeadError, ProbeError
from headstrip.registry.registry import Registry, get_registry
from headstrip.spec import BackboneSpec, WeightsEntry
from headstrip.weights.hub import offline_call
from headstrip.weights.reading import VERIFY, Reading


def build_encoder(
    name: str | Mapping[str, Any] | os.PathLike[str],
    *,
    weights: WeightsArgument = "DEFAULT",
    predictors: Mapping[str, int] | None = None,
    preprocessing: Preprocessing | str | None = None,
    options: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    strict: bool = False,
    verify: Literal["changed", "always"] = "changed",
    map: bool | None = None,
    offline: bool = False,
    allow_versions: bool = False,
) -> Encoder:
    """Build an encoder: a pretrained backbone without its head.

    With weights given, building draws nothing from torch's global generator; only the predictors
    do. With ``weights=None`` the network is initialised from it first, then the predictors.

    Args:
        name: ``[source:]arch[.weights]``, such as ``vit_b_16`` or
            ``torchvision:resnet50.IMAGENET1K_V1``; or a manifest, as ``encoder.manifest()`` gives
            it, or the path of a JSON file with one, for the same encoder bit for bit.
        weights: ``"DEFAULT"``, a tag, a path to a state dict (``.safetensors``, or anything that
            ``torch.load`` reads with ``weights_only=True``), ``"tag=path"`` for a file that has
            the options and the preprocessing of a tag other than the default, or None for random
            weights. A file with other classes, or without a head, loads, and the head follows it.
        predictors: Attributes to predict and their numbers of classes, ``{"colour": 12}``. With a
            manifest they take the place of its own; ``{}`` builds none.
        preprocessing: Instead of that of the weights; or the tag of the weights whose one it is.
        options: Constructor arguments for the network; ``num_classes`` is headstrip's own.
        device: Where the encoder goes.
        dtype: Floating-point type of its parameters.
        strict: Raise when the catalog claims another width than the network has, instead of
            warning.
        verify: ``"changed"`` hashes the weights file when it is not as it was when it was hashed
            last, by size, time and inode; ``"always"`` reads every byte of it.
        map: Whether the parameters are the pages of the file itself, mapped copy-on-write, instead
            of copies in memory. By default headstrip maps what lies in a cache that nobody edits
            (torch hub's, the Hugging Face hub's, an installed package, headstrip's own), except
            on a network file system, and reads every file that you name by its path. ``False``
            reads any file, as does ``HEADSTRIP_MAP=0``. ``True`` maps any file; it is dangerous:
            whoever cuts a mapped file short or overwrites it in place (``torch.save`` does
            both) makes the encoder unusable, and ends the process if a parameter is read past
            the encoder. See ``docs/reference/weights.md``.
        offline: Open no socket; ``HEADSTRIP_OFFLINE=1`` does it for all calls.
        allow_versions: Whether other libraries may compute than a manifest names; the last bits
            of embeddings may differ then.

    Returns:
        The encoder, in eval mode.

    Raises:
        UnknownBackboneError: The name is nobody's.
        ValueError: The name's tag and ``weights`` differ, or ``options`` or ``predictors`` cannot
            be used.
        WeightsError: There are no such weights, or the file is missing, damaged or another's.
        PluginError: The plugin that owns the name cannot be used, or broke its contract; it took
            off a layer that does not give the logits, for example.
        PreprocessingError: The network does not take what the preprocessing gives.
        CatalogMismatchError: See ``strict``.
        ManifestError: What a manifest describes cannot be built here; each difference is named.

    Example:
        >>> encoder = build_encoder("resnet18", weights=None, predictors={"colour": 12})
        >>> encoder.output_dim
        512
    """
    if not isinstance(name, (str, Mapping, os.PathLike)):
        raise UnknownBackboneError(
            f"A backbone's name is a string, and {name!r:.100} is a {type(name).__name__}. Pass a "
            "name such as 'resnet50', which `headstrip list` prints, or a manifest, as "
            "encoder.manifest() gives it."
        )
    check_classes(predictors or {})
    place = _checked_place(device, dtype)
    if verify not in VERIFY:
        raise ValueError(f"verify={verify!r} is no way to verify. Pass 'changed' or 'always'.")
    if map not in (None, True, False) or offline not in (True, False):
        wrong = f"offline={offline!r}" if map in (None, True, False) else f"map={map!r}"
        raise ValueError(f"{wrong} is no truth value. Pass True or False.")
    with offline_call(offline):
        if isinstance(name, str) and not name.endswith(".json"):
            request = BuildRequest(name, weights, predictors, preprocessing, options, dtype)
        else:
            own = None if weights == "DEFAULT" else cast("str | os.PathLike[str] | None", weights)
            request = request_from_manifest(
                name,
                weights=own,
                predictors=predictors,
                preprocessing=preprocessing,
                options=options,
                dtype=dtype,
            )
        wish = Wish(Reading(verify, map), offline, place, request.dtype)
        with collector_held_back(), _size_explained(request.name, request.options):
            encoder = _build(request, wish, strict)
        if request.manifest is None:
            return encoder
        return compare_with_manifest(encoder, request, place, allow_versions)


def _build(request: BuildRequest, wish: Wish, strict: bool) -> Encoder:
    registry = get_registry()
    built = build_stripped(
        request.name, weights=request.weights, options=request.options, wish=wish
    )
    spec, stripped, entry = built.spec, built.stripped, built.selection.entry
    chosen = _preprocessing(registry, built, request.preprocessing)
    shape = chosen.input_shape if chosen else built.input_shape
    dim = width_of_built(built, shape, given=request.preprocessing is not None)
    if not spec.dim:
        # A plugin that was registered need not have measured it.
        spec = replace(spec, dim=dim)
    elif not request.options and dim != spec.dim:
        _report_mismatch(spec, dim, strict)
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
        # Those of a manifest follow once the encoder was compared with it.
        predictors=None if request.manifest else _predictors(dim, request.predictors),
        labels=registry.labels(spec, entry) if entry and has_labels else None,
        guards=built.guards,
        weights_file=path.name if (path := built.selection.path) else None,
    )
    return encoder.to(device=wish.device, dtype=wish.dtype)


@contextmanager
def _size_explained(name: str, options: Mapping[str, Any] | None) -> Iterator[None]:
    """Name near sizes where a network cannot be built because of the size that was asked for."""
    try:
        yield
    except PluginError as error:
        if not options:
            raise
        spec, _ = get_registry().resolve(name)

        def build(size: Mapping[str, Any]) -> nn.Module:
            return build_network(spec, {**dict(spec.options), **options, **size})

        if (found := refused_size(spec, options, error, build)) is not None:
            raise found from error
        raise


def _has_labels(built: Built) -> bool:
    """Whether the labels of the weights are those of the head: not where the file may differ."""
    head, entry = built.stripped.head, built.selection.entry
    if head is None or entry is None:
        return False
    if built.selection.path is None:
        return True
    return built.states_itself and getattr(head, "out_features", None) == entry.num_classes


def _predictors(dim: int, classes: Mapping[str, int] | None) -> Predictors | None:
    # Tensors made in inference mode could never train.
    with torch.inference_mode(False):
        return Predictors(dim, classes) if classes else None


def _checked_place(device: Any, dtype: Any) -> torch.device | None:
    """Refuse a device or a dtype that no encoder can have, before anything is built."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(
            f"dtype={dtype!r} is no type for an encoder. Pass a floating-point torch.dtype, such "
            "as torch.bfloat16."
        )
    try:
        place = None if device is None else torch.empty(0, device=device).device
        if place is not None and place.type == "meta":
            raise RuntimeError("on the meta device tensors have no values")
        return place
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise ValueError(
            f"device={device!r} cannot be used here: {reason}. Pass a device that is, such as "
            "'cpu'."
        ) from error


def strip_head(model: nn.Module, *, family: str) -> Stripped:
    """Take the head off a network of your own. Changes the network, and gives it back.

    Args:
        model: A network shaped as its family is, trained or not.
        family: One of the core's, such as ``resnet``, or a plugin's, ``source:family``.

    Returns:
        The two parts; ``backbone`` is ``model`` without its head.

    Raises:
        HeadNotFoundError: The network is not shaped as the family is, or the layer that the family
            takes off does not give its logits. It is unchanged then.
        PluginError: There is no such family.

    Example:
        >>> import torchvision
        >>> parts = strip_head(torchvision.models.resnet18(num_classes=7), family="resnet")
        >>> parts.head
        Linear(in_features=512, out_features=7, bias=True)
    """
    if not isinstance(model, nn.Module):
        raise HeadNotFoundError(
            f"A {type(model).__name__} is no network. Pass a torch.nn.Module and its family."
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
        what = "the head" if isinstance(error, HeadError) else "without its head it"
        raise HeadNotFoundError(
            f"The family {family!r} takes the wrong layer of this {type(model).__name__} for its "
            f"head: {what} {error}. Name the family that the network belongs to, or take its head "
            "off with headstrip.detach(network, path)."
        ) from error


_COMMON_INPUTS = ((3, 224, 224), (3, 32, 32), (3, 64, 64), (1, 28, 28), (1, 32, 32))


def _inputs_of(registry: Registry, family: str) -> list[tuple[int, ...]]:
    """Return the commonest inputs of a family's backbones."""
    own = family.removeprefix(f"{SOURCE}:")
    counts = Counter(spec.input_shape for spec in registry.specs() if spec.family == own)
    # A family that has no backbones has networks of its users' own: these sizes are common.
    return [shape for shape, _ in counts.most_common(3)] or [*_COMMON_INPUTS]


def width_of_built(built: Built, shape: tuple[int, ...], *, given: bool = False) -> int:
    """Probe the width of a network that was built; see ``embedding_width``."""
    entry, path = built.selection.entry, built.selection.path

    def untouched() -> tuple[int, ...] | None:
        if path is not None:
            # The file may have classes of its own.
            return None
        if entry is not None and entry.num_classes is not None:
            return (BATCH, entry.num_classes)
        return logits_without_memory(lambda: build_network(built.spec, built.options), shape)

    return embedding_width(built.stripped, built.spec, shape, untouched, given=given, entry=entry)


def build_network(
    spec: BackboneSpec, options: Mapping[str, Any], registry: Registry | None = None
) -> nn.Module:
    """Have the owner of a backbone build it, head included."""
    owner = (registry or get_registry()).owner(spec)
    about = spec.qualified_name
    model: nn.Module = owner.call("build_model", about, spec=spec, options=dict(options))
    return model


def embedding_width(
    stripped: Stripped,
    spec: BackboneSpec,
    shape: tuple[int, ...],
    untouched: Callable[[], tuple[int, ...] | None],
    *,
    given: bool = False,
    entry: WeightsEntry | None = None,
    registry: Registry | None = None,
) -> int:
    """Probe the width of a backbone, and whether its head gives the network's logits.

    Args:
        stripped: The network's parts.
        spec: The backbone.
        shape: Its input without the batch axis.
        untouched: See ``width_of_stripped``.
        given: Whether the user chose the shape.
        entry: The weights, whose own size is never refused.
        registry: Where its plugins are, by default those of this process.

    Raises:
        PluginError: What was stripped is no encoder, or its head was in another place.
        PreprocessingError: It does not take the ``shape``, which the user chose; or the patches of
            the network do not divide the shape, which is not its own, so that pixels are left out.
    """
    watch = PatchWatch(shape)
    try:
        width = width_of_stripped(stripped, shape, untouched, watch)
    except ProbeError as error:
        watch.look_at(stripped.backbone)
        if (problem := _left_out(watch, spec, shape, entry)) is not None:
            raise PreprocessingError(f"{spec.qualified_name} {problem}") from error
        if given:
            raise PreprocessingError(
                f"{spec.qualified_name} does not take what the preprocessing gives, {shape}: it "
                f"{error}. Pass the options that make it, or another preprocessing."
            ) from error
        plugin, _ = (registry or get_registry()).stripper(spec.family)
        raise PluginError(
            f"{spec.qualified_name} is no encoder as strip_head of the plugin {plugin.label} "
            f"leaves it: it {error}. Report it to the plugin's author."
        ) from error
    except HeadError as error:
        plugin, _ = (registry or get_registry()).stripper(spec.family)
        raise PluginError(
            f"strip_head of the plugin {plugin.label} takes the wrong layer of "
            f"{spec.qualified_name} for its head: the head {error}. Report it to the plugin's "
            "author, who has to name the layer that gives the logits."
        ) from error
    if (problem := _left_out(watch, spec, shape, entry)) is not None:
        raise PreprocessingError(f"{spec.qualified_name} {problem}")
    return width


def _left_out(
    watch: PatchWatch, spec: BackboneSpec, shape: tuple[int, ...], entry: WeightsEntry | None
) -> str | None:
    """Say what a network leaves out of its input, where the user set the size.

    Two of timm's SigLIP networks were trained at 384 pixels with patches of 14. What their authors
    left out stays left out at that size.
    """
    own = (spec.input_shape, entry.input_shape if entry else None)
    return None if shape in own else unseen(watch, shape)


def _preprocessing(
    registry: Registry, built: Built, given: Preprocessing | str | None
) -> Preprocessing | None:
    """Choose the preprocessing: the one given, that of the weights, or the owner's."""
    if isinstance(given, Preprocessing):
        return given
    spec, entry = built.spec, built.selection.entry
    if given is not None and not isinstance(given, str):
        raise PreprocessingError(
            f"preprocessing={given!r} is a {type(given).__name__}. Pass a headstrip.Preprocessing, "
            "or the tag of the weights whose one it is to be."
        )
    if given is not None:
        entries = registry.weights(spec)
        tags = {other.tag: other for other in entries}
        tags |= {"DEFAULT": entries[0]} if entries else {}
        if given not in tags:
            raise PreprocessingError(
                f"{spec.qualified_name} has no weights {given!r} whose preprocessing it could "
                f"have. Name one of {', '.join(tags) or 'none'}, or pass a Preprocessing."
            )
        entry = tags[given]
    chosen = entry.preprocessing if entry else None
    if chosen is None:
        chosen = registry.owner(spec).call("preprocessing", spec.qualified_name, spec=spec)
    return chosen.for_input(built.input_shape) if chosen else None


def _report_mismatch(spec: BackboneSpec, dim: int, strict: bool) -> None:
    message = (
        f"The catalog claims width {spec.dim} for {spec.qualified_name}, and the network has "
        f"{dim}, which is used. Update the distribution that brings it."
    )
    if strict:
        raise CatalogMismatchError(message)
    warnings.warn(message, CatalogMismatchWarning, stacklevel=4)
