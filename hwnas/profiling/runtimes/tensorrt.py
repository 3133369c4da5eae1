"""TensorRT: the same ONNX files, built into engines on the device itself. Not yet run on hardware (docs/tensorrt.md)."""

from __future__ import annotations

from typing import Literal

from hwnas.graph import Graph
from hwnas.profiling.runtime import Runtime
from hwnas.profiling.runtimes.onnxruntime import OnnxRuntime
from hwnas.weights import Weights


class TensorRt:
    """Networks are strongly typed in every version: what precision a layer has is in the file, and in no option of a builder."""

    name = "tensorrt"
    granularity: Literal["block", "operator"] = "block"
    agent = "tensorrt_agent.py"
    loads = "onnx"

    def build(self, graph: Graph, weights: Weights) -> bytes:
        """Bytes of an ONNX model, of which the agent builds an engine. Raises InputError."""
        return OnnxRuntime().build(graph, weights)


def tensorrt() -> Runtime:
    """TensorRT 10.3 to 11 on an NVIDIA GPU, or its DLA."""
    return TensorRt()
