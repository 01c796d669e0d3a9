"""headstrip refuses a file that describes something too large before it allocates anything."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.distributions import run_python
from tests.embed.written import write_parquet
from tests.plugins.acme import Acme, spec_like
from torch import nn
from torchvision import models

from headstrip import (
    Encoder,
    HeadstripError,
    ManifestError,
    build_encoder,
    detach,
    hookimpl,
    register_plugin,
)
from headstrip.embed.output.loading import open_embeddings
from headstrip.embed.rebuild_encoder import build_encoder_of
from headstrip.encoder.manifest import manifest_of
from headstrip.factory.measure import measure
from headstrip.registry.registry import Registry, use_registry

HUGE = 10**9
SECONDS = 10
"""CPU time. Most cases take a few milliseconds."""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTRIP_OFFLINE", "1")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], Path]]:
    """Manifests and their weights files, by the name of the backbone."""
    found = {}
    for name in ("mobilenet_v2", "vit_b_32", "densenet121"):
        path = tmp_path_factory.mktemp("weights") / f"{name}.pth"
        torch.save(models.get_model(name, weights=None).state_dict(), path)
        found[name] = manifest_of(build_encoder(name, weights=path)), path
    return found


def refused(manifest: dict[str, Any], path: Path) -> str:
    """Check that headstrip refuses a manifest quickly, and return the message."""
    start = time.process_time()
    with pytest.raises(HeadstripError) as caught:
        build_encoder(manifest, weights=path)
    assert time.process_time() - start < SECONDS
    assert len(str(caught.value)) < 3_000
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mobilenet_v2", {"width_mult": 1e300}, "largest number that headstrip accepts"),
        ("mobilenet_v2", {"width_mult": 99_999}, "more than 34,019,488 parameters"),
        ("mobilenet_v2", {"dropout": -(10**18)}, "largest number"),
        ("mobilenet_v2", {"round_nearest": 90_000}, "parameters"),
        ("mobilenet_v2", {"inverted_residual_setting": [[1, 16, 90_000, 1]]}, "20,000 parts"),
        ("mobilenet_v2", {"inverted_residual_setting": [[1, 16, 1, 1]] * 999}, "values in its op"),
        ("mobilenet_v2", {"inverted_residual_setting": [[9_000, 9_000, 2, 1]] * 3}, "parameters"),
        ("mobilenet_v2", {"x": "import os"}, "numbers and plain words"),
        ("mobilenet_v2", {"x": "../../etc/passwd"}, "numbers and plain words"),
        ("mobilenet_v2", {"x": {"url": "http://a.b/c"}}, "numbers and plain words"),
        ("mobilenet_v2", {"weights": "DEFAULT"}, "which headstrip sets itself"),
        ("mobilenet_v2", {"num_classes": 10**12}, "which headstrip sets itself"),
        ("mobilenet_v2", {"no_such": 1}, "no_such"),
        ("vit_b_32", {"image_size": 32_000}, "more than 372,896,928 parameters"),
        ("densenet121", {"bn_size": 90_000}, "parameters"),
        ("densenet121", {"memory_efficient": HUGE}, "largest number"),
    ],
)
def test_a_manifest_with_unsafe_options_is_refused(
    files: Any, name: str, options: dict[str, Any], message: str
) -> None:
    manifest, path = files[name]
    assert message in refused({**manifest, "options": {**manifest["options"], **options}}, path)


def test_options_that_make_a_network_somewhat_larger_are_built(files: Any, tmp_path: Path) -> None:
    wide = models.mobilenet_v2(width_mult=2.0)
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    encoder = build_encoder(
        "mobilenet_v2", weights=tmp_path / "wide.pth", options={"width_mult": 2.0}
    )
    state = torch.get_rng_state()
    again = build_encoder(encoder.manifest(), weights=tmp_path / "wide.pth")
    assert again.fingerprint == encoder.fingerprint
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictors": [{"name": "a", "classes": 10**12, "trained": False}]}, "accepts at most"),
        (
            {
                "predictors": [
                    {"name": f"{i}", "classes": 9_999, "trained": False} for i in range(20)
                ]
            },
            "asks for predictors of",
        ),
        ({"preprocessing": {"crop": [HUGE, HUGE]}}, "preprocessing"),
        ({"name": "torchvision:" + "x" * 10**6}, "'name' must be"),
        ({"name": "torchvision:" + "resnet" * 160}, "There is no backbone"),
        ({"versions": {f"x{i}": "1" for i in range(30_000)}}, "more"),
        ({"versions": {f"x{i}": "1" for i in range(60_000)}}, "more than 100,000 values"),
        ({"output_dim": 10**5000}, "more than 64 bits"),
        ({"format": 10**5000}, "more than 64 bits"),
        ({"dtype": "x" * 10**6}, "is damaged: 'dtype'"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else next(iter(value)),
)
def test_a_manifest_with_an_oversized_field_is_refused(
    files: Any, changes: dict[str, Any], message: str
) -> None:
    manifest, path = files["mobilenet_v2"]
    if "preprocessing" in changes:
        changes = {"preprocessing": {**manifest["preprocessing"], **changes["preprocessing"]}}
    assert message in refused({**manifest, **changes}, path)


@pytest.mark.parametrize("field", ["options", "not_json", "preprocessing", "versions", "extra"])
def test_a_deeply_nested_manifest_is_refused(files: Any, field: str) -> None:
    manifest, path = files["mobilenet_v2"]
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": [deep]}
    assert "more than 64 nested lists and objects" in refused({**manifest, field: deep}, path)


@pytest.mark.parametrize(
    "steps",
    [
        {"crop": [9_000, 9_000]},
        {"resize": 10**6},
        {"resize": [10**6, 224]},
        {"frames": 10**6},
        {"crop": [4_000, 4_000], "frames": 16},
    ],
    ids=str,
)
def test_a_preprocessing_with_oversized_images_is_refused(
    files: Any, steps: dict[str, Any]
) -> None:
    manifest, path = files["mobilenet_v2"]
    changed = {**manifest, "preprocessing": {**manifest["preprocessing"], **steps}}
    assert "preprocessing" in refused(changed, path)


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**6, "1" * 10**6, "x" * (9 << 20)])
def test_a_file_of_hostile_text_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "encoder.json").write_text(text)
    with pytest.raises(ManifestError, match="cannot be read as a manifest"):
        build_encoder(tmp_path / "encoder.json")


def test_a_hostile_embeddings_file_is_refused_quickly(files: Any, tmp_path: Path) -> None:
    manifest, path = files["mobilenet_v2"]
    vectors = np.zeros((1, 1280), np.float32)
    hostile = (
        {"options": {"inverted_residual_setting": [[1, 9_000, 90_000, 1]]}},
        {"options": {"width_mult": 1e9}},
        {"predictors": [{"name": "a", "classes": 10**12, "trained": False}], "dtype": "float64"},
        {"preprocessing": {**manifest["preprocessing"], "crop": [HUGE, HUGE]}},
        {"name": "torchvision:" + "x" * 10**6},
        {"weights": {**manifest["weights"], "tag": {"a": 1}}},
        {"weights": {**manifest["weights"], "tag": "x" * 10**6}},
    )
    for number, changes in enumerate(hostile):
        metadata = {"manifest": {**manifest, **changes}}
        out = write_parquet(tmp_path / f"{number}", ["a"], vectors, metadata=metadata)
        start = time.process_time()
        with pytest.raises(HeadstripError):
            build_encoder_of(open_embeddings(out), weights=path)
        assert time.process_time() - start < SECONDS


numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from(
        [0, -1, 2**31, 2**63, 10**12, 10**400, 4096, 99_999, 1e308, float("inf"), float("nan")]
    )
)
leaves = st.none() | st.booleans() | numbers | st.text(max_size=8)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
options = st.dictionaries(
    st.sampled_from(
        [
            "width_mult",
            "inverted_residual_setting",
            "round_nearest",
            "block",
            "norm_layer",
            "dropout",
            "num_classes",
            "progress",
            "weights",
            "depth",
        ]
    ),
    values,
    max_size=3,
)
fields = st.sampled_from(
    [
        "format",
        "name",
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
        "head",
        "frozen",
        "labels",
        "other",
    ]
)


@given(options=options, changes=st.dictionaries(fields, values, max_size=1))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_changed_manifest_is_refused_clearly_or_builds_the_same_encoder(
    files: Any, options: dict[str, Any], changes: dict[str, Any]
) -> None:
    manifest, path = files["mobilenet_v2"]
    start = time.process_time()
    changed = {**manifest, "options": {**manifest["options"], **options}, **changes}
    try:
        outcome: Encoder | str = build_encoder(changed, weights=path)
    except HeadstripError as error:
        outcome = str(error)
    assert time.process_time() - start < SECONDS
    if isinstance(outcome, str):
        assert outcome.endswith(".")
        assert len(outcome) < 3_000
    else:
        assert outcome.fingerprint.identity == manifest["identity"]


@pytest.mark.slow
def test_a_hostile_manifest_takes_little_memory(files: Any, tmp_path: Path) -> None:
    hostile = []
    for name, (manifest, path) in files.items():
        for option in (
            "width_mult",
            "image_size",
            "num_layers",
            "hidden_dim",
            "bn_size",
            "growth_rate",
            "block_config",
            "inverted_residual_setting",
        ):
            for value in (HUGE, 90_000, 4_000, [90_000] * 4, [[90_000] * 4] * 4, 1e9):
                changed = {**manifest, "options": {**manifest["options"], option: value}}
                hostile.append((name, changed, str(path)))
    (tmp_path / "hostile.json").write_text(json.dumps(hostile))
    code = (
        "import json, resource, sys, time\n"
        "from headstrip import HeadstripError, build_encoder\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "build_encoder('mobilenet_v2', weights=None)\n"
        "for name, manifest, path in json.load(open(sys.argv[1])):\n"
        "    start = time.process_time()\n"
        "    size = int(dict(l.split(':', 1) for l in open('/proc/self/status'))['VmSize']"
        ".split()[0]) << 10\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (size + (3 << 30), -1))\n"
        "    try:\n"
        "        build_encoder(manifest, weights=path)\n"
        "    except HeadstripError as error:\n"
        "        assert time.process_time() - start < 10, (name, manifest['options'])\n"
        "    else:\n"
        "        raise AssertionError((name, manifest['options']))\n"
        "print('all refused')\n"
    )
    done = run_python("-c", code, str(tmp_path / "hostile.json"), HEADSTRIP_OFFLINE="1")
    assert done.stdout == "all refused\n", done.stderr[-2000:]


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A new registry that the whole process uses for one test."""
    registry = Registry(disabled=["*"])
    use_registry(registry)
    yield registry
    use_registry(None)


