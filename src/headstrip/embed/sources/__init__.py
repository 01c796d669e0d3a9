"""Where images come from: files, lists, archives, tables, urls, and Python itself.

Nothing here imports torch. A source lists its items without holding them, and its reader, which is
pickled in a few bytes, has the encoded bytes of each.
"""

from headstrip.embed.sources.dispatch import source_of
from headstrip.embed.sources.items import MAX_BYTES, Item, Reader, Source

__all__ = ["MAX_BYTES", "Item", "Reader", "Source", "source_of"]
