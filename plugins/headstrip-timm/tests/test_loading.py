"""A file gives a network the tensors that timm itself loads from it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from timm.models import _builder

from headstrip import Preprocessing, WeightsError, WeightsWarning, build_encoder
from headstrip.cli import main
from headstrip.testing import perturb
from headstrip_timm.loading import adapted, recipe_of

# torch gives this warning once per process, for an interpolation in timm's filter for BEiT.
pytestmark = pytest.mark.filterwarnings("ignore:torch.searchsorted:UserWarning")

TINY_VIT = {"depth": 1, "embed_dim": 48, "num_heads": 2}
TINY_SWIN = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4)}
TINY_CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
DINO = "vit_small_patch14_dinov2"


def state_of(name, seed=0, **options):
    """The state dict of a timm network with perturbed values."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **options)
    perturb(model)
    return OrderedDict(model.state_dict())


def renamed(state, *pairs):
    """A state dict with the tensor names of another library."""
    result = {}
    for name, value in state.items():
        for own, other in pairs:
            name = name.replace(own, other)
        result[name] = value
    return result


def original_convnext(state):
    names = ("head.norm.", "norm."), ("head.fc.", "head."), ("stem.", "downsample_layers.0.")
    result = renamed(state, *names, ("conv_dw", "dwconv"), ("mlp.fc", "pwconv"))
    for stage in range(4):
        result = renamed(
            result,
            (f"stages.{stage}.blocks.", f"stages.{stage}."),
            (f"stages.{stage}.downsample.", f"downsample_layers.{stage}."),
        )
    return result


def with_positions(state):
    """The fixed indices that older releases of timm kept in LeViT's files."""
    return {**state, "stages.0.blocks.0.attn.attention_bias_idxs": torch.zeros(4, 4).long()}


def with_index(state):
    """The fixed positions that older releases of timm kept in their files."""
    extra = {
        name.replace("bias_table", "index"): torch.zeros(4, 4, dtype=torch.int64)
        for name in state
        if name.endswith("relative_position_bias_table")
    }
    assert extra
    return {**state, **extra}


def with_rope(state):
    return {**state, "blocks.0.attn.rope.freqs_cos": torch.zeros(3)}


def with_unknown(state):
    return {**state, "auxiliary.weight": torch.zeros(3)}


def without_last_norm(state):
    return {name: value for name, value in state.items() if not name.startswith("head.")}


def averaged(state):
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    return {"epoch": 3, "state_dict": other, "state_dict_ema": state}


def unchanged(state):
    return state


def prefixed(state):
    return {f"module.{name}": value for name, value in state.items()}


# Architecture, options for the network in the file, change to the file, options of the network.
CASES = {
    "resnet": ("resnet10t", {}, unchanged, {}),
    "prefixed": ("resnet10t", {}, prefixed, {}),
    "prefixed averages": ("resnet10t", {}, lambda s: {"model_ema": prefixed(s)}, {}),
    "grey resnet": ("resnet10t", {}, unchanged, {"in_chans": 1}),
    "resnet of 4 channels": ("resnet10t", {}, unchanged, {"in_chans": 4}),
    "grey vit": ("vit_tiny_patch16_224", {**TINY_VIT}, unchanged, {"in_chans": 1}),
    "vit of 4 channels": ("vit_tiny_patch16_224", {**TINY_VIT}, unchanged, {"in_chans": 4}),
    "larger vit": ("vit_tiny_patch16_224", {**TINY_VIT}, unchanged, {"img_size": 256}),
    "older swin": ("swin_tiny_patch4_window7_224", {**TINY_SWIN}, with_index, {}),
    "larger swin": ("swin_tiny_patch4_window7_224", {**TINY_SWIN}, unchanged, {"window_size": 8}),
    "beit": ("beit_base_patch16_224", {**TINY_VIT}, with_index, {}),
    "larger beit": ("beit_base_patch16_224", {**TINY_VIT}, with_index, {"img_size": 256}),
    "eva02": ("eva02_tiny_patch14_224", {**TINY_VIT}, with_rope, {}),
    "distilled deit": ("deit_tiny_distilled_patch16_224", {**TINY_VIT}, unchanged, {}),
    "original convnext": ("convnext_tiny", {**TINY_CONVNEXT}, original_convnext, {}),
    "older levit": ("levit_128s", {}, with_positions, {}),
    "efficientvit": ("efficientvit_b0", {}, unchanged, {}),
    "no head": (DINO, {**TINY_VIT}, unchanged, {}),
    "not strict": ("dla46_c", {}, with_unknown, {}),
    "no last norm": (
        "convnextv2_atto",
        {**TINY_CONVNEXT, "pretrained_cfg": "fcmae"},
        without_last_norm,
        {},
    ),
    "unpooled siglip": (
        "vit_base_patch16_siglip_224",
        {**TINY_VIT, "global_pool": "map"},
        unchanged,
        {"global_pool": "avg"},
    ),
}


