"""Commands that must stay fast: they import neither torch nor another heavy package."""

from __future__ import annotations

import pytest
from tests.distributions import run_python
from tests.light_modules import HEAVY


def imported(code: str) -> set[str]:
    """Run code in a separate process, and return the packages that are loaded afterwards."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    wrapped = f"try:\n{code}\nexcept SystemExit:\n    pass\n{report}"
    done = run_python("-c", wrapped)
    assert done.returncode == 0
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["embed", "--help"],
        ["classify", "--help"],
        ["list"],
        ["list", "vit*", "--json"],
        ["show", "vit_h_14"],
        ["show", "resnet51"],
        ["embed", "none", "-b", "resnet18", "-o", "out.parquet"],
        ["classify", "a.jpg", "-b", "resnet18", "--weights", "none.pth"],
    ],
    ids=" ".join,
)
def test_a_light_command_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"    from headstrip.cli import main\n    main({arguments!r}, prog_name='headstrip')"
    assert not imported(code) & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["show", "vit_h_14"]], ids=" ".join)
def test_frequent_commands_import_no_package_for_email_or_archives(arguments: list[str]) -> None:
    # importlib.metadata imports them, which takes a quarter of `headstrip list`.
    code = f"    from headstrip.cli import main\n    main({arguments!r}, prog_name='headstrip')"
    assert not imported(code) & {"email", "zipfile"}


def test_help_reads_no_catalog_and_loads_no_plugin() -> None:
    code = (
        "    from headstrip.cli import main\n    try: main(['--help'])\n"
        "    finally:\n"
        "        import sys\n"
        "        loaded = {*sys.modules}\n"
        "        assert not {'headstrip.registry', 'headstrip.plugins.loader', 'pluggy'} & loaded"
    )
    assert "headstrip" in imported(code)
