"""Delaying Ctrl-C until two steps that belong together are done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from headstrip.system.interrupts import interrupts_held


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_waits_for_the_end_of_the_body() -> None:
    steps = []

    def call() -> None:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            steps.append("second")

    with pytest.raises(KeyboardInterrupt):
        call()
    assert steps == ["second"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_nested_block_delays_the_interruption_to_the_end_of_the_outer_block() -> None:
    steps = []

    def call() -> None:
        with interrupts_held():
            with interrupts_held():
                signal.raise_signal(signal.SIGINT)
            steps.append("outer")

    with pytest.raises(KeyboardInterrupt):
        call()
    assert steps == ["outer"]


def test_an_interruption_replaces_an_error_of_the_body_and_keeps_it_as_context() -> None:
    def call() -> None:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            raise ValueError

    with pytest.raises(KeyboardInterrupt) as raised:
        call()
    assert isinstance(raised.value.__context__, ValueError)


def test_an_ignored_interruption_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_held():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_does_not_change_the_handler() -> None:
    seen = []

    def body() -> None:
        with interrupts_held():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
