"""Where images come from: folders, lists, archives, tables, urls, and Python iterables.

``source_of`` turns what a user named into a ``Source``. A source lists its items without holding
them, and its reader, which pickles to a few bytes, returns the encoded bytes of each. Nothing here
imports torch, or a room above.
"""

from headstrip.embed.sources.access import is_url
from headstrip.embed.sources.dispatch import source_of
from headstrip.embed.sources.files import items_of
from headstrip.embed.sources.items import Item, Reader, Source, is_clipped, size_and_time
from headstrip.embed.sources.left_out import LeftOut, sentence
from headstrip.embed.sources.lists import ListSource
from headstrip.embed.sources.names import (
    HEIF_SUFFIXES,
    IMAGE_SUFFIXES,
    is_image,
    joined,
    original_path,
    stored_path,
)
from headstrip.embed.sources.stream import StreamSource

__all__ = [
    "HEIF_SUFFIXES",
    "IMAGE_SUFFIXES",
    "Item",
    "LeftOut",
    "ListSource",
    "Reader",
    "Source",
    "StreamSource",
    "is_clipped",
    "is_image",
    "is_url",
    "items_of",
    "joined",
    "original_path",
    "sentence",
    "size_and_time",
    "source_of",
    "stored_path",
]
