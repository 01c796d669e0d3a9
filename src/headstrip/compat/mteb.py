"""Encoders as models of MTEB and MIEB, the benchmarks of embeddings in the package ``mteb``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from headstrip.encoder.encoder import Encoder
from headstrip.errors import HeadstripError

if TYPE_CHECKING:
    from mteb.models import ModelMeta

__all__ = ["MTEBEncoder"]

_BATCH_SIZE = 32
"""The default of ``mteb.evaluate``."""


@dataclass(frozen=True, eq=False)
class MTEBEncoder:
    """An encoder that ``mteb.evaluate`` can score on tasks with images.

    It implements mteb's ``EncoderProtocol``. The encoder preprocesses the images. The similarity of
    two embeddings is the cosine of their angle.

    Attributes:
        encoder: The encoder.

    Example:
        >>> import mteb  # doctest: +SKIP
        >>> from headstrip import build_encoder
        >>> model = MTEBEncoder(build_encoder("resnet50"))  # doctest: +SKIP
        >>> mteb.evaluate(model, mteb.get_tasks(tasks=["CIFAR10"]))  # doctest: +SKIP
    """

    encoder: Encoder

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """The name, the revision and the sizes that mteb stores with results.

        The revision is the identity of the encoder's fingerprint. So mteb never uses cached results
        of other weights or of another preprocessing for this encoder. Each access computes the
        identity again, because training changes it.

        Raises:
            HeadstripError: mteb is not installed.
        """
        spec, mark = self.encoder.spec, self.encoder.fingerprint
        name = ".".join(filter(None, (spec.qualified_name, mark.weights)))
        tensors = list(self.encoder.backbone.parameters())
        return _model_meta_class()(
            # mteb uses the name as the name of a folder.
            name="headstrip/" + re.sub(r"[^\w.-]+", "_", name),
            revision=mark.identity,
            embed_dim=self.encoder.output_dim,
            n_parameters=sum(one.numel() for one in tensors),
            memory_usage_mb=sum(one.nbytes for one in tensors) / 2**20,
            modalities=["image"],
            similarity_fn_name="cosine",
            framework=["PyTorch"],
            # mteb cannot build the encoder itself.
            loader=None,
            # The other fields are about text, or are unknown.
            languages=None,
            max_tokens=None,
            use_instructions=False,
            release_date=None,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            training_datasets=None,
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Sequence[Any]]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        batch_size: int = _BATCH_SIZE,
        precision: str | None = None,
        **others: Any,
    ) -> np.ndarray:
        """Embed the images of batches.

        Args:
            inputs: Batches with a list of images under ``image``.
            task_metadata: The task.
            hf_split: Not used.
            hf_subset: Not used.
            prompt_type: Not used.
            batch_size: Number of images that go through the network at once.
            precision: None or ``float32``.
            others: Not used.

        Returns:
            float32 array of shape (images, output_dim).

        Raises:
            HeadstripError: A batch has text, audio or video, or no images; or ``precision`` is
                another one.
            PreprocessingError: The encoder has no preprocessing, or an image cannot be used.
        """
        if precision not in (None, "float32"):
            raise HeadstripError(
                f"precision={precision!r:.60} is not possible: headstrip gives mteb float32. Leave "
                "precision out of encode_kwargs."
            )
        return self.encoder.embed(
            _images(inputs, getattr(task_metadata, "name", "This task")), batch_size=batch_size
        )

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the cosine similarities of all pairs, shape (N, M), float32."""
        return _directions(embeddings1) @ _directions(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the cosine similarity of each pair of rows, shape (N,), float32."""
        return (_directions(embeddings1) * _directions(embeddings2)).sum(-1)


def _model_meta_class() -> Any:
    try:
        from mteb.models import ModelMeta
    except ImportError as error:
        raise HeadstripError(
            f"mteb cannot be used ({error}). Run `pip install 'headstrip[mteb]'`, which needs "
            "Python 3.11 or newer."
        ) from error
    return ModelMeta


def _images(inputs: Iterable[Mapping[str, Sequence[Any]]], task: str) -> Iterator[Any]:
    """Check that batches have only images to embed, and yield these images."""
    for batch in inputs:
        if found := [kind for kind in ("text", "audio", "video") if kind in batch]:
            raise HeadstripError(
                f"{task} has {found[0]} to embed, and an encoder of headstrip embeds images only. "
                "Choose tasks that have only images, such as those of "
                "mteb.get_tasks(modalities=['image'], exclusive_modality_filter=True)."
            )
        if "image" not in batch:
            raise HeadstripError(
                f"{task} has no images to embed, only {', '.join(map(repr, batch)) or 'nothing'}. "
                "Choose tasks with images."
            )
        yield from batch["image"]


def _directions(embeddings: Any) -> Tensor:
    """Return one or more embeddings as float32 rows of length 1."""
    rows = torch.as_tensor(embeddings, dtype=torch.float32)
    return normalize(rows.reshape(-1, rows.shape[-1]), dim=-1)
