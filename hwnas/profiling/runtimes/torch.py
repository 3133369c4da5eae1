"""PyTorch, eager or compiled, on a CPU or a GPU. Its rows are blocks: what an operator costs there depends on what ran before it (docs/decisions.md)."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, Literal

from hwnas.errors import InputError
from hwnas.graph import Graph, GraphNode
from hwnas.ops import KINDS
from hwnas.profiling.runtime import Runtime
from hwnas.weights import Weights, fold

#: What PyTorch's own operators compute in; of int8 there is none in eager mode.
DTYPES = ("float32", "float16", "bfloat16")


class Torch:
    name = "torch"
    granularity: Literal["block", "operator"] = "block"
    agent = "torch_agent.py"
    loads = "safetensors"

    def build(self, graph: Graph, weights: Weights) -> bytes:
        """Bytes of a safetensors file: deployed weights, and in its metadata what is applied to what. There is no code in it. Raises InputError.

        The input of a block has the data type of the operators that read it, so that it pays for no conversion it would not pay for in a network.
        """
        from safetensors.numpy import save

        reader = next(each for each in graph.nodes if "input" in each.inputs)
        description = {
            "input": {"shape": graph.input, "dtype": reader.op.data_type if graph.is_block else "float32"},
            "output": graph.output_name,
            "nodes": [_described(each) for each in graph.nodes],
        }
        model: bytes = save(fold(graph, weights), metadata={"graph": json.dumps(description, separators=(",", ":"))})
        return model


def _described(each: GraphNode) -> dict[str, Any]:
    if each.op.kind not in KINDS or each.op.data_type not in DTYPES:
        raise InputError(f"{each.name}: PyTorch is given no form of {each.op.kind}.{each.op.data_type}; it knows {', '.join(KINDS)}, in {', '.join(DTYPES)}")
    attributes = {name.name: getattr(each.op, name.name) for name in fields(each.op) if name.name not in ("input", "bias", "dtype")}
    return {"name": each.name, "kind": each.op.kind, "inputs": each.inputs, "dtype": each.op.data_type, **attributes}


def torch() -> Runtime:
    """PyTorch."""
    return Torch()
