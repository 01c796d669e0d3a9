"""Delay Ctrl-C while two steps that belong together run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C until the end of the body, which must be short.

    Without this, an interrupt between starting a thread and recording it, or between taking a lock
    and recording it, would leave a thread or a lock that nothing ends. In threads other than the
    main one, and if SIGINT is ignored, Python raises no KeyboardInterrupt, and this does nothing.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    held: list[tuple[Any, ...]] = []
    signal.signal(signal.SIGINT, lambda *call: held.append(call))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            before(*held[0])
