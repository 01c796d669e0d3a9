"""Log messages about decisions, printed on request."""

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
    """A command line that embeds some photographs."""
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


def test_no_log_is_printed_by_default(run: Run, line: list[object]) -> None:
    assert "headstrip." not in run(*line).stderr


def test_v_prints_decisions_and_vv_prints_details(run: Run, line: list[object]) -> None:
    printed = run("-v", *line).stderr
    assert f"headstrip.factory: torchvision:{NAME} has its weights from " in printed
    assert "headstrip.embed: embedding with engine=torch, precision=fp32, batch_size=16" in printed
    assert "headstrip.embed: 0 of 4 images are done; 1 of 1 shards are to do" in printed
    assert "headstrip.plugins: " not in printed
    use_registry(Registry())
    assert (
        "headstrip.plugins: loaded the plugin 'squeezenet' (built-in) in "
        in run("-vv", *line, "--overwrite").stderr
    )
    use_registry(None)


@pytest.mark.parametrize(
    ("level", "is_printed"), [("debug", True), ("INFO", True), ("warning", False)]
)
def test_headstrip_log_sets_the_log_level(
    run: Run, line: list[object], level: str, is_printed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTRIP_LOG", level)
    assert ("headstrip.embed: " in run(*line).stderr) is is_printed
    assert "headstrip.embed: " in run("-v", *line, "--overwrite").stderr


def test_an_unknown_level_is_a_usage_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTRIP_LOG", "loud")
    result = run("list")
    assert result.exit_code == 2
    assert "'loud' is not a log level. Use one of warning, info, debug." in result.stderr


def test_logs_escape_control_characters_and_the_logger_is_restored(
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
    printed = run("-v", "list", "torchvision:vit*").stderr
    assert "headstrip.weights: read a\\x1b]0;x\\x07.pth" in printed
    assert "\x1b" not in printed
    after = logging.getLogger("headstrip").level, list(logging.getLogger("headstrip").handlers)
    assert before == after
