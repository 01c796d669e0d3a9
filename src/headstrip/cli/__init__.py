"""The command line: one module a command, each imported when it is called.

What lists and shows (``list``, ``show``, ``--help``) imports neither torch nor any plugin.
"""

from __future__ import annotations

from headstrip.cli.group import main

__all__ = ["main"]
