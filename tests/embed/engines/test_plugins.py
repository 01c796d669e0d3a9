"""Engines from plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.distributions import install_distribution, on_path, run_python
from tests.embed.engines.networks import engine_of

from headstrip import EmbedOptions, EmbedSettings, HeadstripError
from headstrip.cli import main
from headstrip.embed.calibrate import calibrate
from headstrip.embed.engines.registry import check_engine, engine_names, load_engine
from headstrip.embed.run import embed_source
from headstrip.encoder.encoder import Encoder
from headstrip.plugins import ENGINE_GROUP
from headstrip.plugins.entry_points import EntryPoint

SIMPLE = """
import torch
from headstrip.plugin_api import Engine

class Simple(Engine):
    def __init__(self, encoder, settings):
        super().__init__(encoder, settings)
        self.network = self.network_of(encoder)

    def compute(self, pixels):
        with torch.inference_mode():
            return self.network(torch.tensor(pixels)).numpy()
"""
OTHERS = """
from headstrip import HeadstripError
from simple_engine import Simple

class Picky(Simple):
    def __init__(self, encoder, settings):
        raise HeadstripError("This engine needs a Tuesday. Use it then.")

class Careless(Simple):
    def __init__(self, encoder, settings):
        settings.nothing

class Wrong(Simple):
    def compute(self, pixels):
        return -super().compute(pixels)
