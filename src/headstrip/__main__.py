"""``python -m headstrip`` is ``headstrip``."""

from __future__ import annotations

from headstrip.cli import main

main(prog_name="headstrip")
