"""A manifest restores an encoder bit for bit, or an error says what differs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import models

from headstrip import BackboneSpec, Encoder, HeadstripError, Preprocessing, build_encoder
from headstrip.encoder.manifest import manifest_of, refuse_differences
from headstrip.errors import ManifestError, WeightsWarning
from headstrip.factory.from_manifest import read_manifest
from headstrip.registry.registry import get_registry

NAME = "shufflenet_v2_x0_5"
NARROW = {
    "width_mult": 0.25,
    "inverted_residual_setting": ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 2, 1)),
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Forbid downloads, and keep the cache inside the test's folder."""
    monkeypatch.setenv("HEADSTRIP_OFFLINE", "1")
    monkeypatch.setenv("HEADSTRIP_CACHE", str(tmp_path / "cache"))


def saved(folder: Path, name: str = NAME, **options: Any) -> Path:
    path = folder / "own.pth"
    torch.save(models.get_model(name, weights=None, **options).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def built(file: Path) -> Encoder:
    return build_encoder(NAME, weights=file)


@pytest.fixture
def manifest(built: Encoder) -> dict[str, Any]:
    return written(built)


@pytest.fixture
def published(file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backbone with the file as its published weights."""
    registry = get_registry()
    weights = registry.weights

    def patched(spec: BackboneSpec) -> Any:
        entries = weights(spec)
        if spec.name != NAME:
            return entries
        return (replace(entries[0], tag="OURS", locations=(str(file),), sha256=""), *entries)

    monkeypatch.setattr(registry, "weights", patched)
    return f"{NAME}.OURS"


def written(encoder: Encoder) -> dict[str, Any]:
    """Return an encoder's manifest after a round trip through JSON."""
    read: dict[str, Any] = json.loads(json.dumps(manifest_of(encoder), allow_nan=False))
    return read


def are_equal(one: Encoder, other: Encoder) -> bool:
    """Whether backbones and heads have the same bits, and the encoders the same settings."""
    mine, theirs = one.state_dict(), other.state_dict()
    named = [key for key in mine if not key.startswith("predictors.")]
    return (
        mine.keys() == theirs.keys()
        and all(torch.equal(mine[key], theirs[key]) for key in named)
        and all(mine[key].dtype == theirs[key].dtype for key in named)
        and one.fingerprint.identity == other.fingerprint.identity
        and (one.law, one.output_dim, one.preprocessing, one.input_shape)
        == (other.law, other.output_dim, other.preprocessing, other.input_shape)
    )


def test_a_manifest_describes_the_encoder(built: Encoder, manifest: dict[str, Any]) -> None:
    assert manifest == manifest_of(built)
    assert manifest["name"] == f"torchvision:{NAME}.IMAGENET1K_V1"
    assert manifest["weights"]["tag"] == "IMAGENET1K_V1"
    assert manifest["weights"]["sha256"] == built.weights_sha256
    assert manifest["identity"] == built.fingerprint.identity
    assert (manifest["dtype"], manifest["law"], manifest["output_dim"]) == (
        "float32",
        "exact",
        1024,
    )
    assert Preprocessing.from_json(manifest["preprocessing"]) == built.preprocessing
    assert manifest["versions"]["torch"] == torch.__version__
    assert "headstrip" in manifest["versions"]


def test_a_manifest_alone_builds_an_encoder_of_published_weights(published: str) -> None:
    encoder = build_encoder(published)
    again = build_encoder(written(encoder))
    assert are_equal(encoder, again)
    assert again.weights is not None
    assert again.weights.tag == "OURS"


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": torch.bfloat16},
        {"dtype": torch.float64},
        {"preprocessing": Preprocessing((96, 96), None, (0.5,) * 3, (0.25,) * 3)},
        {"predictors": {"type": 3, "a.b": 12}},
    ],
    ids=["bfloat16", "float64", "preprocessing", "predictors"],
)
def test_a_manifest_restores_the_arguments_of_build_encoder(
    published: str, changes: dict[str, Any]
) -> None:
    encoder = build_encoder(published, **changes)
    again = build_encoder(written(encoder))
    assert are_equal(encoder, again)
    assert (again.predictors and again.predictors.names) == (
        encoder.predictors and encoder.predictors.names
    )


def test_a_manifest_restores_nested_options(tmp_path: Path) -> None:
    path = saved(tmp_path, "mobilenet_v2", **NARROW)
    encoder = build_encoder("mobilenet_v2", weights=path, options=NARROW)
    again = build_encoder(written(encoder), weights=path)
    assert are_equal(encoder, again)
    assert {key: again.options[key] for key in NARROW} == NARROW


def test_a_manifest_of_a_local_file_builds_from_its_path(built: Encoder, file: Path) -> None:
    assert are_equal(built, build_encoder(written(built), weights=file))


