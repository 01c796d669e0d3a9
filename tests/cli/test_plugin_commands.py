"""Commands that plugins add to ``headstrip``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from tests.cli.conftest import Run
from tests.distributions import install_distribution, on_path, run_python

from headstrip.cli import main

HELLO = """
import click

@click.command()
@click.argument("name")
def hello(name):
    \"\"\"Greet somebody.\"\"\"
    click.echo(f"Hello {name}")

number = 7
"""
OTHERS = "timm,hf,efficientnet-lite,example"
"""The project's own plugins, which take seconds to import."""

Install = Callable[..., Path]


@pytest.fixture
def install(site: Path) -> Install:
    """Install the distribution acme 1.0 with the command ``hello``, or another one."""

    def install(value: str = "acme_hello:hello", code: str = HELLO, name: str = "hello") -> Path:
        files = {"acme_hello.py": code}
        return install_distribution(site, "acme", {}, files, commands={name: value})

    return install


BROKEN = {
    "import error": ("acme_hello:hello", "import nowhere", "ModuleNotFoundError: No module named"),
    "exit": ("acme_hello:hello", "raise SystemExit(3)", "SystemExit: 3"),
    "no such name": ("acme_hello:bye", HELLO, "AttributeError"),
    "no value": ("", HELLO, "the entry point '' is not of the form module:name. Install another"),
    "no module": (":::", HELLO, "the entry point ':::' is not of the form module:name. Install"),
    "no command": ("acme_hello:number", HELLO, "has the type int and is not a click command"),
}
broken = pytest.mark.parametrize(("value", "code", "reason"), BROKEN.values(), ids=BROKEN)


def test_a_command_of_a_plugin_runs_and_has_help(install: Install, run: Run) -> None:
    install()
    assert run("hello", "you").stdout == "Hello you\n"
    assert "Greet somebody." in run("hello", "--help").stdout


def test_help_names_the_distribution_of_a_command_without_importing_it(
    install: Install, run: Run
) -> None:
    install()
    own, others = run("--help").stdout.split("Commands of plugins:")
    assert "embed" in own
    assert others.split() == ["hello", "From", "acme", "1.0."]
    assert "acme_hello" not in sys.modules


def test_help_imports_neither_torch_nor_the_plugin_loader(install: Install, site: Path) -> None:
    install()
    code = (
        "import sys\nfrom headstrip.cli import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    print({'torch', 'numpy', 'pluggy', 'acme_hello'} & {*sys.modules})\n"
    )
    assert run_python("-c", code, site=site).stdout.endswith("set()\n")


@broken
def test_a_broken_command_gives_a_clear_error_and_exit_code_1(
    install: Install, run: Run, value: str, code: str, reason: str
) -> None:
    install(value, code)
    result = run("hello", "you")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: The command 'hello' (acme 1.0) cannot be used: ")
    assert reason in result.stderr


@broken
def test_a_broken_command_breaks_neither_help_nor_other_commands(
    install: Install, run: Run, value: str, code: str, reason: str
) -> None:
    install(value, code)
    assert "hello" in run("--help").stdout
    assert run("--version").exit_code == run("list", "resnet18").exit_code == 0


def test_a_plugin_cannot_replace_a_command_of_headstrip(install: Install, run: Run) -> None:
    install(name="list")
    assert "resnet18" in run("list", "resnet18").stdout
    assert "Commands of plugins" not in run("--help").stdout


def test_the_error_names_both_distributions_that_use_one_command_name(
    install: Install, run: Run, site: Path
) -> None:
    install()
    install_distribution(site, "other", {}, {}, commands={"hello": "other_hello:hello"})
    result = run("hello", "you")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: The command 'hello' (acme 1.0, other 1.0) cannot be used: more than one "
        "distribution uses the name 'hello'. Uninstall all of these distributions but one; "
        "`headstrip plugins` lists all plugins.\n"
    )
    assert "cannot be used: more than one" in " ".join(run("--help").stdout.split())


@pytest.mark.parametrize("name", ["hello", "*"])
def test_a_disabled_command_is_not_listed_and_does_not_run(
    install: Install, run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    install()
    assert "hello" not in run("--no-plugin", name, "--help").stdout
    assert "disabled by" in run("--no-plugin", name, "hello", "you").stderr
    assert run("--no-plugin", name, "list", "resnet18").exit_code == 0
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", name)
    assert "hello" not in run("--help").stdout
    assert run("hello", "you").exit_code == 1


def test_strict_plugins_refuse_a_command_that_cannot_be_used(
    install: Install, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(name="list")
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", OTHERS)
    monkeypatch.setenv("HEADSTRIP_STRICT_PLUGINS", "1")
    result = run("show", "resnet18")
    assert result.exit_code == 1
    assert "'headstrip list' (acme 1.0) is unusable: the name 'list' belongs" in result.stderr
    assert run("--help").exit_code == 0


def test_a_shell_completes_commands_without_importing_them(install: Install) -> None:
    install()
    complete = ShellComplete(main, {}, "headstrip", "_HEADSTRIP_COMPLETE")
    found = [item.value for item in complete.get_completions([], "h")]
    assert found == ["hello"]
    assert "acme_hello" not in sys.modules


def test_a_damaged_dist_info_folder_hides_no_command(
    install: Install, run: Run, tmp_path: Path
) -> None:
    install()
    with on_path(tmp_path / "first"):
        (tmp_path / "first" / "acme-2.0.dist-info").mkdir(parents=True)
        assert run("hello", "you").stdout == "Hello you\n"


def test_help_escapes_control_characters_in_the_name_of_a_command(
    install: Install, run: Run
) -> None:
    install(name="\x1b[2J")
    assert "\x1b" not in run("--help").stdout


def test_a_plugin_can_add_a_group_of_commands(install: Install, run: Run) -> None:
    code = "import click\nhello = click.Group('hello', [click.Command('world')])\n"
    install(code=code)
    assert isinstance(main.get_command(click.Context(main), "hello"), click.Group)
    assert run("hello", "world").exit_code == 0
