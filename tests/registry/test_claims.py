"""A catalog describes only its own distribution, and a broken catalog affects no other plugin."""

from __future__ import annotations

import pytest
from tests.registry.sources import install_source, spec_of

from headstrip import PluginError, WeightsEntry
from headstrip.registry.registry import Registry


def record_of(registry, name):
    return next(record for record in registry.records() if record.name == name)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source": "torchvision"}, "'bad' claims the source 'torchvision', which is not 'acme'"),
        ({"plugin": "resnet"}, "'bad' names the plugin 'resnet', which is not 'acme'"),
        (
            {"family": "lab:net"},
            "'bad' names the family 'lab:net', which belongs neither to 'acme' nor to headstrip",
        ),
        (
            {"family": "net"},
            "'bad' names the family 'net', which belongs neither to 'acme' nor to headstrip",
        ),
    ],
)
def test_a_row_with_a_foreign_source_plugin_or_family_is_refused(site, changes, reason):
    facts = {"source": "acme", "plugin": "acme", **changes}
    install_source(site, "acme", ["good", spec_of(name="bad", **facts)])
    registry = Registry()
    record = record_of(registry, "acme")
    assert (record.status, record.rows) == ("found", 1)
    assert record.error == f"1 of its rows are refused: {reason}"
    assert [spec.name for spec in registry.specs() if spec.source == "acme"] == ["good"]


def test_a_row_with_an_unusable_name_is_refused(site):
    package = install_source(site, "acme", ["net-large"])
    catalog = site / package / "catalog.tsv"
    catalog.write_text(catalog.read_text().replace("net-large", "net.large"))
    assert "'net.large' does not have the form" in record_of(Registry(), "acme").error


def test_a_row_with_a_family_of_the_plugin_is_accepted(site):
    install_source(site, "acme", [spec_of("acme", "net", family="acme:net")])
    assert Registry().resolve("acme:net")[0].family == "acme:net"


def test_a_row_that_claims_a_torchvision_name_does_not_change_it(site):
    install_source(site, "acme", [spec_of("torchvision", "resnet18", plugin="acme")])
    spec, _ = Registry().resolve("torchvision:resnet18")
    assert (spec.plugin, spec.dim) == ("resnet", 512)


@pytest.mark.parametrize("file", ["catalog__tsv", "weights__tsv"])
def test_an_invalid_catalog_fails_only_its_own_plugin(site, file):
    install_source(site, "acme", **{file: "name\tsource\n"})
    install_source(site, "lab", ["net"])
    registry = Registry()
    record = record_of(registry, "acme")
    assert (record.status, record.rows) == ("failed", 0)
    assert f"{file.replace('__', '.')} is not a catalog" in record.error
    assert registry.resolve("lab:net")[0].source == "lab"
    with pytest.raises(PluginError, match=r"cannot be used: .*is not a catalog"):
        registry.resolve("acme:net")


def test_a_plugin_with_an_unreadable_weights_table_lists_nothing(site):
    package = install_source(site, "acme", ["net"], [("net", WeightsEntry("V1"))])
    (site / package / "weights.tsv").write_bytes(b"\xff")
    assert "acme" not in Registry().sources()


def test_a_refused_row_is_an_error_in_strict_mode(site, monkeypatch):
    monkeypatch.setenv("HEADSTRIP_STRICT_PLUGINS", "1")
    install_source(site, "acme", [spec_of("lab", "net", plugin="acme")])
    with pytest.raises(PluginError, match=r"'acme' .* is unusable: 1 of its rows are refused"):
        Registry()


def test_the_records_of_built_in_plugins_count_their_rows():
    records = [record for record in Registry().records() if record.origin == "built-in"]
    assert len(records) == 21
    assert sum(record.rows for record in records) == 89
    assert {record.status for record in records} == {"found"}
