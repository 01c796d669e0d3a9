"""What runs an encoder's network over batches of pixels: one file for each engine.

Importing it imports neither torch nor any engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from headstrip.embed.engines.forward import Forward, Settings
from headstrip.embed.limits import check_threads
from headstrip.embed.plan import EmbedSettings
from headstrip.errors import HeadstripError, PreprocessingError

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Engine",
    "Forward",
    "Precision",
    "compile_encoder",
    "forward_of",
]

Engine = Literal["torch", "compile", "openvino", "onnxruntime"]
Precision = Literal["fp32", "bf16"]

ENGINES: tuple[Engine, ...] = ("torch", "compile", "openvino", "onnxruntime")
"""Eager torch, ``torch.compile``, and two that are extras."""

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def compile_encoder(
    encoder: Encoder,
    *,
    engine: Engine = "torch",
    precision: Precision = "fp32",
    batch_size: int,
    threads: int,
    channels_last: bool = True,
) -> Forward:
    """Make what maps a batch of pixels to embeddings, the normalisation included.

    The encoder stays as it is, its mode, its dtype and its tensors; it must not be trained while
    the result is in use. "torch" and "compile" run where the encoder is and share its tensors, but
    for the weights of convolutions with ``channels_last`` and those that "bf16" casts, which are
    copied. "openvino" and "onnxruntime" hold the network a second time, and up to two times more
    while they are made.

    Args:
        encoder: An encoder of images, with a preprocessing.
        engine: One of ``ENGINES``.
        precision: What the network computes in, whatever dtype the encoder has; one of
            ``PRECISIONS``. With "bf16" torch runs under autocast: convolutions and matrix products
            in bfloat16, what sums and normalises in float32 where autocast says so.
        batch_size: Images of every batch.
        threads: Threads of the processor for one batch. For "torch" and "compile" the caller sets
            them, by ``torch.set_num_threads`` in each thread that calls.
        channels_last: Whether "torch" and "compile" have the channels last in memory; the others
            choose for themselves.

    Returns:
        uint8 (batch_size, H, W, C) to float32 (batch_size, output_dim), for any number of threads
        at once.

    Raises:
        HeadstripError: The engine is not installed, cannot take over this network, or cannot
            compute in this precision on this machine; its embeddings are not those of eager torch.
        PreprocessingError: The encoder takes clips, or has no preprocessing.
        ValueError: A number is below 1, or the engine or the precision is none of those.

    Example:
        >>> forward = compile_encoder(encoder, batch_size=4, threads=1)  # doctest: +SKIP
        >>> forward(pixels).shape  # doctest: +SKIP
        (4, 2048)
    """
    settings = Settings(engine, precision, batch_size, threads, channels_last)
    _check(settings)
    _check_encoder(encoder)
    forward = _made(encoder, settings)
    if engine != "torch":
        eager = settings._replace(engine="torch", precision="fp32", channels_last=False)
        forward.prove(_made(encoder, eager))
    return forward


def forward_of(encoder: Encoder, settings: EmbedSettings) -> Forward:
    """Make what maps uint8 pixels (batch_size, H, W, C) to float32 embeddings, for a run."""
    return compile_encoder(
        encoder,
        engine=cast("Engine", settings.engine),
        precision=cast("Precision", settings.precision),
        batch_size=int(settings.batch_size or 1),
        threads=int(settings.threads or 1),
        channels_last=bool(settings.channels_last),
    )


def _made(encoder: Encoder, settings: Settings) -> Forward:
    if settings.engine == "openvino":
        from headstrip.embed.engines.openvino import OpenVINO

        return OpenVINO(encoder, settings)
    if settings.engine == "onnxruntime":
        from headstrip.embed.engines.onnxruntime import ONNXRuntime

        return ONNXRuntime(encoder, settings)
    if settings.engine == "compile":
        from headstrip.embed.engines.compiled import Compiled

        return Compiled(encoder, settings)
    from headstrip.embed.engines.eager import Eager

    return Eager(encoder, settings)


def _check(settings: Settings) -> None:
    for what, known in (("engine", ENGINES), ("precision", PRECISIONS)):
        if getattr(settings, what) not in known:
            raise ValueError(
                f"There is no {what} {getattr(settings, what)!r}. Use one of {', '.join(known)}."
            )
    for what in ("batch_size", "threads"):
        value = getattr(settings, what)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{what}={value!r} computes nothing. Pass 1 or more.")
    check_threads(settings.threads)


def _check_encoder(encoder: Encoder) -> None:
    if encoder.spec.task == "video":
        raise PreprocessingError(
            f"{encoder.spec.qualified_name} takes clips of frames, and engines run on images. "
            "Use a backbone of task 'image', or embed your clips with encoder.embed."
        )
    if encoder.preprocessing is None:
        # Asking for it raises the encoder's own sentence.
        encoder.preprocess(None)
    if encoder.input_shape != encoder.preprocessing.input_shape:  # type: ignore[union-attr]
        raise HeadstripError(
            f"The network takes {encoder.input_shape}, and its preprocessing gives another shape. "
            "Build the encoder with a preprocessing that fits."
        )
