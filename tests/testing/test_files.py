"""The checks load weights from this machine, and say which weights they did not read."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from tests.distributions import install_distribution
from tests.testing.networks import TINY, WEIGHTS, HeadlessLab, Lab, Tiny

from headstrip import hookimpl
from headstrip.testing import ConformanceError, check_plugin


def saved(path, model):
    torch.save(model.state_dict(), path)
    return path


def with_file(*locations, lab=Lab, **changes):
    entry = replace(lab.ENTRIES[0], locations=tuple(map(str, locations)), **changes)
    return type("WithFile", (lab,), {"ENTRIES": (entry,)})()


def result_of(judge, plugin):
    return judge(plugin, "meta")["loading"]


def test_a_file_that_fits_is_loaded(judge, tmp_path):
    path = saved(tmp_path / "tiny.pth", Tiny())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    found = result_of(judge, with_file(path, sha256=sha256))
    assert (found.status, found.seen) == ("passed", "1 sets loaded")


def test_the_result_says_that_weights_on_a_server_were_not_read(judge, tmp_path):
    path = saved(tmp_path / "tiny.pth", Tiny())
    entries = (replace(WEIGHTS, locations=(str(path),)), replace(WEIGHTS, tag="V2"))
    found = result_of(judge, type("Both", (Lab,), {"ENTRIES": entries})())
    assert found.seen == "1 sets loaded, weights not read: 1 of 2 sets"


class Wide(Tiny):
    def __init__(self, num_classes=5):
        super().__init__(num_classes)
        self.stem, self.norm = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)
        self.fc = torch.nn.Linear(8, num_classes)


def test_a_file_of_another_width_fails(judge, tmp_path):
    found = result_of(judge, with_file(saved(tmp_path / "wide.pth", Wide())))
    assert found.status == "failed"
    assert "does not fit lab:tiny" in found.seen


def test_a_file_with_other_classes_fails(judge, tmp_path):
    found = result_of(judge, with_file(saved(tmp_path / "seven.pth", Tiny(7))))
    assert "its file has 7 classes, but 5 are stated" in found.seen


def test_a_file_without_its_head_fails(judge, tmp_path):
    state = {key: one for key, one in Tiny().state_dict().items() if not key.startswith("fc.")}
    torch.save(state, tmp_path / "headless.pth")
    found = result_of(judge, with_file(tmp_path / "headless.pth"))
    assert "its file has no head, but 5 classes are stated" in found.seen


def test_a_headless_network_loads(judge, tmp_path):
    path = saved(tmp_path / "headless.pth", HeadlessLab.NETWORK())
    assert result_of(judge, with_file(path, lab=HeadlessLab)).status == "passed"


def test_a_file_with_another_hash_fails(judge, tmp_path):
    path = saved(tmp_path / "tiny.pth", Tiny())
    assert result_of(judge, with_file(path, sha256="0" * 64)).status == "failed"


def test_a_damaged_file_fails(judge, tmp_path):
    (tmp_path / "tiny.pth").write_bytes(b"no weights")
    assert result_of(judge, with_file(tmp_path / "tiny.pth")).status == "failed"


def test_each_local_location_is_loaded(judge, tmp_path):
    path = saved(tmp_path / "tiny.pth", Tiny())
    found = result_of(
        judge, with_file(path, "https://weights.example/a.pth", tmp_path / "none.pth")
    )
    assert "There is no file" in found.seen


def test_a_file_in_a_package_is_loaded(judge, tmp_path, monkeypatch):
    saved(tmp_path / "tiny.pth", Tiny())
    files = {"packed_lab/__init__.py": "", "packed_lab/x.pth": (tmp_path / "tiny.pth").read_bytes()}
    install_distribution(tmp_path / "site", "packed-lab", {}, files)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert result_of(judge, with_file("dist:packed-lab/packed_lab/x.pth")).seen == "1 sets loaded"
    found = result_of(judge, with_file("dist:packed-lab/packed_lab/y.pth"))
    assert found.status == "failed"


def test_check_plugin_raises_for_a_file_that_cannot_be_used(registry):
    registry.register(with_file("dist:no-such-package/x.pth"), "lab")
    with pytest.raises(ConformanceError, match="lab:tiny: loading: V1: its file cannot be used"):
        check_plugin("lab", real=False)


class WiderForReal(Tiny):
    """Has the width of the catalog on the meta device, and a larger width for real."""

    def forward(self, x):
        features = self.pool(self.features(x)).flatten(1)
        return self.fc(features if x.is_meta else torch.cat([features, features], 1))


def test_one_real_forward_pass_finds_a_width_that_the_meta_device_hides(judge):
    plugin = type("Lying", (Lab,), {"NETWORK": WiderForReal, "strip": _strip})()
    assert judge(plugin, "meta")["width"].status == "passed"
    assert "one real forward pass gives 12" in judge(plugin, "once")["width"].seen


def _strip(self, model):
    return replace(Lab.strip(self, model), head=None, law="declared")


class Unmeasured(Lab):
    """States neither its width, nor its parameters, nor its default weights."""

    SPEC = replace(TINY, dim=0, params=0, default_weights=None)


class Found(Unmeasured):
    @hookimpl
    def backbones(self):
        return ()

    @hookimpl
    def find_backbone(self, name):
        return self.SPEC if name == "tiny" else None


@pytest.mark.parametrize("plugin", [Unmeasured, Found])
def test_values_that_a_plugin_left_out_are_measured(judge, plugin):
    results = judge(plugin())
    assert [name for name, one in results.items() if one.status != "passed"] == ["maps"], results


@pytest.mark.parametrize(
    ("stated", "check"),
    [
        ({"dim": 7, "params": 0}, "width"),
        ({"dim": 0, "params": 5}, "catalog"),
    ],
)
def test_values_that_a_plugin_states_are_still_checked(judge, stated, check):
    plugin = type("Claiming", (Lab,), {"SPEC": replace(TINY, **stated)})()
    assert judge(plugin)[check].status == "failed"


def test_check_plugin_measures_values_that_a_plugin_left_out(registry):
    registry.register(Unmeasured(), "lab")
    check_plugin("lab")
