"""From real values to integers of eight bits: the ranges that values take, and the scales that cover them.

`value = (integer - zero_point) * scale`. Activations have one scale, from the least and greatest value seen (min-max calibration,
zero always within); weights are symmetric, with a scale for each output channel (Krishnamoorthi, 2018, arXiv:1806.08342).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hwnas.backends.numpy import Doubles, numpy
from hwnas.errors import InputError
from hwnas.graph import Graph
from hwnas.weights import Array, Weights

#: Name of a value (`input`, each node, and `node.linear`: before the activation) -> its least and greatest value.
Ranges: TypeAlias = Mapping[str, tuple[float, float]]
Integers: TypeAlias = npt.NDArray[np.integer]

_LEAST_SCALE = float(np.finfo(np.float32).tiny)
_IMAGES_AT_ONCE = 8  # of a large network at 224 pixels, a few hundred megabytes
_MAX_BIAS = 2**30  # half of int32: leaves the accumulator the other half


@dataclass(frozen=True, slots=True)
class Scale:
    """How a tensor of activations is quantised; `dtype` is uint8 or int8."""

    scale: float
    zero_point: int
    dtype: type[np.uint8 | np.int8]


def is_quantized(graph: Graph) -> bool:
    """Whether any of its operators needs ranges."""
    return any(op.data_type.startswith("int8") for op in graph.ops)


def value_ranges(graph: Graph, weights: Weights, images: Array) -> dict[str, tuple[float, float]]:
    """The least and greatest value of everything that is computed, over some images (m, ...), by the reference interpreter. Raises InputError."""
    ranges: dict[str, tuple[float, float]] = {}

    def see(name: str, value: Doubles) -> None:
        low, high = ranges.get(name, (np.inf, -np.inf))
        ranges[name] = (min(low, float(value.min())), max(high, float(value.max())))

    run = numpy(graph, weights, see)
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        run(images[start : start + _IMAGES_AT_ONCE])
    return ranges


def random_image(graph: Graph) -> Array:
    """A standard normal input, (1, ...): what ranges are taken from where only the latency matters, which does not depend on them."""
    return np.random.default_rng(0).standard_normal((1, *graph.input[1:])).astype(np.float32)


def activation_scale(ranges: Ranges, name: str, *, symmetric: bool) -> Scale:
    """The scale of one value: int8 about zero where `symmetric`, else uint8 from the least to the greatest. Raises InputError."""
    if name not in ranges:
        raise InputError(f"there is no calibration range of '{name}': calibrate this very network")
    low, high = min(ranges[name][0], 0.0), max(ranges[name][1], 0.0)
    if not np.isfinite(high - low):
        raise InputError(f"the values of '{name}' range from {low:g} to {high:g}: that cannot be quantised")
    if symmetric:
        return Scale(_positive(max(-low, high) / 127), 0, np.int8)
    scale = _positive((high - low) / 255)
    return Scale(scale, int(np.clip(np.rint(-low / scale), 0, 255)), np.uint8)


def quantized_weight(weight: Array, bias: Array | None = None, input_scale: float = 1.0, *, reduce_range: bool = False) -> tuple[Integers, Array]:
    """(int8 weights, scale of each output channel (out,)), symmetric; finite arrays only.

    bias: (out,), to be quantised with the scale of the accumulator, input times weight: where its channel's weights are so small
    that it would not fit 32 bits, they get a larger scale. reduce_range: seven bits, for processors whose dot products of eight bits
    add pairs in 16 bits, which overflow (AVX2 without VNNI).
    """
    largest = 63 if reduce_range else 127
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    least = np.full(len(flat), _LEAST_SCALE) if bias is None else np.maximum(np.abs(bias.astype(np.float64)) / input_scale / _MAX_BIAS, _LEAST_SCALE)
    scales = np.maximum(np.abs(flat).max(axis=1) / largest, least).astype(np.float32)
    integers = np.clip(np.rint(flat / scales[:, None].astype(np.float64)), -largest, largest).astype(np.int8)
    return integers.reshape(weight.shape), scales


def quantized_bias(bias: Array, input_scale: float, weight_scales: Array) -> Integers:
    """int32 biases at the scale of the accumulator: (out,)."""
    return np.rint(bias.astype(np.float64) / (input_scale * weight_scales.astype(np.float64))).astype(np.int32)


def _positive(scale: float) -> float:
    """A scale as float32 holds it; of values that are all zero it is 1."""
    return float(np.float32(scale)) if scale > _LEAST_SCALE else 1.0
