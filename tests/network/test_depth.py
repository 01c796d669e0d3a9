"""Layers of networks, and which parameters weight decay applies to."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.sampling import mostly_slow, smallest_of_families
from torch import Tensor, nn

from headstrip import get_backbone
from headstrip.factory.maker import strip_with
from headstrip.factory.measure import build_network
from headstrip.network.decay import is_matrix
from headstrip.network.depth import layers_of
from headstrip.network.meta_ops import without_memory
from headstrip.registry.registry import get_registry
from headstrip.spec import effective_shape, merged_options

WIDTH = 4


class Residual(nn.Module):
    """Layers with a residual path around them."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.parts(x)


class Reversed(nn.Module):
    """A module that registers its parts in the reverse order of execution."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(reversed(parts))
        self.token = nn.Parameter(torch.zeros(1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token
        for part in reversed(self.parts):
            x = part(x)
        return x


def backbone_of(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Build a backbone, on the meta device if its constructor allows it."""
    registry, spec = get_registry(), get_backbone(name).spec
    plugin, family = registry.stripper(spec.family)
    if family == "regnet":
        model = build_network(spec, merged_options(spec, None, None), registry)
    else:
        with without_memory():
            model = build_network(spec, merged_options(spec, None, None), registry)
    stripped = strip_with(plugin, family, model.eval(), spec, None, name)
    return stripped.backbone, effective_shape(stripped.input_shape, None, spec)


OTHERS = (
    "timm:beit_base_patch16_224",
    "timm:cait_xxs24_224",
    "timm:convnextv2_atto",
    "timm:crossvit_9_240",
    "timm:eva02_tiny_patch14_224",
    "timm:hrnet_w18_small",
    "timm:tf_efficientnet_lite0",
    "timm:xcit_nano_12_p16_224",
)


def smallest_names(source: str) -> list[str]:
    return [spec.qualified_name for spec in smallest_of_families(source)]


def names_of(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_parameters()]


@pytest.mark.parametrize("name", mostly_slow([*smallest_names("torchvision"), *OTHERS]))
def test_each_parameter_of_a_network_is_in_one_layer(name: str) -> None:
    backbone, shape = backbone_of(name)
    layers = layers_of(backbone, shape)
    assert all(layers)
    assert sorted(one for names in layers for one in names) == sorted(names_of(backbone))


@pytest.mark.slow
@pytest.mark.parametrize("name", smallest_names("timm"))
def test_each_parameter_of_every_family_of_timm_is_in_one_layer(name: str) -> None:
    test_each_parameter_of_a_network_is_in_one_layer(name)


LAYERS = {
    "resnet18": 1 + 8,
    "convnext_tiny": 1 + 18 + 3,
    "efficientnet_b0": 1 + 16 + 1,
    "mobilenet_v3_small": 1 + 11 + 2,
    "swin_t": 1 + 12 + 3,
    "vgg11": 8 + 2,
    "vit_b_32": 1 + 12,
    "timm:vit_tiny_patch16_224": 1 + 12,
    "timm:convnext_atto": 1 + 12 + 3,
    "timm:resnet18": 1 + 8,
    "timm:swin_tiny_patch4_window7_224": 1 + 12 + 3,
    "timm:deit_tiny_distilled_patch16_224": 1 + 12,
}


@pytest.mark.parametrize(("name", "count"), LAYERS.items())
def test_a_block_is_one_layer_in_every_library(name: str, count: int) -> None:
    assert len(layers_of(*backbone_of(name))) == count


@pytest.mark.parametrize(
    "name", ["timm:vit_tiny_patch16_224", "timm:resnet18", "timm:beit_base_patch16_224"]
)
def test_layers_match_timms_parameter_groups(name: str) -> None:
    from timm.models import group_parameters

    backbone, shape = backbone_of(name)
    theirs = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    for names in layers_of(backbone, shape):
        # timm puts the last norm into a layer without a matrix, because the head was removed.
        numbers = {theirs[one] for one in names if not one.startswith(("norm.", "fc_norm."))}
        assert len(numbers) == 1, names


def test_tokens_and_positions_belong_to_the_layer_before_their_use() -> None:
    first, *_ = layers_of(*backbone_of("vit_b_32"))
    assert sorted(first) == [
        "class_token",
        "conv_proj.bias",
        "conv_proj.weight",
        "encoder.pos_embedding",
    ]


def test_layers_are_in_the_order_of_execution() -> None:
    network = nn.Sequential(Reversed(nn.Linear(WIDTH, 3), nn.Linear(3, 2)), nn.Linear(2, 1))
    assert layers_of(network, (WIDTH,)) == [
        ["0.token", "0.parts.1.weight", "0.parts.1.bias"],
        ["0.parts.0.weight", "0.parts.0.bias"],
        ["1.weight", "1.bias"],
    ]


def test_a_network_that_fails_on_the_meta_device_runs_for_real() -> None:
    class ByValue(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(x) if self.one(x).sum().item() > 1e9 else self.two(self.one(x))

    assert len(layers_of(ByValue(), (WIDTH,))) == 2


trees = st.recursive(
    st.builds(lambda: nn.Linear(WIDTH, WIDTH)) | st.builds(lambda: nn.LayerNorm(WIDTH)),
    lambda parts: st.builds(
        lambda kind, given: kind(*given),
        st.sampled_from([nn.Sequential, Residual, Reversed]),
        st.lists(parts, min_size=1, max_size=4),
    ),
    max_leaves=12,
)


@given(trees)
def test_any_tree_of_modules_is_divided_and_left_unchanged(network: nn.Module) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    layers = layers_of(network, (WIDTH,))
    assert sorted(one for names in layers for one in names) == sorted(names_of(network))
    number = {name: at for at, names in enumerate(layers) for name in names}
    for path, module in network.named_modules():
        if isinstance(module, Residual):
            within = {
                number[name] for name in number if name.startswith(f"{path}." if path else "")
            }
            assert path == "" or len(within) == 1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def decayed(network: nn.Module) -> set[str]:
    owners = {
        id(one): module for module in network.modules() for one in module._parameters.values()
    }
    parameters = dict(network.named_parameters())
    return {name for name, one in parameters.items() if is_matrix(name, one, owners[id(one)])}


def test_tokens_positions_norms_scales_and_biases_are_not_matrices() -> None:
    backbone, _ = backbone_of("vit_b_32")
    others = set(names_of(backbone)) - decayed(backbone)
    assert {"class_token", "encoder.pos_embedding", "encoder.ln.weight", "conv_proj.bias"} <= others
    assert "encoder.layers.encoder_layer_0.self_attention.in_proj_weight" in decayed(backbone)
    assert all("ln" in name or name.endswith("bias") for name in others if "layer" in name)
    scaled, _ = backbone_of("convnext_tiny")
    assert not any("layer_scale" in name for name in decayed(scaled))
    grn, _ = backbone_of("timm:convnextv2_atto")
    assert not any("grn" in name or "norm" in name for name in decayed(grn))


def test_a_linear_layer_with_one_output_is_a_matrix() -> None:
    assert decayed(nn.Linear(5, 1)) == {"weight"}
