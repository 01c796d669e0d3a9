"""The costs of a backbone: speed, memory, size and licence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from headstrip.encoder.encoder import Encoder

_FILE_SIZE = "file size (MB)"
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of a backbone on this machine.

    Attributes:
        images_per_second: Embedded images per second, reading included; None if no image was
            embedded.
        peak_memory: Largest number of bytes that this process used during embedding; on a GPU the
            memory of the GPU. None if the system does not state it.
        params: Number of parameters, including the head.
        dim: Width of an embedding.
        bytes_per_row: Bytes of an embedding in float32.
        license: Licence of the weights that their library states, or None.
        download_bytes: Size of the weights file that their library states, or None.
    """

    images_per_second: float | None
    peak_memory: int | None
    params: int
    dim: int
    bytes_per_row: int
    license: str | None
    download_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def costs_of(encoder: Encoder, speed: float | None, peak_memory: int | None) -> Costs:
    """Return the costs of an encoder.

    Args:
        encoder: The encoder.
        speed: The measured images per second.
        peak_memory: The measured bytes.
    """
    entry = encoder.weights
    size = dict(entry.metrics).get(_FILE_SIZE) if entry else None
    parts = [part for part in (encoder.backbone, encoder.head) if part is not None]
    params = sum(one.numel() for part in parts for one in part.parameters())
    return Costs(
        images_per_second=speed,
        peak_memory=peak_memory,
        params=encoder.spec.params or params,
        dim=encoder.output_dim,
        bytes_per_row=4 * encoder.output_dim,
        license=entry.license if entry else None,
        download_bytes=round(float(size) * 1e6) if isinstance(size, (int, float)) else None,
    )


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """Measure the peak memory of the ``with`` body; afterwards the list has it, if it is known."""
    found: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found.append(torch.cuda.max_memory_allocated(device))
        return
    try:
        # This resets the peak that Linux reports for the process.
        _CLEAR.write_text("5", encoding="ascii")
        is_known = True
    except OSError:
        is_known = False
    yield found
    if is_known and (peak := re.search(r"VmHWM:\s+(\d+)", _STATUS.read_text(encoding="ascii"))):
        found.append(int(peak[1]) << 10)
