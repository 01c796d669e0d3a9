"""README.md as a package index shows it: without links to files that the index does not have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]+)\]\((?![a-z]+:|#)([^)#\s]+)(?:#[^)\s]*)?\)")
_NOTE = (
    "\nThe files named here, such as `docs/index.md`, are in the source distribution, and the "
    "folder `docs` is installed as `share/doc/headstrip`.\n"
)


def without_relative_links(text: str) -> str:
    """Return a text of Markdown with the name of a file in place of each link to one.

    Links in blocks of code, to other sites and within the text stay.
    """
    parts = _FENCE.split(text)
    # The blocks of code are every second part.
    parts[::2] = [_LINK.sub(_named, part) for part in parts[::2]]
    return "".join(parts)


def _named(link: re.Match[str]) -> str:
    label, path = link[1], link[2]
    plugin = re.match(r"plugins/([^/]+)/", path)
    # A plugin is a separate distribution.
    name = plugin[1] if plugin else path
    return f"`{name}`" if label.strip("`") == name else f"{label} (`{name}`)"


class ReadmeHook(MetadataHookInterface):
    """Sets the description that an index shows."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Take README.md, and turn its links to files into names."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": without_relative_links(text) + _NOTE,
        }
