"""Plugins of other distributions: how headstrip finds, loads and checks them."""

from __future__ import annotations

ENTRY_POINT_GROUP = "headstrip"
"""The entry-point group of plugins that bring backbones."""

COMMAND_GROUP = "headstrip.commands"
"""The entry-point group of plugins that bring commands."""

ENGINE_GROUP = "headstrip.engines"
"""The entry-point group of engines, each a class derived from ``headstrip.plugin_api.Engine``."""
