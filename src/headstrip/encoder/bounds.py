"""Limits on what a file may describe. headstrip checks them before it builds a network.

A manifest or a configuration may come from anyone. It could state a depth of 10**9, and building
such a network would never end.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from headstrip.errors import ManifestError, PluginError
from headstrip.network.meta_ops import without_memory
from headstrip.plugins.loader import Plugin
from headstrip.spec import BackboneSpec
from headstrip.system.bounded_json import MAX_DEPTH

MAX_NUMBER = 100_000
"""The largest number in the options of a network: more classes than any published head has."""

MAX_PARAMETERS = 20_000_000_000
"""The largest number of parameters: three times that of the largest network in a catalog."""

MAX_PREDICTOR_WEIGHTS = 1 << 27
"""The largest number of weights of the predictors of a manifest: 0.5 GiB of float32."""

_MAX_VALUES = 100_000
_MAX_OPTIONS = 1_000
_MAX_PIXELS = 1 << 24
_MAX_SIDE = 1 << 14
_MAX_GROWTH = 4
_ALWAYS_ALLOWED = 20_000_000
_MAX_MODULE_PARTS = 20_000
_MAX_NUMBER_IN_MEMORY = 4_096
_WRITE_AGAIN = "Write encoder.manifest() again."
_BUILD_BY_NAME = "If you trust it, build by name with options=..."
_PASS_PREPROCESSING = "If you trust it, build by name with preprocessing=..."
# It matches the name of an activation, a pooling or a layer, but no path, address or code.
_WORD = re.compile(r"[\w.+-]{0,100}")


def refuse_unbounded(value: object, about: str) -> None:
    """Refuse plain values that are too many, too deeply nested, or integers of more than 64 bits.

    ``bounded_json`` does the same for text.

    Args:
        value: A manifest, from ``json.loads`` or from a caller.
        about: What the value is: the subject of the error message.

    Raises:
        ManifestError: A value exceeds a limit.
    """
    level, count = [value], 0
    for _ in range(MAX_DEPTH + 1):
        inner: list[object] = []
        for one in level:
            if isinstance(one, Mapping):
                inner += [*one, *one.values()]
            elif isinstance(one, (list, tuple)):
                inner += one
            elif isinstance(one, int) and abs(one) >= 1 << 63:
                raise ManifestError(
                    f"{about} is damaged: it has an integer of more than 64 bits. {_WRITE_AGAIN}"
                )
        count += len(inner)
        if count > _MAX_VALUES:
            raise ManifestError(
                f"{about} is damaged: it has more than {_MAX_VALUES:,} values. {_WRITE_AGAIN}"
            )
        if not inner:
            return
        level = inner
    raise ManifestError(
        f"{about} is damaged: it has more than {MAX_DEPTH} nested lists and objects. {_WRITE_AGAIN}"
    )


def refuse_large_options(options: Mapping[str, Any], about: str) -> None:
    """Refuse options that no published network has.

    Args:
        options: Constructor arguments that a file states.
        about: What has the options: the subject of the error message.

    Raises:
        ManifestError: A number is too large, a text is not a plain word, or the options have too
            many values.
    """
    _refuse_numbers(options, MAX_NUMBER, about)
    for key, value in _leaves(options):
        if isinstance(value, str) and not _WORD.fullmatch(value):
            raise ManifestError(
                f"{about} has the option {key}={value!r:.80}, and options in a file must be "
                f"numbers and plain words. {_BUILD_BY_NAME}"
            )


def _refuse_numbers(options: Mapping[str, Any], most: int, about: str) -> None:
    leaves = list(_leaves(options))
    if len(leaves) > _MAX_OPTIONS:
        raise ManifestError(
            f"{about} has {len(leaves)} values in its options, and headstrip accepts at most "
            f"{_MAX_OPTIONS} from a file. {_BUILD_BY_NAME}"
        )
    for key, value in leaves:
        if isinstance(value, (int, float)) and abs(value) > most:
            raise ManifestError(
                f"{about} has the option {key}={value!r:.40}, and {most:,} is the largest number "
                f"that headstrip accepts from a file. {_BUILD_BY_NAME}"
            )


def _leaves(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the plain values in options, each with the name of its option."""
    for key, value in options.items():
        waiting = [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, Mapping):
                waiting += [*one, *one.values()]
            elif isinstance(one, (list, tuple)):
                waiting += one
            else:
                yield key, one


