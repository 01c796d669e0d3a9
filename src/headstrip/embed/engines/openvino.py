"""The engine "openvino": Intel's OpenVINO, on the CPU."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from headstrip.embed.engines.engine import Engine, EngineSettings, import_extra
from headstrip.embed.parallelism import cores
from headstrip.errors import HeadstripError

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

_TYPES = {"fp32": "f32", "bf16": "bf16"}
_TELEMETRY = "openvino_telemetry"
_importing = threading.Lock()


class OpenVINO(Engine):
    """A model with one stream for each batch of ``threads`` threads that the cores can run."""

    def __init__(self, encoder: Encoder, settings: EngineSettings) -> None:
        """Export, convert and compile the network.

        Raises:
            HeadstripError: OpenVINO is missing, or does not compute in this precision here.
        """
        super().__init__(encoder, settings)
        openvino = import_openvino()
        core = openvino.Core()
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if settings.precision == "bf16" and "BF16" not in capabilities:
            raise HeadstripError(
                "OpenVINO would compute in float32: this processor has no bfloat16 units. "
                "Use precision 'fp32'."
            )
        model = openvino.convert_model(self.exported(encoder))
        model.reshape(list(self.pixels_shape))
        self._model = core.compile_model(model, "CPU", _config(settings))
        self._of_thread = threading.local()

    def compute(self, pixels: np.ndarray) -> np.ndarray:
        """Embed one batch."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._model.create_infer_request()
        # A request keeps the memory that it shares, and writes to it at the next batch.
        found = self._of_thread.request.infer([pixels], share_inputs=False)
        return np.array(found[0], np.float32)


def _config(settings: EngineSettings) -> dict[str, Any]:
    streams = max(1, cores() // settings.threads)
    return {
        # By default OpenVINO computes in bfloat16 where the processor can.
        "INFERENCE_PRECISION_HINT": _TYPES[settings.precision],
        "INFERENCE_NUM_THREADS": streams * settings.threads,
        "NUM_STREAMS": streams,
        # Threads that are pinned to cores would get in the way of the worker processes.
        "ENABLE_CPU_PINNING": False,
    }


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which reports each import and conversion."""
    with _importing, _without(_TELEMETRY):
        openvino = import_extra("openvino", "openvino")
        # The first conversion imports this module, which then looks for the telemetry.
        import_extra("openvino", "openvino.tools.ovc.convert_impl")
        return openvino


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Let imports of a module fail, unless Python has imported it already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
