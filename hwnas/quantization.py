"""From real values to integers of eight bits: the ranges that values take, and the scales that cover them.

`value = (integer - zero_point) * scale`. Activations have one scale; weights are symmetric, with a scale for each output channel (Krishnamoorthi,
2018, arXiv:1806.08342). What an activation's scale covers is calibrated on images, zero always within:

- `minmax`: from the least to the greatest value seen;
- `percentile`: all but 0.01 % of the values, half of them on each side (percentile calibration of Wu et al., 2020, arXiv:2004.09602);
- `entropy`: up to the magnitude at which the distribution that eight bits can tell differs least from the one seen, by Kullback and Leibler's divergence
  (Migacz, 8-bit inference with TensorRT, GTC 2017): 2,048 bins of magnitudes, merged to 128 levels, or
  to 256 where no value is negative and integers have no sign. Values of exactly zero, which every scale has, are not counted.

What an activation is given is covered no farther than the activation tells it apart: h-swish of -3 and of -20 is 0, and steps spent on what
is between are lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError
from hwnas.graph import Graph
from hwnas.weights import Array, Weights

#: Name of a value (`input`, each node, and `node.linear`: before the activation) -> its least and greatest value.
Ranges: TypeAlias = Mapping[str, tuple[float, float]]
Integers: TypeAlias = npt.NDArray[np.integer]

_LEAST_SCALE = float(np.finfo(np.float32).tiny)
_LEAST_HALF_SCALE, _MOST_HALF_SCALE = 2.0**-20, 65504.0  # below, float16 has less than five bits
CALIBRATIONS = ("minmax", "percentile", "entropy")
PERCENTILE = 99.99
BINS = 2048
LEVELS = 128
#: Between which an activation tells values apart that it is given: beyond it is constant (`sigmoid`, `swish`: but for half a step of eight bits).
_TOLD = {"hswish": (-3.0, np.inf), "hsigmoid": (-3.0, 3.0), "swish": (-10.0, np.inf), "sigmoid": (-6.24, 6.24)}
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


def value_ranges(graph: Graph, weights: Weights, images: Array, *, calibration: str = "minmax") -> dict[str, tuple[float, float]]:
    """What the scale of everything that is computed covers, least and greatest value, over some images (m, ...), in float32.

    calibration: one of CALIBRATIONS. Raises InputError.
    """
    if calibration not in CALIBRATIONS:
        raise InputError(f"there is no calibration '{calibration}': it must be one of {', '.join(CALIBRATIONS)}")
    if not len(images):
        raise InputError("calibration needs at least one image")
    found = _seen(graph, weights, images, calibration)
    for each in graph.nodes:
        before, act = f"{each.name}.linear", getattr(each.op, "act", "none")
        if act in _TOLD and np.isfinite(found[before]).all():  # what is not finite is refused where its scale is asked for
            low, high = np.clip(found[before], *_TOLD[act])
            found[before] = (float(low), float(high))
    return found


def _seen(graph: Graph, weights: Weights, images: Array, calibration: str) -> dict[str, tuple[float, float]]:
    watched = _watched(graph, weights)
    ranges: dict[str, tuple[float, float]] = {}
    for name, value in _values(watched, images):
        low, high = ranges.get(name, (np.inf, -np.inf))
        ranges[name] = (float(np.minimum(low, value.min())), float(np.maximum(high, value.max())))  # which keep NaN
    if calibration == "minmax" or not all(np.isfinite(each).all() for each in ranges.values()):
        return ranges  # what is not finite is refused where its scale is asked for
    counts = {name: np.zeros(BINS, np.int64) for name in ranges}
    edges = {name: (0.0, max(-low, high)) if calibration == "entropy" else (low, high) for name, (low, high) in ranges.items()}
    for name, value in _values(watched, images):
        seen = np.abs(value[value != 0]) if calibration == "entropy" else value
        counts[name] += np.histogram(seen, BINS, _wide(edges[name]))[0]
    if calibration == "percentile":
        return {name: _percentile(count, *_wide(edges[name]), ranges[name]) for name, count in counts.items()}
    has_no_sign = any(op.data_type == "int8_u8s8" for op in graph.ops)
    levels = {name: LEVELS * (2 if low >= 0 and has_no_sign else 1) for name, (low, _) in ranges.items()}
    return {name: _cut(ranges[name], _threshold(count, levels[name]) * edges[name][1]) for name, count in counts.items()}


def _watched(graph: Graph, weights: Weights) -> tuple[Callable[[Array], list[Array]], list[str]]:
    """The network in float32, in ONNX Runtime, as a function images (m, ...) -> all values; and their names."""
    from onnx import helper

    from hwnas.backends.onnx import runner_of_all, to_onnx
    from hwnas.interface import Interface, with_interface

    real = graph.in_float32()
    model = with_interface(to_onnx(real, weights), Interface(free_batch=True), side=graph.input[-1], preprocessing=None)
    del model.graph.output[:]
    names = []
    for each in real.nodes:
        parts = [each.name] if getattr(each.op, "act", "none") == "none" else [f"{each.name}.linear", each.name]
        names += parts
        model.graph.output.extend(helper.make_tensor_value_info("output" if part == real.output_name else part, 1, None) for part in parts)
    return runner_of_all(model.SerializeToString()), names


def _values(watched: tuple[Callable[[Array], list[Array]], list[str]], images: Array) -> Iterator[tuple[str, Array]]:
    """(name, value) of everything that is computed, a few images at once; what an activation is given is a value of its own, `node.linear`."""
    run, names = watched
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        some = np.ascontiguousarray(images[start : start + _IMAGES_AT_ONCE], np.float32)
        yield "input", some
        yield from zip(names, run(some), strict=True)


def _wide(edges: tuple[float, float]) -> tuple[float, float]:
    """Edges of a histogram: of values that are all alike it has some width, too."""
    low, high = edges
    return (low, high) if high - low > _LEAST_SCALE else (low, low + 1.0)


def _percentile(counts: npt.NDArray[np.int64], low: float, high: float, seen: tuple[float, float]) -> tuple[float, float]:
    """Between which all but the outer share of the values is, half of it on each side."""
    below = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    share = (100 - PERCENTILE) / 200
    ends = np.interp([share, 1 - share], below, np.linspace(low, high, len(counts) + 1))
    return max(seen[0], float(ends[0])), min(seen[1], float(ends[1]))


def _cut(seen: tuple[float, float], threshold: float) -> tuple[float, float]:
    return max(seen[0], -threshold), min(seen[1], threshold)


def _threshold(counts: npt.NDArray[np.int64], levels: int) -> float:
    """The share of the bins up to which magnitudes are kept: least divergence of what `levels` levels can tell from what was seen."""
    best, chosen = np.inf, len(counts)
    total = counts.sum()
    for kept in range(levels, len(counts) + 1, max(1, levels // 16)):
        seen = counts[:kept].astype(np.float64)
        seen[-1] += total - seen.sum()  # what is beyond is clipped to the end
        level = np.arange(kept) * levels // kept
        there = counts[:kept] > 0
        sums, filled = np.bincount(level, counts[:kept], levels), np.bincount(level, there, levels)
        told = np.where(there, (sums / np.maximum(filled, 1))[level], 0.0)
        divergence = _divergence(seen, told)
        if divergence < best:
            best, chosen = divergence, kept
    return chosen / len(counts)


def _divergence(seen: npt.NDArray[np.float64], told: npt.NDArray[np.float64]) -> float:
    """Of two histograms, each smoothed by a ten-thousandth of its mass where it is empty, so that no logarithm is infinite."""
    p, q = (each / max(each.sum(), 1.0) for each in (seen, told))
    p, q = (np.where(each > 0, each, 1e-4 / len(each)) for each in (p, q))
    return float((p * np.log(p / q)).sum() - p.sum() + q.sum())


def random_image(graph: Graph) -> Array:
    """A standard normal input, (1, ...): what ranges are taken from where only the latency matters, which does not depend on them."""
    return np.random.default_rng(0).standard_normal((1, *graph.input[1:])).astype(np.float32)


def activation_scale(ranges: Ranges, name: str, *, symmetric: bool, half: bool = False) -> Scale:
    """The scale of one value: int8 about zero where `symmetric`, else uint8 from the least to the greatest; `half`: a scale
    that float16 holds. Raises InputError."""
    if name not in ranges:
        raise InputError(f"there is no calibration range of '{name}': calibrate this very network")
    low, high = min(ranges[name][0], 0.0), max(ranges[name][1], 0.0)
    if not np.isfinite(high - low):
        raise InputError(f"the values of '{name}' range from {low:g} to {high:g}: that cannot be quantised")
    if symmetric:
        return Scale(_positive(max(-low, high) / 127, half), 0, np.int8)
    scale = _positive((high - low) / 255)
    return Scale(scale, int(np.clip(np.rint(-low / scale), 0, 255)), np.uint8)


def quantized_weight(
    weight: Array, bias: Array | None = None, input_scale: float = 1.0, *, reduce_range: bool = False, half: bool = False
) -> tuple[Integers, Array]:
    """(int8 weights, scale of each output channel (out,)), symmetric; finite arrays only.

    bias: (out,), to be quantised with the scale of the accumulator, input times weight: where its channel's weights are so small
    that it would not fit 32 bits, they get a larger scale. reduce_range: seven bits, for processors whose dot products of eight bits
    add pairs in 16 bits, which overflow (AVX2 without VNNI). half: scales that float16 holds.
    """
    largest = 63 if reduce_range else 127
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    smallest = _LEAST_HALF_SCALE if half else _LEAST_SCALE
    least = np.full(len(flat), smallest) if bias is None else np.maximum(np.abs(bias.astype(np.float64)) / input_scale / _MAX_BIAS, smallest)
    scales = np.maximum(np.abs(flat).max(axis=1) / largest, least).astype(np.float16 if half else np.float32).astype(np.float32)
    integers = np.clip(np.rint(flat / scales[:, None].astype(np.float64)), -largest, largest).astype(np.int8)
    return integers.reshape(weight.shape), scales


def quantized_bias(bias: Array, input_scale: float, weight_scales: Array) -> Integers:
    """int32 biases at the scale of the accumulator: (out,)."""
    return np.rint(bias.astype(np.float64) / (input_scale * weight_scales.astype(np.float64))).astype(np.int32)


def _positive(scale: float, half: bool = False) -> float:
    """A scale as float32, or float16, holds it; of values that are all zero it is 1."""
    if scale <= _LEAST_SCALE:
        return 1.0
    return float(np.float16(np.clip(scale, _LEAST_HALF_SCALE, _MOST_HALF_SCALE)) if half else np.float32(scale))
