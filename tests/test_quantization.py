"""hwnas/quantization.py: ranges and scales, by hand."""

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.graph import Graph, Node
from hwnas.ops import Conv2d
from hwnas.quantization import activation_scale, is_quantized, quantized_bias, quantized_weight, value_ranges
from hwnas.variant import Variant

CONV = (Node("conv", Conv2d((1, 1, 1, 1), out=2, act="relu"), ("in0",)),)


def values(*rows):
    return np.array(rows, np.float32)


def test_ranges_are_those_of_all_images_before_and_after_the_activation():
    weights = {"block/conv.weight": values(2, -1).reshape(2, 1, 1, 1), "block/conv.bias": values(0, 0.5)[:]}
    images = np.array([1.0, *[0.0] * 15, -3.0], np.float32).reshape(17, 1, 1, 1)  # more than are computed at once
    ranges = value_ranges(Graph.of_block(CONV), weights, images)
    # 2x: 2 and -6; 0.5 - x: -0.5 and 3.5
    assert ranges == {"input": (-3.0, 1.0), "block/conv.linear": (-6.0, 3.5), "block/conv": (0.0, 3.5)}


@pytest.mark.parametrize(
    ("low", "high", "symmetric", "scale", "zero_point"),
    [
        (-1.0, 1.55, False, 0.01, 100),
        (0.0, 2.55, False, 0.01, 0),
        (1.0, 2.55, False, 0.01, 0),  # zero is always within: padding is zero
        (-2.55, -1.0, False, 0.01, 255),
        (-1.27, 0.5, True, 0.01, 0),
        (0.0, 0.0, False, 1.0, 0),
        (0.0, 1e-45, True, 1.0, 0),  # no scale that float32 holds
    ],
)
def test_scales_by_hand(low, high, symmetric, scale, zero_point):
    found = activation_scale({"x": (low, high)}, "x", symmetric=symmetric)
    assert (found.scale, found.zero_point) == (pytest.approx(scale, rel=1e-6), zero_point)
    assert found.dtype is (np.int8 if symmetric else np.uint8)


@pytest.mark.parametrize(
    ("ranges", "message"), [({}, "no calibration range of 'x'"), ({"x": (0.0, np.inf)}, "range from 0 to inf"), ({"x": (np.nan, 1.0)}, "nan")]
)
def test_values_without_a_finite_range_are_refused(ranges, message):
    with pytest.raises(InputError, match=message):
        activation_scale(ranges, "x", symmetric=False)


def test_weights_have_a_scale_for_each_channel():
    integers, scales = quantized_weight(values((1.27, -0.1), (0, 0), (-2.54, 1)))
    assert integers.tolist() == [[127, -10], [0, 0], [-127, 50]] and integers.dtype == np.int8
    assert scales[[0, 2]].tolist() == pytest.approx([0.01, 0.02]) and scales[1] > 0
    seven, _ = quantized_weight(values((1.27, -0.1)), reduce_range=True)
    assert seven.tolist() == [[63, -5]]


def test_a_large_bias_beside_small_weights_fits_into_32_bits():
    weight, bias = values((1e-30, 0), (1.27, 0)), values(1000, 0.5)
    for input_scale in (1e-6, 0.02, 1e6):
        integers, scales = quantized_weight(weight, bias, input_scale)
        quantized = quantized_bias(bias, input_scale, scales)
        np.testing.assert_allclose(quantized * (input_scale * scales.astype(np.float64)), bias, rtol=1e-6, atol=input_scale * 0.01)
        assert integers[1, 0] == 127


def test_only_int8_needs_ranges():
    assert [is_quantized(Graph.of_block(Variant(name).block(CONV))) for name in ("fp32", "fp16", "bf16", "int8_u8s8", "int8_s8s8")] == [False] * 3 + [True] * 2
