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
from hwnas.ops import Mul, Shape

Array: TypeAlias = npt.NDArray[np.float32]
Weights: TypeAlias = Mapping[str, Array]


def shapes(graph: Graph) -> dict[str, Shape]:
    """Name -> shape of every parameter and batch-norm statistic of a network, in order."""
    return {f"{each.name}.{name}": shape for each in graph.nodes for name, shape in (each.node.parameters | each.node.buffers).items()}


#: Mean square of an activation's output for a standard normal input.
_ENERGY = {"none": 1.0, "relu": 0.5, "relu6": 0.5, "hswish": 0.33, "hsigmoid": 0.28, "swish": 0.36, "sigmoid": 0.29}
#: Mean square after a batch norm whose scale and relative variance are uniform in 0.5 to 1.5: E[scale^2] E[1 / variance] + shifts.
_NORMED = 1.21


def random_weights(graph: Graph, rng: np.random.Generator) -> dict[str, Array]:
    """Random weights as a trained network could have them, for inputs of variance about 1; batch-norm statistics are non-trivial.

    Running statistics follow the scale of what arrives, so activations neither vanish into denormals nor grow from block to
    block until gates saturate and rounding errors are amplified.
    """
    weights: dict[str, Array] = {}
    energy = {"input": 1.0}  # expected mean square of each value
    for each in graph.nodes:
        arriving = [energy[name] for name in each.inputs]
        spread = sqrt(prod(arriving) if isinstance(each.op, Mul) else sum(arriving))
        for name, shape in (each.node.parameters | each.node.buffers).items():
            if name == "weight":
                array = rng.normal(0, 1 / sqrt(prod(shape[1:])), shape)
            elif name == "norm.weight":
                array = rng.uniform(0.5, 1.5, shape)
            elif name == "norm.var":
                array = rng.uniform(0.5, 1.5, shape) * spread**2
            else:
                array = rng.normal(0, 0.1, shape) * (spread if name == "norm.mean" else 1)
            weights[f"{each.name}.{name}"] = array.astype(np.float32)
        act = getattr(each.op, "act", "none")
        energy[each.name] = _ENERGY[act] * (_NORMED if each.node.norm is not None else 1 if act in ("hsigmoid", "sigmoid") else spread**2)
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
