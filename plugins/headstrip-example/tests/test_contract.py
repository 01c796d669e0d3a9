"""The plugin's backbones pass headstrip's checks."""

from headstrip.testing import parametrize_with_backbones


@parametrize_with_backbones("example")
def test_the_contract(check):
    check()
