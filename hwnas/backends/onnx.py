"""ONNX: the one way from a graph to a file. Micro-benchmarks, whole networks and exports all leave through it.

What ONNX Runtime's CPU kernels make of it was looked up in the optimised graphs of onnxruntime 1.32 (NCHWc layout, AVX-512):

- Relu, Clip(0, 6), HardSigmoid(1/6, 1/2) and HardSwish after a Conv all become that convolution's activation. HardSwish and the
  pair HardSigmoid, Mul fuse alike; the textbook form Add 3, Clip, Mul, Mul 1/6 does not fuse, and its four nodes each leave the
  NCHWc layout. So HardSwish is written as one node. Only where it is the very last node of a model it stays HardSigmoid, Mul.
- GlobalAveragePool stays in NCHWc, so squeeze-and-excite runs without leaving the layout; ReduceMean has no NCHWc kernel
  and costs two reorders at each of them. (The scaling of squeeze-and-excite leaves the layout either way.)

Precision is that of each operator. fp16 and bf16: weights and activations are of that type, with a cast where two types meet. int8 is
static QDQ: quantised values, and the real operator between DequantizeLinear and QuantizeLinear, which runtimes fuse to kernels of
integers. What they fuse differs, so there are two recipes:

- `int8_u8s8` (CPUs): every value is uint8, asymmetric, biases int32. Relu and Clip vanish in the quantisation behind them. There are no
  integer kernels of HardSwish and HardSigmoid: the convolution is quantised before and after, or it would be computed in float32 itself.
- `int8_s8s8` (TensorRT): the inputs of convolutions, matrix products and of a shortcut's addition are int8, symmetric, biases real; all
  else stays real, for TensorRT fuses it behind the convolution. It refuses zero points, and a quantisation before an activation costs it the fusion.
- `int8_fp16` (TensorRT): the same, and all else is float16: the scales, too, so that nothing is computed in float32 between two integer kernels.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hwnas.errors import InputError
from hwnas.graph import Graph, GraphNode
from hwnas.ops import Activation, Add, Affine, AvgPool, ChannelShuffle, Conv2d, Flatten, GlobalPool, Linear, MaxPool, Mul, Op, Zero
from hwnas.quantization import Ranges, Scale, activation_scale, is_quantized, quantized_bias, quantized_weight, random_image, value_ranges
from hwnas.weights import Array, Weights, fold

#: HardSwish exists from 14 on; ONNX Runtime 1.24 refuses what onnx >= 1.20 writes by default.
OPSET, IR_VERSION = 17, 8
#: The first in which convolutions and their activations take bfloat16.
BFLOAT16_OPSET, BFLOAT16_IR_VERSION = 22, 10
#: The first in which values of float16 can be quantised.
HALF_INT8_OPSET, HALF_INT8_IR_VERSION = 19, 9

#: Data type of operators -> type of their values between them.
_VALUES = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16", "int8_u8s8": "uint8", "int8_s8s8": "int8", "int8_fp16": "half_int8"}
#: Integers -> the real type between which and them they are quantised; scales are of that type.
_REAL = {"uint8": "float32", "int8": "float32", "half_int8": "float16"}
_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "half_int8": TensorProto.INT8,
}

#: Data type of operators -> opset and IR version that they need, where these are not the oldest.
_NEEDED = {"bfloat16": (BFLOAT16_OPSET, BFLOAT16_IR_VERSION), "int8_fp16": (HALF_INT8_OPSET, HALF_INT8_IR_VERSION)}


def to_onnx(
    graph: Graph,
    weights: Weights,
    *,
    opset: int | None = None,
    ir_version: int | None = None,
    input_name: str = "input",
    output_name: str = "output",
    metadata: Mapping[str, str] | None = None,
    ranges: Ranges | None = None,
    reduce_range: bool = False,
    real_ends: bool = True,
) -> ModelProto:
    """The network as an ONNX model of fixed batch, batch norms folded, activations ready to fuse; equal arguments give equal bytes.

    weights: trained, as `hwnas.weights` names them. Values are named by their nodes (`layer/node`, before its activation
    `layer/node.linear`), initialisers by their tensors (`layer/node.weight`). ranges: what int8 activations are scaled to
    (`hwnas.quantization.value_ranges`); by default those of a random input, which will do for latency alone. reduce_range: int8
    weights of seven bits, for AVX2 without VNNI. real_ends: input and output are float32, whatever is between; else they have the
    type of their operators.
    Raises InputError where a weight is missing or does not fit its type, or an operator has no ONNX form here.
    """
    data_types = {each.op.data_type for each in graph.nodes}
    least, needed_ir = max([(14, IR_VERSION), *(_NEEDED[each] for each in data_types if each in _NEEDED)])
    opset, ir_version = opset or max(least, OPSET), ir_version or needed_ir
    if opset < least:
        what = {14: "HardSwish", HALF_INT8_OPSET: "quantisation of float16", BFLOAT16_OPSET: "convolution in bfloat16"}[least]
        raise InputError(f"ONNX opset {opset} has no {what}; use {least} or later")
    for each in graph.nodes:
        if type(each.op) not in EMITTERS or each.op.data_type not in _VALUES:
            known = ", ".join(kind.kind for kind in EMITTERS)
            raise InputError(f"{each.name}: the ONNX backend has no form of {each.op.kind}.{each.op.data_type}; it knows {known}, in {', '.join(_VALUES)}")
    if ranges is None:
        ranges = value_ranges(graph, weights, random_image(graph)) if is_quantized(graph) else {}
    writer = _Writer(graph, fold(graph, weights), ranges, reduce_range=reduce_range, real_ends=real_ends)
    proto = helper.make_graph(
        writer.renamed({"input": input_name, writer.output: output_name}),
        "hwnas",
        [helper.make_tensor_value_info(input_name, _TYPES[writer.input_type], graph.input)],
        [helper.make_tensor_value_info(output_name, _TYPES[writer.output_type], graph.output)],
        [numpy_helper.from_array(array, name) for name, array in writer.initializers.items()],
    )
    model = helper.make_model(proto, producer_name="hwnas", ir_version=ir_version, opset_imports=[helper.make_opsetid("", opset)])
    helper.set_model_props(model, dict(sorted((metadata or {}).items())))
    return model


def onnx(graph: Graph, weights: Weights) -> Callable[[Array], Array]:
    """The network in ONNX Runtime on one CPU thread: input of the graph's shape (its batch is fixed) -> output. Raises InputError."""
    run = runner(to_onnx(graph, weights).SerializeToString())

    def call(images: Array) -> Array:
        if images.shape != graph.input:
            raise InputError(f"the network takes an input of shape {graph.input}, got {images.shape}")
        return run(np.ascontiguousarray(images, np.float32))

    return call


