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

from headstrip.errors import WeightsError, WeightsWarning, one_line
from headstrip.printable import printable
from headstrip.weights import hub, transfer
from headstrip.weights.addresses import checkpoints, file_name, mirrored
from headstrip.weights.partial import Partial, digest_of, single_writer
from headstrip.weights.records import remember
from headstrip.weights.transfer import Answer, InterruptedTransferError, OtherFileError
from headstrip.weights.trust import hash_in_name, identify

if TYPE_CHECKING:
    from rich.progress import Progress

_LOGGER = logging.getLogger("headstrip.weights")

_FIRST_WAIT = 0.5
# A server that wants to be left alone for longer is not waited for.
_LONGEST_WAIT = 60.0
# An attempt that brought this many bytes resets the count of failures.
_PROGRESS = 8 << 20
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_BY_HAND = "or put the file there yourself"


def download(url: str, sha256: str = "", *, offline: bool = False) -> Path:
    """Return the file of a URL in torch hub's cache, downloading it where it is missing.

    An interrupted download continues where it was, if the server's ``ETag`` or ``Last-Modified``
    shows that its file is the same: in this call, and after a kill in the next, where the hash of
    the file is known. If several processes want the file, one downloads it. The environment
    variables are

    - ``HEADSTRIP_RETRIES``: how often a connection that breaks, a server that says nothing, or
      one that is overloaded (429, 5xx) is tried again, after 0.5, 1, 2, ... seconds; 4.
    - ``HEADSTRIP_TIMEOUT``: after how many seconds of silence headstrip gives up on a server; 20.
    - ``HEADSTRIP_MIRROR``: where files are asked for instead, ``PREFIX=INSTEAD`` with commas
      between. They are hashed anyway.
    - ``HEADSTRIP_OFFLINE=1``: as ``offline``.
    - ``HEADSTRIP_ALLOW_HTTP=1``: silences the warning about unencrypted downloads without a hash.
    - ``TORCH_HOME``: where the cache is, ``$TORCH_HOME/hub/checkpoints``.
    - ``https_proxy``, ``http_proxy``, ``no_proxy``: as everywhere.

    Args:
        url: Address of the file. The last part of its path is the name in the cache.
        sha256: Hexadecimal sha256 that a download must have, whole or its first digits; empty for
            the one that its name states (``resnet50-0676ba61.pth``), if it states one. A file
            in the cache is compared when it is read.
        offline: Whether to use what is in the cache and open no socket.

    Warns:
        WeightsWarning: The connection is not encrypted, and no hash is known to check the file by.

    Raises:
        WeightsError: The file is missing and cannot be downloaded, or has other bytes.
    """
    folder = checkpoints()
    try:
        target = folder / file_name(url)
        if not _exists(url, target):
            if setting := "offline=True" if offline else hub.offline():
                remedy = f"Get it where there is a network, and put the file there as {target}"
                raise failure(url, folder, f"{setting} forbids it", remedy)
            expected = (sha256 or hash_in_name(target.name)).lower()
            warn_of_http(url, expected)
            Download(url, target, expected).run()
    except ValueError as error:
        raise wrong_setting(url, folder, error) from error
    return target


