"""The README's example gives the results in its comments, and its table is complete."""

from __future__ import annotations

import re
from pathlib import Path

import headstrip_transformers
from headstrip.registry.catalog import read_catalog
from headstrip_transformers.towers import TOWERS

README = (Path(__file__).parents[1] / "README.md").read_text()
CATALOG = Path(headstrip_transformers.__file__).with_name("catalog.tsv")


def test_the_example_gives_the_results_in_its_comments() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict[str, object] = {}
    exec(block, scope)
    shown = re.findall(r"^(\S.*?)\s+# (.+)$", block, re.MULTILINE)
    assert [repr(eval(code, scope)) for code, _ in shown] == [value for _, value in shown]
    assert len(shown) == 3


def test_the_table_has_every_model_type_with_its_network_and_width() -> None:
    rows = re.findall(r"^\| `hf:(\w+)` \| `(\w+)` .*\| (\d+) \|$", README, re.MULTILINE)
    widths = {spec.name: str(spec.dim) for spec in read_catalog(CATALOG)}
    assert rows == [(kind, TOWERS[kind].network, widths[kind]) for kind in sorted(TOWERS)]
