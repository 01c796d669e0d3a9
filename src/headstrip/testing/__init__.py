"""The conformance kit: checks that backbones work as headstrip promises.

Plugin authors use it in their tests::

    from headstrip.testing import parametrize_with_backbones

    @parametrize_with_backbones("mylab")
    def test_the_contract(check):
        check()

``headstrip verify`` runs the same checks.
"""

from __future__ import annotations

from headstrip.testing.family import check_family as check_family
from headstrip.testing.parametrize import parametrize_with_backbones as parametrize_with_backbones
from headstrip.testing.perturb import perturb as perturb
from headstrip.testing.report import ConformanceError as ConformanceError
from headstrip.testing.report import Result as Result
from headstrip.testing.suite import CHECKS as CHECKS
from headstrip.testing.suite import REAL_PARAMS as REAL_PARAMS
from headstrip.testing.suite import check_plugin as check_plugin
from headstrip.testing.suite import verify as verify

__all__ = [
    "CHECKS",
    "REAL_PARAMS",
    "ConformanceError",
    "Result",
    "check_family",
    "check_plugin",
    "parametrize_with_backbones",
    "perturb",
    "verify",
]
