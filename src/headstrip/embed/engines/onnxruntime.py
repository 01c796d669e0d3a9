"""The engine "onnxruntime": ONNX Runtime, on the CPU."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headstrip.embed.engines.engine import Engine, EngineSettings, import_extra
from headstrip.errors import HeadstripError

if TYPE_CHECKING:
    from headstrip.encoder.encoder import Encoder

_ERRORS_ONLY = 3


class ONNXRuntime(Engine):
    """A session that several threads can run at once."""

    def __init__(self, encoder: Encoder, settings: EngineSettings) -> None:
        """Export the network to a temporary file, and read it.

        Raises:
            HeadstripError: ONNX Runtime or its exporter is missing, or the precision is "bf16".
        """
        super().__init__(encoder, settings)
        if settings.precision != "fp32":
            raise HeadstripError(
                "ONNX Runtime has no convolutions in bfloat16 on the CPU. Use precision 'fp32'."
            )
        runtime = import_extra("onnxruntime", "onnxruntime")
        for module in ("onnx", "onnxscript"):
            import_extra("onnxruntime", module)
        self._session = _session(runtime, self.exported(encoder), settings.threads)
        self._input = self._session.get_inputs()[0].name

    def compute(self, pixels: np.ndarray) -> np.ndarray:
        """Embed one batch."""
        return np.asarray(self._session.run(None, {self._input: pixels})[0], np.float32)


def _session(runtime: Any, program: Any, threads: int) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _ERRORS_ONLY
    # Threads that spin while they wait take time from the worker processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # One file holds at most 2 GB, so the weights go beside it. Some systems remove no mapped file.
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
