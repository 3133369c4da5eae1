"""Weights of a network as plain arrays by name: `layer/node.tensor`, e.g. `stage1.block0/expand.norm.mean`.

One naming for the supernet's files, extracted subnets, every backend and the exporters.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError
from hwnas.graph import Graph
from hwnas.ops import Shape

Array: TypeAlias = npt.NDArray[np.float32]
Weights: TypeAlias = Mapping[str, Array]


def shapes(graph: Graph) -> dict[str, Shape]:
    """Name -> shape of every parameter and batch-norm statistic of a network, in order."""
    return {f"{each.name}.{name}": shape for each in graph.nodes for name, shape in (each.node.parameters | each.node.buffers).items()}


def random_weights(graph: Graph, rng: np.random.Generator) -> dict[str, Array]:
    """Scaled random weights with non-trivial batch-norm statistics: activations neither vanish into denormals nor overflow."""
    weights: dict[str, Array] = {}
    for name, shape in shapes(graph).items():
        leaf = f"norm.{name.rpartition('.')[2]}" if name.rpartition(".")[0].endswith(".norm") else name.rpartition(".")[2]
        if leaf == "weight":
            weights[name] = rng.normal(0, sqrt(2 / prod(shape[1:])), shape).astype(np.float32)
        elif leaf in ("norm.weight", "norm.var"):
            weights[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            weights[name] = rng.normal(0, 0.1, shape).astype(np.float32)
    return weights


def check(graph: Graph, weights: Weights) -> None:
    """Raises InputError naming the first tensor that is missing or has another shape."""
    for name, shape in shapes(graph).items():
        if name not in weights:
            raise InputError(f"the weights lack '{name}'")
        if tuple(weights[name].shape) != shape:
            raise InputError(f"the weights have '{name}' of shape {tuple(weights[name].shape)}, the network needs {shape}")


def fold(graph: Graph, weights: Weights) -> dict[str, Array]:
    """Deployed weights: each batch norm folded (in float64) into its operator's weight and bias. Raises InputError."""
    check(graph, weights)
    folded: dict[str, Array] = {}
    for each in graph.nodes:
        own = {name: weights[f"{each.name}.{name}"] for name in each.node.parameters | each.node.buffers}
        if each.node.norm is not None:
            scale = own["norm.weight"].astype(np.float64) / np.sqrt(own["norm.var"].astype(np.float64) + each.node.norm)
            weight = own["weight"] * scale.reshape(-1, *[1] * (own["weight"].ndim - 1))
            bias = own["norm.bias"] - own["norm.mean"] * scale
            own = {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
        folded |= {f"{each.name}.{name}": np.ascontiguousarray(array, np.float32) for name, array in own.items()}
    return folded
