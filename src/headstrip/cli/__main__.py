"""Run ``headstrip`` as ``python -m headstrip.cli``."""

from __future__ import annotations

from headstrip.cli import main

main(prog_name="headstrip")