def as_timm_loads(name, path, **options):
    """The state dict of timm's own network with a file's weights."""
    overlay = {"file": str(path), "custom_load": False}
    return timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, **options
    ).state_dict()


def differing(found, expected):
    """Names of different tensors, except BatchNorm's counters, which affect no output."""
    missing = [name for name in expected if name not in found]
    return [name for name in missing if not name.endswith("num_batches_tracked")] + [
        name
        for name in found
        if name not in expected or not torch.equal(found[name], expected[name])
    ]


# torch warns about timm's way to resize positions.
@pytest.mark.filterwarnings("ignore:.*searchsorted:UserWarning")
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_a_file_gives_the_tensors_that_timm_loads(case, tmp_path):
    name, made_with, change, options = CASES[case]
    torch.save(change(state_of(name, **made_with)), tmp_path / "file.pth")
    expected = as_timm_loads(name, tmp_path / "file.pth", **{**made_with, **options})
    content = torch.load(tmp_path / "file.pth", weights_only=True)
    merged = {**made_with, **options}
    found = adapted(content, timm.create_model(name, **merged), merged)
    assert not differing(found, expected)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
def test_a_network_on_the_meta_device_gets_the_same_tensors():
    file, options = state_of("beit_base_patch16_224", **TINY_VIT), {**TINY_VIT, "img_size": 256}
    try:
        with torch.device("meta"):
            model = timm.create_model("beit_base_patch16_224", **options)
    except RuntimeError as error:
        pytest.skip(f"the constructor of this timm computes with tensors: {error}")
    found = adapted(file, model, options)
    expected = adapted(file, timm.create_model("beit_base_patch16_224", **options), options)
    assert not differing(found, expected)
    assert not any(value.is_meta for value in found.values())


def test_the_comparison_of_tensors_detects_a_different_value():
    state = state_of("efficientvit_b0")
    other = {**state, "stem.in_conv.conv.weight": state["stem.in_conv.conv.weight"] + 1}
    assert differing(other, state) == ["stem.in_conv.conv.weight"]


def test_label_offset_removes_the_leading_classes(tmp_path):
    torch.save(state_of("resnet10t", num_classes=1001), tmp_path / "file.pth")
    overlay = {"label_offset": 1, "file": str(tmp_path / "file.pth")}
    expected = timm.create_model("resnet10t", pretrained=True, pretrained_cfg_overlay=overlay)
    encoder = build_encoder(
        "timm:resnet10t",
        weights=tmp_path / "file.pth",
        options={"pretrained_cfg_overlay": {"label_offset": 1}},
    )
    assert torch.equal(encoder.head.weight, expected.fc.weight)
    assert len(encoder.head.weight) == 1000


