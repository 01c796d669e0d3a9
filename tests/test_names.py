"""The grammar of names: ``[source:]arch[.weights]``, and hub ids with a revision."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstrip import BackboneSpec, UnknownBackboneError
from headstrip.spec import Name, freeze, is_backbone, is_source, parse_name

SOURCES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,12}", fullmatch=True)
ARCHS = st.from_regex(r"[a-z0-9_-]{1,16}", fullmatch=True)
HUB_IDS = st.from_regex(r"[\w-]{1,8}/[\w.-]{1,12}", fullmatch=True)
DETAILS = st.from_regex(r"[\w.-]{1,12}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("resnet50", Name("resnet50")),
        ("resnet50.IMAGENET1K_V1", Name("resnet50", tag="IMAGENET1K_V1")),
        ("torchvision:resnet50", Name("resnet50", "torchvision")),
        ("timm:resnet50.a1_in1k", Name("resnet50", "timm", "a1_in1k")),
        ("timm:vit.v1.5_in1k", Name("vit", "timm", "v1.5_in1k")),
        ("timm:org/model-1.5", Name("org/model-1.5", "timm")),
        ("timm:org/model@v1.0", Name("org/model", "timm", revision="v1.0")),
        ("org/model", Name("org/model")),
        ("efficientnet-lite:b0", Name("b0", "efficientnet-lite")),
        ("9lab:net", Name("net", "9lab")),
        ("lab:a:b", Name("a:b", "lab")),
        ("hf:C:\\models\\own.v2", Name("C:\\models\\own.v2", "hf")),
        ("hf:C:/models/own.v2", Name("C:/models/own.v2", "hf")),
    ],
)
def test_a_name_is_parsed_into_its_parts(text, name):
    assert parse_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ".", "a.", ".tag", ":", "a:", ":a", "a:.tag", "org/model@", "lab: net"),
        *(" resnet50", "resnet50 ", "resnet50\n"),
        *("a b:net", "é:net", "-a:net", "a.b:net", "org/model:net"),
    ],
)
def test_text_of_another_form_is_refused_with_the_correct_form(text):
    with pytest.raises(UnknownBackboneError) as caught:
        parse_name(text)
    assert str(caught.value).startswith(f"{text!r} is not a backbone's name. Write [source:]name")


@pytest.mark.parametrize("value", [None, 18, b"resnet50", ["resnet50"]])
def test_a_value_that_is_not_a_string_is_refused_with_its_type(value):
    with pytest.raises(UnknownBackboneError, match=f"is an? {type(value).__name__}"):
        parse_name(value)


@given(st.text())
def test_any_text_is_parsed_or_is_an_unknown_backbone(text):
    try:
        name = parse_name(text)
    except UnknownBackboneError:
        return
    assert name.arch in text
    assert name.arch.strip() == name.arch != ""


@given(st.none() | SOURCES, ARCHS, st.none() | DETAILS)
def test_the_name_of_an_architecture_is_split_into_its_parts(source, arch, tag):
    text = (f"{source}:" if source else "") + arch + (f".{tag}" if tag else "")
    assert parse_name(text) == Name(arch, source, tag)


@given(st.none() | SOURCES, HUB_IDS, st.none() | DETAILS)
def test_a_hub_id_is_split_into_its_parts(source, hub_id, revision):
    text = (f"{source}:" if source else "") + hub_id + (f"@{revision}" if revision else "")
    assert parse_name(text) == Name(hub_id, source, revision=revision)
    assert parse_name(text).backbone == hub_id + (f"@{revision}" if revision else "")


@given(SOURCES, ARCHS | HUB_IDS)
def test_a_qualified_name_is_parsed_into_source_and_backbone(source, name):
    spec = BackboneSpec(name, source, "net", source, "image", (3, 8, 8), 1, 1)
    parts = parse_name(spec.qualified_name)
    assert (parts.source, parts.backbone, parts.tag) == (source, name, None)


@pytest.mark.parametrize("name", ["resnet50", "org/model.v1", "org/model@v1", "a:b"])
def test_a_name_without_tag_is_the_name_of_a_backbone(name):
    assert is_backbone(name)


@pytest.mark.parametrize("name", ["resnet50.V1", "", " a", "org/model@", "."])
def test_an_invalid_name_or_one_with_a_tag_is_not_a_backbone(name):
    assert not is_backbone(name)


@given(st.text().filter(lambda text: ":" not in text))
def test_a_valid_source_is_exactly_a_prefix_that_can_be_parsed(text):
    if is_source(text):
        assert parse_name(f"{text}:net") == Name("net", text)
    else:
        with pytest.raises(UnknownBackboneError):
            parse_name(f"{text}:net")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    )
)
def test_frozen_values_are_hashable_and_freezing_again_changes_nothing(value):
    frozen = freeze(value)
    assert isinstance(hash(frozen), int)
    assert freeze(frozen) == frozen


def test_the_order_of_keys_does_not_matter():
    assert freeze({"b": [1, 2], "a": {"c": 3}}) == (("a", (("c", 3),)), ("b", (1, 2)))
