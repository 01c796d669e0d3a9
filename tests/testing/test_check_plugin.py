"""``check_plugin`` and ``parametrize_with_backbones``: all backbones of a plugin."""

from dataclasses import replace

import pytest
from tests.distributions import catalog_of, install_distribution, on_path, run_python
from tests.testing.networks import TINY, Lab
from tests.testing.test_defects import WrongPooling, WrongWidth

from headstrip import PluginError
from headstrip.registry.registry import Registry, use_registry
from headstrip.testing import (
    CHECKS,
    ConformanceError,
    check_plugin,
    parametrize_with_backbones,
    verify,
)

CODE = (
    "from tests.testing.networks import Lab as _Lab\n"
    "class Lab(_Lab):\n    backbones = None\n"
    "plugin = Lab()\n"
)


class Two(Lab):
    """A plugin with a small backbone, and one that claims to be large."""

    def backbones(self):
        return (TINY, replace(TINY, name="large", params=31_000_000))

    backbones.headstrip_impl = Lab.backbones.headstrip_impl


class WrongTwice(WrongPooling, WrongWidth):
    pass


def parameters_of(decorator):
    """Return the parameters that a decorator gives a test, by id."""

    @decorator
    def test(check):
        check()

    (mark,) = test.pytestmark
    assert mark.args[0] == "check"
    return {parameter.id: parameter.values[0] for parameter in mark.args[1]}


def test_a_plugin_that_keeps_the_contract_raises_no_error(registry):
    registry.register(Lab(), "lab")
    assert check_plugin("lab") is None


def test_the_error_lists_every_failure_with_its_backbone_and_check(registry):
    registry.register(WrongTwice(), "lab")
    with pytest.raises(ConformanceError) as caught:
        check_plugin("lab")
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 checks failed:"
    assert lines[1].startswith("  lab:tiny: width: the widths differ: the catalog claims 7")
    assert lines[2].startswith("  lab:tiny: lossless: the logits differ from the untouched")
    assert [result.check for result in caught.value.results] == ["width", "lossless"]
    assert isinstance(caught.value, AssertionError)


def test_large_backbones_run_only_a_few_checks_unless_requested(registry):
    registry.register(Two(), "lab")
    ids = parameters_of(parametrize_with_backbones("lab"))
    large = [one for one in ids if one.startswith("lab:large-")]
    assert [one.removeprefix("lab:large-") for one in large] == list(CHECKS)[:9]
    assert [one for one in ids if one not in large] == [f"lab:tiny-{name}" for name in CHECKS]
    counts = {
        real: len(parameters_of(parametrize_with_backbones("lab", real=real)))
        for real in (True, False, 31_000_000)
    }
    assert counts == {True: 2 * len(CHECKS), False: 18, 31_000_000: 2 * len(CHECKS)}


@pytest.mark.parametrize("chosen", [["tiny"], ["lab:t*"], "tiny"])
def test_names_and_patterns_select_backbones(registry, chosen):
    registry.register(Two(), "lab")
    ids = parameters_of(parametrize_with_backbones("lab", backbones=chosen))
    assert {one.partition("-")[0] for one in ids} == {"lab:tiny"}


@pytest.mark.parametrize(
    ("name", "backbones", "reason"),
    [
        ("nobody", None, "There is no plugin 'nobody' that lists backbones"),
        ("lab", ["huge"], "No backbone of 'lab' matches 'huge'"),
        ("lab:tiny", None, r"Pass the plugin 'lab', and backbones=\['tiny'\]\."),
    ],
)
def test_selecting_no_backbones_is_an_error(registry, name, backbones, reason):
    registry.register(Lab(), "lab")
    for function in (check_plugin, parametrize_with_backbones):
        with pytest.raises(PluginError, match=reason):
            function(name, backbones=backbones)


