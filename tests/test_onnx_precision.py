"""hwnas/backends/onnx.py in other precisions than float32: what is written, what it computes, and which kernels ONNX Runtime makes of it."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx as onnx_library
import pytest
from onnx.reference import ReferenceEvaluator

from hwnas import registry
from hwnas.backends.numpy import at_unit_scale, numpy
from hwnas.backends.onnx import runner, to_onnx
from hwnas.blocks import bottleneck, mbconv, mobilenet_head
from hwnas.errors import InputError
from hwnas.exporter import PARITY_LIMITS, compare
from hwnas.graph import Graph, Node
from hwnas.ops import Add, AvgPool, ChannelShuffle, Conv2d, Linear, MaxPool
from hwnas.quantization import value_ranges
from hwnas.variant import PRECISIONS, Variant
from hwnas.weights import fold, random_weights

SMALLEST = {
    "accel_nasbench": "accel_nasbench(resolution=64)",
    "ofa_mini": "ofa_mini(resolutions=(32,))",
    "ofa_mobilenet_v3": "ofa_mobilenet_v3(resolutions=(128,))",
    "nas_bench_macro": "nas_bench_macro",
    "nasbench201": "nasbench201",
}
RELU = mbconv((1, 32, 14, 14), 32, 3, 4)
HSWISH_SE = mbconv((1, 32, 14, 14), 32, 3, 4, act="hswish", se=True)
#: Windows, a shuffle, an activation behind an addition.
WINDOWS = (
    *bottleneck((1, 32, 13, 13), 64, 16, 2, pooled_shortcut=True),
    Node("shuffle", ChannelShuffle((1, 64, 7, 7), groups=2), ("add",)),
    Node("max", MaxPool((1, 64, 7, 7), kernel=3, stride=2, padding=1), ("shuffle",)),
)
HEAD = mobilenet_head((1, 32, 4, 4), 64, 128, 10)


def network(precision, block):
    graph = Graph.of_block(Variant(precision).block(block))
    return graph, random_weights(graph, np.random.default_rng(0))


def image(graph, seed=1):
    return np.random.default_rng(seed).normal(0, 1, graph.input).astype(np.float32)


def kinds(model):
    return Counter(node.op_type for node in model.graph.node)


def optimised(model, path):
    """Operators of the model as ONNX Runtime executes it on this CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level, options.intra_op_num_threads = str(path / "optimised.onnx"), 3, 1
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return kinds(onnx_library.load(path / "optimised.onnx"))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block", [RELU, HSWISH_SE, HEAD, WINDOWS], ids=["relu", "hswish, se", "head", "windows"])
@pytest.mark.parametrize("real_ends", [True, False])
def test_models_pass_the_checker_and_equal_networks_give_equal_bytes(precision, block, real_ends):
    graph, weights = network(precision, block)
    model = to_onnx(graph, weights, real_ends=real_ends)
    onnx_library.checker.check_model(model, full_check=True)
    assert model.SerializeToString() == to_onnx(graph, weights, real_ends=real_ends).SerializeToString()
    types = [each.type.tensor_type.elem_type for each in (model.graph.input[0], model.graph.output[0])]
    own = {"fp32": 1, "fp16": 10, "bf16": 16, "int8_u8s8": 2, "int8_s8s8": 3, "int8_fp16": 3}[precision]  # TensorProto: FLOAT, FLOAT16, BFLOAT16, UINT8, INT8
    assert types == ([1, 1] if real_ends else [own, own])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_halves_are_cast_at_the_ends_alone(precision):
    whole, part = (to_onnx(*network(precision, HSWISH_SE), real_ends=real_ends) for real_ends in (True, False))
    assert kinds(whole) - kinds(part) == {"Cast": 2} and "Cast" not in kinds(part)
    assert {tensor.data_type for tensor in part.graph.initializer} == {10 if precision == "fp16" else 16}
    assert part.opset_import[0].version == (17 if precision == "fp16" else 22)


