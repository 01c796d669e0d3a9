"""``headstrip plugins``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Run
from tests.distributions import install_distribution, run_python

from headstrip.families import BUILT_IN

GOOD = "from headstrip import hookimpl\n@hookimpl\ndef backbones():\n    return ()\n"
LOUD = (
    "import logging, sys, traceback, warnings\n"
    "logging.basicConfig(stream=sys.stderr)\n"
    "print('noise')\n"
    "sys.stdout.buffer.write(b'noise')\n"
    "sys.stdout.fileno()\n"
    "warnings.warn('noise')\n"
    "try:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.print_exc()\n"
    "raise SystemExit(3)\n"
)


pytestmark = pytest.mark.filterwarnings("ignore:noise")


@pytest.fixture
def _installed(site: Path) -> None:
    install_distribution(site, "good", {"good": "plugin_good"}, {"plugin_good.py": GOOD})
    install_distribution(site, "loud", {"loud": "plugin_loud"}, {"plugin_loud.py": LOUD})


@pytest.mark.usefixtures("_installed")
def test_a_row_says_what_became_of_a_plugin(run: Run) -> None:
    result = run("plugins")
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
    assert result.exit_code == 0
    assert rows["good"][1:5] == ["good", "1.0", "loaded", "0"]
    assert rows["loud"][1:5] == ["loud", "1.0", "failed", "0"]
    assert rows["loud"][-2:] == ["SystemExit:", "3"]
    assert rows["vit"][1:] == ["built-in", "found", "5", "-", "-"]
    assert set(BUILT_IN) < set(rows)


@pytest.mark.usefixtures("_installed")
def test_json_is_a_list_of_records(run: Run) -> None:
    records = {record["name"]: record for record in json.loads(run("plugins", "--json").stdout)}
    assert records["loud"]["error"] == "SystemExit: 3"
    assert records["loud"]["seconds"] >= 0
    assert records["vit"]["seconds"] is None


@pytest.mark.usefixtures("_installed")
def test_a_plugin_that_prints_and_exits_at_import_is_not_heard(site: Path) -> None:
    done = run_python("-m", "headstrip.cli", "plugins", "--json", site=site)
    assert (done.returncode, done.stderr) == (0, "")
    assert {record["status"] for record in json.loads(done.stdout)} >= {"failed", "loaded"}


@pytest.mark.usefixtures("_installed")
def test_a_plugin_that_is_disabled_is_not_imported(run: Run) -> None:
    records = json.loads(run("--no-plugin", "loud", "plugins", "--json").stdout)
    (loud,) = [record for record in records if record["name"] == "loud"]
    assert (loud["status"], loud["seconds"]) == ("blocked", None)


@pytest.mark.usefixtures("_installed")
def test_strict_plugins_are_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTRIP_STRICT_PLUGINS", "1")
    # It ships no catalog, which would be told first.
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", "good")
    result = run("plugins")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: The plugin 'loud' (loud 1.0)")
