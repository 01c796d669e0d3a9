"""``headstrip plugins``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Run
from tests.distributions import catalog_of, install_distribution, on_path, run_python

from headstrip import BackboneSpec
from headstrip.families import BUILT_IN

GOOD = "from headstrip import hookimpl\n@hookimpl\ndef weights(spec):\n    return ()\n"
SLOW = "import time\ntime.sleep(60)\n"
ENDS = "import os\nprint('noise', flush=True)\nos._exit(3)\n"
CRASHES = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
NET = (
    "from torch import nn\n"
    "from headstrip import detach, hookimpl\n"
    "FAMILIES = ('net',)\n"
    "@hookimpl\n"
    "def build_model(spec, options):\n"
    "    return nn.Sequential(nn.Flatten(), nn.Linear(12, options.get('num_classes', 2)))\n"
    "@hookimpl\n"
    "def strip_head(model, family, spec, entry):\n"
    "    return detach(model, '1')\n"
)
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


@pytest.fixture(autouse=True)
def _no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the project's own plugins out, which take seconds to import."""
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", "timm,hf,efficientnet-lite,example")


@pytest.mark.parametrize("command", ["plugins", "doctor"])
@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "0", "1e300"])
def test_an_invalid_time_limit_is_a_usage_error(run, command, seconds):
    result = run(command, "--timeout", seconds)
    assert result.exit_code == 2
    assert "Invalid value for '--timeout'" in result.stderr


def test_a_damaged_entry_points_file_is_the_only_reported_problem(site):
    install_distribution(site, "mine", {}, {})
    (folder,) = site.glob("mine-*.dist-info")
    (folder / "entry_points.txt").write_bytes(b"[headstrip]\nmin\xe9 = mine\n")
    done = run_python("-m", "headstrip.cli", "doctor", "--json", site=site)
    assert "Traceback" not in done.stderr
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["problem"] == f"{folder} has a damaged entry_points.txt"


