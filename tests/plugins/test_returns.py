"""What a hook may return, and the errors for anything else."""

from __future__ import annotations

import pytest
import torch
from tests.plugins.acme import NET, answering, ask
from torch import nn

from headstrip import Level, Preprocessing, Stripped, WeightsEntry
from headstrip.plugins.loader import Plugin
from headstrip.plugins.validation import REQUIRED, check_return

LINEAR = nn.Linear(3, 2)
PIXELS = Preprocessing(crop=(8, 8), resize=None, mean=(0.0,), std=(1.0,))
GOOD = {
    "build_model": LINEAR,
    "load_model": LINEAR,
    "strip_head": Stripped(LINEAR, LINEAR, ("fc",)),
    "weights": (WeightsEntry("V1"),),
    "backbones": [NET],
    "adapt_state_dict": {"fc.weight": torch.zeros(1)},
    "preprocessing": PIXELS,
    "find_backbone": NET,
    "reference": torch.zeros(2, 3),
    "levels": ("layer1", ">pool", Level("norm", layout="NLC", prefix=1, stride=16)),
}


@pytest.mark.parametrize("hook", GOOD)
def test_a_correct_return_value_is_passed_on_unchanged(hook):
    plugin = Plugin("acme", "registered", "notebook", answering(hook, GOOD[hook]))
    assert ask(plugin, hook) is GOOD[hook]


@pytest.mark.parametrize("hook", sorted(GOOD))
def test_none_is_accepted_from_optional_hooks_only(hook):
    assert check_return(hook, None) == ("None" if hook in REQUIRED else None)


@pytest.mark.parametrize(
    ("hook", "value", "problem"),
    [
        ("build_model", "resnet", "a str instead of a Module"),
        ("describe_file", {"tag": "F"}, "a dict instead of a WeightsEntry"),
        ("load_model", nn.Linear, "a type instead of a Module"),
        ("strip_head", LINEAR, "a Linear instead of a Stripped"),
        ("adapt_state_dict", [], "a list instead of a dict"),
        ("adapt_state_dict", {"fc": None}, "a NoneType with the key 'fc' instead of a tensor"),
        ("adapt_state_dict", {0: torch.zeros(1)}, "a Tensor with the key 0 instead of a tensor"),
        ("preprocessing", {"crop": 224}, "a dict instead of a Preprocessing"),
        ("find_backbone", "net", "a str instead of a BackboneSpec"),
        ("reference", [1.0], "a list instead of a Tensor"),
        ("levels", "layer1", "a str instead of a tuple of Level or a Module"),
        ("levels", ("layer1", 2), "an int among its levels"),
        ("levels", (">",), "the level '>' without a path"),
        ("levels", (Level("norm", layout="NCL"),), "a level with the layout 'NCL' instead of one"),
        ("levels", (Level("norm", layout="NLC"),), "the level 'norm' of tokens without the stride"),
        ("weights", WeightsEntry("V1"), "a WeightsEntry instead of a tuple of WeightsEntry"),
        ("weights", ("V1",), "a str among its WeightsEntry items"),
        (
            "weights",
            (WeightsEntry("V1", locations="x.pth"),),
            "a WeightsEntry with the wrong locations",
        ),
        ("weights", (WeightsEntry("V1", sha256=5),), "a WeightsEntry with the wrong sha256 5"),
        ("describe_file", WeightsEntry(""), "a WeightsEntry with the wrong tag ''"),
        (
            "describe_file",
            WeightsEntry("F", options="abc"),
            "a WeightsEntry with the wrong options",
        ),
        (
            "describe_file",
            WeightsEntry("F", options=(("num_classes", 3),)),
            "a WeightsEntry with the wrong options",
        ),
        (
            "describe_file",
            WeightsEntry("F", num_classes=0),
            "a WeightsEntry with the wrong num_classes",
        ),
        (
            "describe_file",
            WeightsEntry("F", input_shape="abc"),
            "a WeightsEntry with the wrong input_shape",
        ),
        (
            "describe_file",
            WeightsEntry("F", preprocessing="x"),
            "a WeightsEntry with the wrong preproc",
        ),
        ("backbones", iter([NET]), "a list_iterator instead of a tuple of BackboneSpec"),
        ("backbones", (NET, "net"), "a str among its BackboneSpec items"),
    ],
)
def test_the_problem_names_a_wrong_return_value(hook, value, problem):
    assert check_return(hook, value).startswith(problem)


@pytest.mark.parametrize(
    ("stripped", "problem"),
    [
        (Stripped("backbone", None, (), "headless"), "a backbone that is a str"),
        (Stripped(LINEAR, LINEAR, ("fc",), "perhaps"), "the unknown head fidelity law='perhaps'"),
        (Stripped(LINEAR, "fc", ("fc",), "declared"), "a head that is a str"),
        (Stripped(LINEAR, None, ("fc",), "exact"), "law='exact' without a head"),
        (Stripped(LINEAR, None, ("fc",), "rounding"), "law='rounding' without a head"),
        (Stripped(LINEAR, LINEAR, ("fc",), "declared"), "law='declared' with a head"),
        (Stripped(LINEAR, LINEAR, ("fc",), "headless"), "law='headless' with a head"),
        (Stripped(LINEAR, LINEAR, "fc"), "the paths 'fc' instead of a tuple"),
        (Stripped(LINEAR, LINEAR, (1,)), "the paths (1,) instead of a tuple"),
    ],
)
def test_parts_of_a_network_that_do_not_fit_together_are_refused(stripped, problem):
    assert check_return("strip_head", stripped).startswith(problem)


@pytest.mark.parametrize("law", ["declared", "headless"])
def test_a_law_without_logits_is_accepted_without_a_head(law):
    assert check_return("strip_head", Stripped(LINEAR, None, ("fc",), law)) is None
