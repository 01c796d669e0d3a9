"""headstrip: pretrained vision models as encoders.

Public names are resolved on first use, so ``import headstrip`` imports neither torch nor any
plugin.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstrip.backbones import Backbone as Backbone
    from headstrip.backbones import get_backbone as get_backbone
    from headstrip.backbones import list_backbones as list_backbones
    from headstrip.backbones import plugin_records as plugin_records
    from headstrip.embed.allocating import keep_freed_memory as keep_freed_memory
    from headstrip.embed.calibrate import calibrate as calibrate
    from headstrip.embed.calibrate import choose_engine as choose_engine
    from headstrip.embed.cluster import EncoderUDF as EncoderUDF
    from headstrip.embed.decode import decode_bytes as decode_bytes
    from headstrip.embed.loading import load_embeddings as load_embeddings
    from headstrip.embed.neighbors import find_neighbors as find_neighbors
    from headstrip.embed.options import EmbedOptions as EmbedOptions
    from headstrip.embed.pixels import to_pixels as to_pixels
    from headstrip.embed.plan import EmbedSettings as EmbedSettings
    from headstrip.embed.report import EmbedReport as EmbedReport
    from headstrip.embed.run import embed_source as embed_source
    from headstrip.embed.sources import source_of as source_of
    from headstrip.encoder import Encoder as Encoder
    from headstrip.errors import CatalogError as CatalogError
    from headstrip.errors import CatalogMismatchError as CatalogMismatchError
    from headstrip.errors import CatalogMismatchWarning as CatalogMismatchWarning
    from headstrip.errors import HeadNotFoundError as HeadNotFoundError
    from headstrip.errors import HeadstripError as HeadstripError
    from headstrip.errors import ImageError as ImageError
    from headstrip.errors import ManifestError as ManifestError
    from headstrip.errors import OptionError as OptionError
    from headstrip.errors import PluginError as PluginError
    from headstrip.errors import PreprocessingError as PreprocessingError
    from headstrip.errors import UnknownBackboneError as UnknownBackboneError
    from headstrip.errors import WeightsError as WeightsError
    from headstrip.errors import WeightsWarning as WeightsWarning
    from headstrip.factory import build_encoder as build_encoder
    from headstrip.factory import strip_head as strip_head
    from headstrip.hookspecs import HeadStripper as HeadStripper
    from headstrip.hookspecs import hookimpl as hookimpl
    from headstrip.notes import get_image_encoder as get_image_encoder
    from headstrip.notes import init_predictors as init_predictors
    from headstrip.preprocessing import Preprocessing as Preprocessing
    from headstrip.registry import register_plugin as register_plugin
    from headstrip.seeding import make_deterministic as make_deterministic
    from headstrip.spec import BackboneSpec as BackboneSpec
    from headstrip.spec import WeightsEntry as WeightsEntry
    from headstrip.spec import parse_name as parse_name
    from headstrip.surgery import Stripped as Stripped
    from headstrip.surgery import detach as detach

_HOMES = {
    "backbones": ("Backbone", "get_backbone", "list_backbones", "plugin_records"),
    "embed.allocating": ("keep_freed_memory",),
    "embed.calibrate": ("calibrate", "choose_engine"),
    "embed.cluster": ("EncoderUDF",),
    "embed.decode": ("decode_bytes",),
    "embed.loading": ("load_embeddings",),
    "embed.neighbors": ("find_neighbors",),
    "embed.options": ("EmbedOptions",),
    "embed.pixels": ("to_pixels",),
    "embed.plan": ("EmbedSettings",),
    "embed.report": ("EmbedReport",),
    "embed.run": ("embed_source",),
    "embed.sources": ("source_of",),
    "encoder": ("Encoder",),
    "errors": (
        "CatalogError", "CatalogMismatchError", "CatalogMismatchWarning", "HeadNotFoundError",
        "HeadstripError", "ImageError", "ManifestError", "OptionError", "PluginError",
        "PreprocessingError", "UnknownBackboneError", "WeightsError", "WeightsWarning",
    ),
    "factory": ("build_encoder", "strip_head"),
    "hookspecs": ("HeadStripper", "hookimpl"),
    "notes": ("get_image_encoder", "init_predictors"),
    "preprocessing": ("Preprocessing",),
    "registry": ("register_plugin",),
    "seeding": ("make_deterministic",),
    "spec": ("BackboneSpec", "WeightsEntry", "parse_name"),
    "surgery": ("Stripped", "detach"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted([*_HOME_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'headstrip' has no attribute {name!r}")
    value = getattr(import_module(f"headstrip.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
