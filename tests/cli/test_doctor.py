"""``headstrip doctor``."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tests.cli.conftest import Run
from tests.distributions import install_distribution, run_python

from headstrip import __version__
from headstrip.plugins import ENGINE_GROUP
from headstrip.registry.registry import use_registry

BROKEN = "raise ImportError('no such symbol')\n"


class Usage(NamedTuple):
    """The result of ``shutil.disk_usage``."""

    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def _no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the project's own plugins out, which take seconds to import."""
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", "timm,hf,efficientnet-lite,example")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's home, with room on its disk."""
    home = tmp_path / "torch"
    monkeypatch.setenv("TORCH_HOME", str(home))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**13, 0, 10**13))
    return home


def report_of(run: Run, exit_code: int, *options: str) -> dict[str, Any]:
    result = run(*options, "doctor", "--timeout", "60", "--json")
    assert (result.exit_code, result.stderr) == (exit_code, "")
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_the_report_lists_versions_devices_cache_and_engines(run: Run, cache: Path) -> None:
    report = report_of(run, 0)
    assert report["versions"]["python"] == platform.python_version()
    assert report["versions"]["headstrip"] == __version__
    assert report["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert set(report["versions"]) >= {"torchvision", "timm", "numpy", "pillow", "pyarrow"}
    assert report["devices"]["cpu threads"] == torch.get_num_threads()
    assert report["cache"] == {
        "folder": str(cache / "hub" / "checkpoints"),
        "writable": True,
        "free GB": 10000.0,
    }
    assert report["environment"]["TORCH_HOME"] == str(cache)
    assert report["engines"]["torch"] == f"torch {report['versions']['torch']}"
    assert set(report["engines"]) >= {"compile", "openvino", "onnxruntime"}
    assert report["problems"] == []


def test_a_broken_plugin_engine_is_reported_with_a_remedy(run: Run, site: Path) -> None:
    engines, files = {"ill": "doctor_ill:Engine"}, {"doctor_ill.py": BROKEN}
    install_distribution(site, "ill-engines", engines, files, group=ENGINE_GROUP)
    report = report_of(run, 1)
    assert report["engines"]["ill"] == "broken"
    (found,) = report["problems"]
    assert found["problem"].startswith("The engine 'ill' (ill-engines 1.0) cannot be used")
    assert found["remedy"] == "Install another version or remove it, or use another engine."


def test_an_engine_of_a_plugin_can_be_disabled_for_any_command(run: Run, site: Path) -> None:
    engines, files = {"ill": "doctor_ill:Engine"}, {"doctor_ill.py": BROKEN}
    install_distribution(site, "ill-engines", engines, files, group=ENGINE_GROUP)
    assert run("--no-plugin", "ill", "list", "resnet18").exit_code == 0
    assert report_of(run, 0, "--no-plugin", "ill")["problems"] == []


@pytest.mark.parametrize("name", ["torch", "auto"])
def test_a_plugin_engine_with_a_name_of_headstrip_is_blocked_and_not_offered(
    run: Run, site: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    engines, files = {name: "doctor_ill:Engine"}, {"doctor_ill.py": BROKEN}
    install_distribution(site, "ill-engines", engines, files, group=ENGINE_GROUP)
    report = report_of(run, 1)
    assert report["engines"][f"{name} (ill-engines 1.0)"] == "blocked"
    assert report["engines"]["torch"] == f"torch {report['versions']['torch']}"
    (found,) = report["problems"]
    assert found == {
        "problem": f"The engine '{name}' (ill-engines 1.0) cannot be used: the name '{name}' "
        "belongs to headstrip itself",
        "remedy": "Install another version or remove it, or use another engine.",
    }
    help_text = "".join(run("embed", "--help").stdout.split())
    assert "[auto|torch|compile|openvino|onnxruntime]" in help_text
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", f"timm,hf,efficientnet-lite,example,{name}")
    assert report_of(run, 0)["problems"] == []


def test_the_text_report_has_its_sections_in_order(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    result = run("--no-plugin", "*", "doctor")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert [line for line in result.stdout.splitlines() if not line.startswith(" ")] == [
        "versions",
        "devices",
        "cache",
        "environment",
        "plugins",
        "engines",
        "problems",
    ]
    assert "cpu threads 1" in lines
    assert "writable yes" in lines
    assert lines[-2:] == ["problems", "none"]


@pytest.mark.slow
def test_a_broken_plugin_is_reported_with_a_remedy(run: Run, site: Path) -> None:
    install_distribution(site, "ill", {"ill": "doctor_ill"}, {"doctor_ill.py": BROKEN})
    report = report_of(run, 1)
    assert report["plugins"]["ill (ill 1.0)"] == "failed"
    assert report["problems"] == [
        {
            "problem": "the plugin 'ill' (ill 1.0), failed: ImportError: no such symbol",
            "remedy": "Install another version or remove it.",
        }
    ]
    assert "ImportError: no such symbol. Install another" in run("doctor").stdout


def test_an_empty_folder_of_a_plugin_is_reported_with_its_path(run: Run, site: Path) -> None:
    folder = site / "headstrip_ill-0.1.0.dist-info"
    folder.mkdir()
    report = report_of(run, 1)
    assert report["problems"] == [
        {
            "problem": f"{folder} is empty",
            "remedy": "Remove that folder, then run "
            "`pip install --force-reinstall --no-deps headstrip-ill`.",
        }
    ]
    assert f"  {folder} is empty. Remove that folder, then run" in run("doctor").stdout


def test_a_plugin_that_the_user_disabled_is_not_a_problem(run: Run, site: Path) -> None:
    install_distribution(site, "ill", {"ill": "doctor_ill"}, {"doctor_ill.py": BROKEN})
    assert report_of(run, 0, "--no-plugin", "ill")["plugins"]["ill (ill 1.0)"] == "blocked"


def test_strict_plugins_do_not_stop_the_doctor(
    run: Run, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_distribution(site, "ill", {"ill": "doctor_ill"}, {"doctor_ill.py": BROKEN})
    monkeypatch.setenv("HEADSTRIP_STRICT_PLUGINS", "1")
    report = report_of(run, 1)
    assert report["plugins"] == {}
    assert "'ill' (ill 1.0)" in report["problems"][0]["problem"]
    assert report["environment"]["HEADSTRIP_STRICT_PLUGINS"] == "1"
    use_registry(None)
    assert "plugins\n  none\n" in run("doctor").stdout


def test_a_cache_that_is_not_writable_is_reported(run: Run, cache: Path) -> None:
    cache.write_text("a file where the folder would be")
    report = report_of(run, 1)
    assert report["cache"]["writable"] is False
    assert report["problems"][0]["problem"] == (
        f"weights cannot be downloaded: {cache} is not writable"
    )
    assert report["problems"][0]["remedy"].startswith("Set TORCH_HOME")


def test_a_full_disk_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**13, 10**13, 10**8))
    report = report_of(run, 1)
    assert report["problems"][0]["problem"].startswith("only 0.1 GB are free for")


def test_a_torch_that_cannot_be_imported_is_reported(site: Path) -> None:
    (site / "torch.py").write_text(BROKEN)
    done = run_python("-m", "headstrip.cli", "--no-plugin", "*", "doctor", "--json", site=site)
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert report["problems"][0]["problem"] == "torch cannot be imported: no such symbol"
    assert "pip install" in report["problems"][0]["remedy"]
    assert (report["devices"], report["cache"]) == ({}, {})