def test_label_offset_does_not_change_a_file_without_extra_classes(tmp_path):
    torch.save(state_of("resnet10t"), tmp_path / "file.pth")
    overlay = {"pretrained_cfg_overlay": {"label_offset": 1}}
    encoder = build_encoder("timm:resnet10t", weights=tmp_path / "file.pth", options=overlay)
    assert len(encoder.head.weight) == 1000


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """The folder with a 7-class network's files, and the network."""
    folder, model = tmp_path_factory.mktemp("resnet"), timm.create_model("resnet10t", num_classes=7)
    perturb(model)
    torch.save(model.state_dict(), folder / "file.pth")
    save_file(model.state_dict(), folder / "file.safetensors")
    return folder, model.eval()


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_an_encoder_has_the_values_of_a_file_and_its_number_of_classes(resnet, suffix):
    folder, model = resnet
    encoder = build_encoder("timm:resnet10t", weights=folder / f"file.{suffix}")
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(encoder.head(encoder(x)), model(x))
    assert encoder.law == "exact"


@torch.no_grad()
def test_a_file_without_a_head_makes_an_encoder_without_one(resnet, tmp_path):
    model = resnet[1]
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}
    torch.save(state, tmp_path / "file.pth")
    encoder = build_encoder("timm:resnet10t", weights=tmp_path / "file.pth")
    x = torch.randn(2, 3, 64, 64)
    expected = model.forward_head(model.forward_features(x), pre_logits=True)
    assert torch.equal(encoder(x), expected)
    assert (encoder.law, encoder.head) == ("headless", None)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_file_with_other_channels_loads_into_a_network_with_them(channels, tmp_path):
    options = {"in_chans": channels}
    model = timm.create_model("resnet10t", **options)
    torch.save(model.state_dict(), tmp_path / "file.pth")
    pixels = Preprocessing((64, 64), 64, (0.5,) * channels, (0.5,) * channels)
    encoder = build_encoder(
        "timm:resnet10t", weights=tmp_path / "file.pth", options=options, preprocessing=pixels
    )
    assert encoder.input_shape == (channels, 64, 64)
    assert torch.equal(encoder.backbone.conv1[0].weight, model.conv1[0].weight)


@torch.no_grad()
def test_a_network_without_a_classifier_accepts_a_file_without_one(tmp_path):
    options = {**TINY_VIT, "img_size": 56}
    model = timm.create_model(DINO, **options).eval()
    perturb(model)
    torch.save(model.state_dict(), tmp_path / "file.pth")
    encoder = build_encoder(f"timm:{DINO}", weights=tmp_path / "file.pth", options=options)
    x = torch.randn(2, 3, 56, 56)
    assert torch.equal(encoder(x), model(x))
    assert encoder.law == "headless"


@torch.no_grad()
def test_a_network_without_a_classifier_gets_that_of_its_file(tmp_path):
    options = {**TINY_VIT, "img_size": 56}
    model = timm.create_model(DINO, num_classes=7, **options).eval()
    perturb(model)
    torch.save(model.state_dict(), tmp_path / "file.pth")
    encoder = build_encoder(f"timm:{DINO}", weights=tmp_path / "file.pth", options=options)
    x = torch.randn(2, 3, 56, 56)
    assert torch.equal(encoder.head(encoder(x)), model(x))
    assert encoder.law == "exact"


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "convnext_atto"])
def test_the_error_for_another_networks_file_names_that_network(name, tmp_path):
    torch.save(state_of("mobilenetv3_small_050"), tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"Its shapes fit 'mobilenetv3_small_050': pass that"):
        build_encoder(f"timm:{name}", weights=tmp_path / "file.pth")


def test_the_error_names_tensors_that_cannot_be_resized_with_both_shapes(tmp_path):
    state = {**state_of("beit_base_patch16_224", **TINY_VIT), "pos_embed": torch.zeros(3)}
    torch.save({**state, "patch_embed.proj.weight": torch.zeros(3)}, tmp_path / "file.pth")
    with pytest.raises(
        WeightsError, match=r"'patch_embed\.proj\.weight' is 3 in the file and 48x3"
    ):
        build_encoder("timm:beit_base_patch16_224", weights=tmp_path / "file.pth", options=TINY_VIT)


