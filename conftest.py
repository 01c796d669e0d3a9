"""Settings for all tests."""

import gc
import os
import shutil
import signal
import tempfile

import pytest
from hypothesis import settings

# A busy machine may be slow, so examples have no deadline.
settings.register_profile("headstrip", deadline=None)
settings.load_profile("headstrip")


def pytest_configure(config: pytest.Config) -> None:
    """Keep records about the tests' weights files out of the developer's cache."""
    # Background jobs of a shell ignore SIGINT, but some tests send it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        # The test servers use plain http.
        os.environ["HEADSTRIP_ALLOW_HTTP"] = "1"
        os.environ["HEADSTRIP_CACHE"] = tempfile.mkdtemp(prefix="headstrip-")


def pytest_collection_finish() -> None:
    """Keep Python from looking through all imported modules again and again for garbage."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the temporary cache."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["HEADSTRIP_CACHE"], ignore_errors=True)
