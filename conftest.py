"""What holds for all tests."""

import os
import shutil
import signal
import tempfile

import pytest
from hypothesis import settings

# A machine that does other things as well is slow now and then; that is no fault of an example.
settings.register_profile("headstrip", deadline=None)
settings.load_profile("headstrip")


def pytest_configure(config: pytest.Config) -> None:
    """Keep what is recorded of the tests' weights files out of the developer's own cache."""
    # A shell has what it starts in the background ignore it, and some tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        # The servers of the tests speak plain http.
        os.environ["HEADSTRIP_ALLOW_HTTP"] = "1"
        os.environ["HEADSTRIP_CACHE"] = tempfile.mkdtemp(prefix="headstrip-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove it."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["HEADSTRIP_CACHE"], ignore_errors=True)
