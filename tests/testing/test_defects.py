"""Every check can fail: plugins with one defect each, and the check that detects it."""

import contextlib
import copy
import os
import random
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.testing.networks import (
    PREPROCESSING,
    TINY,
    WEIGHTS,
    DeclaredLab,
    HeadlessLab,
    Lab,
    Tiny,
)
from torch import nn

from headstrip import Stripped, detach, hookimpl


class WrongPooling(Lab):
    def strip(self, model):
        parts = detach(model, "fc")
        model.pool = nn.AdaptiveMaxPool2d(1)
        return parts


class ZeroHead(Tiny):
    def __init__(self, num_classes=5):
        super().__init__(num_classes)
        nn.init.zeros_(self.fc.weight)


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


class WrongEmbeddingBehindAZeroHead(Lab):
    NETWORK = ZeroHead

    def strip(self, model):
        parts = detach(model, "fc")
        model.fc = Doubled()
        return parts


class HeadOfNaN(nn.Linear):
    def forward(self, x):
        return super().forward(x) / 0


class HeadOfOneAnswer(nn.Linear):
    def forward(self, x):
        return super().forward(x).mean(0, keepdim=True).expand(len(x), -1)


class NotFinite(Tiny):
    def __init__(self, num_classes=5):
        super().__init__(num_classes)
        self.fc = HeadOfNaN(6, num_classes)


class Constant(Tiny):
    def __init__(self, num_classes=5):
        super().__init__(num_classes)
        self.fc = HeadOfOneAnswer(6, num_classes)


class Rounded(nn.Module):
    """A head with an error as small as rounding, or a larger one."""

    def __init__(self, linear, error):
        super().__init__()
        self.linear, self.error = linear, error

    def forward(self, x):
        return self.linear(x) * (1 + self.error)


class Rounding(Lab):
    LAW, ERROR = "rounding", 3e-7

    def strip(self, model):
        parts = detach(model, "fc")
        return replace(parts, head=Rounded(parts.head, self.ERROR), law=self.LAW)


class TooMuchRounding(Rounding):
    SPEC = replace(TINY, law="rounding")
    ERROR = 1e-4


class RoundingCalledExact(Rounding):
    LAW = "exact"


class DeclaredWithoutReference(DeclaredLab):
    reference = None


class DeclaredWithAnotherReference(DeclaredLab):
    @hookimpl
    def reference(self, model, x, family):
        return model.features(x).relu().amax((2, 3))


class HeadlessWithAnotherPooling(HeadlessLab):
    def strip(self, model):
        parts = super().strip(model)
        model.pool = nn.AdaptiveMaxPool2d(1)
        return parts


class WrongWidth(Lab):
    SPEC = replace(TINY, dim=7)


class WrongParameters(Lab):
    SPEC = replace(TINY, params=186)


class WrongInput(Lab):
    SPEC = replace(TINY, input_shape=(3, 32, 32))
    PREPROCESSING = None


class WrongLaw(Lab):
    SPEC = replace(TINY, law="rounding")


class WrongPath(Lab):
    def strip(self, model):
        return detach(model, "head")


class HeadLeftBehind(Lab):
    def strip(self, model):
        model.spare = model.get_submodule("fc") if isinstance(model, Tiny) else None
        return detach(model, "fc")


class MoreThanTheHeadGone(Lab):
    def strip(self, model):
        parts = detach(model, "fc")
        del model.unused
        return parts


class HeadCopied(Lab):
    def strip(self, model):
        parts = detach(model, "fc")
        return replace(parts, head=copy.deepcopy(parts.head))


class NewParameters(Lab):
    def strip(self, model):
        parts = detach(model, "fc")
        model.register_parameter("scale", nn.Parameter(torch.ones(1)))
        return parts


class TrainMode(Lab):
    def strip(self, model):
        parts = detach(model, "fc")
        model.train()
        return parts


class EvalModeOfAUsersNetwork(Lab):
    def strip(self, model):
        parts = detach(model, "fc")
        model.eval()
        return parts


class StatisticsReset(Lab):
    def strip(self, model):
        parts = detach(model, "fc")
        model.norm.num_batches_tracked += 1
        return parts


class Counting(Tiny):
    def __init__(self, num_classes=5):
        super().__init__(num_classes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        return super().forward(x)


class Drawing(Tiny):
    def forward(self, x):
        torch.rand(1)
        return super().forward(x)


class DrawingFromNumPy(Tiny):
    def forward(self, x):
        np.random.rand()
        return super().forward(x)


class DrawingFromPython(Tiny):
    def forward(self, x):
        random.random()
        return super().forward(x)


class Seeding(Lab):
    @hookimpl
    def build_model(self, spec, options):
        torch.manual_seed(0)
        return Tiny(**options)


class SeedingPython(Lab):
    @hookimpl
    def build_model(self, spec, options):
        random.seed(0)
        return Tiny(**options)


class Unrepeatable(Lab):
    @hookimpl
    def build_model(self, spec, options):
        model = Tiny(**options)
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4), "big"))
        nn.init.normal_(model.fc.weight, generator=generator)
        return model