def test_bfloat16_needs_an_opset_that_has_it():
    with pytest.raises(InputError, match="ONNX opset 17 has no convolution in bfloat16; use 22 or later"):
        to_onnx(*network("bf16", RELU), opset=17)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("fp16", r"'block/conv.weight' has the value 1.265e\+05, batch norm folded, and float16 ends at 65,504: use fp32 or bf16"),
        ("int8_u8s8", None),
        ("bf16", None),
    ],
)
def test_a_batch_norm_that_folds_to_more_than_a_type_holds_is_refused_by_name(dtype, message):
    block = Variant(dtype).block((Node("conv", Conv2d((1, 1, 2, 2), out=1), ("in0",), 1e-10),))
    weights = {"weight": np.full((1, 1, 1, 1), 40), "norm.weight": [1], "norm.bias": [0], "norm.mean": [0], "norm.var": [0]}
    graph, named = Graph.of_block(block), {f"block/conv.{name}": np.array(array, np.float32) for name, array in weights.items()}
    named["block/conv.norm.weight"] *= np.float32(0.0316227766)  # 40 * 0.0316 / sqrt(1e-10) = 126,491
    if message is None:
        onnx_library.checker.check_model(to_onnx(graph, named))
        return
    with pytest.raises(InputError, match=message):
        to_onnx(graph, named)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8_u8s8", "int8_s8s8", "int8_fp16"])
def test_weights_that_are_not_finite_are_refused_by_name(precision):
    graph, weights = network(precision, RELU)
    weights["block/depthwise.weight"][3] = np.nan
    with pytest.raises(InputError, match=r"block/depthwise\.weight|values of 'block/depthwise"):
        to_onnx(graph, weights)
    with pytest.raises(InputError, match=r"'block/depthwise\.weight' has"):
        to_onnx(graph, weights, ranges=dict.fromkeys(("input", "block/expand", "block/depthwise", "block/project", "block/add"), (-1.0, 1.0)))


