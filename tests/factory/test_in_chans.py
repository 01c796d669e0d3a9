"""build_encoder(in_chans=): images of other channels than the weights were trained with."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from headstrip import (
    ManifestError,
    OptionError,
    Preprocessing,
    PreprocessingError,
    WeightsWarning,
    build_encoder,
)

SHUFFLENET = "shufflenet_v2_x0_5"
TAG = "IMAGENET1K_V1"
SIZE = (240, 260)


def grey_picture():
    pixels = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights files of small networks, by name."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for name in (SHUFFLENET, "squeezenet1_1", "googlenet"):
        more = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
        torch.manual_seed(1)
        found[name] = folder / f"{name}.pth"
        torch.save(models.get_model(name, weights=None, **more).state_dict(), found[name])
    return found


@pytest.fixture
def build(files):
    """Build one of these networks as headstrip builds its published weights."""

    def built(name=SHUFFLENET, **arguments):
        return build_encoder(name, weights=f"{TAG}={files[name]}", **arguments)

    return built


@torch.no_grad()
@pytest.mark.parametrize("name", [SHUFFLENET, "googlenet"])
def test_a_grey_picture_gives_the_embedding_of_the_same_picture_in_rgb(build, name):
    grey, colour, picture = build(name, in_chans=1), build(name), grey_picture()
    assert grey.input_shape == (1, 224, 224)
    x, same = grey.preprocess(picture)[None], colour.preprocess(picture.convert("RGB"))[None]
    assert x.shape == (1, 1, 224, 224)
    assert torch.equal(grey(x), colour(same))
    assert torch.equal(grey.logits(x), colour.logits(same))
    assert np.array_equal(grey.embed([picture]), colour.embed([picture.convert("RGB")]))


@torch.no_grad()
def test_grey_with_custom_statistics_gives_the_same_embedding(build):
    steps = Preprocessing((224, 224), 256, mean=(0.4,), std=(0.25,))
    own, plain = build(in_chans=1, preprocessing=steps), build(in_chans=1)
    picture = grey_picture()
    found, wanted = (one(one.preprocess(picture)[None]) for one in (own, plain))
    torch.testing.assert_close(found, wanted)


@torch.no_grad()
@pytest.mark.parametrize("name", [SHUFFLENET, "squeezenet1_1"])
def test_named_channels_keep_their_filters_in_any_order(build, name):
    colour = build(name)
    x = torch.randn(2, 3, 224, 224)
    turned = build(name, in_chans=("N", "B", "G", "R"), new_channels="zero")
    four = torch.cat([torch.randn(2, 1, 224, 224), x.flip(1)], dim=1)
    torch.testing.assert_close(turned(four), colour(x))
    assert turned.preprocessing.mean[1:] == colour.preprocessing.mean[::-1]


@torch.no_grad()
def test_an_extra_channel_with_a_zero_filter_leaves_embeddings_unchanged(build):
    colour, four = build(), build(in_chans=("R", "G", "B", None), new_channels="zero")
    x = torch.randn(2, 3, 224, 224)
    assert torch.equal(four(torch.cat([x, torch.randn(2, 1, 224, 224)], dim=1)), colour(x))


@torch.no_grad()
def test_a_new_channel_gets_the_mean_of_the_three_filters(build):
    own = build().backbone.conv1[0].weight
    made = build(in_chans=("N", "R", "G", "B")).backbone.conv1[0].weight
    torch.testing.assert_close(made, torch.cat([own.mean(1, keepdim=True), own], dim=1))


def test_a_number_of_channels_follows_timms_rule(build):
    steps = Preprocessing((224, 224), 256, mean=(0.5,) * 5, std=(0.2,) * 5)
    own = build().backbone.conv1[0].weight
    made = build(in_chans=5, preprocessing=steps)
    assert torch.equal(made.backbone.conv1[0].weight, own.repeat(1, 2, 1, 1)[:, :5] * (3 / 5))
    assert (made.input_shape, made.preprocessing) == ((5, 224, 224), steps)


def test_a_number_of_channels_needs_statistics_for_each_channel(build):
    with pytest.raises(PreprocessingError, match="needs the mean and the standard deviation of 5"):
        build(in_chans=5)


@torch.no_grad()
def test_the_preprocessing_takes_over_the_input_transform_of_googlenet(build):
    colour, four = build("googlenet"), build("googlenet", in_chans=("R", "G", "B", None))
    assert colour.options["transform_input"]
    assert not four.options["transform_input"]
    assert four.preprocessing.mean == four.preprocessing.std == (0.5,) * 4
    zero = build("googlenet", in_chans=("R", "G", "B", None), new_channels="zero")
    pixels = torch.rand(1, 3, 224, 224)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in zip(*_statistics(colour), strict=True))
    wanted = colour((pixels - mean) / std)
    found = zero(torch.cat([pixels, torch.rand(1, 1, 224, 224)], dim=1) * 2 - 1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.* filters that no training made")
@pytest.mark.parametrize("channels", [("R", "G", "B", "N"), ("N", "B", "R", "G", None)])
def test_custom_statistics_for_googlenet_give_the_same_embedding(build, channels):
    plain = build("googlenet", in_chans=channels)
    own = dict(zip("RGB", _statistics(build("googlenet")), strict=True))
    average = tuple(sum(numbers) / 3 for numbers in zip(*own.values(), strict=True))
    mean, std = zip(*(own.get(name, average) for name in channels), strict=True)
    steps = replace(plain.preprocessing, mean=mean, std=std)
    given = build("googlenet", in_chans=channels, preprocessing=steps)
    picture = np.random.default_rng(1).integers(0, 256, (*SIZE, len(channels)), dtype=np.uint8)
    np.testing.assert_allclose(given.embed([picture]), plain.embed([picture]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rescale", [1.0, 127.5])
def test_grey_with_another_rescale_gives_the_same_embedding(build, rescale):
    steps = Preprocessing((224, 224), 256, mean=(0.1,), std=(2.0,), rescale=rescale)
    own, plain = build(in_chans=1, preprocessing=steps), build(in_chans=1)
    found, wanted = own.embed([grey_picture()]), plain.embed([grey_picture()])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.* filters that no training made")
@pytest.mark.parametrize("channels", [1, ("N", "R")])
def test_a_function_gets_the_preprocessing_for_the_requested_channels(build, channels):
    count = 1 if channels == 1 else 2
    deep = np.random.default_rng(1).integers(0, 4096, (*SIZE, count)).astype(np.uint16)
    deep = deep[..., 0] if count == 1 else deep
    own = build(
        in_chans=channels, preprocessing=lambda steps: replace(steps, value_range=(0, 4095))
    )
    plain = build(in_chans=channels)
    shallow = np.rint(deep / 4095 * 255).astype(np.uint8)
    assert torch.equal(own.preprocess(deep), plain.preprocess(shallow))
    assert np.array_equal(own.embed([deep]), plain.embed([shallow]))


def test_a_function_may_not_change_the_statistics_of_grey(build):
    with pytest.raises(PreprocessingError, match=r"of the weights\. Leave out your own \(--mean"):
        build(in_chans=1, preprocessing=lambda steps: replace(steps, mean=(0.3,), std=(0.1,)))


@torch.no_grad()
@pytest.mark.parametrize("channels", [2, 3])
def test_a_grey_encoder_refuses_batches_with_more_channels(build, channels):
    with pytest.raises(PreprocessingError, match=f"have {channels} channels, .* takes one"):
        build(in_chans=1)(torch.zeros(2, channels, 64, 64))


def test_a_manifest_keeps_the_statistics_of_a_named_preprocessing(tmp_path):
    path, name = tmp_path / "own.pth", "timm:mobilenetv4_conv_small"
    torch.save(build_encoder(name, weights=None).backbone.state_dict(), path)
    encoder = build_encoder(name, weights=path, in_chans=1, preprocessing="e3600_r256_in1k")
    assert encoder.inputs["expanded"] == [[0.5] * 3, [0.5] * 3]
    again = build_encoder(json.loads(json.dumps(encoder.manifest())), weights=path)
    assert np.array_equal(again.embed([grey_picture()]), encoder.embed([grey_picture()]))


@pytest.mark.parametrize("channels", [None, 1, 5, ("R", "G", "B")])
def test_the_option_new_channels_is_refused_without_new_channels(channels):
    with pytest.raises(OptionError, match="new_channels='zero' is for channels that are not red"):
        build_encoder(SHUFFLENET, weights=None, in_chans=channels, new_channels="zero")


def test_numpy_numbers_are_accepted():
    encoder = build_encoder(
        SHUFFLENET, weights=None, in_chans=np.int64(1), img_size=np.array([64, 96])
    )
    assert encoder.input_shape == (1, 64, 96)
    assert json.dumps(encoder.inputs) == '{"in_chans": 1, "img_size": [64, 96]}'


def _statistics(encoder):
    return list(zip(encoder.preprocessing.mean, encoder.preprocessing.std, strict=True))


def test_requesting_the_channels_of_the_weights_changes_nothing(build):
    plain = build()
    for wanted in (3, ("R", "G", "B")):
        same = build(in_chans=wanted)
        assert same.inputs == {}
        assert same.expand is None
        assert same.fingerprint == plain.fingerprint


def test_the_head_computes_the_logits_from_the_embedding(build):
    encoder = build(in_chans=("N", "R", "G", "B"))
    x = torch.randn(2, 4, 224, 224)
    with torch.no_grad():
        assert torch.equal(encoder.head(encoder(x)), encoder.logits(x))


@pytest.mark.parametrize("wanted", [1, ("R", "G", "B", None), ("N", "G")])
def test_a_manifest_builds_the_same_encoder(build, files, wanted):
    encoder = build(in_chans=wanted)
    manifest = json.loads(json.dumps(encoder.manifest()))
    again = build_encoder(manifest, weights=files[SHUFFLENET])
    assert again.fingerprint == encoder.fingerprint
    assert (again.inputs, again.input_shape) == (encoder.inputs, encoder.input_shape)
    assert encoder.fingerprint.identity != build().fingerprint.identity


def test_a_manifest_refuses_other_and_invalid_channels(build, files):
    manifest = build(in_chans=1).manifest()
    with pytest.raises(ValueError, match="states the input already, and in_chans=4 was passed"):
        build_encoder(manifest, weights=files[SHUFFLENET], in_chans=4)
    manifest["inputs"] = {"in_chans": "many"}
    with pytest.raises(ManifestError, match="is damaged: in_chans='many' is not a number"):
        build_encoder(manifest, weights=files[SHUFFLENET])


@torch.no_grad()
def test_a_file_saved_from_an_encoder_of_other_channels_loads_unchanged(build, tmp_path):
    encoder = build(in_chans=("R", "G", "B", None))
    encoder.backbone.conv1[0].weight.add_(1)
    torch.save(encoder.backbone.state_dict(), tmp_path / "trained.pth")
    again = build_encoder(
        SHUFFLENET, weights=tmp_path / "trained.pth", in_chans=("R", "G", "B", None)
    )
    found, wanted = again.backbone.state_dict(), encoder.backbone.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_three_channels_in_another_order_are_refused_as_ambiguous(build):
    with pytest.raises(OptionError, match="nothing says whether the file's filters are for RGB"):
        build(in_chans=("N", "R", "G"))


def test_random_weights_have_the_requested_channels():
    encoder = build_encoder("squeezenet1_1", weights=None, in_chans=7)
    assert encoder.input_shape == (7, 224, 224)
    assert encoder(torch.zeros(1, 7, 64, 64)).shape == (1, 512)


def test_freezing_warns_once_about_untrained_filters(build):
    encoder = build(in_chans=("R", "G", "B", None))
    with pytest.warns(WeightsWarning, match=r"^1 of the 4 channels .*worse in 16 of 17 frozen"):
        encoder.freeze()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.freeze()
        build(in_chans=1).freeze()


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        (0, "is not a number of channels"),
        (True, "is not a number of channels"),
        ("RGB", "is not a number of channels"),
        ((), "is not a number of channels"),
        ((1, 2), "has the channel 1"),
        (("R", "R"), "names 'R' twice"),
        (("r", "g", "b"), "Write 'R', 'G' and 'B'"),
        (("L", None), "in_chans=1 for grey"),
        (10**9, "is not a number of channels"),
    ],
)
def test_invalid_channels_are_refused(wanted, problem):
    with pytest.raises(OptionError, match=problem):
        build_encoder("squeezenet1_1", weights=None, in_chans=wanted)


def test_a_preprocessing_for_other_channels_is_refused(build):
    steps = Preprocessing((224, 224), 256, mean=(0.5,) * 3, std=(0.2,) * 3)
    with pytest.raises(PreprocessingError, match="a preprocessing of 3 channels do not fit"):
        build(in_chans=1, preprocessing=steps)


def test_a_video_network_refuses_other_channels():
    with pytest.raises(OptionError, match="takes clips"):
        build_encoder("r3d_18", weights=None, in_chans=1)


def test_an_unknown_value_of_new_channels_is_refused():
    with pytest.raises(OptionError, match="Pass 'mean'"):
        build_encoder("squeezenet1_1", weights=None, in_chans=4, new_channels="random")