def runner(model: bytes | Path) -> Callable[[Array], Array]:
    """An ONNX model (its bytes or its file) as a function, in ONNX Runtime on one CPU thread. Raises InputError where it cannot be loaded or run."""
    session = _session(model)
    if len(session.get_inputs()) != 1 or len(session.get_outputs()) != 1:
        raise InputError(f"an image model has one input and one output, this one has {len(session.get_inputs())} and {len(session.get_outputs())}")
    run = _run(session)
    return lambda images: run(images)[0]


def runner_of_all(model: bytes | Path) -> Callable[[Array], list[Array]]:
    """The same of a model with one input, giving all its outputs."""
    return _run(_session(model))


def _session(model: bytes | Path) -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read as it is imported; on by default since 1.32
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the default starts a thread pool: 60 ms and noise
    options.log_severity_level = 4  # what it would print is in the exceptions it raises
    try:
        source = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0)  # no second try, told on stdout
    except Exception as error:  # ONNX Runtime has no common base class for its own
        raise InputError(f"ONNX Runtime cannot load {'the model' if isinstance(model, bytes) else model}: {_reason(error)}") from None


def _run(session: Any) -> Callable[[Array], list[Array]]:
    name = session.get_inputs()[0].name

    def run(images: Array) -> list[Array]:
        try:
            outputs: list[Array] = session.run(None, {name: images})
        except Exception as error:
            raise InputError(f"ONNX Runtime cannot run the model on an input of shape {images.shape}: {_reason(error)}") from None
        return outputs

    return run


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class _Writer:
    """Writes the nodes of a graph, each in its precision, and what converts values where two of them meet.

    `known` has the tensors of each value by type. Of what is quantised the real value is that of its integers, dequantised.
    """

    def __init__(self, graph: Graph, folded: Mapping[str, Array], ranges: Ranges, *, reduce_range: bool, real_ends: bool):
        self.graph, self.folded, self.ranges, self.reduce_range, self.real_ends = graph, folded, ranges, reduce_range, real_ends
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, Any] = {}
        self.known: dict[tuple[str, str], str] = {}
        self.scales: dict[tuple[str, str], Scale] = {}
        self.readers = Counter(name for each in graph.nodes for name in each.inputs)
        self.by_name = {each.name: each for each in graph.nodes}
        reader = next(each for each in graph.nodes if "input" in each.inputs)
        self.input_type = "float32" if real_ends else _VALUES[reader.op.data_type]
        self.output_type = "float32" if real_ends else _VALUES[self.by_name[graph.output_name].op.data_type]
        self.known["input", self.input_type] = "input"
        if self.input_type in _REAL:
            self._scale("input", self.input_type)
        for each in graph.nodes:
            {"uint8": self._in_uint8, "int8": self._in_int8, "half_int8": self._in_int8}.get(_VALUES[each.op.data_type], self._in_real)(each)
        self.output = self.take(graph.output_name, self.output_type)

    def renamed(self, names: Mapping[str, str]) -> list[NodeProto]:
        """The nodes, with other names of some tensors."""
        for node in self.nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        return self.nodes

    def take(self, value: str, kind: str) -> str:
        """The tensor of a value in that type, converted where it is not there yet."""
        if (value, kind) not in self.known:
            tensor = f"{value}.{kind}"
            if kind in _REAL:
                self._quantize(value, self.take(value, _REAL[kind]), kind)
            else:
                source = next(have for name, have in self.known if name == value)
                if source in _REAL:
                    real = self._dequantized(value, source)
                    tensor = real if kind == _REAL[source] else self._cast(real, tensor, kind)
                else:
                    tensor = self._cast(self.known[value, source], tensor, kind)
                self.known[value, kind] = tensor
        return self.known[value, kind]

    # -- one way to write a node for each way to compute ----------------------------------------------------------------------------

    def _in_real(self, each: GraphNode) -> None:
        """In float32, float16 or bfloat16."""
        kind = _VALUES[each.op.data_type]
        tensors = [self._real_tensor(each, tensor, kind) for tensor in ("weight", "bias") if f"{each.name}.{tensor}" in self.folded]
        self.known[each.name, kind] = self._computed(each, [self.take(name, kind) for name in each.inputs] + tensors, kind)

    def _in_uint8(self, each: GraphNode) -> None:
        """Quantised before and behind, and before an activation that has no integer kernel."""
        if isinstance(each.op, Flatten | ChannelShuffle | MaxPool):  # gives some of the values it is given: of integers as well
            source = self.take(each.inputs[0], "uint8")
            self.known[each.name, "uint8"] = f"{each.name}.uint8"
            self.scales[each.name, "uint8"] = self.scales[each.inputs[0], "uint8"]
            self.nodes += EMITTERS[type(each.op)](each.op, each.name, [source], f"{each.name}.uint8")
            return
        inputs = [self._dequantized(name, "uint8") for name in each.inputs]
        inputs += self._integer_tensors(each, self.scales[each.inputs[0], "uint8"].scale)
        if each.name == self.graph.output_name and self.real_ends and isinstance(each.op, Linear):  # logits of eight bits would tie
            self.known[each.name, "float32"] = self._computed(each, inputs, "float32")
            return
        act = getattr(each.op, "act", "none")
        if act in ("hswish", "hsigmoid", "swish", "sigmoid"):
            linear = f"{each.name}.linear"
            self.nodes += EMITTERS[type(each.op)](each.op, each.name, inputs, linear)
            self._quantize(linear, linear, "uint8")
            real = self._activated(act, each.name, self._dequantized(linear, "uint8"), "float32")
        else:
            real = self._computed(each, inputs, "float32")
        self._quantize(each.name, real, "uint8")

    def _in_int8(self, each: GraphNode) -> None:
        """What is read is quantised, where TensorRT has kernels for it; what is written is not."""
        integers = _VALUES[each.op.data_type]
        real = _REAL[integers]
        if "weight" in each.op.weights:
            inputs = [self._dequantized(each.inputs[0], integers), self._integer_weight(each, half=real == "float16")]
            inputs += [self._real_tensor(each, "bias", real)] if f"{each.name}.bias" in self.folded else []
        elif isinstance(each.op, Add):
            inputs = [self.take(name, real) if self._is_fused(name) else self._dequantized(name, integers) for name in each.inputs]
        else:
            inputs = [self.take(name, real) for name in each.inputs]
        self.known[each.name, real] = self._computed(each, inputs, real)

    def _is_fused(self, value: str) -> bool:
        """Whether an addition is all that reads a value that a convolution or matrix product writes: it becomes part of that kernel."""
        source = self.by_name.get(value)
        return source is not None and "weight" in source.op.weights and self.readers[value] == 1

    def _computed(self, each: GraphNode, inputs: list[str], kind: str) -> str:
        """The node and its activation in real numbers; the tensor that it writes."""
        act = getattr(each.op, "act", "none")
        linear = each.name if act == "none" else f"{each.name}.linear"
        self.nodes += EMITTERS[type(each.op)](each.op, each.name, inputs, linear)
        return linear if act == "none" else self._activated(act, each.name, linear, kind)

    def _activated(self, act: str, name: str, linear: str, kind: str) -> str:
        if act == "swish":  # no operator of its own before opset 24
            self.nodes.append(helper.make_node("Sigmoid", [linear], [f"{name}.gate"], f"{name}.sigmoid"))
            self.nodes.append(helper.make_node("Mul", [linear, f"{name}.gate"], [name], f"{name}.swish"))
            return name
        operator, bounds, settings = _ACTIVATIONS[act]
        limits = []
        for bound, value in bounds.items():
            limits.append(f"{act}.{bound}" if kind == "float32" else f"{act}.{bound}.{kind}")
            self.initializers[limits[-1]] = np.array(value, _numpy_type(kind))
        self.nodes.append(helper.make_node(operator, [linear, *limits], [name], f"{name}.{act}", **settings))
        return name

    # -- tensors and conversions ----------------------------------------------------------------------------------------------------

    def _real_tensor(self, each: GraphNode, tensor: str, kind: str) -> str:
        name = f"{each.name}.{tensor}"
        self.initializers[name] = narrowed(name, self.folded[name], kind)
        return name

    def _integer_weight(self, each: GraphNode, input_scale: float | None = None, *, half: bool = False) -> str:
        """The dequantised int8 weight of a node; with the scale of its input it leaves room for an int32 bias."""
        name = f"{each.name}.weight"
        bias = None if input_scale is None else self.folded.get(f"{each.name}.bias")
        for tensor in (name, f"{each.name}.bias"):
            if not np.isfinite(self.folded.get(tensor, np.zeros(1))).all():
                raise InputError(f"'{tensor}' has values that are not finite: it cannot be quantised")
        integers, scales = quantized_weight(self.folded[name], bias, input_scale or 1.0, reduce_range=self.reduce_range, half=half)
        return self._dequantized_constant(name, integers, scales.astype(np.float16) if half else scales)

    def _integer_tensors(self, each: GraphNode, input_scale: float) -> list[str]:
        """The dequantised int8 weight and int32 bias of a node, as far as it has them."""
        if "weight" not in each.op.weights:
            return []
        tensors, bias = [self._integer_weight(each, input_scale)], f"{each.name}.bias"
        if bias in self.folded:
            scales = self.initializers[f"{each.name}.weight.scale"]
            integers = quantized_bias(self.folded[bias], input_scale, scales)
            tensors.append(self._dequantized_constant(bias, integers, (input_scale * scales.astype(np.float64)).astype(np.float32)))
        return tensors

    def _dequantized_constant(self, name: str, integers: Any, scales: Any) -> str:
        self.initializers |= {name: integers, f"{name}.scale": scales, f"{name}.zero_point": np.zeros(len(scales), integers.dtype)}
        self.nodes.append(helper.make_node("DequantizeLinear", [name, f"{name}.scale", f"{name}.zero_point"], [f"{name}.real"], f"{name}.real", axis=0))
        return f"{name}.real"

    def _scale(self, value: str, kind: str) -> Scale:
        if (value, kind) not in self.scales:
            self.scales[value, kind] = activation_scale(self.ranges, value, symmetric=kind != "uint8", half=_REAL[kind] == "float16")
        return self.scales[value, kind]

    def _scale_tensors(self, value: str, kind: str) -> list[str]:
        scale, names = self.scales[value, kind], [f"{value}.{kind}.scale", f"{value}.{kind}.zero_point"]
        self.initializers |= {names[0]: np.array(scale.scale, _REAL[kind]), names[1]: np.array(scale.zero_point, scale.dtype)}
        return names

    def _quantize(self, value: str, real: str, kind: str) -> None:
        self._scale(value, kind)
        tensor = f"{value}.{kind}"
        self.nodes.append(helper.make_node("QuantizeLinear", [real, *self._scale_tensors(value, kind)], [tensor], tensor))
        self.known[value, kind] = tensor

    def _dequantized(self, value: str, kind: str) -> str:
        """The real value of a value's integers."""
        tensor = f"{value}.{kind}.real"
        if (value, tensor) not in self.known:
            integers = self.take(value, kind)
            self.nodes.append(helper.make_node("DequantizeLinear", [integers, *self._scale_tensors(value, kind)], [tensor], tensor))
            self.known[value, tensor] = tensor
        return tensor

    def _cast(self, source: str, tensor: str, kind: str) -> str:
        self.nodes.append(helper.make_node("Cast", [source], [tensor], tensor, to=_TYPES[kind]))
        return tensor


