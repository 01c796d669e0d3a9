"""Completion in a shell."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.distributions import install_distribution, run_python


def completed(line: str, site: Path | None = None) -> list[str]:
    """Request completions as bash does, with the cursor after the last word."""
    words = line.split(" ")
    # timm has names with the same beginning.
    done = run_python(
        "-m",
        "headstrip.cli",
        site=site,
        _HEADSTRIP_COMPLETE="bash_complete",
        HEADSTRIP_DISABLE_PLUGINS="timm",
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) - 1),
    )
    assert done.stderr == ""
    return [answer.partition(",")[2] for answer in done.stdout.split()]


def test_commands_are_completed() -> None:
    assert completed("headstrip e") == ["embed"]


@pytest.mark.parametrize("line", ["headstrip show resnet1", "headstrip embed photos -b resnet1"])
def test_names_of_backbones_are_completed(line: str) -> None:
    assert completed(line) == ["resnet101", "resnet152", "resnet18"]


def test_qualified_names_and_tags_are_completed() -> None:
    assert completed("headstrip show torchvision:vit_l") == [
        "torchvision:vit_l_16",
        "torchvision:vit_l_32",
    ]
    assert completed("headstrip show resnet50.IMAGENET1K") == [
        "resnet50.IMAGENET1K_V2",
        "resnet50.IMAGENET1K_V1",
    ]


def test_unknown_names_have_no_completions() -> None:
    assert completed("headstrip show nobody") == []
    assert completed("headstrip show nobody.V") == []
    assert completed("headstrip --no-plugin nobody show resnet1") == []


def test_names_of_a_disabled_plugin_are_not_completed() -> None:
    assert completed("headstrip --no-plugin resnet show resnet1") == []


def test_the_completion_script_for_a_shell_is_printed() -> None:
    done = run_python("-m", "headstrip.cli", _HEADSTRIP_COMPLETE="zsh_source")
    assert "_HEADSTRIP_COMPLETE=zsh_complete headstrip" in done.stdout


def test_a_broken_plugin_does_not_disturb_completion(site: Path) -> None:
    code = "print('noise')\nraise SystemExit('stop')\n"
    install_distribution(site, "loud", {"loud": "completion_loud"}, {"completion_loud.py": code})
    assert completed("headstrip show resnet1", site) == ["resnet101", "resnet152", "resnet18"]
