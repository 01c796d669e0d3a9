"""Each test starts with the original state of the process."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch._inductor import config as inductor

VARIABLES = ("PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG")


@pytest.fixture(autouse=True)
def restored_process() -> Iterator[None]:
    """Start without the two variables; restore them, the random streams and the switches."""
    variables = {name: os.environ.pop(name, None) for name in VARIABLES}
    streams = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    mode, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    compiler = inductor.deterministic
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)
    inductor.deterministic = compiler
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
    random.setstate(streams[0])
    np.random.set_state(streams[1])
    torch.set_rng_state(streams[2])
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
