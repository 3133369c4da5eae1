"""hwnas/backends/: the reference interpreter by hand and against PyTorch's own functions; the ONNX models as files people meet."""

from collections import Counter

import numpy as np
import onnx as onnx_library
import pytest

from hwnas.backends.numpy import numpy
from hwnas.backends.onnx import onnx, runner, to_onnx
from hwnas.blocks import mbconv
from hwnas.errors import InputError
from hwnas.graph import Graph, Node
from hwnas.ops import Add, AvgPool, ChannelShuffle, Conv2d, GlobalPool, Linear, MaxPool, Mul, Op
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.spaces.ofa_mobilenet_v3 import ofa_mobilenet_v3
from hwnas.weights import random_weights


def alone(op, norm=None):
    return Graph.of_block((Node("op", op, ("in0",), norm),))


def values(*rows):
    return np.array(rows, np.float32)


# -- numpy: by hand ---------------------------------------------------------------------------------------------------------------


def test_a_convolution_by_hand():
    image = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    weights = {"block/op.weight": np.array([[0, 0, 0], [0, 1, 10], [0, 0, 0]], np.float32).reshape(1, 1, 3, 3), "block/op.bias": values(0.5)[0:1]}
    # each pixel plus ten times its right neighbour (zero outside), plus 0.5
    expected = [[21.5, 32.5, 3.5], [54.5, 65.5, 6.5], [87.5, 98.5, 9.5]]
    assert numpy(alone(Conv2d((1, 1, 3, 3), out=1, kernel=3)), weights)(image)[0, 0].tolist() == expected
    strided = numpy(alone(Conv2d((1, 1, 3, 3), out=1, kernel=3, stride=2)), weights)(image)
    assert strided[0, 0].tolist() == [[21.5, 3.5], [87.5, 9.5]]


def test_groups_keep_channels_apart():
    image = values(1, 2, 3, 4).reshape(1, 4, 1, 1)
    pairs = {"block/op.weight": values(1, 1, 1, -1).reshape(2, 2, 1, 1), "block/op.bias": np.zeros(2, np.float32)}
    assert numpy(alone(Conv2d((1, 4, 1, 1), out=2, groups=2)), pairs)(image).ravel().tolist() == [1 + 2, 3 - 4]


def test_batch_norm_comes_before_the_activation():
    weights = {
        "block/op.weight": values(1, 1).reshape(2, 1, 1, 1),
        "block/op.norm.weight": values(2, 2)[0],
        "block/op.norm.bias": values(0, 1)[0],
        "block/op.norm.mean": values(5, 5)[0],
        "block/op.norm.var": values(3.5, 3.5)[0],
    }
    weights = {name: array.reshape(-1, *array.shape[1:]) if array.ndim > 1 else np.full(2, array) for name, array in weights.items()}
    weights["block/op.norm.bias"] = values(0, 1).ravel()
    graph = alone(Conv2d((1, 1, 1, 1), out=2, act="relu"), 0.5)
    # (x - 5) / sqrt(3.5 + 0.5) * 2 + bias: x = 3 -> -2 and -1; x = 9 -> 4 and 5
    assert numpy(graph, weights)(values(3).reshape(1, 1, 1, 1)).ravel().tolist() == [0, 0]
    assert numpy(graph, weights)(values(9).reshape(1, 1, 1, 1)).ravel().tolist() == [4, 5]


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        ("none", [-4, -1, 0, 1, 3, 8]),
        ("relu", [0, 0, 0, 1, 3, 8]),
        ("relu6", [0, 0, 0, 1, 3, 6]),
        ("hsigmoid", [0, 2 / 6, 0.5, 4 / 6, 1, 1]),
        ("hswish", [0, -2 / 6, 0, 4 / 6, 3, 8]),
    ],
)
def test_activations_by_hand(act, expected):
    weights = {"block/op.weight": np.eye(6, dtype=np.float32), "block/op.bias": np.zeros(6, np.float32)}
    got = numpy(alone(Linear((1, 6), out=6, act=act)), weights)(values(-4, -1, 0, 1, 3, 8).reshape(1, 6))
    np.testing.assert_allclose(got[0], expected, atol=1e-7)