def refuse_large_network(
    owner: Plugin, spec: BackboneSpec, options: Mapping[str, Any], about: str
) -> None:
    """Refuse options that make a network much larger than the catalog says.

    headstrip builds the network, and stops at the limit. It builds on the meta device, which takes
    no memory, or in memory if the constructor computes with values. The global random generators
    do not change.

    Args:
        owner: The plugin that builds the network.
        spec: The backbone.
        options: All constructor arguments.
        about: What has the options: the subject of the error message.

    Raises:
        ManifestError: The network has more than 4 times the parameters in the catalog plus 20
            million, or too many modules, parameters and buffers.
        PluginError: The plugin cannot build the network.
    """
    most = _MAX_GROWTH * spec.params + _ALWAYS_ALLOWED
    for memory in (without_memory(), nullcontext()):
        try:
            with (
                torch.random.fork_rng(devices=[]),
                bounded_network(most, about, _BUILD_BY_NAME),
                memory,
            ):
                owner.call("build_model", spec.qualified_name, spec=spec, options=dict(options))
            return
        except PluginError:
            if isinstance(memory, nullcontext):
                raise
            # A constructor allocates the memory of a buffer before the buffer is counted.
            _refuse_numbers(options, _MAX_NUMBER_IN_MEMORY, about)


@contextmanager
def bounded_network(most: int, about: str, remedy: str) -> Iterator[None]:
    """Stop this thread from building modules with more than ``most`` values in total.

    Args:
        most: Largest number of values of all parameters and buffers together.
        about: What describes the network: the subject of the error message.
        remedy: The last sentence of the error message.

    Raises:
        ManifestError: The modules have more values, or more than 20,000 modules, parameters and
            buffers.
    """
    thread, parts, values = threading.get_ident(), 0, 0

    def count(module: nn.Module, name: str, part: nn.Module | Tensor | None) -> None:
        nonlocal parts, values
        if threading.get_ident() != thread:
            return
        parts += 1
        values += part.numel() if isinstance(part, Tensor) else 0
        if values > most or parts > _MAX_MODULE_PARTS:
            size = f"{most:,} parameters" if values > most else f"{_MAX_MODULE_PARTS:,} parts"
            raise ManifestError(
                f"{about} describes a network of more than {size}, which no such network has. "
                f"{remedy}"
            )

    with ExitStack() as stack:
        for register in (
            registration.register_module_parameter_registration_hook,
            registration.register_module_buffer_registration_hook,
            registration.register_module_module_registration_hook,
        ):
            stack.callback(register(count).remove)
        yield


def refuse_large_preprocessing(described: Mapping[str, Any], about: str) -> None:
    """Refuse a preprocessing whose images would not fit in memory.

    Args:
        described: What a file states, in the form of ``Preprocessing.to_json``.
        about: What has the preprocessing: the subject of the error message.

    Raises:
        ManifestError: A side or the number of pixels is too large.
    """
    pixels = 1
    for field in ("crop", "resize", "frames"):
        value = described.get(field)
        stated = value if isinstance(value, (list, tuple)) else [value]
        sides = [one for one in stated if isinstance(one, (int, float))]
        if any(abs(one) > _MAX_SIDE for one in sides):
            raise ManifestError(
                f"{about} has a preprocessing with {field}={value!r:.60}, and headstrip accepts at "
                f"most {_MAX_SIDE:,} from a file. {_PASS_PREPROCESSING}"
            )
        for one in sides if field != "resize" else ():
            pixels *= max(int(one), 1)
    if pixels > _MAX_PIXELS:
        raise ManifestError(
            f"{about} has a preprocessing that gives {pixels:,} pixels, and headstrip accepts at "
            f"most {_MAX_PIXELS:,} from a file. {_PASS_PREPROCESSING}"
        )


def refuse_large_predictors(classes: Mapping[str, int], dim: int, about: str) -> None:
    """Refuse predictors that would not fit in memory.

    Args:
        classes: Number of classes of each attribute.
        dim: Width of the embedding.
        about: What describes the predictors: the subject of the error message.

    Raises:
        ManifestError: They have too many weights.
    """
    weights = sum(classes.values()) * dim
    if weights > MAX_PREDICTOR_WEIGHTS:
        raise ManifestError(
            f"{about} asks for predictors of {weights:,} weights, and headstrip accepts at most "
            f"{MAX_PREDICTOR_WEIGHTS:,} from a file. Pass those that you need to build_encoder, "
            "such as build_encoder(manifest, predictors={'colour': 12})."
        )
