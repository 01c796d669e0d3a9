"""The command line: one module per command, imported when the command is called.

``list``, ``show`` and ``--help`` import neither torch nor any plugin.
"""

from __future__ import annotations

from headstrip.cli.group import main

__all__ = ["main"]
