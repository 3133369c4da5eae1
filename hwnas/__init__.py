"""Hardware-aware neural architecture search: profile a device, search under a latency budget, export what provably fits."""

from hwnas.architecture import Architecture
from hwnas.errors import HwnasError, Infeasible, InputError, MissingLatency
from hwnas.graph import Block, Graph, Node
from hwnas.index import BlockIndex
from hwnas.space import Choice, Layer, SearchSpace

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "Block",
    "BlockIndex",
    "Choice",
    "Graph",
    "HwnasError",
    "Infeasible",
    "InputError",
    "Layer",
    "MissingLatency",
    "Node",
    "SearchSpace",
    "__version__",
]
