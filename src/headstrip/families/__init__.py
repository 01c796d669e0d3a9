"""The built-in plugins: one torchvision family per file, all of the source ``torchvision``."""

from __future__ import annotations

SOURCE = "torchvision"

BUILT_IN = (
    "alexnet",
    "convnext",
    "densenet",
    "efficientnet",
    "googlenet",
    "inception",
    "maxvit",
    "mnasnet",
    "mobilenet_v2",
    "mobilenet_v3",
    "mvit",
    "regnet",
    "resnet",
    "s3d",
    "shufflenet",
    "squeezenet",
    "swin",
    "swin3d",
    "vgg",
    "video_resnet",
    "vit",
)
"""Names of the built-in plugins; each is also the name of its family and of its module."""
