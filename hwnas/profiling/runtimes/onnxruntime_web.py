"""ONNX Runtime Web: the same ONNX files, executed by WebAssembly in a browser. A device of its own, whatever processor is below it."""

from __future__ import annotations

from typing import Literal

from hwnas.graph import Graph
from hwnas.profiling.runtime import Runtime
from hwnas.profiling.runtimes.onnxruntime import OnnxRuntime
from hwnas.weights import Weights


class OnnxRuntimeWeb:
    name = "onnxruntime_web"
    granularity: Literal["block", "operator"] = "block"
    agent = "onnxruntime_web_agent.js"
    loads = "onnx"

    def build(self, graph: Graph, weights: Weights) -> bytes:
        """Bytes of an ONNX model, the same as for the native runtime. Raises InputError."""
        return OnnxRuntime().build(graph, weights)


def onnxruntime_web() -> Runtime:
    """ONNX Runtime Web (WebAssembly)."""
    return OnnxRuntimeWeb()
