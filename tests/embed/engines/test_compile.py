"""The engine "compile"."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tests.embed.engines.networks import Failing, engine_of, with_backbone

from headstrip import HeadstripError
from headstrip.embed.engines.engine import cosines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no compiler"),
    # Warnings that come from torch's compiler itself.
    pytest.mark.filterwarnings("default:::torch"),
]


def test_embeddings_match_eager_torch_and_no_thread_recompiles(small, batches):
    forward = engine_of(small, engine="compile")
    eager = engine_of(small)
    with (
        torch.compiler.set_stance("fail_on_recompile"),
        ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        got = list(pool.map(forward, batches * 2))
    assert cosines(np.concatenate(got[:3]), np.concatenate([*map(eager, batches)])).min() > 0.999999
    for one, other in zip(got[:3], got[3:], strict=True):
        assert np.array_equal(one, other)


def test_the_error_for_a_network_that_cannot_be_compiled_gives_the_reason(encoder):
    failing = with_backbone(encoder, Failing())
    with pytest.raises(HeadstripError, match=r"cannot run .*this network cannot be run"):
        engine_of(failing, engine="compile")