def records_of(run: Run, *options: object) -> dict[str, dict[str, Any]]:
    result = run("plugins", "--json", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    return {record["name"]: record for record in json.loads(result.stdout)}


@pytest.fixture
def _installed(site: Path) -> None:
    install_distribution(site, "good", {"good": "plugin_good"}, {"plugin_good.py": GOOD})
    install_distribution(site, "loud", {"loud": "plugin_loud"}, {"plugin_loud.py": LOUD})


@pytest.mark.usefixtures("_installed")
def test_each_row_shows_the_state_of_a_plugin(run: Run) -> None:
    result = run("plugins", "--timeout", 60)
    assert result.stdout.splitlines()[0].split() == [
        "name",
        "origin",
        "status",
        "rows",
        "seconds",
        "reason",
    ]
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
    assert result.exit_code == 0
    assert rows["good"][1:5] == ["good", "1.0", "loaded", "0"]
    assert rows["loud"][1:5] == ["loud", "1.0", "failed", "0"]
    assert rows["loud"][-2:] == ["SystemExit:", "3"]
    assert rows["vit"][1:] == ["built-in", "found", "5", "-", "-"]
    assert set(BUILT_IN) < set(rows)


@pytest.mark.usefixtures("_installed")
def test_json_is_a_list_of_records(run: Run) -> None:
    records = records_of(run, "--timeout", 60)
    assert records["loud"]["error"] == "SystemExit: 3"
    assert records["loud"]["seconds"] >= 0
    assert records["vit"]["seconds"] is None


@pytest.mark.slow
@pytest.mark.usefixtures("_installed")
def test_output_of_a_plugin_at_import_does_not_reach_stdout_or_stderr(site: Path) -> None:
    done = run_python("-m", "headstrip.cli", "plugins", "--json", "--timeout", "60", site=site)
    assert (done.returncode, done.stderr) == (0, "")
    assert {record["status"] for record in json.loads(done.stdout)} >= {"failed", "loaded"}


@pytest.mark.usefixtures("_installed")
def test_a_plugin_that_is_disabled_is_not_imported(run: Run) -> None:
    records = json.loads(run("--no-plugin", "loud", "plugins", "--json").stdout)
    (loud,) = [record for record in records if record["name"] == "loud"]
    assert (loud["status"], loud["seconds"]) == ("blocked", None)


@pytest.mark.usefixtures("_installed")
def test_strict_plugins_give_a_clear_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTRIP_STRICT_PLUGINS", "1")
    result = run("plugins")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: The plugin 'loud' (loud 1.0)")


def test_a_plugin_that_hangs_or_ends_its_process_does_not_affect_the_others(
    run: Run, site: Path
) -> None:
    for name, code in (("slow", SLOW), ("ends", ENDS), ("crashes", CRASHES), ("good", GOOD)):
        install_distribution(site, name, {name: f"plugin_{name}"}, {f"plugin_{name}.py": code})
    started = time.monotonic()
    found = records_of(run, "--timeout", 3)
    assert time.monotonic() - started < 50
    assert found["slow"]["status"] == "found"
    assert found["slow"]["error"].startswith("loading it takes longer than 3 s; `--timeout")
    assert found["ends"]["status"] == found["crashes"]["status"] == "failed"
    assert found["ends"]["error"] == "it ends its process (exit status 3)"
    assert found["crashes"]["error"] == "it ends its process (SIGSEGV)"
    assert (found["good"]["status"], found["good"]["error"]) == ("loaded", None)


@pytest.mark.parametrize(
    ("dim", "error"),
    [
        (12, None),
        (
            13,
            "the catalog claims width 13 for 'net:net', but the network has 12; "
            "`headstrip catalog write net` corrects it",
        ),
    ],
)
def test_a_catalog_that_claims_another_width_is_reported(
    run: Run, site: Path, dim: int, error: str | None
) -> None:
    spec = BackboneSpec("net", "net", "net:net", "net", "image", (3, 2, 2), dim, 26)
    files = {"net_plugin/__init__.py": NET, "net_plugin/catalog.tsv": catalog_of(spec)}
    install_distribution(site, "net", {"net": "net_plugin"}, files)
    assert records_of(run, "--timeout", 60)["net"]["error"] == error


def test_the_child_process_gets_the_current_environment_and_path(
    run: Run, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os\nraise RuntimeError(os.environ['NOW'])\n"
    install_distribution(site, "env", {"env": "plugin_env"}, {"plugin_env.py": code})
    for now in ("one", "two"):
        monkeypatch.setenv("NOW", now)
        assert records_of(run, "--timeout", 60)["env"]["error"] == f"RuntimeError: {now}"


@pytest.fixture
def damaged(site: Path, tmp_path: Path) -> Iterator[Path]:
    """An empty folder before a complete distribution with a plugin."""
    later = tmp_path / "later"
    install_distribution(later, "headstrip-acme", {"acme": "acme_net"}, {"acme_net.py": GOOD})
    folder = site / "headstrip_acme-2.0.dist-info"
    folder.mkdir()
    with on_path(later, last=True):
        yield folder


def test_an_empty_folder_that_hides_a_plugin_is_reported_and_the_plugin_is_used(
    run: Run, damaged: Path, tmp_path: Path
) -> None:
    hidden = tmp_path / "later" / "headstrip_acme-1.0.dist-info"
    found = records_of(run, "--timeout", 60)
    assert (found["acme"]["status"], found["acme"]["origin"]) == ("loaded", "headstrip-acme 1.0")
    assert found["headstrip-acme"]["status"] == "damaged"
    assert found["headstrip-acme"]["error"] == (
        f"{damaged} is empty, and hides {hidden}. Remove that folder."
    )


def test_strict_plugins_refuse_a_damaged_folder(
    run: Run, damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTRIP_STRICT_PLUGINS", "1")
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", "*")
    result = run("plugins")
    assert result.exit_code == 1
    assert str(damaged) in result.stderr


def test_a_broken_command_of_a_plugin_is_a_record_and_a_problem(run: Run, site: Path) -> None:
    files = {"acme_hello.py": "import nowhere"}
    install_distribution(site, "acme", {}, files, commands={"hello": "acme_hello:hello"})
    record = records_of(run, "--timeout", 60)["headstrip hello"]
    assert (record["origin"], record["status"]) == ("acme 1.0", "failed")
    assert record["error"] == "ModuleNotFoundError: No module named 'nowhere'"
    report = json.loads(run("doctor", "--json", "--timeout", 60).stdout)
    assert report["plugins"]["headstrip hello (acme 1.0)"] == "failed"
    assert "the plugin 'headstrip hello' (acme 1.0)" in str(report["problems"])
