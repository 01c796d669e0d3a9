"""A network as a graph that other engines can take over, and what they need installed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch

from headstrip.embed.engines.network import pixels_network
from headstrip.errors import HeadstripError, one_line

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from headstrip.embed.engines.forward import Settings
    from headstrip.encoder.encoder import Encoder


def exported(encoder: Encoder, settings: Settings) -> ExportedProgram:
    """Export pixels to embeddings for batches of one size.

    Raises:
        HeadstripError: The encoder is not on the CPU, or its network cannot be exported.
    """
    place = encoder.place()[0]
    if place.type != "cpu":
        raise HeadstripError(
            f"The engine {settings.engine!r} computes on the CPU, and the encoder is on {place}. "
            "Call encoder.cpu(), or use the engine 'torch' or 'compile'."
        )
    encoder._check_guards()
    network = pixels_network(encoder, settings._replace(precision="fp32", channels_last=True))
    channels, height, width = encoder.input_shape
    example = torch.zeros(settings.batch_size, height, width, channels, dtype=torch.uint8)
    try:
        with torch.no_grad():
            return torch.export.export(network, (example,))
    except Exception as error:
        raise cannot_take_over(encoder, settings, error) from error


def cannot_take_over(encoder: Encoder, settings: Settings, error: Exception) -> HeadstripError:
    """Say that an engine does not know this network."""
    return HeadstripError(
        f"The engine {settings.engine!r} cannot take over {encoder.spec.qualified_name}: "
        f"{one_line(error)[:300]} Use the engine 'torch'."
    )


def extra(engine: str, module: str) -> Any:
    """Import a module that an extra installs.

    Raises:
        HeadstripError: It is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise HeadstripError(
            f"The engine {engine!r} needs {module} ({one_line(error)}). "
            f"Run `pip install 'headstrip[{engine}]'`."
        ) from error
