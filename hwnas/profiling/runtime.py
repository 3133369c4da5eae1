"""What a runtime is: something that executes models on a device, timed by an agent that runs there."""

from __future__ import annotations

from typing import Literal, Protocol

from hwnas.graph import Graph
from hwnas.weights import Weights


class Runtime(Protocol):
    """`granularity` says what a row of a latency table is: a block, or a single operator where the runtime executes it as such."""

    name: str
    granularity: Literal["block", "operator"]
    #: File name of its agent in `devices/agents/`.
    agent: str
    #: In which form: what is exported is `onnx`.
    loads: str

    def build(self, graph: Graph, weights: Weights) -> bytes:
        """What the agent loads: the same thing that is exported. Raises InputError where an operator has no form."""
        ...