@pytest.mark.parametrize("tokens", [1 + 10 * 20, 131])
def test_the_error_for_positions_that_are_not_square_has_both_shapes(tokens, tmp_path):
    state = {**state_of("vit_tiny_patch16_224"), "pos_embed": torch.zeros(1, tokens, 192)}
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(WeightsError) as caught:
        build_encoder("timm:vit_tiny_patch16_224", weights=tmp_path / "file.pth")
    assert f"'pos_embed' is 1x{tokens}x192 in the file and 1x197x192 in the net" in str(
        caught.value
    )
    assert "the file was made for another size of image" in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}])
def test_a_file_without_tensors_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match="state dict"):
        build_encoder("timm:resnet10t", weights=tmp_path / "file.pth")


def test_timms_own_loader_is_restored():
    original = _builder.load_pretrained
    assert recipe_of("resnet10t", {}).strict
    assert _builder.load_pretrained is original


def test_timms_own_loader_is_restored_after_an_error():
    original = _builder.load_pretrained
    with pytest.raises(TypeError, match="nosuchoption"):
        recipe_of("resnet10t", {"nosuchoption": 3})
    assert _builder.load_pretrained is original


def test_load_state_dict_of_the_network_is_restored_even_after_an_error():
    model = timm.create_model("beit_base_patch16_224", **TINY_VIT)
    for state in (model.state_dict(), {"patch_embed.proj.weight": torch.zeros(3)}):
        try:
            adapted(state, model, TINY_VIT)
        except WeightsError:
            assert len(state) == 1
        assert "load_state_dict" not in vars(model)
    model.load_state_dict(model.state_dict())


def test_recipes_can_be_found_in_several_threads_at_once():
    names, found = ["resnet10t", "convnext_atto", "levit_128s", "dla46_c"] * 3, {}

    def find(index):
        found[index] = recipe_of(names[index], {})

    threads = [threading.Thread(target=find, args=(index,)) for index in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(len(names))] == [recipe_of(n, {}) for n in names]
    assert not recipe_of("dla46_c", {}).strict


def test_another_thread_can_load_weights_during_a_search_for_a_recipe(monkeypatch, tmp_path):
    """A constructor waits during a search for a recipe, while another thread uses timm."""
    torch.save(state_of("resnet10t"), tmp_path / "file.pth")
    inside, done, create = threading.Event(), threading.Event(), timm.create_model

    def waiting(name, **options):
        inside.set()
        assert done.wait(30)
        return create(name, **options)

    thread = threading.Thread(target=lambda: recipe_of("resnet10t", {}))
    monkeypatch.setattr(timm, "create_model", waiting)
    thread.start()
    assert inside.wait(30)
    monkeypatch.undo()
    try:
        loaded = as_timm_loads("resnet10t", tmp_path / "file.pth")
    finally:
        done.set()
        thread.join()
    assert not differing(loaded, torch.load(tmp_path / "file.pth", weights_only=True))


def test_a_checkpoint_with_a_configuration_determines_the_preprocessing(tmp_path):
    model = timm.create_model("resnet10t", num_classes=7)
    stated = {**model.pretrained_cfg, "mean": (0.1, 0.2, 0.3), "input_size": (3, 96, 96)}
    path = tmp_path / "own.pth"
    torch.save({"state_dict": model.state_dict(), "pretrained_cfg": stated}, path)
    encoder = build_encoder("timm:resnet10t", weights=path)
    assert encoder.preprocessing.mean == (0.1, 0.2, 0.3)
    assert encoder.input_shape == (3, 96, 96)
    plain = tmp_path / "plain.pth"
    torch.save(model.state_dict(), plain)
    assert build_encoder("timm:resnet10t", weights=plain).preprocessing.mean != (0.1, 0.2, 0.3)


