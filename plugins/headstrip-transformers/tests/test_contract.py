"""The towers keep headstrip's contract; in the slow run they are run for real."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from headstrip.testing import parametrize_with_backbones


@parametrize_with_backbones("hf", real=False)
def test_the_contract(check: Callable[[], None]) -> None:
    check()


@pytest.mark.slow
@parametrize_with_backbones("hf", real=True)
def test_the_contract_for_real(check: Callable[[], None]) -> None:
    check()
