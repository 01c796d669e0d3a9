"""The towers keep headstrip's contract; slow tests run them for real."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from headstrip.testing import check_plugin, parametrize_with_backbones
from headstrip_transformers.towers import TOWERS


@parametrize_with_backbones("hf", real=False)
def test_the_contract(check: Callable[[], None]) -> None:
    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOWERS)
def test_the_contract_for_real(kind: str) -> None:
    check_plugin("hf", backbones=[kind], real=60_000_000)
