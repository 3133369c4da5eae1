"""The reference interpreter: what a graph means, in float64 and as plainly as possible. Every other backend is held against it.

An operator's data type says how far another backend may be from this, and changes nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from math import sqrt
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError
from hwnas.graph import Graph
from hwnas.ops import Activation, Add, Affine, AvgPool, ChannelShuffle, Conv2d, Flatten, GlobalPool, Linear, MaxPool, Mul, Op, Zero
from hwnas.weights import Array, Weights, check

Doubles: TypeAlias = npt.NDArray[np.float64]
Tensors: TypeAlias = Mapping[str, Doubles]


#: Sees values while they are computed, by name: `input`, each node, and `node.linear`, what its activation is given.
Watch: TypeAlias = Callable[[str, Doubles], None]


def numpy(graph: Graph, weights: Weights, watch: Watch | None = None) -> Callable[[Array], Array]:
    """The network as a function of its input, batch first and of any size -> output, float32 computed in float64.

    Batch norms are applied with their running statistics, not folded: what folds them is tested against this.
    Raises InputError where a weight is missing or an operator has no interpretation.
    """
    check(graph, weights)
    own: dict[str, Tensors] = {}
    for each in graph.nodes:
        if type(each.op) not in COMPUTE:
            raise InputError(f"{each.name}: the numpy backend cannot compute {each.op.kind}; it knows {', '.join(kind.kind for kind in COMPUTE)}")
        own[each.name] = {name: weights[f"{each.name}.{name}"].astype(np.float64) for name in each.node.parameters | each.node.buffers}

    def run(images: Array) -> Array:
        if images.shape[1:] != graph.input[1:]:
            raise InputError(f"the network takes inputs of shape (n, {', '.join(map(str, graph.input[1:]))}), got {images.shape}")
        values: dict[str, Doubles] = {"input": images.astype(np.float64)}
        see = watch or _ignored
        see("input", values["input"])
        for each in graph.nodes:
            tensors = own[each.name]
            value = COMPUTE[type(each.op)](each.op, [values[name] for name in each.inputs], tensors)
            if each.node.norm is not None:
                value = _batch_norm(value, tensors, each.node.norm)
            see(f"{each.name}.linear", value)
            values[each.name] = ACTIVATION[getattr(each.op, "act", "none")](value)
            see(each.name, values[each.name])
        return values[graph.output_name].astype(np.float32)

    return run


def at_unit_scale(graph: Graph, weights: Weights, images: Array) -> dict[str, Array]:
    """The same weights, but every batch norm has running statistics of the scale of what these images bring to it, as training leaves them.

    Layer-sequential unit variance (Mishkin and Matas, 2016): what a scale of the weights alone predicts is off by some per cent a layer, and
    fifty layers later activations are so large that gates saturate and rounding is amplified a thousandfold. One scale for all channels
    of a layer: with one of its own a channel that hardly varies would be noise made large.
    """
    check(graph, weights)
    scaled = dict(weights)
    values: dict[str, Doubles] = {"input": images.astype(np.float64)}
    for each in graph.nodes:
        tensors = {name: scaled[f"{each.name}.{name}"].astype(np.float64) for name in each.node.parameters | each.node.buffers}
        value = COMPUTE[type(each.op)](each.op, [values[name] for name in each.inputs], tensors)
        if each.node.norm is not None:
            energy = float((value**2).mean()) / float(tensors["norm.var"].mean()) or 1.0
            for name, factor in (("norm.mean", sqrt(energy)), ("norm.var", energy)):
                scaled[f"{each.name}.{name}"] = (tensors[name] * factor).astype(np.float32)
                tensors[name] = scaled[f"{each.name}.{name}"].astype(np.float64)
            value = _batch_norm(value, tensors, each.node.norm)
        values[each.name] = ACTIVATION[getattr(each.op, "act", "none")](value)
    return scaled


def _ignored(name: str, value: Doubles) -> None:
    """Nobody watches."""


def _per_channel(tensor: Doubles, like: Doubles) -> Doubles:
    return tensor.reshape(1, -1, *[1] * (like.ndim - 2))


def _batch_norm(value: Doubles, tensors: Tensors, epsilon: float) -> Doubles:
    scale, shift, mean, var = (_per_channel(tensors[f"norm.{name}"], value) for name in ("weight", "bias", "mean", "var"))
    return (value - mean) / np.sqrt(var + epsilon) * scale + shift


def _biased(value: Doubles, tensors: Tensors) -> Doubles:
    return value + _per_channel(tensors["bias"], value) if "bias" in tensors else value


# -- one function per operator kind: (operator, inputs, tensors) -> output before batch norm and activation -------------------------


def _conv2d(op: Any, inputs: list[Doubles], tensors: Tensors) -> Doubles:
    pad, step, groups = op.kernel // 2, op.stride, op.groups
    padded = np.pad(inputs[0], ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    n, (out, height, width) = len(padded), op.output[1:]
    weight = tensors["weight"].reshape(groups, out // groups, -1, op.kernel, op.kernel)
    weight = np.ascontiguousarray(weight.transpose(3, 4, 0, 1, 2))  # BLAS takes no matrix with gaps between its columns: 20 times slower without it
    total = np.zeros((n, groups, out // groups, height * width))
    for i in range(op.kernel):
        for j in range(op.kernel):
            seen = padded[:, :, i : i + step * (height - 1) + 1 : step, j : j + step * (width - 1) + 1 : step]
            seen = seen.reshape(n, groups, -1, height * width)
            total += weight[i, j] * seen if seen.shape[2] == 1 else weight[i, j] @ seen
    return _biased(total.reshape(n, out, height, width), tensors)


def _linear(op: Any, inputs: list[Doubles], tensors: Tensors) -> Doubles:
    return _biased(inputs[0] @ tensors["weight"].T, tensors)


def _global_pool(op: Any, inputs: list[Doubles], tensors: Tensors) -> Doubles:
    mean: Doubles = inputs[0].mean(axis=(2, 3), keepdims=True)
    return mean


def _windows(op: Any, image: Doubles, outside: float) -> Iterator[Doubles]:
    """The pixels at each place of the windows, (n, c, h', w') each; `outside` where there is no image."""
    top, left, bottom, right = op.pads
    padded = np.pad(image, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=outside)
    height, width = ((size - 1) * op.stride + 1 for size in op.output[2:])
    for i in range(op.kernel):
        for j in range(op.kernel):
            yield padded[:, :, i : i + height : op.stride, j : j + width : op.stride]


def _max_pool(op: Any, inputs: list[Doubles], tensors: Tensors) -> Doubles:
    largest: Doubles = reduce(np.maximum, _windows(op, inputs[0], -np.inf))
    return largest


def _avg_pool(op: Any, inputs: list[Doubles], tensors: Tensors) -> Doubles:
    inside = np.ones_like(inputs[0][:1, :1])
    mean: Doubles = reduce(np.add, _windows(op, inputs[0], 0.0)) / reduce(np.add, _windows(op, inside, 0.0))
    return mean


def _add(op: Any, inputs: list[Doubles], tensors: Tensors) -> Doubles:
    return inputs[0] + inputs[1]


def _mul(op: Any, inputs: list[Doubles], tensors: Tensors) -> Doubles:
    return inputs[0] * inputs[1]


def _flatten(op: Any, inputs: list[Doubles], tensors: Tensors) -> Doubles:
    return inputs[0].reshape(len(inputs[0]), -1)


def _channel_shuffle(op: Any, inputs: list[Doubles], tensors: Tensors) -> Doubles:
    n, c, h, w = inputs[0].shape
    return inputs[0].reshape(n, op.groups, c // op.groups, h, w).swapaxes(1, 2).reshape(n, c, h, w)


def _activation(op: Any, inputs: list[Doubles], tensors: Tensors) -> Doubles:
    return inputs[0]  # what is behind every operator is all there is to it


def _affine(op: Any, inputs: list[Doubles], tensors: Tensors) -> Doubles:
    return _biased(inputs[0] * _per_channel(tensors["weight"], inputs[0]), tensors)


def _zero(op: Any, inputs: list[Doubles], tensors: Tensors) -> Doubles:
    return np.zeros_like(inputs[0])


COMPUTE: dict[type[Op], Callable[[Any, list[Doubles], Tensors], Doubles]] = {
    Conv2d: _conv2d,
    Linear: _linear,
    GlobalPool: _global_pool,
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    Add: _add,
    Mul: _mul,
    Flatten: _flatten,
    Activation: _activation,
    Affine: _affine,
    Zero: _zero,
    ChannelShuffle: _channel_shuffle,
}

ACTIVATION: dict[str, Callable[[Doubles], Doubles]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "sigmoid": lambda x: (1 + np.tanh(x / 2)) / 2,  # the logistic function, without overflow
    "swish": lambda x: x * (1 + np.tanh(x / 2)) / 2,
}
