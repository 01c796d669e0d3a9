"""build_encoder(img_size=): images of another size than the weights were trained with."""

import json

import numpy as np
import pytest
import torch
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from headstrip import OptionError, Preprocessing, PreprocessingError, build_encoder

TAG = "IMAGENET1K_V1"


@pytest.fixture(scope="module")
def shufflenet(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("files") / "shufflenet.pth"
    torch.save(models.shufflenet_v2_x0_5().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """The weights argument of a ViT: torchvision has no small one."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("files") / "vit.pth"
    model = models.vit_b_32()
    torch.nn.init.normal_(model.encoder.pos_embedding)
    torch.save(model.state_dict(), path)
    return {"weights": f"{TAG}={path}"}


@torch.no_grad()
@pytest.mark.parametrize(("size", "sides"), [(192, (192, 192)), ((160, 288), (160, 288))])
def test_a_convolutional_network_and_its_preprocessing_take_the_size(shufflenet, size, sides):
    encoder = build_encoder("shufflenet_v2_x0_5", weights=f"{TAG}={shufflenet}", img_size=size)
    picture = np.zeros((300, 400, 3), np.uint8)
    x = encoder.preprocess(picture)[None]
    assert encoder.input_shape == (3, *sides) == tuple(x.shape[1:])
    assert torch.equal(encoder.head(encoder(x)), encoder.logits(x))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("side", [128, 384])
def test_a_vit_interpolates_its_position_embedding_as_torchvision_does(vit, side):
    encoder = build_encoder("vit_b_32", img_size=side, **vit)
    state = torch.load(vit["weights"].partition("=")[2], weights_only=True)
    wanted = interpolate_embeddings(side, 32, state)["encoder.pos_embedding"]
    assert torch.equal(encoder.backbone.encoder.pos_embedding, wanted)
    assert encoder.preprocessing.crop == (side, side)
    assert encoder(torch.zeros(1, 3, side, side)).isfinite().all()


@pytest.mark.slow
def test_a_manifest_builds_the_same_encoder(vit):
    encoder = build_encoder("vit_b_32", img_size=128, **vit)
    manifest = json.loads(json.dumps(encoder.manifest()))
    again = build_encoder(manifest, weights=vit["weights"].partition("=")[2])
    assert again.fingerprint == encoder.fingerprint
    assert again.inputs == {"img_size": [128, 128]}


@pytest.mark.slow
def test_the_native_size_of_the_weights_changes_nothing(vit):
    encoder = build_encoder("vit_b_32", img_size=224, **vit)
    assert "image_size" not in encoder.options
    assert torch.equal(
        encoder.backbone.encoder.pos_embedding,
        build_encoder("vit_b_32", **vit).backbone.encoder.pos_embedding,
    )


@pytest.mark.parametrize(
    ("name", "size", "problem"),
    [
        (
            "vit_b_32",
            (128, 192),
            r"of 128 x 192 pixels \(it takes square images only, not 128 x 192\)\. Choose another "
            r"img_size, such as 128 x 128 or 192 x 192\.$",
        ),
        (
            "vit_b_32",
            200,
            r"patches of 32 x 32 pixels.* 200 x 200\)\. Choose another img_size, such as 192 x 192",
        ),
        ("maxvit_t", 250, "does not accept images of 250 x 250.*such as 224 x 224"),
    ],
)
def test_a_size_that_the_network_does_not_accept_is_refused_before_reading_files(
    name, size, problem, tmp_path
):
    with pytest.raises(PreprocessingError, match=problem):
        build_encoder(name, weights=tmp_path / "missing.pth", img_size=size)


@pytest.mark.parametrize("size", [0, -1, True, 2.5, "224", (224,), (1, 2, 3)])
def test_an_invalid_size_is_refused(size):
    with pytest.raises(OptionError, match="is not an image size"):
        build_encoder("resnet18", weights=None, img_size=size)


def test_setting_the_size_in_two_ways_is_refused():
    options = {"image_size": 128}
    with pytest.raises(OptionError, match="both set the image size"):
        build_encoder("vit_b_32", weights=None, options=options, img_size=128)
    steps = Preprocessing((64, 64), 64, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(PreprocessingError, match=r"img_size=\(96, 96\) and crop=\(64, 64\)"):
        build_encoder("resnet18", weights=None, preprocessing=steps, img_size=96)