def test_a_manifest_restores_a_local_file_with_other_classes(tmp_path: Path) -> None:
    path = saved(tmp_path, num_classes=7)
    encoder = build_encoder(NAME, weights=path)
    again = build_encoder(written(encoder), weights=path)
    assert are_equal(encoder, again)
    assert again.logits(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_a_manifest_restores_a_local_file_without_a_head(tmp_path: Path) -> None:
    path = saved(tmp_path)
    state = torch.load(path, weights_only=True)
    torch.save({key: state[key] for key in state if not key.startswith("fc.")}, path)
    encoder = build_encoder(NAME, weights=path)
    again = build_encoder(written(encoder), weights=path)
    assert are_equal(encoder, again)
    assert again.head is None


def test_a_manifest_of_a_local_file_requires_its_path(built: Encoder) -> None:
    with pytest.raises(ManifestError, match=rf"{built.weights_sha256}\. Get that file, and call"):
        build_encoder(written(built))


def test_a_manifest_restores_an_encoder_without_preprocessing(built: Encoder, file: Path) -> None:
    encoder = copy.deepcopy(built)
    encoder.preprocessing = None
    assert are_equal(encoder, build_encoder(written(encoder), weights=file))


def test_a_manifest_is_read_from_a_file(built: Encoder, file: Path, tmp_path: Path) -> None:
    path = tmp_path / "encoder.json"
    path.write_text(json.dumps(manifest_of(built)), encoding="utf-8")
    assert read_manifest(path) == manifest_of(built)
    assert are_equal(built, build_encoder(str(path), weights=file))


def test_a_manifest_accepts_a_device_and_refuses_another_dtype(
    manifest: dict[str, Any], file: Path
) -> None:
    assert build_encoder(manifest, weights=file, device="cpu").device.type == "cpu"
    with pytest.raises(
        ValueError,
        match=r"states dtype already, and dtype=torch\.float64 was passed\. Leave it out",
    ):
        build_encoder(manifest, weights=file, dtype=torch.float64)


def test_the_error_for_another_file_has_both_hashes(
    manifest: dict[str, Any], tmp_path: Path
) -> None:
    path = saved(tmp_path)
    other = build_encoder(NAME, weights=path)
    with pytest.raises(ManifestError) as caught:
        build_encoder(manifest, weights=path)
    for part in (
        f"weights.sha256 is {manifest['weights']['sha256']!r} in the manifest",
        f"and {other.weights_sha256!r} here",
        f"identity is {manifest['identity']!r} in the manifest",
        "Pass weights=path of the file with that hash.",
    ):
        assert part in str(caught.value)


def test_the_manifest_of_a_trained_encoder_is_refused(built: Encoder, file: Path) -> None:
    encoder = copy.deepcopy(built)
    next(encoder.backbone.parameters()).data += 1
    with pytest.raises(ManifestError, match=r"identity is .* changed after it was built.*Save it"):
        build_encoder(written(encoder), weights=file)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("output_dim", 1000, "output_dim is 1000 in the manifest and 1024 here"),
        ("law", "declared", "law is 'declared' in the manifest and 'exact' here"),
        ("input_shape", [3, 225, 225], "input_shape is [3, 225, 225] in the manifest"),
        ("name", f"torchvision:{NAME}", f"name is 'torchvision:{NAME}' in the manifest"),
    ],
)
def test_the_error_names_each_difference_with_both_values(
    manifest: dict[str, Any], file: Path, key: str, value: object, shown: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        build_encoder({**manifest, key: value}, weights=file)
    assert shown in str(caught.value)


def test_an_option_that_the_weights_gained_later_does_not_apply_to_a_file(
    manifest: dict[str, Any], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = get_registry()
    weights = registry.weights

    def patched(spec: BackboneSpec) -> Any:
        default, *others = weights(spec)
        return (
            replace(
                default, options=(("inverted_residual", models.shufflenetv2.InvertedResidual),)
            ),
            *others,
        )

    monkeypatch.setattr(registry, "weights", patched)
    with pytest.warns(WeightsWarning, match="inverted_residual"):
        again = build_encoder(manifest, weights=file)
    assert again.fingerprint.identity == manifest["identity"]


def test_other_library_versions_are_refused_unless_allowed(
    built: Encoder, manifest: dict[str, Any], file: Path
) -> None:
    manifest["versions"] |= {"torch": "1.0", "elsewhere": "2.0"}
    with pytest.raises(ManifestError) as caught:
        build_encoder(manifest, weights=file)
    for part in (
        f"versions.torch is '1.0' in the manifest and {torch.__version__!r} here",
        "versions.elsewhere is '2.0' in the manifest and None here",
        "Install those versions, or pass allow_versions=True (--allow-versions).",
    ):
        assert part in str(caught.value)
    assert are_equal(built, build_encoder(manifest, weights=file, allow_versions=True))


@pytest.mark.parametrize("field", ["dtype", "law", "output_dim", "identity"])
def test_a_single_different_field_is_refused(manifest: dict[str, Any], field: str) -> None:
    other = {"dtype": "float64", "law": "declared", "output_dim": 7, "identity": "0" * 64}[field]
    with pytest.raises(ManifestError, match=rf"manifest of .*: {field} is .* and .*{other}"):
        refuse_differences(manifest, {**manifest, field: other}, allow_versions=True)


@pytest.mark.parametrize("side", ["manifest", "here"])
def test_a_library_that_one_side_lacks_is_a_difference(manifest: dict[str, Any], side: str) -> None:
    more = {**manifest, "versions": {**manifest["versions"], "flash": "2.0"}}
    sides = (more, manifest) if side == "manifest" else (manifest, more)
    with pytest.raises(ManifestError, match=r"versions\.flash is .*None"):
        refuse_differences(*sides, allow_versions=False)


def test_allowing_other_versions_does_not_allow_other_weights(
    manifest: dict[str, Any], tmp_path: Path
) -> None:
    manifest["versions"]["torch"] = "1.0"
    with pytest.raises(ManifestError, match="identity is") as caught:
        build_encoder(manifest, weights=saved(tmp_path), allow_versions=True)
    assert "versions.torch" not in str(caught.value)


def test_another_version_of_python_is_accepted(manifest: dict[str, Any], file: Path) -> None:
    manifest["versions"]["python"] = "3.0"
    assert build_encoder(manifest, weights=file).output_dim == manifest["output_dim"]


def test_random_weights_cannot_be_built_again() -> None:
    encoder = build_encoder(NAME, weights=None)
    manifest = written(encoder)
    assert manifest["identity"] == encoder.fingerprint.identity
    with pytest.raises(ManifestError, match=r"random weights.*encoder\.save\(folder\)") as caught:
        build_encoder(manifest)
    assert manifest["identity"] in str(caught.value)


def test_saved_random_weights_can_be_built_again(tmp_path: Path) -> None:
    path = tmp_path / "random.pth"
    torch.save(build_encoder(NAME, weights=None).backbone.state_dict(), path)
    encoder = build_encoder(NAME, weights=path)
    assert are_equal(encoder, build_encoder(written(encoder), weights=path))


def test_a_manifest_that_lacks_options_json_cannot_express_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "mobilenet_v2", norm_layer=nn.InstanceNorm2d)
    encoder = build_encoder(
        "mobilenet_v2", weights=path, options={"norm_layer": nn.InstanceNorm2d, "dropout": 0.1}
    )
    manifest = written(encoder)
    assert manifest["options"] == {"dropout": 0.1}
    with pytest.raises(ManifestError, match=r"norm_layer=<class .*InstanceNorm2d.*weights=path"):
        build_encoder(manifest, weights=path)


def test_a_custom_predictor_module_cannot_be_written_to_a_manifest(file: Path) -> None:
    encoder = build_encoder(NAME, weights=file, predictors={"colour": 2})
    assert encoder.predictors is not None
    encoder.predictors[0] = nn.Sequential(nn.Linear(1024, 2))
    with pytest.raises(ManifestError, match=r"'colour' is a Sequential.*save your modules"):
        manifest_of(encoder)


def test_the_versions_include_the_plugins_distribution_and_its_library(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    path = tmp_path / "own.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    encoder = build_encoder("timm:test_resnet", weights=path)
    manifest = written(encoder)
    assert manifest["versions"]["timm"] == timm.__version__
    assert "headstrip-timm" in manifest["versions"]
    assert are_equal(encoder, build_encoder(manifest, weights=path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("<!doctype html>", r"cannot be read as a manifest: it is not valid JSON \(Expecting"),
        ('{"format": 1', "cannot be read as a manifest"),
        ("[" * 100_000, "cannot be read as a manifest"),
        ("[]", "is not a manifest: it has no 'format'"),
        ('{"state_dict": 1}', "is not a manifest: it has no 'format'"),
        ('{"format": 2}', r"has the format 2 of manifests, and .* reads the format 1\. Install"),
        ('{"format": 1}', "is damaged: 'name' must be a backbone's name, and is nothing"),
    ],
)
def test_a_file_that_is_not_a_manifest_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "encoder.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match=words) as caught:
        build_encoder(path)
    assert str(path) in str(caught.value)


def test_the_error_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere\.json' cannot be read as a manifest"):
        build_encoder(tmp_path / "nowhere.json")


def preprocessing_of(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def damage(manifest: dict[str, Any]) -> None:
        manifest["preprocessing"][key] = value

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        preprocessing_of("crop", "x"),
        preprocessing_of("mean", [10**400] * 3),
        preprocessing_of("colour", 3),
    ],
    ids=["type", "number", "unknown"],
)
def test_a_damaged_preprocessing_is_refused(
    manifest: dict[str, Any], file: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    damage(manifest)
    with pytest.raises(ManifestError, match="is damaged"):
        build_encoder(manifest, weights=file)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@given(
    key=st.sampled_from(
        [
            "format",
            "weights",
            "not_json",
            "preprocessing",
            "dtype",
            "input_shape",
            "law",
            "output_dim",
            "predictors",
            "identity",
            "versions",
            "name",
        ]
    ),
    value=values,
)
@settings(max_examples=60)
def test_any_changed_field_is_refused_clearly_or_builds_the_same_encoder(
    built: Encoder, file: Path, key: str, value: object
) -> None:
    changed = {**manifest_of(built), key: value}
    try:
        outcome: Encoder | str = build_encoder(changed, weights=file)
    except HeadstripError as error:
        outcome = str(error)
    assert outcome.endswith(".") if isinstance(outcome, str) else are_equal(built, outcome)