def test_custom_statistics_override_the_preprocessing_in_the_checkpoint(tmp_path):
    model = timm.create_model("resnet10t", in_chans=1)
    stated = {**model.pretrained_cfg, "interpolation": "bilinear", "input_size": (3, 96, 96)}
    torch.save({"state_dict": model.state_dict(), "pretrained_cfg": stated}, tmp_path / "own.pth")
    Image.new("L", (120, 120), 90).save(tmp_path / "grey.png")
    chosen = ["-b", "timm:resnet10t", "--weights", tmp_path / "own.pth", "--in-chans", "1"]
    chosen += ["--mean", "0.3", "--std", "0.2", "-o", tmp_path / "out.parquet"]
    result = CliRunner().invoke(main, list(map(str, ["embed", tmp_path / "grey.png", *chosen])))
    assert result.exit_code == 0, result.output
    row = pq.read_table(tmp_path / "out.parquet")["embedding"][0].as_py()
    encoder = build_encoder(
        "timm:resnet10t",
        weights=tmp_path / "own.pth",
        in_chans=1,
        preprocessing=lambda steps: replace(steps, mean=(0.3,), std=(0.2,)),
    )
    assert encoder.preprocessing.interpolation == "bilinear"
    assert encoder.input_shape == (1, 96, 96)
    wanted = encoder.embed([tmp_path / "grey.png"])[0]
    np.testing.assert_allclose(row, wanted, rtol=1e-4, atol=1e-6)


def test_the_label_names_of_a_configuration_become_the_labels(tmp_path):
    model = timm.create_model("resnet10t", num_classes=3)
    names, path = ["cat", "dog", "horse"], tmp_path / "own.pth"
    for stated, labels in ((names, tuple(names)), (names[:2], None), ([1, 2, 3], None)):
        config = {**model.pretrained_cfg, "num_classes": 3, "label_names": stated}
        torch.save({"state_dict": model.state_dict(), "pretrained_cfg": config}, path)
        assert build_encoder("timm:resnet10t", weights=path).labels == labels


@pytest.mark.parametrize("stated", [{"mean": "grey"}, {"input_size": 3}, {"crop_mode": "other"}])
def test_a_configuration_that_timm_cannot_read_gives_a_clear_error(tmp_path, stated):
    path = tmp_path / "own.pth"
    state = timm.create_model("resnet10t").state_dict()
    torch.save({"state_dict": state, "pretrained_cfg": stated}, path)
    with pytest.raises(WeightsError, match="timm cannot read the 'pretrained_cfg'"):
        build_encoder("timm:resnet10t", weights=path)


def test_the_epsilon_of_published_weights_does_not_apply_to_a_plain_file(tmp_path):
    path = tmp_path / "own.pth"
    torch.save(timm.create_model("fbnetc_100").state_dict(), path)
    with pytest.warns(WeightsWarning, match=r"bn_eps=0\.001"):
        encoder = build_encoder("timm:fbnetc_100", weights=path)
    assert encoder.backbone.bn1.eps == 1e-5


@pytest.mark.parametrize(
    ("saved", "named", "problem"),
    [
        ("vit_small_patch16_224", "vit_small_patch32_224", "384x3x16x16 in the file and 384x3x32"),
        ("vit_small_patch32_224", "vit_small_patch16_224", "384x3x32x32 in the file and 384x3x16"),
        ("swin_tiny_patch4_window7_224", "swin_s3_tiny_224", "169x12 in the file and 729x12 in"),
        ("beit_base_patch16_224", "beit_base_patch16_384", "732x12 in the file and 2212x12 in"),
    ],
)
def test_another_architectures_file_is_refused_instead_of_resampled(
    saved, named, problem, tmp_path
):
    small = {} if "swin" in saved else {"depth": 1}
    torch.save(timm.create_model(saved, **small).state_dict(), tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=problem):
        build_encoder(f"timm:{named}", weights=tmp_path / "file.pth", options=small)


def test_a_file_for_another_image_size_needs_img_size(tmp_path):
    torch.save(timm.create_model("test_vit", img_size=96).state_dict(), tmp_path / "file.pth")
    with pytest.raises(
        WeightsError, match=r"for images of 96x96, .* Pass img_size=96 \(--img-size"
    ):
        build_encoder("timm:test_vit", weights=tmp_path / "file.pth")
    encoder = build_encoder("timm:test_vit", weights=tmp_path / "file.pth", img_size=96)
    assert encoder.input_shape == (3, 96, 96)
    resampled = build_encoder("timm:test_vit", weights=tmp_path / "file.pth", img_size=128)
    assert resampled.input_shape == (3, 128, 128)
