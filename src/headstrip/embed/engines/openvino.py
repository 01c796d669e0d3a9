"""The engine "openvino": Intel's, on the CPU."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headstrip.embed.engines.exporting import cannot_take_over, exported, extra
from headstrip.embed.engines.forward import Forward, Settings
from headstrip.errors import HeadstripError

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

_TYPES = {"fp32": "f32", "bf16": "bf16"}
_TELEMETRY = "openvino_telemetry"
_importing = threading.Lock()


class OpenVINO(Forward):
    """A model with as many streams as batches of ``threads`` threads fill the processor."""

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        """Export, convert and compile the network.

        Raises:
            HeadstripError: OpenVINO is missing, does not know the network, or does not compute in
                this precision on this machine.
        """
        super().__init__(encoder, settings)
        self._openvino = imported()
        core = self._openvino.Core()
        _check_precision(core, self.precision)
        try:
            model = self._openvino.convert_model(exported(encoder, settings))
            model.reshape(list(self.pixels_shape))
            self._model = core.compile_model(model, "CPU", _config(settings))
        except HeadstripError:
            raise
        except Exception as error:
            raise cannot_take_over(encoder, settings, error) from error
        self._of_thread = threading.local()

    def _compute(self, pixels: np.ndarray) -> np.ndarray:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._model.create_infer_request()
        # Copied in: what a request shares it keeps, and writes to at the next batch.
        found = self._of_thread.request.infer([pixels], share_inputs=False)
        return np.array(found[0], np.float32)

    def _versions(self) -> dict[str, str]:
        return {"torch": str(torch.__version__), "openvino": str(self._openvino.__version__)}


def _config(settings: Settings) -> dict[str, Any]:
    streams = max(1, _cores() // settings.threads)
    return {
        # Left to itself OpenVINO computes in bfloat16 where the processor can.
        "INFERENCE_PRECISION_HINT": _TYPES[settings.precision],
        "INFERENCE_NUM_THREADS": streams * settings.threads,
        "NUM_STREAMS": streams,
        # Threads that are tied to cores would stand in the way of the decoders'.
        "ENABLE_CPU_PINNING": False,
    }


def _check_precision(core: Any, precision: str) -> None:
    known = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in known:
        raise HeadstripError(
            "OpenVINO would compute in float32: this processor has no bfloat16 units. "
            "Use precision 'fp32'."
        )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def imported() -> Any:
    """Import OpenVINO without what reports each import and conversion to its makers."""
    with _importing, _without(_TELEMETRY):
        openvino = extra("openvino", "openvino")
        # It is imported at the first conversion, and looks for the reporter then.
        extra("openvino", "openvino.tools.ovc.convert_impl")
        return openvino


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Have imports of a module fail, unless it is imported already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