class Neighbours(Tiny):
    def features(self, x):
        return super().features(x - 0.1 * x.mean(0, keepdim=True))


class Detached(Tiny):
    def features(self, x):
        with torch.no_grad():
            x = self.stem(x)
        return self.norm(x).relu()


class DetachedWhole(Tiny):
    def features(self, x):
        return super().features(x).detach()


class ZeroGradient(Tiny):
    def features(self, x):
        x = self.stem(x)
        return self.norm(0 * x + x.detach()).relu()


class NotPicklable(Tiny):
    def __init__(self, num_classes=5):
        super().__init__(num_classes)
        self.activation = lambda x: x.relu()


class NotCopied(Tiny):
    def __deepcopy__(self, memo):
        raise TypeError("there is one of me")


class HiddenState(Tiny):
    """Has a random buffer that is not in its state dict."""

    def __init__(self, num_classes=5):
        super().__init__(num_classes)
        self.register_buffer("shift", torch.rand(3, 1, 1), persistent=False)

    def features(self, x):
        return super().features(x + self.shift)


class OnlyFloat32(Tiny):
    def features(self, x):
        return super().features(torch.matmul(x, torch.eye(x.shape[-1])))


class BackToFloat32(Tiny):
    def forward(self, x):
        return super().forward(x).float()


class OtherInFloat64(Tiny):
    def features(self, x):
        return super().features(x * (1.01 if x.dtype == torch.float64 else 1))


class Calling(Lab):
    @hookimpl
    def build_model(self, spec, options):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 9)).close()
        return Tiny(**options)


class CallingToList(Lab):
    @hookimpl
    def backbones(self):
        with contextlib.suppress(OSError), socket.socket() as one:
            one.connect(("127.0.0.1", 9))
        return (self.SPEC,)


class OwnClasses(Lab):
    @hookimpl
    def build_model(self, spec, options):
        return Tiny()


class Guessing(Lab):
    def strip(self, model):
        last = [name for name, one in model.named_modules() if isinstance(one, nn.Linear)][-1]
        return detach(model, last)


class Stumbling(Lab):
    def strip(self, model):
        head, model.fc = model.fc, nn.Identity()
        return Stripped(model, head, ("fc",))


class ChangingWhatItRefuses(Lab):
    def strip(self, model):
        model.fc = getattr(model, "fc", nn.Identity())
        return detach(model, "fc")


class OtherShape(Lab):
    PREPROCESSING = replace(PREPROCESSING, crop=(8, 8))


class Maps(Lab):
    def strip(self, model):
        parts = detach(model, "fc")
        model.fc = nn.Unflatten(1, (6, 1, 1))
        return parts


class Breaking(Lab):
    @hookimpl
    def build_model(self, spec, options):
        raise KeyError(spec.name)


class Infinite(Tiny):
    def features(self, x):
        return super().features(x) + float("inf")


class Outer(nn.Linear):
    def forward(self, x):
        return super().forward(x)[:, :, None]


class HeadOfMaps(Tiny):
    def __init__(self, num_classes=5):
        super().__init__(num_classes)
        self.fc = Outer(6, num_classes)


TOO_SMALL = replace(WEIGHTS, tag="SMALL", input_shape=(1, 8, 8), preprocessing=None)


class FixedSize(Lab):
    ENTRIES = (WEIGHTS, replace(WEIGHTS, tag="V2", input_shape=(3, 32, 32), preprocessing=None))

    def strip(self, model):
        return detach(model, "fc", input_shape=(3, 16, 16))


class NamesAnOptionThatSetsNoChannels(Lab):
    INPUT_OPTIONS = {"in_chans": "num_channels"}  # noqa: RUF012

    @hookimpl
    def build_model(self, spec, options):
        return super().build_model(spec, {k: v for k, v in options.items() if k != "num_channels"})


class ClaimsOneSize(Lab):
    SPEC = replace(TINY, sizes="fixed")


class DescribesOnlyDicts(Lab):
    @hookimpl
    def describe_file(self, loaded, spec):
        return WEIGHTS if "settings" in loaded else None


class DescribesAPublishedFile(Lab):
    @hookimpl
    def describe_file(self, loaded, spec):
        return WEIGHTS


class DescribesOtherClasses(Lab):
    @hookimpl
    def describe_file(self, loaded, spec):
        return replace(WEIGHTS, locations=(), labels="imagenet-1k")


class ClassesWithoutAHead(HeadlessLab):
    ENTRIES = (replace(WEIGHTS, options=(("num_classes", 0),)),)


