"""hwnas/quantization.py: ranges and scales, by hand."""

import numpy as np
import pytest

from hwnas.backends.numpy import numpy
from hwnas.errors import InputError
from hwnas.graph import Graph, Node
from hwnas.ops import Conv2d
from hwnas.quantization import CALIBRATIONS, activation_scale, is_quantized, quantized_bias, quantized_weight, value_ranges
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.variant import Variant
from hwnas.weights import random_weights

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


# -- calibration -------------------------------------------------------------------------------------------------------------------


ONE = {"block/conv.weight": np.ones((1, 1, 1, 1), np.float32), "block/conv.bias": np.zeros(1, np.float32)}


def calibrated(images, calibration, precision="int8_u8s8"):
    """What the scale of the input covers."""
    values = np.asarray(images, np.float32).reshape((1, 1, 1, len(images)) if len(images) else (0, 1, 1, 1))
    graph = Graph.of_block(Variant(precision).block((Node("conv", Conv2d((1, 1, 1, max(1, len(images))), out=1), ("in0",)),)))
    return value_ranges(graph, ONE, values, calibration=calibration)["input"]


def test_percentile_leaves_half_of_its_share_out_on_each_side():
    values = np.linspace(-1, 1, 100_001)
    low, high = calibrated(values, "percentile")
    assert (low, high) == (pytest.approx(-0.9999, abs=2e-5), pytest.approx(0.9999, abs=2e-5))
    with_outlier = calibrated([*values, 1000.0, -3000.0], "percentile")
    assert with_outlier[0] > -4 and with_outlier[1] < 4  # a bin of the histogram wide, and not thousands
    assert calibrated([*values, 1000.0, -3000.0], "minmax") == (-3000.0, 1000.0)


def test_entropy_cuts_a_long_tail_and_keeps_what_fills_its_range():
    rng = np.random.default_rng(0)
    flat = rng.uniform(-1, 1, 50_000)
    assert calibrated(flat, "entropy") == pytest.approx((flat.min(), flat.max()), abs=0.02)
    normal = rng.standard_normal(200_000)
    low, high = calibrated([*normal, 50.0], "entropy")
    assert 3 < high < 12 and -high <= low  # most of the mass, and not the one value at 50


def test_entropy_does_not_count_zeros_and_has_more_levels_where_nothing_is_negative():
    values = np.abs(np.random.default_rng(1).standard_normal(50_000))
    zeros = np.concatenate([values, np.zeros(500_000)])
    assert calibrated(zeros, "entropy")[1] == calibrated(values, "entropy")[1]
    assert calibrated([*values, 30.0], "entropy")[1] >= calibrated([*values, 30.0], "entropy", "int8_s8s8")[1] * 0.9


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_values_that_are_all_alike_and_none_are_calibrated_or_refused(calibration):
    for value in (0.0, 3.0, -2.0):
        low, high = calibrated([value] * 20, calibration)
        assert low <= value <= high or value == pytest.approx(high, abs=1e-3) or value == pytest.approx(low, abs=1e-3)
        activation_scale({"x": (low, high)}, "x", symmetric=False)
    with pytest.raises(InputError, match="at least one image"):
        calibrated([], calibration)
    assert not np.isfinite(calibrated([1.0, np.nan, 2.0], calibration)).all()  # refused where a scale is made of it


@pytest.mark.parametrize(("act", "covered"), [("hswish", (-3.0, 9.0)), ("hsigmoid", (-3.0, 3.0)), ("sigmoid", (-6.24, 6.24)), ("relu", (-9.0, 9.0))])
def test_what_an_activation_does_not_tell_apart_is_not_covered(act, covered):
    graph = Graph.of_block((Node("conv", Conv2d((1, 1, 1, 1), out=1, act=act), ("in0",)),))
    weights = {"block/conv.weight": np.ones((1, 1, 1, 1), np.float32), "block/conv.bias": np.zeros(1, np.float32)}
    images = np.linspace(-9, 9, 19, dtype=np.float32).reshape(19, 1, 1, 1)
    for calibration in CALIBRATIONS:
        found = value_ranges(graph, weights, images, calibration=calibration)["block/conv.linear"]
        assert found == pytest.approx(covered, abs=0.01) and value_ranges(graph, weights, images)["input"] == (-9.0, 9.0)
    images[:] = -5.0
    low, high = value_ranges(graph, weights, images)["block/conv.linear"]
    assert max(covered[0], -5.0) == low <= high <= 0
    with pytest.raises(InputError, match="cannot be quantised"):
        activation_scale(value_ranges(graph, weights, images * np.inf), "block/conv.linear", symmetric=False)


def test_an_unknown_calibration_is_named_with_the_known_ones():
    with pytest.raises(InputError, match="there is no calibration 'max': it must be one of minmax, percentile, entropy"):
        calibrated([1.0], "max")


def test_ranges_are_those_of_the_reference_interpreter():
    graph = ofa_mini().lower(ofa_mini().smallest())
    weights, x = random_weights(graph, np.random.default_rng(0)), np.random.default_rng(1).standard_normal((3, *graph.input[1:])).astype(np.float32)
    seen = {}

    def see(name, value):
        low, high = seen.get(name, (np.inf, -np.inf))
        seen[name] = (min(low, float(value.min())), max(high, float(value.max())))

    numpy(graph, weights, see)(x)
    found = value_ranges(Variant("int8_u8s8").space(ofa_mini()).lower(ofa_mini().smallest()), weights, x)
    for each in graph.nodes:
        if getattr(each.op, "act", "none") == "hswish":
            seen[f"{each.name}.linear"] = (max(-3.0, seen[f"{each.name}.linear"][0]), seen[f"{each.name}.linear"][1])
    for name, ends in found.items():
        assert ends == pytest.approx(seen[name], rel=1e-4, abs=1e-5), name
