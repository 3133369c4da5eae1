"""ONNX Runtime. Its rows are blocks: single operators over-sum by half there, since each pays for its own layout conversion."""

from __future__ import annotations

from typing import Literal

from hwnas.graph import Graph
from hwnas.profiling.runtime import Runtime
from hwnas.weights import Weights


class OnnxRuntime:
    name = "onnxruntime"
    granularity: Literal["block", "operator"] = "block"
    agent = "onnxruntime_agent.py"
    loads = "onnx"

    def build(self, graph: Graph, weights: Weights) -> bytes:
        """Bytes of an ONNX model, through the emitters of the exports; equal arguments give equal bytes. Raises InputError.

        A block begins and ends in the precision it has inside a network, and pays for no conversion that it would not pay for there.
        """
        from hwnas.backends.onnx import to_onnx

        model: bytes = to_onnx(graph, weights, real_ends=not graph.is_block).SerializeToString(deterministic=True)
        return model


def onnxruntime() -> Runtime:
    """ONNX Runtime on the CPU."""
    return OnnxRuntime()
