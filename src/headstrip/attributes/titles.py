"""Words for measures and kinds in tables and pages. This module imports no slow library."""

from __future__ import annotations

KINDS = {
    "class": "Attributes with one class per image",
    "labels": "Attributes with any number of labels per image",
    "number": "Numbers",
}
"""Titles of tables, by kind."""

MEASURES = {
    "class": {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro-F1",
        "log_loss": "log loss",
        "ece": "ECE",
        "ece_temperature": "ECE with temperature",
    },
    "labels": {
        "map": "mAP",
        "accuracy": "accuracy",
        "macro_f1": "macro-F1",
        "log_loss": "log loss",
    },
    "number": {"mae": "MAE", "r2": "R2"},
}
"""Words for the measures of each kind, the most important first."""

RANKED_BY = {"class": "accuracy", "labels": "map", "number": "r2"}
"""The measure of each kind that charts show and that backbones are compared by."""

BASELINES = {"majority": "always the most frequent", "shuffled": "fitted to shuffled labels"}
"""Words for the predictors that know nothing about an image."""

JOIN = {
    "without_labels": "images without labels",
    "without_image": "labels without an image",
    "bad_images": "images without an embedding",
    "repeated_rows": "repeated rows of labels",
    "nan_cells": "cells such as NaN, read as missing",
    "stripped_cells": "cells with white space around the text, which is removed",
}
"""Words for the numbers of a join; tables and pages show those that are not 0."""
