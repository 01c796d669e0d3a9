"""The modules of apple2373/wbcatt, in brief."""

from __future__ import annotations

import torchvision
from torch import nn

from headstrip import init_predictors


def notes_encoder(name):
    """Return what ``get_image_encoder(name, pretrained=False)`` of apple2373/wbcatt does."""
    model = getattr(torchvision.models, name)(weights=None)
    place, leaf = {
        "resnet": (model, "fc"),
        "vgg": (getattr(model, "classifier", None), "6"),
        "vit": (model, "heads"),
        "convnext": (getattr(model, "classifier", None), "2"),
    }[name.rstrip("0123456789_").split("_")[0].rstrip("0123456789")]
    setattr(place, leaf, nn.Identity())
    return model


class NotesPredictor(nn.Module):
    """The module whose state dict such a project saves."""

    def __init__(self, image_encoder, dim, sizes):
        super().__init__()
        self.image_encoder = image_encoder
        self.attribute_predictors = nn.ModuleList([nn.Linear(dim, size) for size in sizes])
        init_predictors(self.attribute_predictors)

    def forward(self, x):
        features = self.image_encoder(x).flatten(1)
        return [predictor(features) for predictor in self.attribute_predictors]
