"""Download the files of ``https:`` locations into torch hub's cache.

headstrip writes a file under a temporary name, syncs it to the disk, hashes it, and then renames
it. So a file with the final name is complete. This module does not import torch.
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
from headstrip.weights.addresses import checkpoints, requested_address
from headstrip.weights.partial import Partial, digest_of, single_writer
from headstrip.weights.records import remember
from headstrip.weights.transfer import Answer, InterruptedTransferError, OtherFileError
from headstrip.weights.trust import cached_path, hash_in_name, identify

if TYPE_CHECKING:
    from rich.progress import Progress

_LOGGER = logging.getLogger("headstrip.weights")

_FIRST_WAIT = 0.5
# The longest time that headstrip waits if a server asks it to wait.
_LONGEST_WAIT = 60.0
# An attempt that received this many bytes resets the count of failures.
_PROGRESS = 8 << 20
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_BY_HAND = "or copy the file to that folder yourself"


def download(url: str, sha256: str = "", *, offline: bool = False) -> Path:
    """Return the file of a URL in torch hub's cache, and download it if it is missing.

    headstrip resumes an interrupted download if the server's ``ETag`` or ``Last-Modified`` shows
    that the file is the same. The next call resumes the download of a killed process too, if the
    sha256 of the file is known. If several processes need the file, one of them downloads it.
    These environment variables have an effect:

    - ``HEADSTRIP_RETRIES``: how often headstrip tries again if a connection breaks, or if a server
      does not answer or is overloaded (429, 5xx). It waits 0.5, 1, 2, ... seconds. Default: 4.
    - ``HEADSTRIP_TIMEOUT``: seconds without a byte after which an attempt fails. Default: 20.
    - ``HEADSTRIP_MIRROR``: pairs ``PREFIX=REPLACEMENT``, separated by commas. headstrip requests
      the file from the replacement, and compares the sha256 anyway.
    - ``HEADSTRIP_OFFLINE=1``: the same as ``offline=True``.
    - ``HEADSTRIP_ALLOW_HTTP=1``: hides the warning about unencrypted downloads without a sha256.
    - ``TORCH_HOME``: the cache is ``$TORCH_HOME/hub/checkpoints``.
    - ``https_proxy``, ``http_proxy``, ``no_proxy``: the usual proxy settings.

    Args:
        url: The address of the file. The last part of its path is the file name in the cache.
        sha256: The sha256 that a download must have, in hexadecimal, or its first digits. If it is
            empty, a download must have the sha256 in its file name (``resnet50-0676ba61.pth``), if
            there is one. headstrip compares a file that is in the cache when it reads the file.
        offline: Whether to use only files in the cache, and open no socket.

    Warns:
        WeightsWarning: The connection is not encrypted, and no sha256 of the file is known.

    Raises:
        WeightsError: The file is missing and cannot be downloaded, or has another sha256.
    """
    folder = checkpoints()
    try:
        target = cached_path(url, sha256)
        # While this process waited, another one may have downloaded a file of another URL there.
        while not _exists(url, target):
            refuse_folder(url, target)
            if setting := "offline=True" if offline else hub.offline():
                remedy = f"Download it on a machine with a network, and copy it to {target}"
                raise failure(url, folder, f"{setting} forbids downloads", remedy)
            expected = (sha256 or hash_in_name(target.name)).lower()
            warn_of_http(url, expected)
            Download(url, target, expected).run()
            target = cached_path(url, sha256)
    except ValueError as error:
        raise wrong_setting(url, folder, error) from error
    return target


def refuse_folder(url: str, target: Path) -> None:
    """Refuse to download a file to the path of a folder, before anything is downloaded.

    Raises:
        WeightsError: The path is that of a folder.
    """
    if target.is_dir():
        raise failure(url, target.parent, f"{target.name} is a folder there", "Remove that folder")


def warn_of_http(url: str, expected: str) -> None:
    """Warn if neither encryption nor a sha256 protects a download.

    Args:
        url: The address of the file.
        expected: The expected sha256 in hexadecimal, or its first digits, or "" if it is unknown.

    Raises:
        ValueError: ``HEADSTRIP_MIRROR`` does not have pairs of addresses.
    """
    address = requested_address(url)
    if expected or not address.startswith("http://") or hub.is_set("HEADSTRIP_ALLOW_HTTP"):
        return
    warnings.warn(
        f"headstrip downloads {address} over plain http, and no sha256 of the file is known, so "
        "others on the network could replace the file. Use an https address, or add the sha256 to "
        "the catalog. To hide this warning, set HEADSTRIP_ALLOW_HTTP=1 or pass --allow-http.",
        WeightsWarning,
        stacklevel=2,
    )


def _exists(url: str, target: Path) -> bool:
    try:
        return target.is_file()
    except OSError as error:
        raise local_failure(url, target, None, error) from error


class Download:
    """One download: the bytes received so far, and the state of the requests for the rest."""

    def __init__(self, url: str, target: Path, expected: str) -> None:
        """Read the settings. ``run`` downloads the file.

        Args:
            url: The address of the file.
            target: The final path of the file.
            expected: The expected sha256 in hexadecimal, or its first digits, or "" for any.

        Raises:
            ValueError: An environment variable has an invalid value.
        """
        self._url = url
        self._target = target
        self._expected = expected
        self._address = requested_address(url)
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
        """Download the file. If another process downloads it already, wait for that process.

        Raises:
            WeightsError: The file cannot be downloaded, or has another sha256.
        """
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            with single_writer(self._target) as self._is_alone:
                if not self._target.is_file():
                    self._download()
        except (transfer.RefusedError, InterruptedTransferError) as error:
            mirror = f"from the mirror {self._address} of HEADSTRIP_MIRROR: "
            reason = f"{'' if self._address == self._url else mirror}{one_line(error)}"
            remedy = f"Check the network and the address, {_BY_HAND}"
            raise failure(self._url, self._target.parent, reason, remedy) from error
        except OSError as error:
            raise local_failure(self._url, self._target, self._total, error) from error

    def _download(self) -> None:
        _LOGGER.info("downloading %s to %s", self._address, self._target)
        if self._is_alone:
            self._partial = Partial.resume(self._target)
        if not self._expected:
            # A power cut can damage a partial file, and only a sha256 would reveal that.
            self._drop()
        try:
            self._attempts()
        except OSError:
            # The disk is full or failing, so the partial file wastes space or may be damaged.
            self._drop()
            raise
        finally:
            self._keep_or_drop()

    def _attempts(self) -> None:
        failed = 0
        while True:
            before = self._furthest
            try:
                self._attempt()
                return
            except InterruptedTransferError as error:
                failed = 1 if self._furthest - before >= _PROGRESS else failed + 1
                # If no server answered at all, trying the next location is better than waiting.
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
            # Request the last byte again: a server cannot send an empty range.
            start = max(self._partial.size - 1, 0)
        try:
            answer = transfer.request_file(
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
        """Return the partial file for an answer, positioned at the answer's first byte."""
        digest = digest_of(self._url, answer.validator, answer.total)
        if self._partial is not None and digest != self._partial.digest:
            if answer.start:
                raise OtherFileError("the file on the server changed during the download")
            self._drop()
        self._validator, self._total = answer.validator, answer.total
        if self._partial is None:
            self._partial = Partial.create(self._target, digest, is_alone=self._is_alone)
        self._partial.begin_at(answer.start)
        self._require_space(answer.start)
        return self._partial

    def _require_space(self, received: int) -> None:
        try:
            free = shutil.disk_usage(self._target.parent).free
        except OSError:
            return
        if self._total is not None and self._total - received > free:
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
        """Hash the bytes on the disk, compare the sha256, and rename the file to its final name."""
        partial = self._partial
        assert partial is not None
        seen = identify(partial.path, partial.synced(), always=True)
        if not seen.sha256.startswith(self._expected):
            resumed = partial.resumed
            self._drop()
            if resumed:
                raise OtherFileError("the parts that were received belong to different files")
            reason = (
                f"its sha256 is {seen.sha256}, but {self._expected} was expected, so headstrip "
                "deleted it"
            )
            remedy = f"Ask the publisher for the right file, {_BY_HAND}"
            raise failure(self._url, self._target.parent, reason, remedy)
        try:
            partial.publish(self._target)
        except FileNotFoundError as error:
            self._drop()
            raise InterruptedTransferError(f"another program removed {partial.path}") from error
        self._partial = None
        remember(self._target, seen.stat, seen.sha256, origin="download", url=self._url)

    def _drop(self) -> None:
        if self._partial is not None:
            self._partial.discard()
        self._partial, self._validator = None, ""

    def _keep_or_drop(self) -> None:
        """Keep the partial file if the next call can resume it. Delete it otherwise."""
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
        raise ValueError(f"{variable} must be a number from {least:g} to 86400, got {text!r}")
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

    # A server or a catalog chose the name, so it must not be interpreted as markup.
    title = TextColumn("{task.description}", markup=False)
    columns = (title, BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(printable(name), total=answer.total, completed=answer.start)
        yield progress


def failure(url: str, folder: Path, reason: str, remedy: str) -> WeightsError:
    """Return the error for a file that could not be downloaded to ``folder``."""
    return WeightsError(f"{url} could not be downloaded to {folder} ({reason}). {remedy}.")


def wrong_setting(url: str, folder: Path, error: ValueError) -> WeightsError:
    """Return the error for an invalid address or environment variable."""
    return failure(url, folder, one_line(error), f"Correct it, {_BY_HAND}")


def local_failure(url: str, target: Path, total: int | None, error: OSError) -> WeightsError:
    """Return the error for a file that cannot be written to the disk.

    Args:
        url: The address of the file.
        target: The final path of the file.
        total: The size of the file in bytes, or None if it is unknown.
        error: The error of the operating system.
    """
    folder, reason = target.parent, one_line(error)
    needed = f"; the file has {_megabytes(total)}" if total is not None else ""
    if error.errno in _FULL:
        # A quota can be used up although the disk has room.
        why = "" if error.errno == errno.ENOSPC else f" ({reason})"
        reason = f"the disk of this folder is full{why}{_free(folder)}{needed}"
        remedy = "Make room, or set TORCH_HOME to a folder on another disk"
    elif error.errno in _CLOSED:
        reason = f"headstrip cannot write to this folder: {reason}{needed}"
        remedy = f"Set TORCH_HOME to a writable folder, or copy the file to {target}"
    else:
        reason = f"writing to this folder failed: {reason}"
        remedy = "Check the folder and its disk, or set TORCH_HOME to another folder"
    return failure(url, folder, reason, remedy)


def _free(folder: Path) -> str:
    try:
        return f", with {_megabytes(shutil.disk_usage(folder).free)} free"
    except OSError:
        return ""


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
