"""Shared by all commands: help, options, exit codes, and no tracebacks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from tests.cli.conftest import Run
from tests.distributions import SOURCES, catalog_of, install_distribution, run_python

from headstrip import BackboneSpec, __version__
from headstrip.cli import main
from headstrip.cli.group import COMMANDS
from headstrip.cli.help_sections import SectionedCommand
from headstrip.registry.registry import get_registry

BROKEN = "print('noise')\nraise SystemExit('stop')\n"


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_commands_matches_the_help_of_each_command(name: str) -> None:
    assert command(name).name == name
    assert command(name).get_short_help_str(limit=1000) == COMMANDS[name]


def leaves(name: str) -> list[click.Command]:
    """Return a command, or the commands of a group."""
    found = command(name)
    return list(found.commands.values()) if isinstance(found, click.Group) else [found]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_json_and_has_help_for_every_option(name: str, run: Run) -> None:
    for leaf in leaves(name):
        options = [p for p in leaf.params if isinstance(p, click.Option)]
        assert "--json" in {flag for option in options for flag in option.opts}
        assert all(option.help for option in options)
    assert run(name, "-h").exit_code == 0


@pytest.mark.parametrize("name", ["embed", "neighbors"])
def test_help_under_headings_shows_every_option_once(name: str, run: Run) -> None:
    found = command(name)
    assert isinstance(found, SectionedCommand)
    options = [option for option in found.params if isinstance(option, click.Option)]
    assert {one for names in found.sections.values() for one in names} <= {
        option.name for option in options
    }
    lines = [line.replace(",", " ").split() for line in run(name, "--help").stdout.splitlines()]
    for option in options:
        assert sum(line[:1] == option.opts[:1] for line in lines) == 1


def test_every_command_module_is_in_the_table() -> None:
    modules = Path(SOURCES, "headstrip", "cli").glob("*.py")
    found = {
        path.stem for path in modules if re.search(r"@click\.(command|group)", path.read_text())
    }
    assert {name.replace("_", "-") for name in found - {"group"}} == set(COMMANDS)


def test_version_prints_the_version_of_the_package(run: Run) -> None:
    assert run("--version").output == f"headstrip, version {__version__}\n"


def test_an_unknown_command_is_a_usage_error(run: Run) -> None:
    result = run("qqq")
    assert result.exit_code == 2
    assert "No such command 'qqq'." in result.stderr


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("lst", "'list'"),
        ("embd", "'embed'"),
        ("neighbours", "'neighbors'"),
        ("plugin", "'plugins'"),
    ],
)
def test_the_error_for_a_misspelt_command_suggests_similar_ones(
    run: Run, name: str, similar: str
) -> None:
    result = run(name)
    assert result.exit_code == 2
    assert f"No such command '{name}'. Did you mean " in result.stderr
    assert similar in result.stderr


@pytest.mark.parametrize(
    ("line", "right"),
    [
        (["embed", "photos", "-v"], "headstrip -v embed ..."),
        (["embed", "photos", "-vv"], "headstrip -v embed ..."),
        (["list", "--verbose"], "headstrip --verbose list ..."),
        (["weights", "list", "--debug"], "headstrip --debug weights list ..."),
        (["list", "--no-plugin", "timm"], "headstrip --no-plugin NAME list ..."),
    ],
)
def test_a_global_option_after_the_command_is_an_error_that_shows_the_right_order(
    run: Run, line: list[str], right: str
) -> None:
    result = run(*line)
    assert result.exit_code == 2
    assert f"is written after the command. Write it before: `{right}`." in result.stderr


def test_an_unknown_option_is_a_usage_error(run: Run) -> None:
    result = run("list", "--nothing")
    assert result.exit_code == 2
    assert "No such option" in result.stderr


def test_an_unknown_name_is_a_usage_error_with_suggestions(run: Run) -> None:
    result = run("show", "resnet51")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: There is no backbone 'resnet51'. Did you mean resnet")


def test_a_broken_plugin_gives_a_clear_error_and_exit_code_1(run: Run, site: Path) -> None:
    install_distribution(site, "broken", {"broken": "broken_stop"}, {"broken_stop.py": BROKEN})
    result = run("show", "broken:net")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Error: The plugin 'broken' (broken 1.0) cannot be used: SystemExit" in result.stderr
    assert "Traceback" not in result.output


def test_debug_shows_where_an_error_comes_from(run: Run) -> None:
    result = run("--debug", "show", "resnet51")
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert "UnknownBackboneError: There is no backbone 'resnet51'." in result.stderr


def test_an_unexpected_error_is_printed_without_a_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the sky\nfell.")

    monkeypatch.setattr("headstrip.registry.registry.Registry.short_name", fail)
    result = run("list")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: RuntimeError: the sky fell. Run `headstrip --debug")


def test_an_interruption_gives_exit_code_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "headstrip.registry.registry.Registry.short_name",
        lambda *_: os.kill(os.getpid(), signal.SIGINT),
    )
    result = run("list")
    assert result.exit_code == 130
    assert result.stderr == "Interrupted.\n"


def test_no_plugin_disables_a_plugin_for_one_command(run: Run, site: Path) -> None:
    install_distribution(site, "broken", {"broken": "broken_stop"}, {"broken_stop.py": BROKEN})
    before = get_registry()
    result = run("--no-plugin", "broken", "show", "broken:net")
    assert result.exit_code == 1
    assert "disabled by" in result.stderr
    assert get_registry() is not before
    assert all("disabled" not in (record.error or "") for record in get_registry().records())


def test_no_plugin_also_applies_while_an_encoder_is_built(
    run: Run, site: Path, photos: Path, weights_of: Callable[[str], Path]
) -> None:
    code = (
        "from torchvision.models import squeezenet1_1\n"
        "from headstrip import hookimpl\n"
        "@hookimpl\n"
        "def build_model(spec, options):\n"
        "    return squeezenet1_1(**options)\n"
    )
    spec = BackboneSpec("net", "own", "squeezenet", "own", "image", (3, 224, 224), 512, 9)
    files = {"own_net/__init__.py": code, "own_net/catalog.tsv": catalog_of(spec)}
    install_distribution(site, "own", {"own": "own_net"}, files)
    options = ["-b", "own:net", "--weights", weights_of("squeezenet1_1")]
    result = run("--no-plugin", "squeezenet", "classify", photos / "a.png", *options)
    assert result.exit_code == 1
    assert "The plugin 'squeezenet' (built-in) cannot be used: disabled by" in result.stderr


def test_no_plugin_accepts_built_in_plugins_and_a_star(run: Run) -> None:
    assert run("--no-plugin", "vit", "list", "torchvision:vit*").exit_code == 1
    listed = run("--no-plugin", "*", "list").stdout
    assert "resnet50" in listed
    assert ":" not in listed


def test_no_plugin_with_an_unknown_name_is_a_usage_error(run: Run) -> None:
    result = run("--no-plugin", "nobody", "list")
    assert result.exit_code == 2
    assert "--no-plugin 'nobody': no such plugin is installed" in result.stderr


def test_a_closed_output_pipe_is_not_an_error() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "headstrip.cli", "list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )
    assert child.stdout is not None
    assert child.stderr is not None
    with child, child.stdout, child.stderr:
        child.stdout.read(1)
        child.stdout.close()
        assert child.stderr.read() == b""


def test_the_module_runs_the_command_line() -> None:
    done = run_python("-m", "headstrip.cli", "show", "nobody")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: There is no backbone 'nobody'.")


def test_ctrl_c_during_embed_leaves_no_file(
    tmp_path: Path, photos: Path, weights_of: Callable[[str], Path]
) -> None:
    weights = weights_of("squeezenet1_1")
    for number in range(2000):
        os.link(photos / "a.png", photos / f"{number}.png")
    results = tmp_path / "results"
    results.mkdir()
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "headstrip.cli",
            "embed",
            str(photos),
            "-b",
            "squeezenet1_1",
            "--weights",
            str(weights),
            "-o",
            str(results / "out.parquet"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )
    while child.poll() is None and not list(results.iterdir()):
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate()
    # Python may end by the signal itself; a shell reports that as 130 too.
    assert child.returncode in {130, -signal.SIGINT}
    assert (stdout, stderr) == ("", "Interrupted.\n")
    assert list(results.iterdir()) == []
