"""What the registry returns about sources, plugins and families, and each of its messages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tests.registry.sources import LIVE, install_source, spec_of

from headstrip import (
    BackboneSpec,
    CatalogError,
    PluginError,
    UnknownBackboneError,
    WeightsEntry,
    hookimpl,
    register_plugin,
)
from headstrip.families import BUILT_IN
from headstrip.registry.registry import Registry, get_registry, use_registry

DISABLED = "disabled by HEADSTRIP_DISABLE_PLUGINS or --no-plugin"


def plugin_of(*names: str, source: str = "lab", **attributes: Any) -> Any:
    """Return a plugin object that lists backbones of a source."""
    specs = tuple(spec_of(source, name) for name in names)
    hook = hookimpl(lambda self: specs)
    return type("Lab", (), {"backbones": hook, **attributes})()


def message(error: type[Exception], function: Any, *arguments: Any) -> str:
    with pytest.raises(error) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.fixture
def registry(site) -> Registry:
    """Return a registry with torchvision and two other sources, one of them with weights."""
    install_source(site, "timm", ["resnet50", "mobilenet"])
    install_source(site, "acme", ["net", "resnet18"], [("net", WeightsEntry("V1"))], code=LIVE)
    return Registry()


def test_the_registry_lists_the_backbones_of_each_source(registry):
    assert registry.sources()[0] == "torchvision"
    assert {"acme", "timm"} < {*registry.sources()}
    assert [spec.name for spec in registry.specs_of("acme")] == ["net", "resnet18"]
    assert registry.specs_of("nobody") == []
    listed = [spec for source in registry.sources() for spec in registry.specs_of(source)]
    assert registry.specs() == listed


def test_the_registry_has_a_record_of_each_plugin(registry):
    rows = {record.name: record.rows for record in registry.records()}
    assert list(rows)[: len(BUILT_IN)] == list(BUILT_IN)
    assert (rows["acme"], rows["timm"]) == (2, 2)
    assert {record.status for record in registry.records()} == {"found"}


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("torchvision:resnet50", "resnet50"),
        ("timm:resnet50", "timm:resnet50"),
        ("timm:mobilenet", "mobilenet"),
        ("acme:net", "acme:net"),
        ("acme:resnet18", "acme:resnet18"),
    ],
)
def test_the_short_name_of_a_backbone_resolves_to_it(registry, name, short):
    spec, _ = registry.resolve(name)
    assert registry.short_name(spec) == short
    assert registry.resolve(short)[0] == spec


def test_listed_weights_come_only_from_the_table(registry):
    net, _ = registry.resolve("acme:net")
    assert registry.listed_weights(net) == (WeightsEntry("V1"),)
    new, _ = registry.resolve("acme:new")
    assert registry.listed_weights(new) == ()
    assert registry.weights(new) == (WeightsEntry("LIVE"),)


@pytest.mark.parametrize("first", [True, False])
def test_a_backbone_is_in_the_catalog_if_a_file_lists_it(site, first):
    install_source(site, "acme", ["net"], code=LIVE)
    registry = Registry()
    if not first:
        registry.specs()
    assert registry.is_in_catalog(spec_of("acme", "net"))
    assert registry.is_in_catalog(registry.resolve("resnet18")[0])
    assert not registry.is_in_catalog(registry.resolve("acme:new")[0])
    registry.register(plugin_of("net"), "lab")
    assert not registry.is_in_catalog(spec_of("lab", "net"))


def test_the_first_call_for_weights_reads_the_installed_table(registry):
    assert registry.weights(spec_of("acme", "net")) == (WeightsEntry("V1"),)


def test_a_failing_weights_hook_is_named_and_a_missing_one_gives_none(site):
    code = (
        "from headstrip import hookimpl\n\n\n"
        "@hookimpl\ndef build_model(spec, options):\n    return None\n"
    )
    install_source(site, "acme", ["net"], code=code)
    registry = Registry()
    assert registry.weights(registry.resolve("acme:net")[0]) == ()
    code = (
        "from headstrip import hookimpl\n\n\n"
        "@hookimpl\ndef weights(spec):\n    raise ValueError(spec.name)\n"
    )
    install_source(site, "lab", ["net"], code=code)
    assert message(PluginError, Registry().weights, spec_of("lab", "net")).startswith(
        "The plugin 'lab' (headstrip-lab 1.0) raised ValueError: net in weights for 'lab:net'."
    )


def test_the_error_names_labels_that_no_file_contains(registry):
    entry = WeightsEntry("V1", labels="cells", num_classes=2)
    assert message(CatalogError, registry.labels, spec_of("acme", "net"), entry) == (
        "acme:net.V1 names the labels 'cells', and no file contains them. Report it to the author "
        "of the plugin 'acme'."
    )


def test_labels_of_a_missing_plugin_come_from_headstrip(registry):
    entry = WeightsEntry("V1", labels="kinetics-400")
    labels = registry.labels(spec_of("gone", "net"), entry)
    assert labels is not None
    assert len(labels) == 400


def test_labels_of_a_registered_plugin_come_from_headstrip(registry):
    registry.register(plugin_of("net"), "lab")
    entry = WeightsEntry("V1", labels="kinetics-400")
    assert registry.labels(spec_of("lab", "net"), entry)[0] == "abseiling"


def test_the_error_for_a_missing_plugin_names_its_distribution(registry):
    assert message(PluginError, registry.owner, spec_of("gone", "net")) == (
        "'gone:net' needs the plugin 'gone', which is not installed. Try `pip install "
        "headstrip-gone`."
    )
    assert message(PluginError, registry.stripper, "gone:net") == (
        "'gone:net' needs the plugin 'gone', which is not installed. Try `pip install "
        "headstrip-gone`."
    )


def test_asking_for_the_owner_of_a_backbone_loads_its_plugin(registry):
    owner = registry.owner(registry.resolve("acme:net")[0])
    assert (owner.name, owner.status) == ("acme", "loaded")
    assert registry.owner(registry.resolve("resnet18")[0]).name == "resnet"


@pytest.mark.parametrize("family", ["resnet", "torchvision:resnet"])
def test_the_stripper_of_a_core_family_is_its_built_in_plugin(registry, family):
    plugin, own = registry.stripper(family)
    assert (plugin.name, own, plugin.status) == ("resnet", "resnet", "loaded")


def test_the_stripper_of_another_sources_family_is_its_plugin(registry):
    registry.register(plugin_of(FAMILIES=("a", "b"), strip_head=hookimpl(lambda self: 0)), "lab")
    plugin, own = registry.stripper("lab:b")
    assert (plugin.name, own) == ("lab", "b")
    assert message(PluginError, registry.stripper, "lab:resnet") == (
        "The plugin 'lab' (registered) has no family 'resnet'. Its families: a, b."
    )
    registry.register(plugin_of("net", source="none"), "none")
    assert message(PluginError, registry.stripper, "none:c") == (
        "The plugin 'none' (registered) has no family 'c'. Its families: none."
    )


@pytest.mark.parametrize("name", ["resnte", "torchvision:resnte"])
def test_the_error_for_a_mistyped_core_family_suggests_similar_ones(registry, name):
    assert message(PluginError, registry.stripper, name) == (
        f"There is no family {name!r}. Did you mean resnet or regnet? Write source:family for the "
        "family of another source."
    )


def test_the_error_for_an_unknown_family_lists_all_core_families(registry):
    text = message(PluginError, registry.stripper, "")
    assert all(name in text for name in BUILT_IN)


def test_the_error_for_a_name_without_its_source_has_the_source(registry):
    assert message(UnknownBackboneError, registry.resolve, "net") == (
        "The name 'net' needs its source. Write acme:net."
    )


def test_the_error_for_an_unknown_backbone_suggests_similar_ones(registry):
    text = message(UnknownBackboneError, registry.resolve, "acme:nett")
    assert text.startswith("There is no backbone 'acme:nett'.")
    assert "acme:net" in text


@pytest.mark.parametrize("source", ["nobody", "headstrip", "resnet", "vgg"])
def test_a_source_that_does_not_exist_is_unknown(registry, source):
    text = message(UnknownBackboneError, registry.resolve, f"{source}:net")
    assert f"There is no source {source!r}" in text


def test_the_error_for_a_refused_answer_names_the_plugin(registry):
    assert message(PluginError, registry.resolve, "acme:impostor") == (
        "headstrip refuses what find_backbone of the plugin 'acme' (headstrip-acme 1.0) returned: "
        "'resnet18' claims the source 'torchvision', which is not 'acme'. Report it to the "
        "plugin's author."
    )
    assert message(PluginError, registry.resolve, "acme:alias") == (
        "headstrip refuses what find_backbone of the plugin 'acme' (headstrip-acme 1.0) returned: "
        "it describes 'newest' when headstrip asks for 'alias'. Report it to the plugin's author."
    )


def test_the_error_of_a_failing_hook_names_the_requested_backbone(site):
    code = (
        "from headstrip import hookimpl\n\n\n"
        "@hookimpl\ndef find_backbone(name):\n    raise ValueError(name)\n"
    )
    install_source(site, "acme", code=code)
    text = message(PluginError, Registry().resolve, "acme:net")
    assert "raised ValueError: net in find_backbone for 'acme:net'" in text


def test_a_backbone_that_a_plugin_describes_is_not_in_the_catalog(registry):
    spec, _ = registry.resolve("acme:new")
    assert registry.resolve("acme:new")[0] == spec
    assert not registry.is_in_catalog(spec)


def test_a_disabled_family_is_not_listed_and_its_names_are_refused(site):
    registry = Registry(disabled=["resnet"])
    assert "resnet18" not in {spec.name for spec in registry.specs()}
    assert "vgg11" in {spec.name for spec in registry.specs()}
    record = next(record for record in registry.records() if record.name == "resnet")
    assert (record.status, record.error, record.rows) == ("blocked", DISABLED, 10)
    for name in ("resnet18", "torchvision:resnet18"):
        assert message(PluginError, registry.resolve, name).startswith(
            f"The plugin 'resnet' (built-in) cannot be used: {DISABLED}."
        )


def test_a_disabled_family_is_skipped_for_an_unknown_name(site):
    with pytest.raises(UnknownBackboneError):
        Registry(disabled=BUILT_IN).resolve("torchvision:resnet0")


def test_the_caller_and_the_environment_can_disable_plugins(site, monkeypatch):
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", "vgg, acme")
    install_source(site, "acme", ["net"])
    install_source(site, "lab", ["net"])
    registry = Registry(disabled=["lab"])
    blocked = {record.name for record in registry.records() if record.status == "blocked"}
    assert blocked == {"vgg", "acme", "lab"}
    assert registry.disabled == {"vgg", "acme", "lab"}


def test_the_error_for_an_unknown_name_mentions_disabled_plugins(site):
    install_source(site, "timm", ["mobilenet"])
    registry = Registry(disabled=["timm"])
    text = message(UnknownBackboneError, registry.resolve, "mobilenet")
    assert DISABLED in text


@pytest.mark.parametrize(
    ("code", "status"),
    [("raise ImportError('torn')", "failed"), ("x = 1", "failed"), (LIVE, "loaded")],
)
def test_a_failure_to_load_a_plugin_is_in_its_record(site, code, status):
    install_source(site, "acme", code=code)
    registry = Registry()
    plugin = registry.load_plugin("acme")
    assert plugin.record.status == status
    assert (plugin.record.error is None) == (status == "loaded")
    assert plugin.record in registry.records()


def test_a_plugin_that_cannot_be_loaded_is_an_error_in_strict_mode(site, monkeypatch):
    install_source(site, "acme", code="raise ImportError('torn')")
    monkeypatch.setenv("HEADSTRIP_STRICT_PLUGINS", "1")
    registry = Registry()
    with pytest.raises(PluginError, match="ImportError: torn"):
        registry.load_plugin("acme")


def test_strict_mode_refuses_only_unusable_plugins(site, monkeypatch):
    install_source(site, "acme", code="raise ImportError('torn')")
    relaxed = Registry()
    failed = relaxed.load_plugin("acme").record
    relaxed.refuse_if_strict(failed)
    monkeypatch.setenv("HEADSTRIP_STRICT_PLUGINS", "1")
    strict = Registry(disabled=["acme"])
    with pytest.raises(PluginError, match=r"'acme' .* is unusable: .*torn"):
        strict.refuse_if_strict(failed)
    for record in strict.records():
        strict.refuse_if_strict(record)


def test_the_catalog_of_an_unread_plugin_is_not_read(site):
    install_source(site, "acme", ["net"])
    registry = Registry(unread=["acme"])
    record = next(record for record in registry.records() if record.name == "acme")
    assert (record.rows, record.status, record.error) == (0, "found", None)
    assert "acme" not in registry.sources()


def test_the_record_of_a_plugin_with_an_unreadable_catalog_has_the_reason(site):
    install_source(site, "acme", catalog__tsv="name\n")
    record = next(record for record in Registry().records() if record.name == "acme")
    assert record.status == "failed"
    assert record.error is not None
    assert "catalog.tsv is not a catalog" in record.error


def test_the_catalog_of_a_blocked_plugin_is_not_read(site):
    install_source(site, "acme", catalog__tsv="name\n")
    registry = Registry(disabled=["acme"])
    record = next(record for record in registry.records() if record.name == "acme")
    assert (record.status, record.error) == ("blocked", DISABLED)


def test_the_record_counts_refused_rows(site):
    rows = [spec_of("lab", "a", plugin="acme"), spec_of("lab", "b", plugin="acme")]
    install_source(site, "acme", [*rows, "net"])
    record = next(record for record in Registry().records() if record.name == "acme")
    assert record.error == (
        "2 of its rows are refused: 'a' claims the source 'lab', which is not 'acme'"
    )
    assert (record.rows, record.status) == (1, "found")


def test_a_distribution_cannot_replace_a_built_in_plugin(site):
    install_source(site, "resnet", ["net"])
    records = {record.name + record.origin: record for record in Registry().records()}
    assert records["resnetbuilt-in"].status == "found"
    assert records["resnetheadstrip-resnet 1.0"].status == "blocked"
    assert Registry().owner(Registry().resolve("resnet18")[0]).origin == "built-in"


def test_registering_lists_the_backbones_of_the_plugin(registry):
    record = registry.register(plugin_of("a", "b"), "lab")
    assert (record.name, record.origin, record.status, record.rows) == (
        "lab",
        "registered",
        "loaded",
        2,
    )
    assert record.module == __name__
    assert [spec.name for spec in registry.specs_of("lab")] == ["a", "b"]
    assert registry.register(plugin_of("c"), "lab").rows == 1
    assert [spec.name for spec in registry.specs_of("lab")] == ["c"]


def test_a_module_is_registered_by_its_name(registry):
    specs = (spec_of("lab", "net"),)
    module = SimpleNamespace(__name__="some.lab", backbones=hookimpl(lambda: specs))
    use_registry(registry)
    try:
        record = register_plugin(module)
    finally:
        use_registry(None)
    assert (record.name, record.module, record.rows) == ("lab", "some.lab", 1)


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("acme", "'acme' (headstrip-acme 1.0)"),
        ("timm", "'timm' (headstrip-timm 1.0)"),
        ("vgg", "'vgg' (built-in)"),
        ("torchvision", "headstrip itself"),
        ("headstrip", "headstrip itself"),
        ("hf", None),
    ],
)
def test_the_error_for_a_taken_name_says_which_plugin_has_it(registry, name, by):
    text = message(PluginError, registry.register, plugin_of("net"), name)
    assert text.startswith(f"The name {name!r} is taken by {by or ''}")
    assert text.endswith(". Register the plugin under another name.")
    assert by is None or f"taken by {by}." in text


def test_an_invalid_name_of_a_source_is_refused(registry):
    assert message(PluginError, registry.register, plugin_of("net"), "a b") == (
        "'a b' cannot be the name of a source. Begin with a letter or a digit, and use only "
        "letters, digits, '-' and '_'."
    )


@pytest.mark.parametrize(
    ("plugin", "problem"),
    [
        (
            plugin_of("a", "net", source="acme"),
            "'a' claims the source 'acme', which is not 'lab'",
        ),
        (plugin_of("a", "b", "a"), "it names 'a' twice"),
    ],
)
def test_a_plugin_that_lists_invalid_backbones_is_refused(registry, plugin, problem):
    assert message(PluginError, registry.register, plugin, "lab") == (
        f"The plugin 'lab' (registered) was not registered: {problem}. Correct the plugin, "
        "and register it again."
    )
    assert "lab" not in {record.name for record in registry.records()}


def test_a_plugin_without_backbones_may_be_registered(registry):
    plugin = type("Lab", (), {"FAMILIES": ("a",), "strip_head": hookimpl(lambda self: 0)})()
    assert registry.register(plugin, "lab").rows == 0


def test_the_error_of_a_hook_that_fails_during_registration_names_the_plugin(registry):
    def fail(self):
        raise ValueError("torn")

    plugin = type("Lab", (), {"backbones": hookimpl(fail)})()
    text = message(PluginError, registry.register, plugin, "lab")
    assert "raised ValueError: torn in backbones for 'lab'" in text


def test_a_removed_registry_is_replaced_on_the_next_use(site):
    use_registry(None)
    try:
        first = get_registry()
        use_registry(None)
        assert get_registry() is not first
        assert isinstance(get_registry(), Registry)
    finally:
        use_registry(None)


def test_an_unlisted_backbone_has_the_owner_that_it_names(registry):
    spec = BackboneSpec("own", "torchvision", "vgg", "vgg", "image", (3, 8, 8), 8, 1)
    assert registry.owner(spec).name == "vgg"
