"""The faiss example in the document on search."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import numpy as np
import pytest
from tests.embed.written import write_parquet

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "search-embeddings.md"


def test_the_faiss_example_of_the_document_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    monkeypatch.chdir(tmp_path)
    embeddings = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    write_parquet(tmp_path / "photos", ["bad.png", "cat.png", "coffee.png"], embeddings, bad=[0])
    (shown,) = re.findall(r"^```text\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.M | re.S)
    test = doctest.DocTestParser().get_doctest(shown, {}, "search.md", None, None)
    assert len(test.examples) == 11
    failures, _ = doctest.DocTestRunner().run(test)
    assert not failures
