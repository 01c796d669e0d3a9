"""The plugin keeps headstrip's contract."""

from headstrip.testing import parametrize_with_backbones


@parametrize_with_backbones("example")
def test_the_contract(check):
    check()