"""
ENGINES = {
    "simple": "simple_engine:Simple",
    "careless": "other_engines:Careless",
    "picky": "other_engines:Picky",
    "wrong": "other_engines:Wrong",
    "missing": "no_such_module:Engine",
    "leaving": "leaving_engine:Engine",
    "number": "number_engine:ENGINE",
    "torch": "simple_engine:Simple",
}
FILES = {
    "simple_engine.py": SIMPLE,
    "other_engines.py": OTHERS,
    "leaving_engine.py": "import sys\nsys.exit('bye')\n",
    "number_engine.py": "ENGINE = 7\n",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    install_distribution(site, "acme-engines", ENGINES, FILES, group=ENGINE_GROUP)
    return site


@pytest.fixture
def installed(site: Path) -> Iterator[None]:
    with on_path(site):
        yield


pytestmark = pytest.mark.usefixtures("installed")


def test_plugin_engines_are_listed_after_those_of_headstrip() -> None:
    assert engine_names() == (
        "torch",
        "compile",
        "openvino",
        "onnxruntime",
        "careless",
        "leaving",
        "missing",
        "number",
        "picky",
        "simple",
        "wrong",
    )


def test_listing_engines_imports_neither_plugins_nor_torch(site: Path) -> None:
    code = (
        "import sys\n"
        "from headstrip.embed.engines.registry import engine_names\n"
        "assert 'simple' in engine_names()\n"
        "print(sorted({'torch', 'numpy', 'simple_engine', 'leaving_engine'} & set(sys.modules)))\n"
    )
    done = run_python("-c", code, site=site)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_run_can_use_a_plugin_engine(
    encoder: Encoder, save: Callable[..., Path], tmp_path: Path
) -> None:
    photos, out = save("a.png", 1).parent, tmp_path / "out.parquet"
    report = embed_source(
        encoder,
        photos,
        out,
        settings=EmbedSettings(engine="simple"),
        options=EmbedOptions(workers=0),
    )
    assert (report.settings.engine, report.rows, report.bad) == ("simple", 1, 0)


def test_a_plugin_engine_gives_the_embeddings_of_the_torch_engine(
    encoder: Encoder, batches: list[np.ndarray]
) -> None:
    forward = engine_of(encoder, engine="simple")
    expected = engine_of(encoder)(batches[0])
    torch.set_num_threads(1)
    np.testing.assert_allclose(forward(batches[0]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("missing", r"engine 'missing' \(acme-engines 1.0\) cannot be used: .*No module named"),
        ("leaving", r"'leaving' \(acme-engines 1.0\) cannot be used: SystemExit: bye\. Install"),
        ("number", r"1.0\) cannot be used: number_engine:ENGINE is not a class derived from"),
        ("picky", r"This engine needs a Tuesday\. Use it then\."),
        ("careless", r"The engine 'careless' cannot run torchvision:shuff.*has no attribute"),
        ("wrong", r"The engine 'wrong' computes other embeddings of torchvision:shuff"),
    ],
)
def test_a_broken_plugin_engine_gives_a_clear_error(
    encoder: Encoder, engine: str, message: str
) -> None:
    with pytest.raises(HeadstripError, match=message):
        engine_of(encoder, engine=engine)


def test_broken_plugin_engines_do_not_stop_the_measurement_of_others(
    encoder: Encoder, batches: list[np.ndarray]
) -> None:
    found = calibrate(encoder, batches[:1], ["leaving", "missing", "torch"], ["fp32"])
    assert [one.unavailable is None for one in found] == [False, False, True]
    assert "acme-engines" in str(found[0].unavailable)


def test_calibrating_loads_an_engine_once_for_all_precisions(
    encoder: Encoder, batches: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = [], EntryPoint.load

    def counted(point: EntryPoint) -> Any:
        loaded.append(point.name)
        return load(point)

    monkeypatch.setattr(EntryPoint, "load", counted)
    calibrate(encoder, batches[:1], ["simple"], ["fp32", "bf16"])
    assert loaded == ["simple", "torch"]


def test_a_plugin_cannot_replace_an_engine_of_headstrip(encoder: Encoder) -> None:
    assert type(engine_of(encoder, engine="torch")).__module__.startswith("headstrip.")


def test_the_help_of_embed_lists_plugin_engines_even_if_one_is_broken(site: Path) -> None:
    done = run_python("-m", "headstrip.cli", "embed", "--help", site=site)
    assert (done.returncode, done.stderr) == (0, "")
    text = "".join(done.stdout.split())
    assert "[auto|torch|compile|openvino|onnxruntime|careless|leaving|missing|number" in text


def test_an_unknown_engine_is_refused_before_work_starts_with_a_list_of_engines(
    encoder: Encoder, save: Callable[..., Path], tmp_path: Path
) -> None:
    message = r"There is no engine 'acme'\. Use one of torch, compile, .*simple, wrong\."
    with pytest.raises(ValueError, match=message):
        check_engine("acme")
    photos, out = save("a.png", 1).parent, tmp_path / "new" / "out.parquet"
    out.parent.mkdir()
    with pytest.raises(ValueError, match=message):
        embed_source(encoder, photos, out, settings=EmbedSettings(engine="acme"))
    assert list(out.parent.iterdir()) == []
    done = run_python(
        "-m",
        "headstrip.cli",
        "embed",
        str(photos),
        "-b",
        "resnet18",
        "-o",
        str(out),
        "--engine",
        "acme",
        ready=True,
    )
    assert done.returncode == 2
    assert "There is no engine 'acme'. Use one of torch, compile," in " ".join(done.stderr.split())


@pytest.mark.parametrize("disabled", ["simple", "wrong,simple", "*"])
def test_an_engine_that_the_user_disabled_is_not_listed_and_not_loaded(
    encoder: Encoder,
    save: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    disabled: str,
) -> None:
    monkeypatch.setenv("HEADSTRIP_DISABLE_PLUGINS", disabled)
    assert {"torch", "openvino"} < {*engine_names()}
    assert "simple" not in engine_names()
    message = r"'simple' \(acme-engines 1\.0\) cannot be used: disabled by .*\. Allow it, or use"
    with pytest.raises(HeadstripError, match=message):
        check_engine("simple")
    with pytest.raises(HeadstripError, match=message):
        engine_of(encoder, engine="simple")
    photos, out = save("a.png", 1).parent, tmp_path / "out.parquet"
    with pytest.raises(HeadstripError, match=message):
        embed_source(encoder, photos, out, settings=EmbedSettings(engine="simple"))


@pytest.mark.parametrize("name", ["simple", "*"])
def test_no_plugin_disables_an_engine_for_one_command_only(site: Path, name: str) -> None:
    run = CliRunner().invoke
    line = ["embed", str(site), "-b", "resnet18", "-o", "x.parquet", "--engine", "simple"]
    assert "|simple|" not in "".join(run(main, ["--no-plugin", name, *line, "-h"]).output.split())
    done = run(main, ["--no-plugin", name, *line])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "The engine 'simple' (acme-engines 1.0) cannot be used: disabled by" in done.stderr
    assert "simple" in engine_names()


def test_the_error_names_both_distributions_that_use_one_engine_name(tmp_path: Path) -> None:
    install_distribution(tmp_path, "other", {"simple": "x:Y"}, {}, group=ENGINE_GROUP)
    message = (
        r"\(acme-engines 1.0, other 1.0\) cannot be used: more than one distribution uses the "
        r"name 'simple'\. Uninstall all of these distributions but one, or use another engine\.$"
    )
    with on_path(tmp_path), pytest.raises(HeadstripError, match=message):
        check_engine("simple")


@pytest.mark.parametrize("value", ["", ":::"])
def test_the_error_shows_the_value_of_an_entry_point_without_a_module(
    tmp_path: Path, value: str
) -> None:
    install_distribution(tmp_path, "other", {"odd": value}, {}, group=ENGINE_GROUP)
    message = f"cannot be used: the entry point {value!r} is not of the form module:name. Install"
    with on_path(tmp_path), pytest.raises(HeadstripError, match=message):
        load_engine("odd")


def test_a_damaged_dist_info_folder_hides_no_engine(tmp_path: Path) -> None:
    with on_path(tmp_path):
        (tmp_path / "acme_engines-2.0.dist-info").mkdir()
        assert "simple" in engine_names()


def test_resuming_without_the_plugin_of_a_file_gives_an_error_that_names_its_engine(
    encoder: Encoder, save: Callable[..., Path], tmp_path: Path
) -> None:
    photos, out, site = save("a.png", 1).parent, tmp_path / "out.parquet", tmp_path / "site"
    engines, files = {"gone": "gone_engine:Simple"}, {"gone_engine.py": SIMPLE}
    install_distribution(site, "gone-engines", engines, files, group=ENGINE_GROUP)
    with on_path(site):
        embed_source(encoder, photos, out, settings=EmbedSettings(engine="gone"))
    save("b.png", 2)
    with pytest.raises(ValueError, match="There is no engine 'gone'"):
        embed_source(encoder, photos, out)
