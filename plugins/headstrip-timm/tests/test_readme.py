"""The README's example runs and gives the results in its comments."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_example_gives_the_results_in_its_comments():
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    scope = {}
    exec(block, scope)
    shown = re.findall(r"^(\S.*?)\s+# (.+)$", block, re.MULTILINE)
    assert [repr(eval(code, scope)) for code, _ in shown] == [value for _, value in shown]
    assert len(shown) == 4
