"""The weights of a backbone, and their labels."""

from __future__ import annotations

import sys

import pytest
from tests.distributions import run_python
from tests.registry.sources import LIVE, install_source, spec_of

from headstrip import BackboneSpec, CatalogError, PluginError, WeightsEntry
from headstrip.registry.registry import Registry

TWO = [("net", WeightsEntry("V2")), ("net", WeightsEntry("V1"))]


def weights(registry, name):
    return [entry.tag for entry in registry.weights(registry.resolve(name)[0])]


def test_weights_come_from_the_table_without_importing_the_plugin(site):
    install_source(site, "acme", ["net"], TWO)
    assert weights(Registry(), "acme:net") == ["V2", "V1"]
    assert "acme_of_a_test" not in sys.modules


def test_a_listed_backbone_without_rows_has_no_weights(site):
    install_source(site, "acme", ["net", "bare"], TWO)
    assert weights(Registry(), "acme:bare") == []
    assert "acme_of_a_test" not in sys.modules


def test_the_plugin_provides_weights_if_its_distribution_has_no_table(site):
    install_source(site, "acme", ["net"], code=LIVE)
    assert weights(Registry(), "acme:net") == ["LIVE"]


def test_a_plugin_that_cannot_be_imported_gives_an_error(site):
    install_source(site, "acme", ["net"], code="raise ImportError('no luck')")
    registry = Registry()
    with pytest.raises(PluginError, match="ImportError: no luck"):
        weights(registry, "acme:net")


def test_the_weights_of_torchvision_load_no_plugin():
    code = (
        "import sys\n"
        "from headstrip.registry.registry import get_registry\n"
        "registry = get_registry()\n"
        "specs = [spec for spec in registry.specs() if spec.source == 'torchvision']\n"
        "print(sum(len(registry.weights(spec)) for spec in specs))\n"
        "assert 'torch' not in sys.modules\n"
        "assert {r.status for r in registry.records() if r.origin == 'built-in'} == {'found'}\n"
    )
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 100


def test_the_weights_of_an_unknown_source_are_refused():
    spec = BackboneSpec("net", "nobody", "resnet", "nobody", "image", (3, 8, 8), 8, 1)
    with pytest.raises(PluginError, match="needs the plugin 'nobody', which is not installed"):
        Registry().weights(spec)


def test_the_labels_of_torchvision_come_from_the_core():
    registry = Registry()
    spec, _ = registry.resolve("resnet18")
    labels = registry.labels(spec, registry.weights(spec)[0])
    assert len(labels) == 1000
    assert (labels[0], labels[-1]) == ("tench", "toilet tissue")


def test_a_distribution_may_have_its_own_labels_and_use_the_cores(site):
    install_source(site, "acme", ["net"], **{"labels/cells__txt": "red\nwhite\n"})
    registry, spec = Registry(), spec_of("acme", "net")
    own = WeightsEntry("V1", labels="cells", num_classes=2)
    assert registry.labels(spec, own) == ("red", "white")
    assert len(registry.labels(spec, WeightsEntry("V1", labels="kinetics-400"))) == 400
    assert registry.labels(spec, WeightsEntry("V1")) is None


def test_the_error_for_missing_labels_names_the_weights_and_the_plugin(site):
    install_source(site, "acme", ["net"])
    with pytest.raises(CatalogError, match=r"acme:net.V1 names the labels 'cells'.* 'acme'"):
        Registry().labels(spec_of("acme", "net"), WeightsEntry("V1", labels="cells"))


def test_a_wrong_number_of_labels_is_refused(site):
    install_source(site, "acme", ["net"], **{"labels/cells__txt": "red\nwhite\n"})
    entry = WeightsEntry("V1", labels="cells", num_classes=3)
    with pytest.raises(
        CatalogError, match=r"cells\.txt has 2 labels, and the weights that name it have 3"
    ):
        Registry().labels(spec_of("acme", "net"), entry)


def test_the_error_for_unreadable_labels_names_the_file(site):
    package = install_source(site, "acme", ["net"], **{"labels/cells__txt": "red\n"})
    (site / package / "labels" / "cells.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CatalogError, match=r"cells\.txt cannot be read"):
        Registry().labels(spec_of("acme", "net"), WeightsEntry("V1", labels="cells"))
