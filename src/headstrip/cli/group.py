"""The group of all commands, and how any of them ends."""

from __future__ import annotations

import os
import traceback
from importlib import import_module
from typing import Any

import click

from headstrip._version import __version__
from headstrip.cli.failures import INTERRUPTED, PARTLY, failure_of, printable_usage
from headstrip.cli.output import warn, warn_lines, warnings_as_sentences

COMMANDS = {
    "catalog": "Write or check the catalog of a plugin of your own.",
    "classify": "Print the likeliest classes of images.",
    "doctor": "Say what is installed, and what is wrong with it.",
    "embed": "Embed images into a file.",
    "list": "List backbones.",
    "neighbors": "Find the images of a file of embeddings that are nearest to others.",
    "new-plugin": "Write the folder of a plugin of your own.",
    "plugins": "List plugins, and what is wrong with them.",
    "show": "Say all that is known of one backbone.",
    "verify": "Check that backbones keep the contract.",
    "weights": "List, fetch, verify, repair and remove weights files.",
}
"""The commands and their short help, so that ``--help`` need not import them; a test compares."""


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and prints no traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command, None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"headstrip.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the options that stand before the command."""
        with printable_usage():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; whatever it raises ends in a sentence and an exit code."""
        try:
            with warnings_as_sentences(), printable_usage():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            warn("Interrupted.")
            ctx.exit(INTERRUPTED)
        except (
            click.ClickException,
            click.exceptions.Exit,
            click.Abort,
            BrokenPipeError,
        ):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                warn_lines("".join(traceback.format_exception(error)).rstrip("\n"))
                ctx.exit(PARTLY)
            raise failure_of(error) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="headstrip")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "-v",
    "--verbose",
    count=True,
    help="Print what headstrip decides and why; -vv prints details too.",
)
@click.option(
    "--no-plugin",
    multiple=True,
    metavar="NAME",
    help="Do without a plugin; '*' is all but the built-in ones. May be given more than once.",
)
@click.pass_context
def main(context: click.Context, debug: bool, verbose: int, no_plugin: tuple[str, ...]) -> None:
    """Pretrained vision models as encoders: head off, pooling kept, width known.

    Exit codes: 0 done, 1 some work failed and was reported, 2 the command was not understood.
    """
    if verbose or os.environ.get("HEADSTRIP_LOG"):
        from headstrip.cli.logs import logs_printed

        context.with_resource(logs_printed(verbose))
