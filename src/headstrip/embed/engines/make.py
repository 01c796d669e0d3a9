"""Makes the engine of an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from headstrip.embed.engines.engine import Engine, EngineSettings
from headstrip.embed.engines.pytorch import Eager
from headstrip.embed.engines.registry import load_engine
from headstrip.embed.limits import check_threads
from headstrip.embed.settings import EmbedSettings
from headstrip.encoder.comparison import check_is_encoder
from headstrip.errors import HeadstripError, PreprocessingError, one_line
from headstrip.system.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder


def make_engine(
    encoder: Encoder, settings: EmbedSettings, engine_class: type[Engine] | None = None
) -> Engine:
    """Make an engine that maps a batch of pixels to embeddings, including the normalisation.

    The encoder keeps its mode, its dtype and its tensors; do not train it while the engine is in
    use. "torch" and "compile" run where the encoder is and share its tensors, except the weights of
    convolutions with ``channels_last`` and the weights that "bf16" casts, which they copy. Other
    engines hold the network a second time, and up to two times more while they convert it.

    Args:
        encoder: An encoder of images, with a preprocessing.
        settings: The engine, the precision, the batch size, the threads and the memory format; none
            of them is None or "auto". For "torch" and "compile" the caller sets the threads with
            ``torch.set_num_threads`` in each thread that calls the engine. Other engines choose the
            memory format for themselves.
        engine_class: The class of the engine, if the caller has loaded it.

    Returns:
        Maps uint8 (batch_size, H, W, C) to float32 (batch_size, output_dim), in several threads at
        once.

    Raises:
        HeadstripError: The engine is not installed, cannot run this network, or cannot compute in
            this precision on this machine; or its embeddings differ from those of eager torch.
        OptionError: There are more threads than this machine can run.
        PreprocessingError: The encoder takes clips, or has no preprocessing.
        ValueError: No engine has the name.
    """
    own = EngineSettings(
        engine=str(settings.engine),
        precision=str(settings.precision),
        batch_size=int(settings.batch_size or 1),
        threads=int(settings.threads or 1),
        channels_last=bool(settings.channels_last),
        maps=tuple(settings.maps or ()),
        tokens=bool(settings.tokens),
        maps_dtype=settings.maps_dtype or "float16",
    )
    check_threads(own.threads)
    check_takes_images(encoder)
    engine_class = engine_class or load_engine(own.engine)
    try:
        # Kernels of torch.compile depend on the number of threads.
        with torch_threads(own.threads):
            made = engine_class(encoder, own)
            if engine_class is not Eager:
                made.compare(Eager(encoder, replace(own, precision="fp32", channels_last=False)))
    except HeadstripError:
        raise
    except Exception as error:
        # Converting runs code of other libraries, which raise errors of any type.
        if is_out_of_memory(error):
            raise
        raise HeadstripError(
            f"The engine {own.engine!r} cannot run {encoder.spec.qualified_name}: "
            f"{one_line(error, 300)}. Use the engine 'torch'."
        ) from error
    return made


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with a number of CPU threads, and restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_takes_images(encoder: Encoder) -> None:
    """Refuse an encoder that no engine can run.

    Raises:
        HeadstripError: Its preprocessing gives another shape than the network takes.
        OptionError: It is not an encoder.
        PreprocessingError: It takes clips, or has no preprocessing.
    """
    check_is_encoder(encoder)
    if encoder.spec.task == "video":
        raise PreprocessingError(
            f"{encoder.spec.qualified_name} takes clips of frames, but a source gives images. "
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
