"""The engine "onnxruntime": ONNX Runtime, on the CPU."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headstrip.embed.engines.exporting import cannot_take_over, exported, extra
from headstrip.embed.engines.forward import Forward, Settings
from headstrip.errors import HeadstripError

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

_ERRORS_ONLY = 3


class ONNXRuntime(Forward):
    """A session, which threads may run at once."""

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        """Export the network to a file that is read and removed.

        Raises:
            HeadstripError: ONNX Runtime or its exporter is missing or does not know the network, or
                the precision is "bf16".
        """
        super().__init__(encoder, settings)
        if self.precision != "fp32":
            raise HeadstripError(
                "ONNX Runtime has no convolutions in bfloat16 on the CPU. Use precision 'fp32'."
            )
        self._runtime, self._onnx = (extra("onnxruntime", name) for name in _NEEDED[:2])
        self._script = extra("onnxruntime", _NEEDED[2])
        try:
            self._session = _session(self._runtime, exported(encoder, settings), self.threads)
        except HeadstripError:
            raise
        except Exception as error:
            raise cannot_take_over(encoder, settings, error) from error
        self._input = self._session.get_inputs()[0].name

    def _compute(self, pixels: np.ndarray) -> np.ndarray:
        return np.asarray(self._session.run(None, {self._input: pixels})[0], np.float32)

    def _versions(self) -> dict[str, str]:
        modules = (torch, self._runtime, self._onnx, self._script)
        return {module.__name__: str(module.__version__) for module in modules}


_NEEDED = ("onnxruntime", "onnx", "onnxscript")


def _session(runtime: Any, program: Any, threads: int) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _ERRORS_ONLY
    # Threads that spin while they wait would take the decoders' time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A model in one piece ends at 2 GB. What is mapped cannot be removed everywhere.
    with tempfile.TemporaryDirectory(prefix="headstrip-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "network.onnx"
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            converted: Any = torch.onnx.export(program, dynamo=True, verbose=False)
            converted.save(path, external_data=True)
        finally:
            logger.setLevel(level)
        return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
