"""Files of ``https:`` locations, downloaded into torch hub's cache.

A file is written beside its final name, synced, read back and hashed, and renamed: what has the
final name is whole. Nothing here imports torch.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from headstrip.errors import WeightsWarning
from headstrip.printable import printable
from headstrip.weights import failures, hub, transfer
from headstrip.weights.addresses import checkpoints, file_name, mirrored
from headstrip.weights.partial import Partial, digest_of
from headstrip.weights.transfer import Answer, InterruptedTransferError, OtherFileError
from headstrip.weights.trust import hash_in_name, identify, remember
from headstrip.weights.waiting import one_at_a_time

if TYPE_CHECKING:
    from rich.progress import Progress

_LOGGER = logging.getLogger("headstrip.weights")

_FIRST_WAIT = 0.5
# A server that wants to be left alone for longer is not waited for.
_LONGEST_WAIT = 60.0
# After an attempt that brought so much the failures are counted anew.
_PROGRESS = 8 << 20


def download(url: str, sha256: str = "", *, offline: bool = False) -> Path:
    """Return the file of a URL in torch hub's cache, downloading it when it is not there.

    A download that was cut goes on where it was, if the server tells by an ``ETag`` or a
    ``Last-Modified`` that its file is the same: in this call, and after a kill in the next, where
    the file's hash is known. Of several processes that want the file one downloads it. The
    environment decides about

    - ``HEADSTRIP_RETRIES``: how often a connection that breaks, a server that says nothing, or
      one that is overloaded (429, 5xx) is tried again, after 0.5, 1, 2, ... seconds; 4.
    - ``HEADSTRIP_TIMEOUT``: after how many seconds of silence a server is given up; 20.
    - ``HEADSTRIP_MIRROR``: where files are asked for instead, ``PREFIX=INSTEAD`` with commas
      between. They are hashed all the same.
    - ``HEADSTRIP_OFFLINE=1``: as ``offline``.
    - ``HEADSTRIP_ALLOW_HTTP=1``: silences the warning about unencrypted downloads without a hash.
    - ``TORCH_HOME``: where the cache is, ``$TORCH_HOME/hub/checkpoints``.
    - ``https_proxy``, ``http_proxy``, ``no_proxy``: as everywhere.

    Args:
        url: Address of the file. The last part of its path is the name in the cache.
        sha256: Hexadecimal sha256 that a download must have, whole or its first digits; empty for
            the one that its name states (``resnet50-0676ba61.pth``), if it states one. A file
            that is there is compared when it is read.
        offline: Whether to use what is in the cache and open no socket.

    Warns:
        WeightsWarning: The connection is not encrypted, and no hash says which bytes must come.

    Raises:
        WeightsError: The file is not there and cannot be downloaded, or is another.
    """
    folder = checkpoints()
    try:
        target = folder / file_name(url)
        if not _is_there(url, target):
            if setting := "offline=True" if offline else hub.offline():
                raise failures.forbidden(url, target, setting)
            expected = (sha256 or hash_in_name(target.name)).lower()
            warn_of_http(url, expected)
            Download(url, target, expected).run()
    except ValueError as error:
        raise failures.bad_address(url, folder, error) from error
    return target


def warn_of_http(url: str, expected: str) -> None:
    """Warn of a download that anybody on the way can replace: no encryption, and no hash.

    Args:
        url: Address of the file.
        expected: Hexadecimal sha256 that it must have, or its first digits; empty for any.

    Raises:
        ValueError: ``HEADSTRIP_MIRROR`` has something else than pairs of addresses in it.
    """
    address = mirrored(url)
    if expected or not address.startswith("http://") or hub.is_set("HEADSTRIP_ALLOW_HTTP"):
        return
    warnings.warn(
        f"headstrip downloads {address} over plain http, and no sha256 says which bytes must come: "
        "anybody on the way can replace the file. Use an https address, or state the sha256; "
        "HEADSTRIP_ALLOW_HTTP=1 (--allow-http) silences this.",
        WeightsWarning,
        stacklevel=2,
    )


def _is_there(url: str, target: Path) -> bool:
    try:
        return target.is_file()
    except OSError as error:
        raise failures.local_failure(url, target, None, error) from error


class Download:
    """One file on its way: what was received of it, and how it is asked for."""

    def __init__(self, url: str, target: Path, expected: str) -> None:
        self._url = url
        self._target = target
        self._expected = expected
        self._address = mirrored(url)
        self._retries = _number("HEADSTRIP_RETRIES", 4, least=0)
        self._timeout = _number("HEADSTRIP_TIMEOUT", 20, least=0.001)
        self._opener = transfer.opener()
        self._partial: Partial | None = None
        self._validator = ""
        self._total: int | None = None
        self._reached = False
        self._furthest = 0

    def run(self) -> None:
        """Download the file, unless another process does while this one waits for it."""
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(self._target):
                if not self._target.is_file():
                    self._until_done()
        except (transfer.RefusedError, InterruptedTransferError) as error:
            raise failures.remote_failure(
                self._url, self._target.parent, self._address, error
            ) from error
        except OSError as error:
            raise failures.local_failure(self._url, self._target, self._total, error) from error

    def _until_done(self) -> None:
        _LOGGER.info("downloading %s to %s", self._address, self._target)
        self._partial = Partial.adopt(self._target)
        if not self._expected:
            # Nobody would notice what a loss of power left in place of its last bytes.
            self._drop()
        try:
            self._attempts()
        except OSError:
            # A full disk has no room for half a file, and one that fails is not to be trusted.
            self._drop()
            raise
        finally:
            self._leave()

    def _attempts(self) -> None:
        failed = 0
        while True:
            before = self._furthest
            try:
                self._attempt()
                return
            except InterruptedTransferError as error:
                failed = 1 if self._furthest - before >= _PROGRESS else failed + 1
                # Where nobody was reached yet, the next location is more likely to have the file.
                hopeless = isinstance(error, transfer.UnreachedError) and not self._reached
                wait = _FIRST_WAIT * 2 ** min(failed - 1, 9) * random.uniform(1, 1.25)
                wait = max(min(wait, _LONGEST_WAIT), error.wait or 0)
                if hopeless or failed > self._retries or wait > _LONGEST_WAIT:
                    raise
                _LOGGER.info("trying again in %.1f s: %s", wait, error)
                time.sleep(wait)

    def _attempt(self) -> None:
        start = 0
        if self._partial is not None and self._partial.digest:
            # One byte less than there is: a server has no part without a byte.
            start = max(self._partial.size - 1, 0)
        try:
            answer = transfer.ask(
                self._opener, self._address, start=start, validator=self._validator,
                timeout=self._timeout,
            )  # fmt: skip
            self._reached = True
            with answer.response:
                self._receive(answer, self._place(answer))
            self._publish()
        except OtherFileError:
            self._drop()
            raise

    def _place(self, answer: Answer) -> Partial:
        """Return the file that an answer is to be written to, open where its bytes begin."""
        digest = digest_of(self._url, answer.validator, answer.total)
        if self._partial is not None and digest != self._partial.digest:
            if answer.start:
                raise OtherFileError("the server's file is no longer the one that was begun")
            self._drop()
        self._validator, self._total = answer.validator, answer.total
        if self._partial is None:
            self._partial = Partial.create(self._target, digest)
        self._partial.begin_at(answer.start)
        self._require_space(answer.start)
        return self._partial

    def _require_space(self, there: int) -> None:
        try:
            free = shutil.disk_usage(self._target.parent).free
        except OSError:
            return
        if self._total is not None and self._total - there > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _receive(self, answer: Answer, partial: Partial) -> None:
        received = answer.start
        with _bar(self._target.name, answer) as progress:
            for chunk in transfer.chunks(answer):
                partial.write(chunk)
                received += len(chunk)
                self._furthest = max(self._furthest, received)
                if progress is not None:
                    progress.advance(progress.task_ids[0], len(chunk))

    def _publish(self) -> None:
        """Hash the bytes that lie on the disk, and give them the final name."""
        partial = self._partial
        assert partial is not None
        with partial.synced() as file:
            seen = identify(partial.path, file, always=True)
        if not seen.sha256.startswith(self._expected):
            resumed = partial.resumed
            self._drop()
            if resumed:
                raise OtherFileError("what was begun and what came after it are of two files")
            raise failures.other_bytes(self._url, self._target.parent, seen.sha256, self._expected)
        try:
            partial.publish(self._target)
        except FileNotFoundError as error:
            self._drop()
            raise InterruptedTransferError(f"{partial.path} was taken away") from error
        self._partial = None
        remember(self._target, seen.stat, seen.sha256, origin="download")

    def _drop(self) -> None:
        if self._partial is not None:
            self._partial.discard()
        self._partial, self._validator = None, ""

    def _leave(self) -> None:
        """Leave what was received for the next call, where that can go on with it."""
        partial = self._partial
        if partial is not None and self._expected and partial.is_of_use:
            partial.close()
        else:
            self._drop()


def _number(variable: str, default: float, *, least: float) -> float:
    text = os.environ.get(variable, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1
    if not least <= value <= 86400:
        raise ValueError(f"{variable} is {text!r}, and no number from {least:g} to 86400")
    return value


@contextmanager
def _bar(name: str, answer: Answer) -> Iterator[Progress | None]:
    """Show how far a download is, to whoever looks at a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    # Not as markup: a server, or a catalog, chose the name.
    title = TextColumn("{task.description}", markup=False)
    columns = (title, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(printable(name), total=answer.total, completed=answer.start)
        yield progress