def warn_of_http(url: str, expected: str) -> None:
    """Warn of a download without encryption and hash, which others on the network can replace.

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
        f"headstrip downloads {address} over plain http, and no sha256 is known to "
        "check the file by, so others on the network could replace it. Use an https address, or "
        "state the sha256. To hide this warning, set HEADSTRIP_ALLOW_HTTP=1 or pass --allow-http.",
        WeightsWarning,
        stacklevel=2,
    )


def _exists(url: str, target: Path) -> bool:
    try:
        return target.is_file()
    except OSError as error:
        raise local_failure(url, target, None, error) from error


class Download:
    """One download: what was received so far, and how the rest is requested."""

    def __init__(self, url: str, target: Path, expected: str) -> None:
        """Prepare it.

        Args:
            url: Address of the file.
            target: Its final name.
            expected: Hexadecimal sha256 that it must have, or its first digits; empty for any.

        Raises:
            ValueError: An environment variable has a value that cannot be used.
        """
        self._url = url
        self._target = target
        self._expected = expected
        self._address = mirrored(url)
        self._retries = _number("HEADSTRIP_RETRIES", 4, least=0)
        self._timeout = _number("HEADSTRIP_TIMEOUT", 20, least=0.001)
        self._opener = transfer.opener()
        self._partial: Partial | None = None
        self._is_alone = False
        self._validator = ""
        self._total: int | None = None
        self._was_reached = False
        self._furthest = 0

    def run(self) -> None:
        """Download the file, unless another process does while this one waits for it.

        Raises:
            WeightsError: It cannot be downloaded, or has other bytes than expected.
        """
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            with single_writer(self._target) as self._is_alone:
                if not self._target.is_file():
                    self._until_done()
        except (transfer.RefusedError, InterruptedTransferError) as error:
            mirror = f"at {self._address}, as HEADSTRIP_MIRROR says: "
            reason = f"{'' if self._address == self._url else mirror}{one_line(error)}"
            remedy = f"Check the network and the address, {_BY_HAND}"
            raise failure(self._url, self._target.parent, reason, remedy) from error
        except OSError as error:
            raise local_failure(self._url, self._target, self._total, error) from error

    def _until_done(self) -> None:
        _LOGGER.info("downloading %s to %s", self._address, self._target)
        if self._is_alone:
            self._partial = Partial.resume(self._target)
        if not self._expected:
            # Without a hash, wrong bytes after a loss of power would go unnoticed.
            self._drop()
        try:
            self._attempts()
        except OSError:
            # A full disk has no room for half a file, and a failing one is not to be trusted.
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
                # If no server was ever reached, the next location is more likely to have the file.
                hopeless = isinstance(error, transfer.UnreachedError) and not self._was_reached
                wait = _FIRST_WAIT * 2 ** min(failed - 1, 9) * random.uniform(1, 1.25)
                wait = max(min(wait, _LONGEST_WAIT), error.wait or 0)
                if hopeless or failed > self._retries or wait > _LONGEST_WAIT:
                    raise
                _LOGGER.info("trying again in %.1f s: %s", wait, error)
                time.sleep(wait)

    def _attempt(self) -> None:
        start = 0
        if self._partial is not None and self._partial.digest:
            # One byte less than there is: a server cannot send a part without a byte.
            start = max(self._partial.size - 1, 0)
        try:
            answer = transfer.ask(
                self._opener,
                self._address,
                start=start,
                validator=self._validator,
                timeout=self._timeout,
            )
            self._was_reached = True
            with answer.response:
                self._receive(answer, self._partial_for(answer))
            self._publish()
        except OtherFileError:
            self._drop()
            raise

    def _partial_for(self, answer: Answer) -> Partial:
        """Return the file that an answer belongs into, positioned where its bytes begin."""
        digest = digest_of(self._url, answer.validator, answer.total)
        if self._partial is not None and digest != self._partial.digest:
            if answer.start:
                raise OtherFileError(
                    "the server's file is not the same as when the download started"
                )
            self._drop()
        self._validator, self._total = answer.validator, answer.total
        if self._partial is None:
            self._partial = Partial.create(self._target, digest, is_alone=self._is_alone)
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
        """Hash the bytes on the disk, and give them the final name."""
        partial = self._partial
        assert partial is not None
        seen = identify(partial.path, partial.synced(), always=True)
        if not seen.sha256.startswith(self._expected):
            resumed = partial.resumed
            self._drop()
            if resumed:
                raise OtherFileError(
                    "the first part and the later part belong to two different files"
                )
            reason = (
                f"its sha256 is {seen.sha256}, and {self._expected} was expected; headstrip kept "
                "nothing of it"
            )
            remedy = f"Ask who publishes it, {_BY_HAND}"
            raise failure(self._url, self._target.parent, reason, remedy)
        try:
            partial.publish(self._target)
        except FileNotFoundError as error:
            self._drop()
            raise InterruptedTransferError(
                f"{partial.path} was removed by another program"
            ) from error
        self._partial = None
        remember(self._target, seen.stat, seen.sha256, origin="download", url=self._url)

    def _drop(self) -> None:
        if self._partial is not None:
            self._partial.discard()
        self._partial, self._validator = None, ""

    def _leave(self) -> None:
        """Leave what was received for the next call, where that can continue it."""
        partial = self._partial
        can_continue = self._is_alone and self._expected and partial and partial.digest
        if partial is not None and can_continue and partial.size:
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
        raise ValueError(f"{variable} is {text!r}, and must be a number from {least:g} to 86400")
    return value


@contextmanager
def _bar(name: str, answer: Answer) -> Iterator[Progress | None]:
    """Show the progress of a download on a terminal."""
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


def failure(url: str, folder: Path, reason: str, remedy: str) -> WeightsError:
    """Return the error that says why the file of ``url`` is not in ``folder``, and what to do."""
    return WeightsError(f"{url} could not be downloaded to {folder} ({reason}). {remedy}.")


def wrong_setting(url: str, folder: Path, error: ValueError) -> WeightsError:
    """Return the error for an address, or an environment variable, that cannot be used."""
    return failure(url, folder, one_line(error), f"Correct it, {_BY_HAND}")


def local_failure(url: str, target: Path, total: int | None, error: OSError) -> WeightsError:
    """Return the error for a disk that does not take a file.

    Args:
        url: Where the file is from.
        target: Its final name.
        total: Its size in bytes, None where it is not known.
        error: What happened.
    """
    folder, reason = target.parent, one_line(error)
    needed = f"; the file has {_megabytes(total)}" if total is not None else ""
    if error.errno in _FULL:
        # A quota may be full where the disk is not.
        why = "" if error.errno == errno.ENOSPC else f" ({reason})"
        reason = f"the disk of that folder is full{why}{_free(folder)}{needed}"
        remedy = "Make room, or set TORCH_HOME to a folder on another disk"
    elif error.errno in _CLOSED:
        reason = f"that folder takes no files: {reason}{needed}"
        remedy = f"Set TORCH_HOME to a folder that does, or ask for the file to be put at {target}"
    else:
        reason = f"that folder or its disk failed: {reason}"
        remedy = "Check them, or set TORCH_HOME to another folder"
    return failure(url, folder, reason, remedy)


def _free(folder: Path) -> str:
    try:
        return f", with {_megabytes(shutil.disk_usage(folder).free)} free"
    except OSError:
        return ""


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
