"""The group of all commands, also those of plugins, and the handling of their errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from headstrip._version import __version__
from headstrip.cli.failures import INTERRUPTED, PARTLY, failure_of, printable_usage
from headstrip.cli.output import warn, warn_lines, warnings_as_sentences
from headstrip.plugins.records import DISABLED, disabled_by_environment
from headstrip.printable import printable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from headstrip.plugins.commands import PluginCommand

COMMANDS = {
    "catalog": "Write or check the catalog of your plugin.",
    "classify": "Print the most likely classes of images.",
    "compare": "Compare backbones on your labelled images, and recommend one.",
    "doctor": "Print what is installed, and check it for problems.",
    "embed": "Embed images into a file.",
    "fit": "Fit predictors of attributes to embeddings, and measure them.",
    "inspect": "Print what a weights file holds, and which backbones it fits.",
    "list": "List backbones.",
    "neighbors": "Find the images in an embeddings file that are most similar to query images.",
    "new-plugin": "Create the project of a new plugin.",
    "predict": "Predict attributes of images.",
    "plugins": "List plugins, and check that they work.",
    "show": "Print what headstrip knows about one backbone.",
    "verify": "Check that backbones work as headstrip promises.",
    "weights": "List, fetch, verify, repair and remove weights files.",
}
"""headstrip's commands and their short help, so that ``--help`` imports no command.

A test compares the texts with those of the commands.
"""


def plugin_commands(context: click.Context) -> dict[str, PluginCommand]:
    """Return the commands of other distributions that the user did not disable, by name.

    This imports no plugin. If a command cannot be used, the ``error`` of its record says why.
    """
    from headstrip.plugins.commands import find_commands

    named = context.find_root().params.get("no_plugin") or ()
    disabled = {*disabled_by_environment(), *named}
    return {one.name: one for one in find_commands(disabled, COMMANDS)}


class LazyGroup(click.Group):
    """A group that imports a command when it runs, and prints no traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return [name for name, _ in self._short_helps(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None if no command has that name.

        Raises:
            PluginError: The command of a plugin cannot be used.
        """
        if cmd_name in COMMANDS:
            module = import_module(f"headstrip.cli.{cmd_name.replace('-', '_')}")
            command: click.Command = module.command
            return command
        found = plugin_commands(ctx).get(cmd_name)
        # A shell that completes a command line shows no errors.
        if found is None or ctx.resilient_parsing:
            return None
        return found.load()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names.

        Raises:
            UsageError: There is no such command. The message names similar commands.
        """
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            # click would suggest only names of commands that are already imported.
            name = args[0]
            similar = get_close_matches(name, self.list_commands(ctx))
            if not similar or name.startswith("-"):
                raise
            shown = " or ".join(map(repr, similar))
            raise click.UsageError(
                f"No such command {name!r}. Did you mean {shown}?", ctx
            ) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands without importing any."""
        helps = self._short_helps(ctx)
        with formatter.section("Commands"):
            formatter.write_dl(helps[: len(COMMANDS)])
        if len(helps) > len(COMMANDS):
            with formatter.section("Commands of plugins"):
                formatter.write_dl(helps[len(COMMANDS) :])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command without importing any, or an option."""
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=text)
            for name, text in self._short_helps(ctx)
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def _short_helps(self, ctx: click.Context) -> list[tuple[str, str]]:
        """Return each command with its short help, headstrip's own first."""
        helps = list(COMMANDS.items())
        for name, command in plugin_commands(ctx).items():
            if command.record.error == DISABLED or name in COMMANDS:
                continue
            problem = f"; cannot be used: {command.record.error}" if command.record.error else ""
            helps.append((printable(name), printable(f"From {command.record.origin}{problem}.")))
        return helps

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the options that come before the command."""
        with printable_usage():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; each exception becomes an error message and an exit code."""
        try:
            with warnings_as_sentences(), printable_usage(), _naming_misplaced_options(self):
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
                import traceback

                warn_lines("".join(traceback.format_exception(error)).rstrip("\n"))
                ctx.exit(PARTLY)
            raise failure_of(error) from error


@contextmanager
def _naming_misplaced_options(group: click.Group) -> Iterator[None]:
    """If an option of the group comes after the command, say in the error where it belongs."""
    try:
        yield
    except click.NoSuchOption as error:
        # `--version` and `--help`, which have no value, need no command.
        options = {
            name: f"{name} {option.metavar}" if option.metavar else name
            for option in group.params
            if option.expose_value
            for name in option.opts
        }
        if error.ctx is None or error.option_name not in options:
            raise
        program = error.ctx.find_root().command_path
        command = error.ctx.command_path.removeprefix(program).strip()
        raise click.UsageError(
            f"{error.option_name} is written after the command. Write it before: "
            f"`{program} {options[error.option_name]} {command} ...`.",
            error.ctx,
        ) from error


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
    # Before --help, which lists the commands of plugins.
    is_eager=True,
    help="Disable a plugin; '*' disables all but the built-in ones. Can be repeated.",
)
@click.pass_context
def main(context: click.Context, debug: bool, verbose: int, no_plugin: tuple[str, ...]) -> None:
    """Pretrained vision models as encoders: head off, pooling kept, width known.

    Exit codes: 0 done, 1 some work failed and was reported, 2 the command was not understood.
    """
    if no_plugin:
        from headstrip.embed.engines.registry import engines_disabled

        context.with_resource(engines_disabled(no_plugin))
    if verbose or os.environ.get("HEADSTRIP_LOG"):
        from headstrip.cli.logs import logs_printed

        context.with_resource(logs_printed(verbose))
