"""Makes an engine of an encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from headstrip.embed.engines.eager import Eager
from headstrip.embed.engines.engine import Engine, EngineSettings
from headstrip.embed.engines.registry import load_engine
from headstrip.embed.limits import check_threads
from headstrip.embed.settings import EmbedSettings
from headstrip.errors import HeadstripError, PreprocessingError, one_line
from headstrip.system.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder


def compile_encoder(
    encoder: Encoder,
    *,
    engine: str = "torch",
    precision: str = "fp32",
    batch_size: int,
    threads: int,
    channels_last: bool = True,
) -> Engine:
    """Make an engine that maps a batch of pixels to embeddings, including the normalisation.

    The encoder keeps its mode, its dtype and its tensors; do not train it while the engine is in
    use. "torch" and "compile" run where the encoder is and share its tensors, except the weights of
    convolutions with ``channels_last`` and the weights that "bf16" casts, which they copy. Other
    engines hold the network a second time, and up to two times more while they convert it.

    Args:
        encoder: An encoder of images, with a preprocessing.
        engine: One of ``engine_names()``.
        precision: "fp32" or "bf16": what the network computes in, whatever dtype the encoder has.
            With "bf16" torch runs under autocast: convolutions and matrix products in bfloat16,
            sums and normalisations in float32 where autocast demands it.
        batch_size: Images of every batch.
        threads: Threads of the processor for one batch. For "torch" and "compile" the caller sets
            them with ``torch.set_num_threads`` in each thread that calls the engine.
        channels_last: Whether "torch" and "compile" have the channels last in memory; other engines
            choose for themselves.

    Returns:
        Maps uint8 (batch_size, H, W, C) to float32 (batch_size, output_dim), in several threads at
        once.

    Raises:
        HeadstripError: The engine is not installed, cannot run this network, or cannot compute in
            this precision on this machine; or its embeddings differ from those of eager torch.
        PreprocessingError: The encoder takes clips, or has no preprocessing.
        ValueError: A number is below 1, or the engine or the precision is unknown.

    Example:
        >>> forward = compile_encoder(encoder, batch_size=4, threads=1)  # doctest: +SKIP
        >>> forward(pixels).shape  # doctest: +SKIP
        (4, 2048)
    """
    settings = EngineSettings(engine, precision, batch_size, threads, channels_last)
    check_threads(threads)
    _check_encoder(encoder)
    engine_class, before = load_engine(engine), torch.get_num_threads()
    # Kernels of torch.compile depend on the number of threads.
    torch.set_num_threads(threads)
    try:
        made = engine_class(encoder, settings)
        if engine_class is not Eager:
            made.compare(Eager(encoder, replace(settings, precision="fp32", channels_last=False)))
    except HeadstripError:
        raise
    except Exception as error:
        # Converting runs code of other libraries, which raise errors of any type.
        if is_out_of_memory(error):
            raise
        raise HeadstripError(
            f"The engine {engine!r} cannot run {encoder.spec.qualified_name}: "
            f"{one_line(error)[:300]} Use the engine 'torch'."
        ) from error
    finally:
        torch.set_num_threads(before)
    return made


def forward_of(encoder: Encoder, settings: EmbedSettings) -> Engine:
    """Make the engine of a run, whose settings are all chosen."""
    return compile_encoder(
        encoder,
        engine=str(settings.engine),
        precision=str(settings.precision),
        batch_size=int(settings.batch_size or 1),
        threads=int(settings.threads or 1),
        channels_last=bool(settings.channels_last),
    )


def _check_encoder(encoder: Encoder) -> None:
    if encoder.spec.task == "video":
        raise PreprocessingError(
            f"{encoder.spec.qualified_name} takes clips of frames, and engines run on images. "
            "Use a backbone of task 'image', or embed your clips with encoder.embed."
        )
    if encoder.preprocessing is None:
        # This raises the encoder's own error.
        encoder.preprocess(None)
    if encoder.input_shape != encoder.preprocessing.input_shape:  # type: ignore[union-attr]
        raise HeadstripError(
            f"The network takes {encoder.input_shape}, and its preprocessing gives another shape. "
            "Build the encoder with a preprocessing that fits."
        )
