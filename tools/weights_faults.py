# ruff: noqa: D103 (a case is described by its name)
"""Produce every kind of fault in weights files, and print what a user sees.

    python tools/weights_faults.py                               print the table
    python tools/weights_faults.py --markdown docs/reference/weights-faults.md

The servers run on 127.0.0.1. The full and read-only disks are real file systems, which only root
can mount.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from tests.servers import FaultServer, Reply, fault_server
from torchvision import models

from headstrip import HeadstripError, build_encoder
from headstrip.weights.downloading import download

NAME = "squeezenet1_1"
DOCUMENT = """\
# Faults of weights files

This page is for readers who want to know what headstrip prints when a weights file or a download is
broken. `python tools/weights_faults.py --markdown docs/reference/weights-faults.md` writes it.

<!-- quoted from the code -->

| what goes wrong | what a user sees |
|---|---|
{rows}
"""


class Case:
    """A folder with a user's weights file, and a server with another file."""

    def __init__(self, folder: Path, server: FaultServer) -> None:
        self.folder, self.server = folder, server
        self.file = folder / "squeezenet.pth"
        torch.manual_seed(0)
        torch.save(models.squeezenet1_1().state_dict(), self.file)
        self.body = self.file.read_bytes()
        self.sha256 = hashlib.sha256(self.body).hexdigest()
        self.url = server.put(f"/x-{self.sha256[:8]}.pth", self.body)

    def build(self, **options: object) -> str:
        """Build from the file."""
        build_encoder(NAME, weights=self.file, **options)
        return "an encoder"

    def download(self, **options: object) -> str:
        """Download the server's file."""
        right = download(self.url, self.sha256, **options).read_bytes() == self.body
        return f"the right file, {len(self.server.asked)} requests" if right else "A WRONG FILE"


CASES: dict[str, Callable[[Case], object]] = {}


def case(name: str) -> Callable[[Callable[[Case], object]], Callable[[Case], object]]:
    """Add a case under a name."""

    def add(function: Callable[[Case], object]) -> Callable[[Case], object]:
        CASES[name] = function
        return function

    return add


@case("nothing")
def nothing(one: Case) -> object:
    return one.build()


