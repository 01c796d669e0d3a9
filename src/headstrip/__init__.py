"""headstrip: pretrained vision models as encoders.

Public names are resolved on first use, so ``import headstrip`` imports neither torch nor any
plugin.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headstrip._version import __version__ as __version__

if TYPE_CHECKING:
    from headstrip.attributes.dataset import LabelledImages as LabelledImages
    from headstrip.attributes.fit import fit_predictors as fit_predictors
    from headstrip.backbones import Backbone as Backbone
    from headstrip.backbones import get_backbone as get_backbone
    from headstrip.backbones import list_backbones as list_backbones
    from headstrip.backbones import plugin_records as plugin_records
    from headstrip.compare.compare import compare_backbones as compare_backbones
    from headstrip.compare.results import ComparedBackbone as ComparedBackbone
    from headstrip.compare.results import Comparison as Comparison
    from headstrip.compat.image_encoder import get_image_encoder as get_image_encoder
    from headstrip.compat.image_encoder import init_predictors as init_predictors
    from headstrip.embed.calibrate import calibrate as calibrate
    from headstrip.embed.calibrate import choose_engine as choose_engine
    from headstrip.embed.cluster import EncoderUDF as EncoderUDF
    from headstrip.embed.output.loading import load_embeddings as load_embeddings
    from headstrip.embed.report import EmbedReport as EmbedReport
    from headstrip.embed.run import embed_source as embed_source
    from headstrip.embed.settings import EmbedOptions as EmbedOptions
    from headstrip.embed.settings import EmbedSettings as EmbedSettings
    from headstrip.embed.sources import source_of as source_of
    from headstrip.encoder.attribute import Attribute as Attribute
    from headstrip.encoder.encoder import Encoder as Encoder
    from headstrip.encoder.maps import Tokens as Tokens
    from headstrip.encoder.prediction import Prediction as Prediction
    from headstrip.encoder.predictors_file import FittedPredictors as FittedPredictors
    from headstrip.encoder.predictors_file import load_predictors as load_predictors
    from headstrip.errors import CatalogError as CatalogError
    from headstrip.errors import CatalogMismatchError as CatalogMismatchError
    from headstrip.errors import CatalogMismatchWarning as CatalogMismatchWarning
    from headstrip.errors import HeadNotFoundError as HeadNotFoundError
    from headstrip.errors import HeadstripError as HeadstripError
    from headstrip.errors import ImageError as ImageError
    from headstrip.errors import LevelError as LevelError
    from headstrip.errors import ManifestError as ManifestError
    from headstrip.errors import OptionError as OptionError
    from headstrip.errors import PluginError as PluginError
    from headstrip.errors import PreprocessingError as PreprocessingError
    from headstrip.errors import UnknownBackboneError as UnknownBackboneError
    from headstrip.errors import WeightsError as WeightsError
    from headstrip.errors import WeightsWarning as WeightsWarning
    from headstrip.factory.build import build_encoder as build_encoder
    from headstrip.factory.build import strip_head as strip_head
    from headstrip.factory.inspecting import InspectedCheckpoint as InspectedCheckpoint
    from headstrip.factory.inspecting import InspectedStateDict as InspectedStateDict
    from headstrip.factory.inspecting import inspect_checkpoint as inspect_checkpoint
    from headstrip.hookspecs import HeadStripper as HeadStripper
    from headstrip.hookspecs import hookimpl as hookimpl
    from headstrip.images.decode import decode_bytes as decode_bytes
    from headstrip.images.pixels import to_pixels as to_pixels
    from headstrip.images.preprocessing import Preprocessing as Preprocessing
    from headstrip.network.head import Stripped as Stripped
    from headstrip.network.head import detach as detach
    from headstrip.network.levels import Level as Level
    from headstrip.registry.registry import register_plugin as register_plugin
    from headstrip.reproducibility.seeding import make_deterministic as make_deterministic
    from headstrip.search.neighbors import find_neighbors as find_neighbors
    from headstrip.spec import BackboneSpec as BackboneSpec
    from headstrip.spec import WeightsEntry as WeightsEntry
    from headstrip.spec import parse_name as parse_name
    from headstrip.system.allocator import keep_freed_memory as keep_freed_memory

_HOMES = {
    "attributes.dataset": ("LabelledImages",),
    "attributes.fit": ("fit_predictors",),
    "backbones": ("Backbone", "get_backbone", "list_backbones", "plugin_records"),
    "compare.compare": ("compare_backbones",),
    "compare.results": ("ComparedBackbone", "Comparison"),
    "system.allocator": ("keep_freed_memory",),
    "embed.calibrate": ("calibrate", "choose_engine"),
    "embed.cluster": ("EncoderUDF",),
    "images.decode": ("decode_bytes",),
    "embed.output.loading": ("load_embeddings",),
    "search.neighbors": ("find_neighbors",),
    "images.pixels": ("to_pixels",),
    "embed.settings": ("EmbedOptions", "EmbedSettings"),
    "embed.report": ("EmbedReport",),
    "embed.run": ("embed_source",),
    "embed.sources": ("source_of",),
    "encoder.attribute": ("Attribute",),
    "encoder.encoder": ("Encoder",),
    "encoder.prediction": ("Prediction",),
    "encoder.predictors_file": ("FittedPredictors", "load_predictors"),
    "encoder.maps": ("Tokens",),
    "errors": (
        "CatalogError",
        "CatalogMismatchError",
        "CatalogMismatchWarning",
        "HeadNotFoundError",
        "HeadstripError",
        "ImageError",
        "LevelError",
        "ManifestError",
        "OptionError",
        "PluginError",
        "PreprocessingError",
        "UnknownBackboneError",
        "WeightsError",
        "WeightsWarning",
    ),
    "factory.build": ("build_encoder", "strip_head"),
    "factory.inspecting": (
        "InspectedCheckpoint",
        "InspectedStateDict",
        "inspect_checkpoint",
    ),
    "hookspecs": ("HeadStripper", "hookimpl"),
    "compat.image_encoder": ("get_image_encoder", "init_predictors"),
    "images.preprocessing": ("Preprocessing",),
    "registry.registry": ("register_plugin",),
    "reproducibility.seeding": ("make_deterministic",),
    "spec": ("BackboneSpec", "WeightsEntry", "parse_name"),
    "network.head": ("Stripped", "detach"),
    "network.levels": ("Level",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'headstrip' has no attribute {name!r}")
    value = getattr(import_module(f"headstrip.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