def narrowed(name: str, array: Array, kind: str) -> Any:
    """A tensor in float32, float16 or bfloat16. Raises InputError naming it where a value of it is beyond that type, or not finite in it."""
    if kind == "float32":
        return array
    with np.errstate(over="ignore"):
        narrow = array.astype(_numpy_type(kind))
    if not np.isfinite(narrow.astype(np.float32)).all():
        worst = float(np.abs(array).max())
        limit = "65,504" if kind == "float16" else "3.39e38"
        raise InputError(f"'{name}' has the value {worst:.4g}, batch norm folded, and {kind} ends at {limit}: use fp32{' or bf16' * (kind == 'float16')}")
    return narrow


def _numpy_type(kind: str) -> Any:
    if kind == "bfloat16":
        import ml_dtypes  # comes with onnx

        return ml_dtypes.bfloat16
    return np.dtype(kind)


# -- one emitter per operator kind: (operator, name, inputs, output before its activation) -> nodes ---------------------------------


def _conv2d(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    kernel = {"kernel_shape": [op.kernel] * 2, "pads": [op.kernel // 2] * 4, "strides": [op.stride] * 2, "group": op.groups}
    return [helper.make_node("Conv", inputs, [output], name, **kernel)]


def _linear(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    return [helper.make_node("Gemm", inputs, [output], name, transB=1)]


def _global_pool(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    return [helper.make_node("GlobalAveragePool", inputs, [output], name)]


def _pool(op: Any) -> dict[str, Any]:
    """Windows that reach beyond the image have explicit padding: what runtimes make of `ceil_mode` was not always the same."""
    return {"kernel_shape": [op.kernel] * 2, "pads": list(op.pads), "strides": [op.stride] * 2}


def _max_pool(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    return [helper.make_node("MaxPool", inputs, [output], name, **_pool(op))]


def _avg_pool(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    return [helper.make_node("AveragePool", inputs, [output], name, count_include_pad=0, **_pool(op))]


def _add(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    return [helper.make_node("Add", inputs, [output], name)]


def _mul(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    return [helper.make_node("Mul", inputs, [output], name)]


def _flatten(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    return [helper.make_node("Flatten", inputs, [output], name, axis=1)]


def _channel_shuffle(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    _, c, h, w = op.input  # 0 is as many images as there are
    split, whole = f"{name}.split_shape", f"{name}.shape"
    return [
        helper.make_node("Constant", [], [split], split, value_ints=[0, op.groups, c // op.groups, h, w]),
        helper.make_node("Constant", [], [whole], whole, value_ints=[0, c, h, w]),
        helper.make_node("Reshape", [*inputs, split], [f"{name}.split"], f"{name}.split"),
        helper.make_node("Transpose", [f"{name}.split"], [f"{name}.turns"], f"{name}.turns", perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", [f"{name}.turns", whole], [output], name),
    ]


def _activation(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    return [helper.make_node("Identity", inputs, [output], name)]  # the activation itself is written behind every operator


def _affine(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    """A depthwise 1x1 convolution, which has kernels in every precision and takes the activation behind it in."""
    source, weight, bias = inputs
    shape, kernel = f"{name}.kernel_shape", f"{name}.kernel"
    return [
        helper.make_node("Constant", [], [shape], shape, value_ints=[op.input[1], 1, 1, 1]),
        helper.make_node("Reshape", [weight, shape], [kernel], kernel),
        helper.make_node("Conv", [source, kernel, bias], [output], name, kernel_shape=[1, 1], group=op.input[1]),
    ]


def _zero(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    return [helper.make_node("Sub", [*inputs, *inputs], [output], name)]


EMITTERS: dict[type[Op], Callable[[Any, str, list[str], str], list[NodeProto]]] = {
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

#: activation -> ONNX operator, further inputs, attributes
_ACTIVATIONS: dict[str, tuple[str, dict[str, float], dict[str, Any]]] = {
    "relu": ("Relu", {}, {}),
    "relu6": ("Clip", {"min": 0, "max": 6}, {}),
    "hswish": ("HardSwish", {}, {}),
    "hsigmoid": ("HardSigmoid", {}, {"alpha": 1 / 6, "beta": 0.5}),
    "sigmoid": ("Sigmoid", {}, {}),
}
