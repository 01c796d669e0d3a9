"""A small plugin as users write it in a notebook, and functions that make plugins for one test."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from torch import nn

from headstrip import BackboneSpec, HeadStripper, Preprocessing, detach, hookimpl
from headstrip.plugins.loader import Plugin

NET = BackboneSpec("net", "acme", "acme:net", "acme", "image", (3, 8, 8), 6, 1297)


class Acme:
    """A plugin with one network and its family."""

    FAMILIES = ("net",)

    def __init__(self, *specs: BackboneSpec) -> None:
        self.specs = specs or (NET,)

    @hookimpl
    def backbones(self):
        return self.specs

    @hookimpl
    def build_model(self, spec, options):
        classes = dict(options).get("num_classes", 5)
        return nn.Sequential(nn.Conv2d(3, 6, 8), nn.Flatten(), nn.Linear(6, classes))

    @hookimpl
    def strip_head(self, model, family):
        return detach(model, "2")

    @hookimpl
    def preprocessing(self):
        return Preprocessing(crop=(8, 8), resize=8, mean=(0.5,) * 3, std=(0.5,) * 3)


def spec_like(**changes: Any) -> BackboneSpec:
    """Return the description of the small network, with some changes."""
    return replace(NET, **changes)


def plugin_with(**attributes: Any) -> object:
    """Return an object that has these functions and attributes, and nothing else."""
    return type("Acme", (), attributes)()


def answering(hook: str, value: object) -> object:
    """Return a plugin with one hook that always returns ``value``."""
    families = {"FAMILIES": ("net",)} if hook == "strip_head" else {}
    return plugin_with(**{hook: hookimpl(lambda self: value)}, **families)


def ask(plugin: Plugin, hook: str) -> object:
    """Call a hook for ``acme:net`` with None for each argument of the contract."""
    names = list(inspect.signature(getattr(HeadStripper, hook)).parameters)[1:]
    return plugin.call(hook, "acme:net", **dict.fromkeys(names))
