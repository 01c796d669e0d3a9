"""A plugin from ``headstrip new-plugin`` can be installed and keeps the contract without edits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.authoring.environment import Environment

from headstrip.authoring.new_plugin import NewPlugin

EXAMPLE = Path(__file__).parents[2] / "plugins" / "headstrip-example"


@pytest.fixture(scope="module")
def folder(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a new plugin, installed as users install it."""
    here = tmp_path_factory.mktemp("here")
    done = environment.headstrip("new-plugin", "mylab", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")
    environment.install("./mylab", cwd=here)
    return here / "mylab"


def test_the_installed_distribution_contains_the_catalog(environment, folder):
    (record,) = environment.folder.glob(
        "lib/*/site-packages/headstrip_mylab-0.1.0.dist-info/RECORD"
    )
    files = {line.partition(",")[0] for line in record.read_text().splitlines()}
    names = ("__init__.py", "catalog.tsv", "weights.tsv", "py.typed")
    assert files >= {f"headstrip_mylab/{name}" for name in names}


def test_a_new_plugin_is_listed_after_its_installation(environment, folder):
    listed = environment.headstrip("list", "mylab:*").stdout
    assert listed == "mylab:tiny  mylab:tiny  32  1.2k  3x32x32  -\n"


@pytest.mark.slow
def test_a_new_plugin_keeps_the_contract(environment, folder):
    done = environment.headstrip("verify", "mylab:*")
    assert done.returncode == 0, done.stderr
    assert re.match(r"mylab:tiny  exact  3x32x32  real  passed (\d+)/\1\n", done.stdout)


@pytest.mark.slow
def test_the_tests_of_a_new_plugin_pass(environment, folder):
    done = environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=folder)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 19


@pytest.mark.slow
def test_the_catalog_of_a_new_plugin_is_up_to_date(environment, folder):
    done = environment.headstrip("catalog", "check", "mylab")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nothing changed") == 2


@pytest.mark.parametrize(
    "path",
    [
        *(
            f"src/headstrip_example/{name}"
            for name in ("__init__.py", "catalog.tsv", "weights.tsv")
        ),
        "src/headstrip_example/py.typed",
        "tests/test_contract.py",
    ],
)
def test_a_new_plugin_is_the_example_plugin_under_another_name(path):
    assert NewPlugin("example").files()[path] == (EXAMPLE / path).read_text(encoding="utf-8")