@case("the file is cut short")
def truncated(one: Case) -> object:
    os.truncate(one.file, len(one.body) // 2)
    return one.build()


def flip(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


@case("a byte of it is another")
def flipped(one: Case) -> object:
    flip(one.file)
    return one.build()


@case('a byte changed after its first use, the times were put back, `verify="always"`')
def flipped_in_silence(one: Case) -> object:
    one.build()
    stat = one.file.stat()
    flip(one.file)
    os.utime(one.file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return one.build(verify="always")


@case("it is another architecture's")
def another(one: Case) -> object:
    torch.save(models.shufflenet_v2_x0_5().state_dict(), one.file)
    return one.build()


@case("it is a web page")
def page(one: Case) -> object:
    one.file.write_text("<!DOCTYPE html><html><body>Please log in.</body></html>")
    return one.build()


class Bomb:
    """An object that creates a folder when it is unpickled."""

    def __reduce__(self) -> object:
        return os.mkdir, (os.environ["CANARY"],)


@case("it is a pickle with code in it")
def bomb(one: Case) -> object:
    canary = one.folder / "canary"
    os.environ["CANARY"] = str(canary)
    torch.save({"state_dict": Bomb()}, one.file)
    try:
        return one.build()
    finally:
        if canary.exists():
            print("THE CODE WAS EXECUTED", file=sys.stderr)


@case("it holds two state dicts")
def two_states(one: Case) -> object:
    state = torch.load(one.file, weights_only=True)
    average = {name: tensor.clone() for name, tensor in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": average}, one.file)
    return one.build()


def changed(one: Case, **changes: object) -> dict[str, torch.Tensor]:
    """Return the state dict of the file with some tensors changed, None for left out."""
    state = {**torch.load(one.file, weights_only=True), **changes}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@case("one tensor of it is missing")
def one_missing(one: Case) -> object:
    torch.save({"state_dict": changed(one, **{"features.3.squeeze.bias": None})}, one.file)
    return one.build()


@case("one tensor of it has another shape")
def one_reshaped(one: Case) -> object:
    torch.save(changed(one, **{"features.0.weight": torch.zeros(64, 1, 3, 3)}), one.file)
    return one.build()


@case("it holds a student and a teacher under prefixes")
def student_and_teacher(one: Case) -> object:
    state = torch.load(one.file, weights_only=True)
    both = {
        f"{part}.{name}": tensor.clone()
        for part in ("student", "teacher")
        for name, tensor in state.items()
    }
    torch.save({"state_dict": both}, one.file)
    return one.build()


@case('`weights_key="ema"`, and it has no such state dict')
def no_such_key(one: Case) -> object:
    torch.save({"state_dict": torch.load(one.file, weights_only=True)}, one.file)
    return one.build(weights_key="ema")


@case("it holds an average that is a list of tensors")
def average_without_names(one: Case) -> object:
    state = torch.load(one.file, weights_only=True)
    averages = [tensor + 1 for tensor in state.values()]
    torch.save({"model": state, "ema": {"shadow_params": averages}}, one.file)
    return one.build()


@case("its names are those of mmpretrain")
def mmpretrain(one: Case) -> object:
    names = [f"backbone.layers.{at}.ln1.{part}" for at in range(9) for part in ("weight", "bias")]
    torch.save({"state_dict": {name: torch.zeros(8) for name in names}}, one.file)
    return one.build()


@case("its names are those of Keras")
def keras(one: Case) -> object:
    torch.save({f"block{at}_conv/kernel:0": torch.zeros(3, 3) for at in range(9)}, one.file)
    return one.build()


@case("it holds an optimizer and no network")
def optimizer_alone(one: Case) -> object:
    network = torch.nn.Linear(2, 2)
    torch.save({"optimizer": torch.optim.Adam(network.parameters()).state_dict()}, one.file)
    return one.build()


@case("it is a whole module that was pickled")
def whole_module(one: Case) -> object:
    torch.save(models.squeezenet1_1(), one.file)
    return one.build()


@case("`labels` for a network that has no head")
def few_labels(one: Case) -> object:
    return one.build(labels=["cat", "dog"])


@case("it is rewritten while an encoder uses it")
def saved_over(one: Case) -> object:
    encoder = build_encoder(NAME, weights=one.file)
    torch.save({}, one.file)
    encoder(torch.zeros(1, 3, 224, 224))
    return "the encoder that was built, with the values that it loaded"


@case("it is rewritten while an encoder uses it, `map=True`")
def rewritten(one: Case) -> object:
    encoder = build_encoder(NAME, weights=one.file, map=True)
    flip(one.file)
    os.utime(one.file, ns=(1, 1))
    return encoder(torch.zeros(1, 3, 224, 224))


@case("there is no such file")
def missing(one: Case) -> object:
    one.file.unlink()
    return one.build()


@case("the server closes midway")
def cut(one: Case) -> object:
    one.server.replies = [Reply(cut=100_000)]
    return one.download()


@case("the server has no such file (404)")
def not_found(one: Case) -> object:
    one.server.replies = [Reply(status=404)]
    return one.download()


@case("the server is busy (503), then not")
def busy(one: Case) -> object:
    one.server.replies = [Reply(status=503)]
    return one.download()


@case("the server stops sending")
def slow(one: Case) -> object:
    one.server.usual = Reply(hold=1000)
    os.environ |= {"HEADSTRIP_TIMEOUT": "0.3", "HEADSTRIP_RETRIES": "1"}
    try:
        return one.download()
    finally:
        one.server.released.set()
        del os.environ["HEADSTRIP_TIMEOUT"], os.environ["HEADSTRIP_RETRIES"]


@case("the server has another file under that name")
def replaced(one: Case) -> object:
    one.server.usual = Reply(body=b"something else")
    return one.download()


@case("there is no server")
def unreachable(one: Case) -> object:
    return download("http://127.0.0.1:9/x-00000000.pth")


@case("offline")
def offline(one: Case) -> object:
    return one.download(offline=True)


def fetch(url: str, sha256: str) -> None:
    download(url, sha256)


@case("two processes at once")
def both(one: Case) -> object:
    children = [multiprocessing.Process(target=fetch, args=(one.url, one.sha256)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return one.download()


@case("killed midway, then run again")
def killed(one: Case) -> object:
    one.server.replies = [Reply(hold=1_000_000)]
    child = multiprocessing.Process(target=fetch, args=(one.url, one.sha256))
    child.start()
    one.server.held.wait()
    time.sleep(0.5)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    one.server.released.set()
    done = one.download()
    return f"{done}, the second for {one.server.asked[-1].range}"


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a file system in memory, which needs root."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@case("the disk is full")
def full(one: Case) -> object:
    with mounted(one.folder / "small", "size=1m"):
        os.environ["TORCH_HOME"] = str(one.folder / "small")
        return one.download()


@case("the cache is read-only")
def read_only(one: Case) -> object:
    with mounted(one.folder / "fixed", "ro"):
        os.environ["TORCH_HOME"] = str(one.folder / "fixed")
        return one.download()


@case("an address with a name that is not allowed: `/..`, `CON.pth`")
def names(one: Case) -> object:
    return download(one.server.url + "/CON.pth")


def outcome(function: Callable[[Case], object]) -> str:
    """Run one case, and return the outcome without the name of the folder."""
    with tempfile.TemporaryDirectory() as name, fault_server() as server, ExitStack() as stack:
        folder = Path(name).resolve()
        for variable in ("TORCH_HOME", "HEADSTRIP_CACHE"):
            os.environ[variable] = str(folder / variable)
        stack.callback(server.released.set)
        try:
            seen = str(function(Case(folder, server)))
        except (HeadstripError, ValueError) as error:
            seen = f"{type(error).__name__}: {error}"
        except subprocess.CalledProcessError:
            seen = "not run: it needs root"
        return seen.replace(f"{folder}/", "").replace(server.url, "http://127.0.0.1:PORT")


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    arguments = parser.parse_args()
    os.environ["no_proxy"] = "127.0.0.1"
    rows = []
    for name, function in CASES.items():
        seen = outcome(function)
        print(f"{name}\n    {seen}", flush=True)
        rows.append(f"| {name} | {seen.replace('|', chr(92) + '|')} |")
    if arguments.markdown:
        arguments.markdown.write_text(DOCUMENT.format(rows="\n".join(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
