"""What is printed of what headstrip decides, where somebody asks for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Run

from headstrip.registry.registry import Registry, use_registry

NAME = "squeezenet1_1"
WeightsOf = Callable[[str], Path]


@pytest.fixture
def line(photos: Path, tmp_path: Path, weights_of: WeightsOf) -> list[object]:
    """A line that embeds some photographs."""
    return [
        "embed",
        photos,
        "-b",
        NAME,
        "--weights",
        weights_of(NAME),
        "-o",
        tmp_path / "o.parquet",
    ]


def test_nothing_is_printed_where_nobody_asks(run: Run, line: list[object]) -> None:
    assert "headstrip." not in run(*line).stderr


def test_decisions_are_printed_for_v_and_details_for_vv(run: Run, line: list[object]) -> None:
    told = run("-v", *line).stderr
    assert f"headstrip.factory: torchvision:{NAME} has its weights from " in told
    assert "headstrip.embed: embedding with engine=torch, precision=fp32, batch_size=16" in told
    assert "headstrip.embed: 0 of 4 images are done; 1 of 1 shards are to do" in told
    assert "headstrip.plugins: " not in told
    use_registry(Registry())
    assert (
        "headstrip.plugins: loaded the plugin 'squeezenet' (built-in) in "
        in run("-vv", *line, "--overwrite").stderr
    )
    use_registry(None)


@pytest.mark.parametrize(
    ("level", "is_said"), [("debug", True), ("INFO", True), ("warning", False)]
)
def test_the_environment_names_the_level(
    run: Run, line: list[object], level: str, is_said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTRIP_LOG", level)
    assert ("headstrip.embed: " in run(*line).stderr) is is_said
    assert "headstrip.embed: " in run("-v", *line, "--overwrite").stderr


def test_an_unknown_level_is_a_usage_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTRIP_LOG", "loud")
    result = run("list")
    assert result.exit_code == 2
    assert "'loud' is not a log level. Use one of warning, info, debug." in result.stderr


def test_what_a_terminal_would_act_on_is_escaped_and_levels_are_put_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("headstrip.weights")

    def hostile(original: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object, **named: object) -> object:
            logger.info("read %s", "a\x1b]0;x\x07.pth")
            return original(*given, **named)

        return call

    monkeypatch.setattr(Registry, "specs", hostile(Registry.specs))
    before = logging.getLogger("headstrip").level, list(logging.getLogger("headstrip").handlers)
    told = run("-v", "list", "torchvision:vit*").stderr
    assert "headstrip.weights: read a\\x1b]0;x\\x07.pth" in told
    assert "\x1b" not in told
    after = logging.getLogger("headstrip").level, list(logging.getLogger("headstrip").handlers)
    assert before == after
