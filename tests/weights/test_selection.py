"""A backbone name and ``weights=`` together select published weights, a file, both or none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torchvision.models import ResNet18_Weights, ResNet50_Weights

from headstrip import (
    BackboneSpec,
    ManifestError,
    WeightsError,
    build_encoder,
    hookimpl,
    inspect_checkpoint,
    register_plugin,
)
from headstrip.factory.selection import Selection, select_weights
from headstrip.registry.registry import Registry, get_registry, use_registry


class Unpublished:
    """A plugin without any weights, although two of its backbones state a default tag."""

    @hookimpl
    def backbones(self) -> tuple[BackboneSpec, ...]:
        def spec(name: str, family: str, tag: str | None = None) -> BackboneSpec:
            return BackboneSpec(name, "own", family, "own", "image", (3, 8, 8), 4, 9, tag)

        return (
            spec("net_a", "resnet"),
            spec("net_b", "resnet", "V1"),
            spec("net_c", "vgg", "V1"),
            spec("lone", "vit"),
        )


@pytest.fixture
def unpublished() -> Iterator[None]:
    before = get_registry()
    use_registry(Registry(disabled=["*"]))
    register_plugin(Unpublished(), "own")
    yield
    use_registry(before)


def select(name: str, weights: Any = "DEFAULT") -> Selection:
    registry = get_registry()
    spec, parts = registry.resolve(name)
    return select_weights(registry, spec, parts, weights)


def tag_and_path(name: str, weights: Any = "DEFAULT") -> tuple[str | None, Path | None]:
    selection = select(name, weights)
    return selection.entry.tag if selection.entry else None, selection.path


@pytest.mark.parametrize(
    ("name", "weights", "tag"),
    [
        ("resnet50", "DEFAULT", "IMAGENET1K_V2"),
        ("resnet50", "IMAGENET1K_V1", "IMAGENET1K_V1"),
        ("resnet50.IMAGENET1K_V1", "DEFAULT", "IMAGENET1K_V1"),
        ("resnet50.IMAGENET1K_V1", "IMAGENET1K_V1", "IMAGENET1K_V1"),
        ("resnet50", ResNet50_Weights.IMAGENET1K_V1, "IMAGENET1K_V1"),
        ("resnet50", ResNet50_Weights.DEFAULT, "IMAGENET1K_V2"),
        ("resnet50.IMAGENET1K_V1", ResNet50_Weights.IMAGENET1K_V1, "IMAGENET1K_V1"),
        ("resnet50", None, None),
    ],
    ids=str,
)
def test_a_tag_means_the_same_in_the_name_and_in_weights(
    name: str, weights: Any, tag: str | None
) -> None:
    assert tag_and_path(name, weights) == (tag, None)


@pytest.mark.parametrize(
    ("weights", "tag", "path"),
    [
        ("own.pth", "IMAGENET1K_V2", "own.pth"),
        ("own.safetensors", "IMAGENET1K_V2", "own.safetensors"),
        ("own.pth.tar", "IMAGENET1K_V2", "own.pth.tar"),
        ("folder/own", "IMAGENET1K_V2", "folder/own"),
        (Path("own"), "IMAGENET1K_V2", "own"),
        ("IMAGENET1K_V1=own", "IMAGENET1K_V1", "own"),
        ("IMAGENET1K_V1=a=b.pth", "IMAGENET1K_V1", "a=b.pth"),
        ("DEFAULT=own.pth", "IMAGENET1K_V2", "own.pth"),
        ("folder/lr=1/own.pth", "IMAGENET1K_V2", "folder/lr=1/own.pth"),
    ],
    ids=str,
)
def test_a_path_selects_a_users_own_file_and_a_tag(weights: Any, tag: str, path: str) -> None:
    assert tag_and_path("resnet50", weights) == (tag, Path(path))


@pytest.mark.parametrize(
    "weights", ["~/own.pth", Path("~/own.pth"), "IMAGENET1K_V2=~/own.pth"], ids=str
)
def test_a_tilde_in_a_path_means_the_home_folder(
    weights: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tag_and_path("resnet50", weights) == ("IMAGENET1K_V2", tmp_path / "own.pth")


def test_an_existing_file_with_an_equals_sign_in_its_name_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=1.pth").touch()
    assert tag_and_path("resnet50", "lr=1.pth") == ("IMAGENET1K_V2", Path("lr=1.pth"))


@pytest.mark.parametrize(
    "weights",
    ["IMAGENET1K_V1", None, "own.pth", Path("own.pth"), ResNet50_Weights.IMAGENET1K_V1],
    ids=str,
)
def test_a_tag_in_the_name_conflicts_with_other_weights(weights: Any) -> None:
    with pytest.raises(
        ValueError, match=r"asks for the weights 'IMAGENET1K_V2', but weights=.*Leave one of them"
    ):
        build_encoder("resnet50.IMAGENET1K_V2", weights=weights)


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("resnet18", ResNet50_Weights.IMAGENET1K_V1),
        ("resnet50", ResNet18_Weights.DEFAULT),
        ("resnet18.IMAGENET1K_V1", ResNet50_Weights.IMAGENET1K_V1),
    ],
    ids=str,
)
def test_a_weights_enum_member_of_another_architecture_is_refused(name: str, member: Any) -> None:
    with pytest.raises(ValueError, match=r"Weights\.IMAGENET1K_V1 does not belong to torchvision:"):
        build_encoder(name, weights=member)


@pytest.mark.parametrize("weights", [True, 1, b"own.pth", ["IMAGENET1K_V1"]], ids=repr)
def test_weights_that_are_neither_a_tag_nor_a_path_are_refused(weights: Any) -> None:
    with pytest.raises(ValueError, match=r"weights=.* is an? \w+\. Pass 'DEFAULT', a tag, a path"):
        build_encoder("resnet50", weights=weights)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet50", "IMAGENET1K_V3"),
        ("resnet50.IMAGENET1K_V3", "DEFAULT"),
        ("resnet50", ""),
        ("resnet50", "imagenet1k_v1"),
        ("resnet50", "IMAGENET1K_V3=own.pth"),
    ],
    ids=str,
)
def test_the_error_for_an_unknown_tag_lists_the_available_tags(name: str, weights: str) -> None:
    with pytest.raises(WeightsError) as caught:
        build_encoder(name, weights=weights)
    for part in ("torchvision:resnet50 has no weights '", "IMAGENET1K_V1", "IMAGENET1K_V2"):
        assert part in str(caught.value)


def test_the_error_lists_at_most_three_tags() -> None:
    with pytest.raises(WeightsError, match=r"It has (\w+, ){2}\w+; for a file, pass its path"):
        select("vit_b_16", "IMAGENET21K")


@pytest.mark.parametrize(
    ("name", "near"), [("net_a", "net_b"), ("lone", r"net_\w, net_\w")], ids=["family", "source"]
)
@pytest.mark.parametrize("weights", ["DEFAULT", "V1"])
@pytest.mark.usefixtures("unpublished")
def test_the_error_for_a_backbone_without_weights_names_similar_ones_with_some(
    name: str, near: str, weights: str
) -> None:
    with pytest.raises(WeightsError) as caught:
        select(f"own:{name}", weights)
    assert re.search(
        rf"own:{name} has no pretrained weights\. Similar backbones that have some: {near}\. "
        r"Pass weights=None for random ones",
        str(caught.value),
    )


@pytest.mark.usefixtures("unpublished")
def test_a_backbone_without_weights_accepts_none_or_a_users_own_file() -> None:
    assert tag_and_path("own:net_a", None) == (None, None)
    assert tag_and_path("own:net_a", "own.pth") == (None, Path("own.pth"))
    assert tag_and_path("own:net_a", "V1=own.pth") == (None, Path("V1=own.pth"))


def test_the_error_for_an_unknown_tag_names_a_local_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.epoch3").touch()
    with pytest.raises(WeightsError, match=r"the file of that name here is '\./own\.epoch3'\."):
        select("resnet50", "own.epoch3")
    assert tag_and_path("resnet50", "./own.epoch3") == ("IMAGENET1K_V2", Path("own.epoch3"))


@pytest.mark.parametrize(
    ("name", "weights"), [("resnet50.a1_in1k", "DEFAULT"), ("resnet50", "a1_in1k")]
)
def test_the_error_for_a_tag_of_another_source_names_that_backbone(name: str, weights: str) -> None:
    with pytest.raises(WeightsError, match=r"Write timm:resnet50\.a1_in1k\. It has IMAGENET1K"):
        select(name, weights)


@pytest.mark.parametrize(
    ("weights", "where"),
    [("x=", "after"), ("IMAGENET1K_V1=", "after"), ("=own.pth", "before"), ("=", "before")],
)
def test_an_empty_tag_or_path_gives_a_clear_error(weights: str, where: str) -> None:
    with pytest.raises(WeightsError, match=rf"'{weights}' has nothing {where} its '='\. Write"):
        select("resnet50", weights)


LONG = "x" * 300
"""A name that is longer than file systems allow."""


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (LONG, "resnet18 has no weights 'xxx.* for a file, pass its path"),
        (f"{LONG}.pth", "File name too long"),
        (f"{LONG}=", "has nothing after its '='"),
        (f"{LONG}=mine.pth", "resnet18 has no weights 'xxx"),
        ("~no-such-user", "resnet18 has no weights '~no-such-user'"),
        ("~no-such-user/mine.pth", "No such file or directory"),
    ],
)
def test_an_impossible_file_name_is_refused(weights: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        build_encoder("resnet18", weights=weights)


@pytest.mark.parametrize("path", ["x" * 5000, "x/" * 5000, "~no-such-user/mine.pth"])
def test_inspecting_an_impossible_path_gives_a_clear_error(path: str) -> None:
    with pytest.raises(WeightsError, match=r"cannot read .*Check the path"):
        inspect_checkpoint(path)


@pytest.mark.parametrize("folder", [f"./{LONG}", "~no-such-user/cells/"])
def test_an_impossible_folder_name_is_refused(folder: str) -> None:
    with pytest.raises(ManifestError, match=r"does not exist\. Pass a folder"):
        build_encoder(folder)
