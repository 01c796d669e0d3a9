"""The network that engines run: from uint8 pixels to embeddings, on the tensors of an encoder."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from headstrip.encoder.maps import choose_levels, maps_module

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder
    from headstrip.images.preprocessing import Preprocessing

_CAST = (
    nn.Linear,
    nn.modules.linear.NonDynamicallyQuantizableLinear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.MultiheadAttention,
)
"""Modules whose weights autocast casts to bfloat16 and uses for nothing else.

A derived class may do more with its weights, such as normalise them, so it is not in the list.
"""


class Normalise(nn.Module):
    """Divide, subtract the mean and divide by the standard deviation, as ``transform()`` ends.

    On the CPU every number has the bits that ``Preprocessing.transform()`` gives it. The
    arithmetic runs along rows of interleaved channels, six times as fast as along 3 channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing, *, channels_last: bool = True) -> None:
        """Keep the numbers, once for each pixel of a row.

        Args:
            preprocessing: Has ``rescale``, ``mean`` and ``std``.
            channels_last: Whether the result is channels last in memory, as the pixels are, which
                copies nothing; otherwise it is contiguous.
        """
        super().__init__()
        self.divisor, self.channels_last = preprocessing.rescale, channels_last
        width = preprocessing.crop[1]
        for name in ("mean", "std"):
            row = torch.tensor(getattr(preprocessing, name), dtype=torch.float32).repeat(width)
            self.register_buffer(name, row, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map uint8 (N, H, W, C) to float32 (N, C, H, W)."""
        rows = pixels.flatten(2).to(torch.float32)
        rows = rows.div_(self.divisor).sub_(self.mean).div_(self.std)
        images = rows.view(pixels.shape).permute(0, 3, 1, 2)
        return images if self.channels_last else images.contiguous()


class PixelsNetwork(nn.Module):
    """Maps pixels, uint8 (N, H, W, C), to embeddings, float32 (N, output_dim)."""

    def __init__(
        self, normalise: Normalise, backbone: nn.Module, expand: nn.Module | None = None
    ) -> None:
        """Keep the modules; ``expand`` turns grey into the channels of the backbone."""
        super().__init__()
        self.normalise, self.backbone, self.expand = normalise, backbone, expand

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise and embed."""
        images = self.normalise(pixels)
        embedding: Tensor = self.backbone(images if self.expand is None else self.expand(images))
        return embedding.float()


class DenseNetwork(nn.Module):
    """Maps pixels to what a ``PixelsNetwork`` gives, and to maps and tokens, in one forward pass.

    It shares the modules of that network. The embeddings have the same bits.
    """

    def __init__(
        self,
        network: PixelsNetwork,
        encoder: Encoder,
        *,
        maps: tuple[int, ...],
        tokens: bool,
        dtype: torch.dtype,
    ) -> None:
        """Make the module.

        Args:
            network: The network that gives the embeddings.
            encoder: The encoder that it is of.
            maps: Levels of the maps, the finest first.
            tokens: Whether to return the tokens of the last level too.
            dtype: Dtype of maps and tokens.
        """
        super().__init__()
        (self.last,) = choose_levels(encoder, [-1], None)
        self.maps, self.tokens, self.dtype = maps, tokens, dtype
        self.levels = tuple(sorted({*maps, *([self.last] if tokens else [])}))
        self.normalise, self.expand = network.normalise, network.expand
        self.module = maps_module(network.backbone, encoder.spec, self.levels, True)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return embeddings (N, output_dim), maps (N, C, H, W), and tokens (N, prefix + HW, C)."""
        images = self.normalise(pixels)
        embedding, maps, prefixes = self.module(
            images if self.expand is None else self.expand(images)
        )
        found = dict(zip(self.levels, maps, strict=True))
        dense = [found[level] for level in self.maps]
        if self.tokens:
            patches = found[self.last].flatten(2).transpose(1, 2)
            dense.append(torch.cat([prefixes[-1], patches], 1))
        return (embedding.float(), *(one.to(self.dtype).contiguous() for one in dense))


def pixels_network(encoder: Encoder, *, bf16: bool, channels_last: bool) -> PixelsNetwork:
    """Copy an encoder's network, in eval mode and on the encoder's device, with shared tensors.

    The copy has its own tensors only where they must differ: tensors that are not float32, the
    weights of 2D convolutions with ``channels_last``, and with ``bf16`` the weights that autocast
    would cast again for every batch; the results have the same bits as with plain autocast.
    """
    assert encoder.preprocessing is not None
    tensors = itertools.chain(encoder.backbone.parameters(), encoder.backbone.buffers())
    backbone = copy.deepcopy(encoder.backbone, {id(tensor): tensor for tensor in tensors})
    _convert(backbone, bf16=bf16, channels_last=channels_last)
    normalise = Normalise(encoder.preprocessing, channels_last=channels_last)
    expand = copy.deepcopy(encoder.expand)
    if expand is not None:
        expand = expand.to(encoder.device, torch.float32)
    network = PixelsNetwork(normalise.to(encoder.device), backbone, expand).eval()
    return network.requires_grad_(False)


def _convert(network: nn.Module, *, bf16: bool, channels_last: bool) -> None:
    made: dict[tuple[int, torch.dtype, bool], nn.Parameter] = {}
    for module in network.modules():
        dtype = torch.bfloat16 if bf16 and type(module) in _CAST else torch.float32
        last = channels_last and isinstance(module, nn.Conv2d)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                key = (id(parameter), dtype, last)
                if key not in made:
                    made[key] = _converted(parameter, dtype, last)
                module._parameters[name] = made[key]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                module._buffers[name] = buffer.float()


def _converted(parameter: nn.Parameter, dtype: torch.dtype, last: bool) -> nn.Parameter:
    """Make a new parameter, on the same memory if nothing about it changes."""
    tensor = parameter.detach()
    if tensor.is_floating_point():
        tensor = tensor.to(dtype)
    if last and tensor.ndim == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return nn.Parameter(tensor, requires_grad=False)
