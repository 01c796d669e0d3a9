"""The modules of apple2373/wbcatt, shortened."""

from __future__ import annotations

import torchvision
from torch import nn

from headstrip import init_predictors


def wbcatt_encoder(name):
    """Do the same as ``get_image_encoder(name, pretrained=False)`` of apple2373/wbcatt."""
    model = getattr(torchvision.models, name)(weights=None)
    place, leaf = {
        "resnet": (model, "fc"),
        "vgg": (getattr(model, "classifier", None), "6"),
        "vit": (model, "heads"),
        "convnext": (getattr(model, "classifier", None), "2"),
    }[name.rstrip("0123456789_").split("_")[0].rstrip("0123456789")]
    setattr(place, leaf, nn.Identity())
    return model


class WbcattPredictor(nn.Module):
    """The module of which apple2373/wbcatt saves the state dict."""

    def __init__(self, image_encoder, dim, sizes):
        super().__init__()
        self.image_encoder = image_encoder
        self.attribute_predictors = nn.ModuleList([nn.Linear(dim, size) for size in sizes])
        init_predictors(self.attribute_predictors)

    def forward(self, x):
        features = self.image_encoder(x).flatten(1)
        return [predictor(features) for predictor in self.attribute_predictors]