def test_the_error_says_that_a_plugin_has_no_catalog(site):
    install_distribution(site, "headstrip-lab", {"lab": "lab_bare:plugin"}, {"lab_bare.py": CODE})
    use_registry(Registry())
    with pytest.raises(PluginError, match=r"the plugin 'lab' ships no catalog\.tsv"):
        check_plugin("lab")


@pytest.mark.parametrize("real", ["x", None])
def test_an_invalid_value_of_real_is_refused(registry, real):
    registry.register(Lab(), "lab")
    for function in (check_plugin, parametrize_with_backbones):
        with pytest.raises(ValueError, match=r"real=.*Pass True, False, or the number of"):
            function("lab", real=real)


def test_a_built_in_family_can_be_checked_like_a_plugin():
    ids = parameters_of(parametrize_with_backbones("squeezenet", real=False))
    assert {one.partition("-")[0] for one in ids} == {
        "torchvision:squeezenet1_0",
        "torchvision:squeezenet1_1",
    }


def test_a_failing_check_raises_and_a_check_that_does_not_apply_skips(registry):
    registry.register(WrongPooling(), "lab")
    checks = parameters_of(parametrize_with_backbones("lab"))
    checks["lab:tiny-width"]()
    with pytest.raises(ConformanceError, match="lab:tiny: lossless: the logits differ"):
        checks["lab:tiny-lossless"]()
    declared = parameters_of(parametrize_with_backbones("squeezenet", real=False))
    with pytest.raises(pytest.skip.Exception, match="law='declared' means that"):
        declared["torchvision:squeezenet1_1-head"]()


def test_a_check_that_cannot_be_run_raises_too(registry):
    registry.register(Lab(), "lab")
    checks = parameters_of(parametrize_with_backbones("lab"))

    class Broken(Lab):
        NETWORK = None

    registry.register(Broken(), "lab")
    with pytest.raises(ConformanceError, match="lab:tiny: build: raised PluginError"):
        checks["lab:tiny-build"]()
    with pytest.raises(ConformanceError, match=r"1 checks could not|\(not run\)"):
        checks["lab:tiny-lossless"]()


@pytest.fixture
def site(tmp_path):
    """A folder on the path, to install distributions in."""
    with on_path(tmp_path):
        yield tmp_path
    use_registry(None)


def install(site, *specs, code=CODE):
    files = {"lab_plugin/__init__.py": code, "lab_plugin/catalog.tsv": catalog_of(*specs)}
    install_distribution(site, "headstrip-lab", {"lab": "lab_plugin:plugin"}, files)
    use_registry(Registry())


def test_an_installed_plugin_passes_with_the_catalog_that_it_ships(site):
    install(site, TINY)
    assert {one.check for one in verify("lab:tiny") if one.status != "passed"} == {"maps"}


def test_a_refused_row_fails_the_listing_check_of_the_other_rows(site):
    install(site, TINY, replace(TINY, name="stolen", source="timm"))
    (failed,) = [one for one in verify("lab:tiny", level="meta") if one.status == "failed"]
    assert failed.check == "listing"
    assert "'stolen' claims the source 'timm'" in failed.seen


def test_a_plugin_that_cannot_be_imported_fails_with_its_reason(site):
    install(site, TINY, code="raise ImportError('no numpy here')")
    with pytest.raises(ConformanceError, match="ImportError: no numpy here"):
        check_plugin("lab")


def test_pytest_runs_a_test_for_each_backbone_and_check(tmp_path):
    test = tmp_path / "test_contract.py"
    test.write_text(
        "from headstrip.testing import parametrize_with_backbones\n\n"
        "@parametrize_with_backbones('squeezenet', backbones=['squeezenet1_1'])\n"
        "def test_the_contract(check):\n    check()\n"
    )
    options = ("-p", "no:cacheprovider", "-q", "-rA", "--rootdir", str(tmp_path))
    done = run_python("-m", "pytest", *options, str(test), ready=True)
    assert done.returncode == 0, done.stdout
    assert "test_the_contract[torchvision:squeezenet1_1-lossless]" in done.stdout
    assert "25 passed, 1 skipped" in done.stdout