def test_pooling_gating_and_adding_by_hand():
    shape = (1, 2, 1, 2)
    block = (Node("pool", GlobalPool(shape), ("in0",)), Node("gate", Mul(shape), ("in0", "pool")), Node("add", Add(shape), ("gate", "in0")))
    image = values(1, 3, 10, 20).reshape(shape)  # channel means 2 and 15
    assert numpy(Graph.of_block(block), {})(image).ravel().tolist() == [1 * 2 + 1, 3 * 2 + 3, 10 * 15 + 10, 20 * 15 + 20]


def test_windows_by_hand():
    image = values([1, 2, 3], [4, 5, 6], [7, 8, -9]).reshape(1, 1, 3, 3)

    def pooled(op):
        return numpy(alone(op), {})(image)[0, 0].tolist()

    assert pooled(MaxPool((1, 1, 3, 3), kernel=2, stride=2)) == [[5]]
    assert pooled(MaxPool((1, 1, 3, 3), kernel=2, stride=2, ceil=True)) == [[5, 6], [8, -9]]  # what is outside is no zero
    assert pooled(AvgPool((1, 1, 3, 3), kernel=2, stride=2, ceil=True)) == [[3, 4.5], [7.5, -9]]  # nor does it count in a mean
    assert pooled(AvgPool((1, 1, 3, 3), kernel=3, stride=2, padding=1)) == [[3, 4], [6, 2.5]]
    assert pooled(MaxPool((1, 1, 3, 3), kernel=3, padding=1)) == [[5, 6, 6], [8, 8, 8], [8, 8, 8]]


def test_channels_are_dealt_out_in_turn():
    image = values(0, 1, 2, 3, 4, 5).reshape(1, 6, 1, 1)
    assert numpy(alone(ChannelShuffle((1, 6, 1, 1), groups=2)), {})(image).ravel().tolist() == [0, 3, 1, 4, 2, 5]


def test_the_reference_takes_any_batch():
    space = ofa_mini()
    graph = space.lower(space.smallest())
    run = numpy(graph, random_weights(graph, np.random.default_rng(0)))
    images = np.random.default_rng(1).normal(0, 1, (5, *graph.input[1:])).astype(np.float32)
    np.testing.assert_allclose(run(images), np.concatenate([run(images[i : i + 1]) for i in range(5)]), rtol=1e-6)


@pytest.mark.parametrize("op", [Conv2d((2, 6, 9, 8), out=9, kernel=5, stride=2, groups=3), Conv2d((2, 6, 9, 8), out=6, kernel=7, groups=6)])
def test_convolutions_agree_with_pytorchs_own(op):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    graph = alone(op)
    weights, images = random_weights(graph, rng), rng.normal(0, 1, op.input).astype(np.float32)
    weight, bias = (torch.from_numpy(weights[f"block/op.{name}"]).double() for name in ("weight", "bias"))
    expected = torch.nn.functional.conv2d(torch.from_numpy(images).double(), weight, bias, op.stride, op.kernel // 2, 1, op.groups)
    np.testing.assert_allclose(numpy(graph, weights)(images), expected.numpy(), rtol=1e-6, atol=1e-6)


# -- onnx -------------------------------------------------------------------------------------------------------------------------


def model_of(graph, **options):
    return to_onnx(graph, random_weights(graph, np.random.default_rng(0)), **options)


def test_equal_networks_give_equal_bytes():
    space = ofa_mini()
    graph = space.lower(space.largest())
    first, second = (model_of(graph, metadata=metadata).SerializeToString() for metadata in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}))
    assert first == second


@pytest.mark.parametrize("opset", [14, 17, 20, 21])
def test_every_supported_opset_passes_the_checker_and_loads(opset):
    space = ofa_mini()
    graph = space.lower(space.largest())
    model = model_of(graph, opset=opset, ir_version=10)
    onnx_library.checker.check_model(model, full_check=True)
    assert runner(model.SerializeToString())(np.zeros(graph.input, np.float32)).shape == (1, 10)


