"""A network of one's own that shares the tensors of an encoder's."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from headstrip.embed.engines.normalise import Normalise

if TYPE_CHECKING:
    from headstrip.embed.engines.forward import Settings
    from headstrip.encoder.encoder import Encoder

_CAST = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear,
         nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)  # fmt: skip
"""What autocast computes in bfloat16, and does nothing else with its weights. A class of another's
that is derived from one of these may do more, such as to normalise them."""


class PixelsNetwork(nn.Module):
    """Pixels, uint8 (N, H, W, C), to embeddings, float32 (N, output_dim)."""

    def __init__(self, normalise: Normalise, backbone: nn.Module) -> None:
        """Take the parts."""
        super().__init__()
        self.normalise, self.backbone = normalise, backbone

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise and embed."""
        embedding: Tensor = self.backbone(self.normalise(pixels))
        return embedding.float()


def pixels_network(encoder: Encoder, settings: Settings) -> PixelsNetwork:
    """Copy an encoder's network, in eval mode and where the encoder is, with its tensors shared.

    Tensors of its own has it where they must differ: those that are not float32, the weights of 2D
    convolutions for ``channels_last``, and for "bf16" the weights that autocast would cast anew for
    every batch; the numbers are the same as with plain autocast.
    """
    assert encoder.preprocessing is not None
    backbone = _sharing(encoder.backbone)
    _convert(backbone, bf16=settings.precision == "bf16", channels_last=settings.channels_last)
    normalise = Normalise(encoder.preprocessing, channels_last=settings.channels_last)
    network = PixelsNetwork(normalise.to(encoder.place()[0]), backbone).eval()
    return network.requires_grad_(False)


def _sharing(network: nn.Module) -> nn.Module:
    """Copy modules, and leave their parameters and buffers what they are."""
    tensors = itertools.chain(network.parameters(), network.buffers())
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


def _convert(network: nn.Module, *, bf16: bool, channels_last: bool) -> None:
    made: dict[tuple[int, torch.dtype, bool], nn.Parameter] = {}
    for module in network.modules():
        dtype = torch.bfloat16 if bf16 and type(module) in _CAST else torch.float32
        last = channels_last and isinstance(module, nn.Conv2d)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                key = (id(parameter), dtype, last)
                if key not in made:
                    made[key] = _own(parameter, dtype, last)
                module._parameters[name] = made[key]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                module._buffers[name] = buffer.float()


def _own(parameter: nn.Parameter, dtype: torch.dtype, last: bool) -> nn.Parameter:
    """Make a parameter of one's own, on the same memory if that will do."""
    tensor = parameter.detach()
    if tensor.is_floating_point():
        tensor = tensor.to(dtype)
    if last and tensor.ndim == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return nn.Parameter(tensor, requires_grad=False)
