"""What plugins may import in addition to the names of ``headstrip`` itself.

A plugin imports from ``headstrip``, from this module and, in its tests, from
``headstrip.testing``. These names change only together with ``API_VERSION``; everything else in
headstrip may change in any release.
"""

from __future__ import annotations

from headstrip.embed.engines.engine import Engine as Engine
from headstrip.embed.engines.engine import EngineSettings as EngineSettings
from headstrip.errors import one_line as one_line
from headstrip.factory.measure import measure as measure
from headstrip.hookspecs import API_VERSION as API_VERSION
from headstrip.images.preprocessing import Fit as Fit
from headstrip.network.checkpoints import plain_state_dict as plain_state_dict
from headstrip.network.meta_ops import without_memory as without_memory
from headstrip.registry.catalog import format_shape as format_shape
from headstrip.registry.catalog import read_catalog as read_catalog
from headstrip.registry.catalog import write_catalog as write_catalog
from headstrip.registry.catalog import write_weights as write_weights
from headstrip.spec import Pairs as Pairs
from headstrip.spec import freeze as freeze
from headstrip.weights.hub import HubLocation as HubLocation
from headstrip.weights.hub import hub_json as hub_json
from headstrip.weights.hub import parse as parse_hub_location
from headstrip.weights.sharded_checkpoint import read_object as read_json_object

__all__ = [
    "API_VERSION",
    "Engine",
    "EngineSettings",
    "Fit",
    "HubLocation",
    "Pairs",
    "format_shape",
    "freeze",
    "hub_json",
    "measure",
    "one_line",
    "parse_hub_location",
    "plain_state_dict",
    "read_catalog",
    "read_json_object",
    "without_memory",
    "write_catalog",
    "write_weights",
]