def test_uint8_quantises_each_value_and_before_activations_without_integer_kernel():
    model = to_onnx(*network("int8_u8s8", HSWISH_SE), real_ends=False)
    # read: input; written: 5 convolutions, pool, scale, add; h-swish twice, h-sigmoid once also before the activation
    assert kinds(model)["QuantizeLinear"] == 5 + 3 + 3
    constants = {tensor.name: onnx_library.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert constants["block/depthwise.weight"].dtype == np.int8 and constants["block/depthwise.weight.scale"].shape == (128,)
    assert constants["block/depthwise.bias"].dtype == np.int32 and not constants["block/depthwise.weight.zero_point"].any()
    np.testing.assert_allclose(
        constants["block/depthwise.bias.scale"], constants["block/expand.uint8.scale"] * constants["block/depthwise.weight.scale"], rtol=1e-6
    )


def test_pools_and_shuffles_pass_integers_on():
    """What gives some of the values it is given needs no quantisation of its own; a mean does."""
    block = (
        Node("conv", Conv2d((1, 8, 16, 16), out=16, kernel=3, act="relu"), ("in0",)),
        Node("most", MaxPool((1, 16, 16, 16), kernel=3, stride=2, padding=1), ("conv",)),
        Node("shuffle", ChannelShuffle((1, 16, 8, 8), groups=4), ("most",)),
        Node("last", Conv2d((1, 16, 8, 8), out=8, kernel=1), ("shuffle",)),
        Node("mean", AvgPool((1, 8, 8, 8), kernel=2, stride=2), ("last",)),
    )
    graph = Graph.of_block(Variant("int8_u8s8").block(block))
    x = image(graph)
    weights = random_weights(graph, np.random.default_rng(0))
    model = to_onnx(graph, weights, ranges=value_ranges(graph, weights, x))
    assert kinds(model)["QuantizeLinear"] == 4, "of the input, and behind the two convolutions and the mean"
    expected = numpy(graph, weights)(x)
    assert np.abs(runner(model.SerializeToString())(x) - expected).max() < 0.1 * expected.std()


def test_int8_for_tensorrt_is_symmetric_at_the_inputs_of_convolutions_and_of_the_shortcut():
    model = to_onnx(*network("int8_s8s8", RELU))
    by_output = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: onnx_library.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert not any(constants[name].any() for name in constants if name.endswith("zero_point"))
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert [by_output[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2 and constants[node.input[2]].dtype == np.float32
        if node.op_type == "Add":
            assert [by_output[name].op_type for name in node.input] == ["Conv", "DequantizeLinear"]
        if node.op_type == "QuantizeLinear":
            assert by_output[node.input[0]].op_type in ("Relu",) if node.input[0] != "input" else True
    assert kinds(model)["QuantizeLinear"] == 3  # the block's input, read twice; what depthwise and project read


def test_int8_in_half_precision_has_all_else_in_float16_scales_too():
    model, real = to_onnx(*network("int8_fp16", HSWISH_SE)), to_onnx(*network("int8_s8s8", HSWISH_SE))
    assert model.opset_import[0].version == 19 and kinds(model) - kinds(real) == {"Cast": 2}  # at the ends
    constants = {tensor.name: onnx_library.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert {array.dtype for array in constants.values()} == {np.dtype("int8"), np.dtype("float16")}
    scales = constants["block/depthwise.weight.scale"].astype(np.float64)
    weights, folded = constants["block/depthwise.weight"], fold(*network("int8_fp16", HSWISH_SE))["block/depthwise.weight"]
    assert np.abs(weights * scales[:, None, None, None] - folded).max() <= 0.51 * scales.max() and np.abs(weights.astype(int)).max() == 127


def test_float16_is_quantised_from_opset_19_on():
    with pytest.raises(InputError, match="ONNX opset 17 has no quantisation of float16; use 19 or later"):
        to_onnx(*network("int8_fp16", RELU), opset=17)


def test_reduced_range_leaves_a_bit_free():
    graph, weights = network("int8_u8s8", RELU)
    for reduce_range, most in ((False, 127), (True, 63)):
        model = to_onnx(graph, weights, reduce_range=reduce_range)
        largest = max(np.abs(onnx_library.numpy_helper.to_array(t).astype(int)).max() for t in model.graph.initializer if t.data_type == 3 and t.dims)
        assert largest == most


# -- what ONNX Runtime makes of it on this CPU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "convolutions"), [(RELU, 3), (HSWISH_SE, 5)], ids=["relu", "hswish, se"])
def test_every_convolution_of_u8s8_is_one_of_integers(block, convolutions, tmp_path):
    found = optimised(to_onnx(*network("int8_u8s8", block), real_ends=False), tmp_path)
    assert found["QLinearConv"] == convolutions and found["QLinearAdd"] == 1
    assert not {"Conv", "FusedConv", "Relu"} & set(found)
    if block is RELU:
        assert not {"DequantizeLinear", "QuantizeLinear"} & set(found)


def test_the_head_of_u8s8_is_integers_but_for_its_logits(tmp_path):
    found = optimised(to_onnx(*network("int8_u8s8", HEAD)), tmp_path)
    assert (found["QLinearConv"], found["QLinearGlobalAveragePool"], found["QGemm"]) == (2, 1, 1)
    assert not {"Conv", "FusedConv", "Gemm", "MatMul"} & set(found)
    logits = runner(to_onnx(*network("int8_u8s8", HEAD)).SerializeToString())(image(Graph.of_block(HEAD)))
    assert len(np.unique(logits)) == 10


def test_dot_products_of_eight_bits_do_not_overflow_here():
    """255 * 127 + 255 * 127 is beyond 16 bits, which processors without VNNI add pairs in: full weights are exact only with it."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "vnni" not in cpuinfo.read_text():
        pytest.skip("this processor has no VNNI: use reduce_range there")
    block = Variant("int8_u8s8").block((Node("conv", Conv2d((1, 64, 4, 4), out=16, bias=False), ("in0",)),))
    graph = Graph.of_block(block)
    ranges = {"input": (0.0, 255.0), "block/conv": (0.0, 255.0 * 64)}
    model = to_onnx(graph, {"block/conv.weight": np.full((16, 64, 1, 1), 1.0, np.float32)}, ranges=ranges)
    assert runner(model.SerializeToString())(np.full(graph.input, 255, np.float32)) == pytest.approx(255 * 64, rel=1e-2)


# -- parity --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.names("spaces"))
@pytest.mark.parametrize("precision", ["fp16", "int8_u8s8", "int8_s8s8"])
def test_random_subnets_in_onnx_runtime_are_near_the_reference(name, precision):
    space, rng = Variant(precision).space(registry.create("spaces", SMALLEST.get(name, f"{name}(resolutions=(96,))"))), np.random.default_rng(7)
    # With random weights EfficientNet's deepest networks add up more rounding than the limits are for (fp16 0.023, int8_s8s8 1.1): its smallest one.
    for code in space.smallest() if name == "efficientnet" else space.sample(rng, 2):
        graph = space.lower(code)
        x = image(graph)
        weights = at_unit_scale(graph, random_weights(graph, rng), x)
        run = runner(to_onnx(graph, weights, ranges=value_ranges(graph, weights, x)).SerializeToString())
        parity = compare(run(x), numpy(graph, weights)(x), PARITY_LIMITS[PRECISIONS[precision]])
        assert parity.passed, (name, precision, code, parity.ratio)


@pytest.mark.parametrize("name", ["ofa_mini", "mobilenet_v3"])
def test_int8_with_float16_is_near_the_reference_and_near_int8_with_float32(name):
    space, rng = registry.create("spaces", SMALLEST.get(name, f"{name}(resolutions=(96,))")), np.random.default_rng(7)
    code = space.smallest()[0]
    weights, x = random_weights(space.lower(code), rng), image(space.lower(code))
    weights, logits = at_unit_scale(space.lower(code), weights, x), {}
    for precision in ("int8_fp16", "int8_s8s8"):
        graph = Variant(precision).space(space).lower(code)
        logits[precision] = runner(to_onnx(graph, weights, ranges=value_ranges(graph, weights, x)).SerializeToString())(x)
    reference = numpy(space.lower(code), weights)(x)
    assert compare(logits["int8_fp16"], reference, PARITY_LIMITS["int8_fp16"]).passed
    assert np.abs(logits["int8_fp16"] - logits["int8_s8s8"]).max() < 0.3 * reference.std()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_step_in_half_precision_is_near_the_reference(precision):
    """ONNX's reference evaluator rounds each value to the type; ONNX Runtime on CPUs computes fp16 in float32, and bf16 not at all."""
    space, rng = Variant(precision).space(registry.create("spaces", "ofa_mini(resolutions=(32,))")), np.random.default_rng(3)
    for code in space.sample(rng, 2):
        graph = space.lower(code)
        weights, x = random_weights(graph, rng), image(graph)
        (got,) = ReferenceEvaluator(to_onnx(graph, weights)).run(None, {"input": x})
        parity = compare(got, numpy(graph, weights)(x), PARITY_LIMITS[PRECISIONS[precision]])
        assert parity.passed and parity.ratio > 1e-5, (code, parity.ratio)


def test_precisions_meet_in_one_network_with_a_cast_or_quantisation_between_them():
    shape = (1, 8, 6, 6)
    nodes = (
        Node("first", Conv2d(shape, out=8, kernel=3, act="relu"), ("in0",)),
        Node("half", Conv2d(shape, out=8, kernel=3, dtype="float16"), ("first",)),
        Node("bytes", Conv2d(shape, out=8, kernel=3, act="relu6", dtype="int8_u8s8"), ("half",)),
        Node("signed", Conv2d(shape, out=8, dtype="int8_s8s8"), ("bytes",)),
        Node("add", Add(shape, dtype="float16"), ("signed", "first")),
    )
    graph = Graph.of_block(nodes)
    weights = random_weights(graph, np.random.default_rng(0))
    x = image(graph)
    model = to_onnx(graph, weights, ranges=value_ranges(graph, weights, x))
    onnx_library.checker.check_model(model, full_check=True)
    expected = numpy(graph, weights)(x)
    assert np.abs(runner(model.SerializeToString())(x) - expected).max() < 0.1 * expected.std()
    assert kinds(model)["Cast"] == 4  # first and signed to half, half to real, the end to real


def test_a_linear_layer_inside_a_network_is_quantised_behind_it(tmp_path):
    block = Variant("int8_u8s8").block((Node("mix", Linear((1, 32), out=16, act="relu"), ("in0",)), Node("out", Linear((1, 16), out=4), ("mix",))))
    graph = Graph.of_block(block)
    assert optimised(to_onnx(graph, random_weights(graph, np.random.default_rng(0))), tmp_path)["QGemm"] == 2
