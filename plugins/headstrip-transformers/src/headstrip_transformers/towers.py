"""The vision towers of transformers: the class of each model type, and its pooling.

If transformers has a classifier for a model type, the network is that classifier, and the embedding
is the input of its last layer:

- ``vit``: the class token after the last norm.
- ``dinov2``, ``dinov2_with_registers``: the class token and the mean of the patch tokens,
  concatenated, so twice as wide as a token. Register tokens are left out.
- ``ijepa``, ``siglip_vision_model``: the mean of all tokens after the last norm, without SigLIP's
  attention pooling.
- ``clip_vision_model``: the mean of the patch tokens, without CLIP's last norm, the class token and
  the projection into the text space.
- ``swin``, ``swinv2``, ``convnext``, ``convnextv2``: the mean over positions. Swin's norm is before
  the mean, ConvNeXt's after it.

For other model types, the embedding is the network's ``pooler_output``:

- ``dinov3_vit``: the class token after the last norm. ``dinov3_convnext``: the mean over positions
  after the last norm.
- ``aimv2_vision_model``: the output of its attention pooling; without one (``use_head=False``), the
  mean of all tokens after the last norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import transformers
from torch import Tensor, nn

Output = Literal["logits", "pooler_output"]


@dataclass(frozen=True, slots=True)
class Tower:
    """The names that transformers uses for one model type.

    Attributes:
        config: Name of the configuration class.
        network: Name of the class to build: the classifier, or the tower itself.
        output: Field of the network's output to use: logits, or the pooled tokens.
        whole: Model type of the pair of image and text tower that contains it, or None.
        whole_config: Name of that pair's configuration class, if the classifier is built from it.
        derived: Fields of the configuration that follow from other fields.
        one_size: Whether the tower takes only images of the size in its configuration.
    """

    config: str
    network: str
    output: Output = "logits"
    whole: str | None = None
    whole_config: str | None = None
    derived: frozenset[str] = frozenset({"stage_names", "out_features", "out_indices"})
    one_size: bool = False

    @property
    def interpolates(self) -> bool:
        """Whether transformers interpolates its position embeddings when asked to."""
        return self.one_size and self.whole != "aimv2"


_OF_STAGES = frozenset({"stage_names", "out_features", "out_indices", "hidden_size", "num_layers"})

TOWERS: dict[str, Tower] = {
    "aimv2_vision_model": Tower(
        "Aimv2VisionConfig", "Aimv2VisionModel", "pooler_output", whole="aimv2", one_size=True
    ),
    "clip_vision_model": Tower(
        "CLIPVisionConfig",
        "CLIPForImageClassification",
        whole="clip",
        whole_config="CLIPConfig",
        one_size=True,
    ),
    "convnext": Tower("ConvNextConfig", "ConvNextForImageClassification"),
    "convnextv2": Tower("ConvNextV2Config", "ConvNextV2ForImageClassification"),
    "dinov2": Tower("Dinov2Config", "Dinov2ForImageClassification"),
    "dinov2_with_registers": Tower(
        "Dinov2WithRegistersConfig", "Dinov2WithRegistersForImageClassification"
    ),
    "dinov3_convnext": Tower("DINOv3ConvNextConfig", "DINOv3ConvNextModel", "pooler_output"),
    "dinov3_vit": Tower("DINOv3ViTConfig", "DINOv3ViTModel", "pooler_output"),
    "ijepa": Tower("IJepaConfig", "IJepaForImageClassification", one_size=True),
    "siglip_vision_model": Tower(
        "SiglipVisionConfig",
        "SiglipForImageClassification",
        whole="siglip",
        whole_config="SiglipConfig",
        one_size=True,
    ),
    "swin": Tower("SwinConfig", "SwinForImageClassification", derived=_OF_STAGES),
    "swinv2": Tower("Swinv2Config", "Swinv2ForImageClassification", derived=_OF_STAGES),
    "vit": Tower("ViTConfig", "ViTForImageClassification", one_size=True),
}

HEAD = "classifier"
"""Path of the last layer in all these classifiers."""


class VisionTower(nn.Module):
    """A network of transformers that maps pixels to one tensor."""

    def __init__(
        self,
        network: nn.Module,
        output: Output,
        input_shape: tuple[int, ...] | None = None,
        *,
        interpolates: bool = False,
    ) -> None:
        """Keep the network.

        Args:
            network: The network of transformers.
            output: Field of its output to return.
            input_shape: Input without the batch axis, if constructor options changed it.
            interpolates: Whether to ask the network to interpolate its position embeddings.
        """
        super().__init__()
        self.network, self.output, self.input_shape = network, output, input_shape
        self._more = {"interpolate_pos_encoding": True} if interpolates else {}

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels (N, C, H, W) to logits (N, classes), or to (N, dim) without a classifier."""
        with self._windows_restored():
            found = self.network(pixel_values=x, return_dict=True, **self._more)
        value: Tensor | None = getattr(found, self.output)
        if value is None:
            # AIMv2 without its attention pooling.
            return cast("Tensor", found.last_hidden_state.mean(dim=1))
        return value

    @contextmanager
    def _windows_restored(self) -> Iterator[None]:
        """Restore Swin's window sizes, which a small input reduces for all later inputs."""
        windowed: list[Any] = [one for one in self.modules() if hasattr(one, "shift_size")]
        sizes = [(layer.window_size, layer.shift_size) for layer in windowed]
        try:
            yield
        finally:
            for layer, (window, shift) in zip(windowed, sizes, strict=True):
                layer.window_size, layer.shift_size = window, shift

    def extra_repr(self) -> str:
        """Show the output field."""
        return f"output={self.output!r}"


def reference(network: nn.Module, x: Tensor) -> Tensor:
    """Compute the embedding of a network without a classifier from its tokens.

    Args:
        network: The network of transformers, in eval mode.
        x: Pixels (N, C, H, W).

    Returns:
        Tensor of shape (N, dim).
    """
    tokens: Tensor = network(pixel_values=x, return_dict=True).last_hidden_state
    if type(network).__name__ != TOWERS["aimv2_vision_model"].network:
        return tokens[:, 0]
    pool = getattr(network, "head", None)
    return tokens.mean(dim=1) if pool is None else cast("Tensor", pool(tokens))


def config_class(tower: Tower) -> Any:
    """Return the class of a tower's configuration."""
    return getattr(transformers, tower.config)


def network_class(tower: Tower) -> Any:
    """Return the class of the network that is built for a tower."""
    return getattr(transformers, tower.network)