class Deep(Acme):
    """A plugin with a network as deep as its options say, and a constructor that reads a tensor."""

    @hookimpl
    def build_model(self, spec, options):
        depth = int(torch.tensor(dict(options).get("depth", 1)).item())
        layers = [nn.Linear(6, 6) for _ in range(depth)]
        return nn.Sequential(nn.Conv2d(3, 6, 8), nn.Flatten(), *layers, nn.Linear(6, 5))

    @hookimpl
    def strip_head(self, model, family):
        return detach(model, str(len(model) - 1))


def test_measuring_an_oversized_network_of_a_plugin_is_refused(registry: Registry) -> None:
    register_plugin(Deep(), "acme")
    start = time.process_time()
    with pytest.raises(HeadstripError, match="more than 20,000 parts"):
        measure(spec_like(options=(("depth", 10**12),)))
    assert time.process_time() - start < SECONDS


def test_a_manifest_cannot_oversize_a_network_that_needs_tensor_values(
    registry: Registry, tmp_path: Path
) -> None:
    register_plugin(Deep(), "acme")
    network = nn.Sequential(nn.Conv2d(3, 6, 8), nn.Flatten(), nn.Linear(6, 6), nn.Linear(6, 5))
    torch.save(network.state_dict(), tmp_path / "own.pth")
    made = build_encoder("acme:net", weights=None)
    manifest = {**made.manifest(), "options": {"depth": 50_000}}
    manifest["weights"] = {"tag": None, "sha256": "0" * 64, "file": "own.pth"}
    message = refused(manifest, tmp_path / "own.pth")
    assert "4,096 is the largest number" in message
