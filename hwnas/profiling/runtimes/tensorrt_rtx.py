"""TensorRT for RTX: the API of TensorRT on GPUs of PCs, with kernels compiled when an engine is opened. Not yet run on hardware (docs/tensorrt.md)."""

from __future__ import annotations

from typing import Literal

from hwnas.graph import Graph
from hwnas.profiling.runtime import Runtime
from hwnas.profiling.runtimes.tensorrt import TensorRt
from hwnas.weights import Weights


class TensorRtRtx:
    name = "tensorrt_rtx"
    granularity: Literal["block", "operator"] = "block"
    agent = "tensorrt_rtx_agent.py"
    loads = "onnx"

    def build(self, graph: Graph, weights: Weights) -> bytes:
        """Bytes of an ONNX model, the same as for TensorRT. Raises InputError."""
        return TensorRt().build(graph, weights)


def tensorrt_rtx() -> Runtime:
    """TensorRT for RTX on an NVIDIA GPU."""
    return TensorRtRtx()
