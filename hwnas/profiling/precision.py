"""Whether a runtime computes in the precision that a model is in. It may not: where a runtime lacks a kernel it casts and computes in float32.

Agents say of a loaded model how many of its convolutions and matrix products are computed in which type: the facts `computed_in_TYPE`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from hwnas.graph import Graph
from hwnas.latency_table import Fact

#: Data type of operators -> what the kernels that compute in it read.
_READ = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16", "int8_u8s8": "int8", "int8_s8s8": "int8", "int8_fp16": "int8"}
_INTEGERS = ("uint8", "int8")


def other_precision(graph: Graph, facts: Mapping[str, Fact]) -> str | None:
    """What keeps a latency from being that of the graph's precision, in words; None where it is.

    Of a float32 model nothing has to be told; of others a runtime that tells nothing is not believed.
    """
    asked = Counter(_READ[op.data_type] for op in graph.ops if "weight" in op.weights)  # a scale and shift is a convolution to runtimes
    found: Counter[str] = Counter()
    for name, count in facts.items():
        kind = name.removeprefix("computed_in_")
        if kind != name and isinstance(count, int):
            found["int8" if kind in _INTEGERS else kind] += count
    if not found:
        return None if set(asked) <= {"float32"} else "the runtime does not tell in which precision it computes"
    for kind, wanted in asked.items():
        if found[kind] < wanted:
            others = ", ".join(sorted(other for other in found if other not in asked)) or "another type"
            return f"of {wanted} convolutions or matrix products in {kind} it computes {wanted - found[kind]} in {others}"
    return None
