"""ONNX: the one way from a graph to a file. Micro-benchmarks, whole networks and exports all leave through it.

What ONNX Runtime's CPU kernels make of it was looked up in the optimised graphs of onnxruntime 1.32 (NCHWc layout, AVX-512):

- Relu, Clip(0, 6), HardSigmoid(1/6, 1/2) and HardSwish after a Conv all become that convolution's activation. HardSwish and the
  pair HardSigmoid, Mul fuse alike; the textbook form Add 3, Clip, Mul, Mul 1/6 does not fuse, and its four nodes each leave the
  NCHWc layout. So HardSwish is written as one node. Only where it is the very last node of a model it stays HardSigmoid, Mul.
- GlobalAveragePool stays in NCHWc, so squeeze-and-excite runs without leaving the layout; ReduceMean has no NCHWc kernel
  and costs two reorders at each of them. (The scaling of squeeze-and-excite leaves the layout either way.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hwnas.errors import InputError
from hwnas.graph import Graph
from hwnas.ops import Add, Conv2d, Flatten, GlobalPool, Linear, Mul, Op
from hwnas.weights import Array, Weights, fold

#: HardSwish exists from 14 on; ONNX Runtime 1.24 refuses what onnx >= 1.20 writes by default.
OPSET, IR_VERSION = 17, 8


def to_onnx(
    graph: Graph,
    weights: Weights,
    *,
    opset: int = OPSET,
    ir_version: int = IR_VERSION,
    input_name: str = "input",
    output_name: str = "output",
    metadata: Mapping[str, str] | None = None,
) -> ModelProto:
    """The network as an ONNX model of fixed batch, batch norms folded, activations ready to fuse; equal arguments give equal bytes.

    weights: trained, as `hwnas.weights` names them. Values are named by their nodes (`layer/node`, before its activation
    `layer/node.linear`), initialisers by their tensors (`layer/node.weight`).
    Raises InputError where a weight is missing, or an operator or its data type has no ONNX form here.
    """
    if opset < 14:
        raise InputError(f"ONNX opset {opset} has no HardSwish; use 14 or later")
    folded = fold(graph, weights)
    value = {"input": input_name, graph.output_name: output_name}
    nodes: list[NodeProto] = []
    for each in graph.nodes:
        emit = EMITTERS.get(type(each.op))
        if emit is None or each.op.data_type != "float32":
            known = ", ".join(kind.kind for kind in EMITTERS)
            raise InputError(f"{each.name}: the ONNX backend has no form of {each.op.kind}.{each.op.data_type}; it knows {known}, all in float32")
        tensors = [name for tensor in ("weight", "bias") if (name := f"{each.name}.{tensor}") in folded]
        nodes += emit(each.op, each.name, [value.get(name, name) for name in each.inputs] + tensors, value.get(each.name, each.name))
    proto = helper.make_graph(
        nodes,
        "hwnas",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, graph.input)],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, graph.output)],
        [*(numpy_helper.from_array(array, name) for name, array in folded.items()), *_clip_bounds(nodes)],
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
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the default starts a thread pool: 60 ms and noise
    options.log_severity_level = 4  # what it would print is in the exceptions it raises
    try:
        source = model if isinstance(model, bytes) else str(model)
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0)  # no second try, told on stdout
    except Exception as error:  # ONNX Runtime has no common base class for its own
        raise InputError(f"ONNX Runtime cannot load {'the model' if isinstance(model, bytes) else model}: {_reason(error)}") from None
    if len(session.get_inputs()) != 1 or len(session.get_outputs()) != 1:
        raise InputError(f"an image model has one input and one output, this one has {len(session.get_inputs())} and {len(session.get_outputs())}")
    name = session.get_inputs()[0].name

    def run(images: Array) -> Array:
        try:
            output: Array = session.run(None, {name: images})[0]
        except Exception as error:
            raise InputError(f"ONNX Runtime cannot run the model on an input of shape {images.shape}: {_reason(error)}") from None
        return output

    return run


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


# -- one emitter per operator kind: (operator, name, input values, output value) -> nodes ------------------------------------------


def _conv2d(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    kernel = {"kernel_shape": [op.kernel] * 2, "pads": [op.kernel // 2] * 4, "strides": [op.stride] * 2, "group": op.groups}
    return _activated("Conv", op.act, name, inputs, output, kernel)


def _linear(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    return _activated("Gemm", op.act, name, inputs, output, {"transB": 1})


def _global_pool(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    return [helper.make_node("GlobalAveragePool", inputs, [output], name)]


def _add(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    return [helper.make_node("Add", inputs, [output], name)]


def _mul(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    return [helper.make_node("Mul", inputs, [output], name)]


def _flatten(op: Any, name: str, inputs: list[str], output: str) -> list[NodeProto]:
    return [helper.make_node("Flatten", inputs, [output], name, axis=1)]


EMITTERS: dict[type[Op], Callable[[Any, str, list[str], str], list[NodeProto]]] = {
    Conv2d: _conv2d,
    Linear: _linear,
    GlobalPool: _global_pool,
    Add: _add,
    Mul: _mul,
    Flatten: _flatten,
}

#: activation -> ONNX operator, further inputs, attributes
_ACTIVATIONS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "relu": ("Relu", [], {}),
    "relu6": ("Clip", ["relu6.min", "relu6.max"], {}),
    "hswish": ("HardSwish", [], {}),
    "hsigmoid": ("HardSigmoid", [], {"alpha": 1 / 6, "beta": 0.5}),
}


def _activated(kind: str, act: str, name: str, inputs: list[str], output: str, attributes: Mapping[str, Any]) -> list[NodeProto]:
    if act == "none":
        return [helper.make_node(kind, inputs, [output], name, **attributes)]
    operator, bounds, settings = _ACTIVATIONS[act]
    linear = f"{name}.linear"
    return [
        helper.make_node(kind, inputs, [linear], name, **attributes),
        helper.make_node(operator, [linear, *bounds], [output], f"{name}.{act}", **settings),
    ]


def _clip_bounds(nodes: list[NodeProto]) -> list[TensorProto]:
    if not any(node.op_type == "Clip" for node in nodes):
        return []
    return [numpy_helper.from_array(np.array(bound, np.float32), f"relu6.{name}") for name, bound in (("min", 0), ("max", 6))]