def test_an_opset_without_hard_swish_is_refused():
    with pytest.raises(InputError, match="ONNX opset 13 has no HardSwish; use 14 or later"):
        model_of(alone(Conv2d((1, 3, 4, 4), out=2)), opset=13)


def test_values_are_named_by_their_nodes_and_the_ends_as_asked():
    graph = Graph.of_block(mbconv((1, 8, 6, 6), 8, 3, 4, act="hswish", se=True))
    model = model_of(graph, input_name="image", output_name="features")
    assert [(node.op_type, node.name) for node in model.graph.node] == [
        ("Conv", "block/expand"),
        ("HardSwish", "block/expand.hswish"),
        ("Conv", "block/depthwise"),
        ("HardSwish", "block/depthwise.hswish"),
        ("GlobalAveragePool", "block/se.pool"),
        ("Conv", "block/se.reduce"),
        ("Relu", "block/se.reduce.relu"),
        ("Conv", "block/se.expand"),
        ("HardSigmoid", "block/se.expand.hsigmoid"),
        ("Mul", "block/se.scale"),
        ("Conv", "block/project"),
        ("Add", "block/add"),
    ]
    assert list(model.graph.node[-1].input) == ["block/project", "image"] and list(model.graph.node[-1].output) == ["features"]
    assert list(model.graph.node[0].input) == ["image", "block/expand.weight", "block/expand.bias"]


def test_batch_norms_leave_no_trace_in_the_model():
    space = ofa_mobilenet_v3(resolutions=(128,))
    graph = space.lower(space.smallest())
    model = model_of(graph)
    assert {node.op_type for node in model.graph.node} == {
        "Conv", "Relu", "HardSwish", "HardSigmoid", "GlobalAveragePool", "Mul", "Add", "Flatten", "Gemm",
    }  # fmt: skip
    assert not [tensor.name for tensor in model.graph.initializer if "norm" in tensor.name]


@pytest.mark.parametrize("act", ["relu", "relu6", "hswish", "hsigmoid"])
def test_onnx_runtime_fuses_every_activation_into_its_convolution(act, tmp_path):
    import onnxruntime

    chain = Graph([(f"layer{i}", (Node("conv", Conv2d((1, 16, 8, 8), out=16, act=act), ("in0",)),), None) for i in range(3)] + [
        ("last", (Node("conv", Conv2d((1, 16, 8, 8), out=16), ("in0",)),), None)
    ])  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    options.intra_op_num_threads = 1
    onnxruntime.InferenceSession(model_of(chain).SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimised = Counter(node.op_type for node in onnx_library.load(tmp_path / "optimised.onnx").graph.node)
    convolutions = sum(count for name, count in optimised.items() if name in ("Conv", "FusedConv"))
    assert convolutions == 4
    assert set(optimised) <= {"Conv", "FusedConv", "ReorderInput", "ReorderOutput"}


class Softsign(Op):
    kind = "softsign"


def test_operators_without_a_form_are_named():
    graph = alone(Softsign((1, 3, 4, 4)))
    with pytest.raises(InputError, match=r"block/op: the ONNX backend has no form of softsign.float32; it knows conv2d, linear, .* in float32, float16,"):
        model_of(graph)
    with pytest.raises(InputError, match=r"block/op: the numpy backend cannot compute softsign; it knows conv2d, linear"):
        numpy(graph, {})


def test_inputs_of_another_shape_are_refused():
    graph = alone(Conv2d((2, 3, 4, 4), out=2))
    weights = random_weights(graph, np.random.default_rng(0))
    with pytest.raises(InputError, match=r"takes an input of shape \(2, 3, 4, 4\), got \(1, 3, 4, 4\)"):
        onnx(graph, weights)(np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(InputError, match=r"takes inputs of shape \(n, 3, 4, 4\), got \(1, 3, 4, 5\)"):
        numpy(graph, weights)(np.zeros((1, 3, 4, 5), np.float32))


def test_what_is_no_model_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    for model in (b"not a model", tmp_path / "x.onnx", tmp_path / "missing.onnx"):
        with pytest.raises(InputError, match="ONNX Runtime cannot load") as error:
            runner(model)
        assert "\n" not in str(error.value)
