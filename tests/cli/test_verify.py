"""``headstrip verify``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.conftest import Run
from tests.distributions import catalog_of, install_distribution, run_python
from tests.testing.networks import TINY

from headstrip import BackboneSpec
from headstrip.testing import CHECKS, REAL_PARAMS

CODE = """
from tests.testing.networks import Lab as Good

class Lab(Good):
    backbones = None

plugin = Lab()
"""
LARGE = replace(TINY, name="large", params=REAL_PARAMS + 1)
WRONG = replace(TINY, name="wrong", dim=7)


def install(site: Path, *specs: BackboneSpec, code: str = CODE) -> None:
    files = {"lab_plugin/__init__.py": code, "lab_plugin/catalog.tsv": catalog_of(*specs)}
    install_distribution(site, "headstrip-lab", {"lab": "lab_plugin:plugin"}, files)


def test_verify_prints_one_line_for_a_name_and_a_summary(run: Run, site: Path) -> None:
    install(site, TINY)
    result = run("verify", "lab:tiny")
    assert result.exit_code == 0
    assert result.stdout == (
        "lab:tiny  exact  3x16x16  real  passed 25/25, weights not read\n"
        "1 backbone (1 run for real): all passed, weights of 1 not read\n"
    )


def test_a_failure_names_the_check_and_the_values(run: Run, site: Path) -> None:
    install(site, TINY, WRONG)
    result = run("verify", "lab:*")
    assert result.exit_code == 1
    first, second, last = result.stdout.splitlines()
    assert first == "lab:tiny  exact  3x16x16  real  passed 25/25, weights not read"
    assert second == (
        "lab:wrong  exact  3x16x16  real  failed 1/25  width: the widths differ: the catalog "
        "claims 7, meta gives 6, meta gives after a real build 6, the forward pass gives 6"
    )
    assert last == "2 backbones (2 run for real): 1 failed, weights of 2 not read"


def test_a_pattern_runs_large_backbones_once(run: Run, site: Path) -> None:
    install(site, TINY, LARGE)
    result = run("verify", "lab:*")
    tiny, large, last = result.stdout.splitlines()
    assert tiny.endswith("real  passed 25/25, weights not read")
    assert large.startswith("lab:large  exact  3x16x16  once  failed 1/9  catalog: the catalog")
    assert last.startswith(
        "2 backbones (1 run for real, 1 of more than 30.0M parameters run once): 1 failed"
    )


def test_meta_runs_no_backbone_for_real(run: Run, site: Path) -> None:
    install(site, TINY, LARGE)
    result = run("verify", "lab:*", "--meta")
    tiny, large, last = result.stdout.splitlines()
    assert "  meta  passed 9/9" in tiny
    assert "  meta  failed 1/9" in large
    assert last.startswith("2 backbones (2 without memory): 1 failed")
    assert "  meta  passed 9/9" in run("verify", "lab:tiny", "--meta").stdout


def test_all_and_meta_exclude_each_other(run: Run) -> None:
    assert run("verify", "resnet18", "--all", "--meta").exit_code == 2


@pytest.mark.parametrize("arguments", [["lab:large"], ["lab:l*", "--all"], ["larg?", "--all"]])
def test_a_name_or_all_runs_a_large_backbone_for_real(
    run: Run, site: Path, arguments: list[str]
) -> None:
    install(site, LARGE)
    assert "  real  failed 1/25  catalog: " in run("verify", *arguments).stdout


def test_a_broken_plugin_is_a_failed_line_with_its_error(run: Run, site: Path) -> None:
    install(site, TINY, code="raise SystemExit('stop')")
    result = run("verify", "lab:*")
    assert result.exit_code == 1
    assert result.stdout.startswith("lab:tiny  -  -  real  failed ")
    assert "SystemExit: stop" in result.stdout
    assert "Traceback" not in result.output


def test_json_has_every_result(run: Run, site: Path) -> None:
    install(site, TINY)
    result = run("verify", "lab:tiny", "--json")
    (report,) = json.loads(result.stdout)
    assert {key: report[key] for key in ("backbone", "level", "law", "input_shape", "passed")} == {
        "backbone": "lab:tiny",
        "level": "real",
        "law": "exact",
        "input_shape": [3, 16, 16],
        "passed": True,
    }
    assert [one["check"] for one in report["results"]] == list(CHECKS)
    statuses = {one["check"]: one["status"] for one in report["results"]}
    assert statuses.pop("maps") == "skipped"
    assert {*statuses.values()} == {"passed"}


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("lab:*", "No backbone matches 'lab:*'. Run `headstrip list` to see all names."),
        ("resnet51", "There is no backbone 'resnet51'."),
        ("resnet18.IMAGENET1K_V1", "has the tag 'IMAGENET1K_V1'"),
    ],
)
def test_a_pattern_or_name_that_matches_nothing_is_a_usage_error(
    run: Run, pattern: str, reason: str
) -> None:
    result = run("verify", pattern)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert reason in result.stderr


def test_the_error_names_an_unreadable_catalog_as_the_reason(run: Run, site: Path) -> None:
    files = {"lab_plugin/__init__.py": CODE, "lab_plugin/catalog.tsv": "no catalog\n"}
    install_distribution(site, "headstrip-lab", {"lab": "lab_plugin:plugin"}, files)
    result = run("verify", "lab:*")
    assert result.exit_code == 2
    assert "No backbone matches 'lab:*': " in result.stderr
    assert "is not a catalog" in result.stderr


def test_output_of_a_plugin_goes_to_stderr(run: Run, site: Path) -> None:
    install(site, TINY, code=f"print('noise')\n{CODE}")
    result = run("verify", "lab:tiny")
    assert "noise" not in result.stdout
    assert "noise" in result.stderr


def test_help_states_the_size_limit_and_imports_no_torch(run: Run) -> None:
    assert f"up to {REAL_PARAMS // 10**6}M parameters" in " ".join(
        run("verify", "-h").stdout.split()
    )
    code = (
        "import sys\nfrom headstrip.cli import main\n"
        "try:\n    main(['verify', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    assert run_python("-c", code).returncode == 0


def test_the_error_names_a_missing_catalog_as_the_reason(run: Run, site: Path) -> None:
    install_distribution(
        site, "headstrip-lab", {"lab": "lab_plugin:plugin"}, {"lab_plugin/__init__.py": CODE}
    )
    result = run("verify", "lab:*")
    assert result.exit_code == 2
    assert "No backbone matches 'lab:*': the plugin 'lab' ships no catalog.tsv; " in result.stderr