def with_network(network):
    return type(network.__name__, (Lab,), {"NETWORK": network})


def with_entries(name, *entries, **spec):
    return type(name, (Lab,), {"ENTRIES": entries, "SPEC": replace(TINY, **spec)})


DEFECTS = [
    (WrongPooling, "lossless", "the logits differ from the untouched network's by"),
    (
        WrongEmbeddingBehindAZeroHead,
        "lossless",
        "the head fidelity law='exact' allows none, bit for bit",
    ),
    (with_network(NotFinite), "lossless", "15 of 15 numbers of the logits are not finite"),
    (with_network(Constant), "lossless", "the logits of two different inputs are the same"),
    (TooMuchRounding, "lossless", "law='rounding' allows at most 1e-06"),
    (RoundingCalledExact, "lossless", "allows none, bit for bit"),
    (DeclaredWithoutReference, "lossless", "does not implement reference"),
    (DeclaredWithAnotherReference, "lossless", "the embedding differ"),
    (HeadlessWithAnotherPooling, "lossless", "law='headless' allows none"),
    (WrongWidth, "width", "the catalog claims 7, meta gives 6"),
    (WrongParameters, "catalog", "params 186, but the network has 221"),
    (WrongInput, "catalog", "input_shape (3, 32, 32), but the network has (3, 16, 16)"),
    (WrongLaw, "law", "the catalog claims law='rounding', but strip_head states 'exact'"),
    (HeadLeftBehind, "parameters", "still has tensors of the head: 'fc.weight', 'fc.bias'"),
    (MoreThanTheHeadGone, "parameters", "the backbone lacks 'unused'"),
    (HeadCopied, "parameters", "the head has tensors that the untouched network lacks: 'weight'"),
    (NewParameters, "parameters", "tensors that the untouched network lacks: 'scale'"),
    (TrainMode, "state", "strip_head set 'the network', 'stem', 'norm' and 1 more to another mode"),
    (EvalModeOfAUsersNetwork, "state", "strip_head in train mode set 'the network'"),
    (StatisticsReset, "state", "strip_head changed the values of 'norm.num_batches_tracked'"),
    (with_network(Counting), "state", "the forward pass changed the values of 'calls'"),
    (with_network(Drawing), "state", "the forward pass moved torch's random number generator"),
    (with_network(DrawingFromNumPy), "state", "the forward pass moved NumPy's random number"),
    (with_network(DrawingFromPython), "state", "the forward pass moved Python's random number"),
    (Seeding, "repeatable", "build_model seeds torch's random number generator"),
    (SeedingPython, "repeatable", "build_model seeds Python's random number generator"),
    (Unrepeatable, "repeatable", "two builds with one seed differ in 'fc.weight'"),
    (with_network(Neighbours), "batch", "another embedding in a batch of 3 than alone"),
    (with_network(Detached), "gradient", "no gradient reaches 'weight' of the first layer, 'stem'"),
    (with_network(DetachedWhole), "gradient", "the embedding has no gradient at all"),
    (with_network(ZeroGradient), "gradient", "the gradient of the first layer, 'stem', is zero"),
    (with_network(NotPicklable), "pickle", "raised"),
    (with_network(NotCopied), "deepcopy", "raised TypeError: there is one of me"),
    (with_network(HiddenState), "state-dict", "a fresh build with this state dict gives another"),
    (with_network(OnlyFloat32), "dtype", "raised RuntimeError"),
    (with_network(BackToFloat32), "dtype", "the embedding is torch.float32"),
    (with_network(OtherInFloat64), "dtype", "rounding explains at most 0.001"),
    (Calling, "offline", "building it called create_connection(('127.0.0.1', 9)), but must not"),
    (CallingToList, "listing", "called connect(('127.0.0.1', 9)), but must not use"),
    (OwnClasses, "num_classes", "built with num_classes=7, its head gives 5 classes"),
    (Guessing, "refusal", "strip_head accepted another kind of network as one of its family"),
    (Stumbling, "refusal", "strip_head did not raise HeadNotFoundError"),
    (ChangingWhatItRefuses, "refusal", "strip_head refused a network but changed it"),
    (NamesAnOptionThatSetsNoChannels, "input-options", "built with num_channels=5 the input is 3x"),
    (ClaimsOneSize, "sizes", "the catalog claims the sizes 'fixed', but they are 'any'"),
    (DescribesOnlyDicts, "describe-file", "raised TypeError: argument of type 'NoneType'"),
    (DescribesAPublishedFile, "describe-file", "for an OrderedDict is wrong: it has a location"),
    (DescribesOtherClasses, "describe-file", "and the weights that name it have 5 classes"),
    (OtherShape, "preprocessing", "of 'without weights' gives (3, 8, 8) instead of (3, 16, 16)"),
    (WrongPath, "build", "or the path of its head (its last Linear is at 'fc')."),
    (Maps, "build", "after strip_head, the backbone gave shape (2, 6, 1, 1)"),
    (Breaking, "build", "raised KeyError: 'tiny' in build_model for 'lab:tiny'"),
    (with_entries("OtherDefault", WEIGHTS, default_weights="V2"), "weights", "are 'V2', but"),
    (with_entries("NoDefault", default_weights="V1"), "weights", "are listed are None"),
    (with_entries("Twice", WEIGHTS, WEIGHTS), "weights", "'V1' is listed twice"),
    (
        with_entries("Nowhere", replace(WEIGHTS, locations=())),
        "weights",
        "V1: it has no location of a file, and the plugin has no load_model",
    ),
    (with_entries("NoHash", replace(WEIGHTS, sha256="hash")), "loading", "sha256 is 'hash'"),
    (with_entries("ShortHash", replace(WEIGHTS, sha256="abc")), "loading", "or at least the first"),
    (
        with_entries("LongHash", replace(WEIGHTS, sha256="0" * 65)),
        "loading",
        "V1: sha256 is '000",
    ),
    (
        with_entries("NoServer", replace(WEIGHTS, locations=("https:///tiny.pth",))),
        "loading",
        "V1: the location 'https:///tiny.pth' is not valid: the address does not begin",
    ),
    (
        with_entries("NoHub", replace(WEIGHTS, locations=("hf:tiny",))),
        "loading",
        "V1: the location 'hf:tiny' is not valid: 'hf:tiny' is not a location",
    ),
    (
        with_entries("NoPackage", replace(WEIGHTS, locations=("dist:no-such-thing/x.pth",))),
        "loading",
        "V1: its file cannot be used: headstrip cannot get the weights 'V1' of lab:tiny.",
    ),
    (
        with_entries("NoFile", replace(WEIGHTS, locations=("/nowhere/tiny.pth",))),
        "loading",
        "There is no file '/nowhere/tiny.pth'",
    ),
    (
        with_entries("NoLabels", replace(WEIGHTS, labels="imagenet-1k")),
        "weights",
        "and the weights that name it have 5 classes",
    ),
    (
        with_entries("Unwritable", replace(WEIGHTS, license="a\tb")),
        "weights",
        "cannot be a row of a catalog",
    ),
    (
        with_entries("BadOption", WEIGHTS, replace(WEIGHTS, tag="V2", options=(("size", 9),))),
        "weights",
        "V2: with its options and input: The plugin 'lab' (registered) raised TypeError",
    ),
    (
        with_entries("TooSmall", WEIGHTS, TOO_SMALL),
        "weights",
        "SMALL: with its options and input: after strip_head, the backbone failed",
    ),
    (FixedSize, "weights", "V2: its input_shape is (3, 32, 32), but the network takes (3, 16, 16)"),
    (
        ClassesWithoutAHead,
        "weights",
        "V1: it states 5 classes, but the network has no head",
    ),
]


