"""A command whose ``--help`` shows its options under headings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click


class SectionedCommand(click.Command):
    """A click command that groups its options in ``--help``.

    Options that no section names come last, under "Other options".
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        """Create the command.

        Args:
            args: Passed on to ``click.Command``.
            sections: Headings in their order, each with the names of its parameters.
            kwargs: Passed on to ``click.Command``.
        """
        super().__init__(*args, **kwargs)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, one section after the other."""
        parameters = self.get_params(ctx)
        named = {name for names in self.sections.values() for name in names}
        others = [parameter.name or "" for parameter in parameters if parameter.name not in named]
        for title, names in {**self.sections, "Other options": others}.items():
            records = [
                record
                for one in parameters
                if isinstance(one, click.Option) and one.name in names
                if (record := one.get_help_record(ctx)) is not None
            ]
            with formatter.section(title):
                formatter.write_dl(records)