@pytest.mark.parametrize(
    ("defect", "check", "seen"), DEFECTS, ids=[f"{d.__name__}-{c}" for d, c, _ in DEFECTS]
)
def test_a_defect_fails_exactly_one_check_with_a_clear_message(judge, defect, check, seen):
    results = judge(defect())
    assert {name for name, one in results.items() if one.status == "failed"} == {check}
    assert seen in results[check].sentence
    assert results[check].sentence.startswith(f"lab:tiny: {check}: ")


def test_without_perturbing_a_head_of_zeros_fails_the_lossless_check(judge, monkeypatch):
    monkeypatch.setattr("headstrip.testing.subject.perturb", lambda model: None)
    result = judge(WrongEmbeddingBehindAZeroHead())["lossless"]
    assert result.status == "failed"
    assert result.seen == "the logits of two different inputs are the same"


def test_checks_of_a_network_that_cannot_be_built_are_not_run(judge):
    results = judge(Breaking())
    not_run = {name: one.seen for name, one in results.items() if one.status == "not run"}
    assert {"lossless", "width", "offline", "gradient"} < set(not_run)
    assert not_run["lossless"].startswith("the object to check could not be made: The plugin 'lab'")


@pytest.mark.parametrize("check", ["batch", "gradient", "deepcopy", "pickle", "state-dict"])
def test_an_embedding_that_is_not_finite_is_not_compared(judge, check):
    results = judge(with_network(Infinite)())
    assert results["lossless"].seen == "18 of 18 numbers of the embedding are not finite"
    assert results[check].status == "not run"


def test_a_head_of_another_shape_fails_twice(judge):
    results = judge(with_network(HeadOfMaps)())
    failed = {name: one.seen for name, one in results.items() if one.status == "failed"}
    assert failed["head"] == "the head maps (2, 6) to (2, 5, 1) instead of (2, classes)"
