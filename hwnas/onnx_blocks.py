"""An ONNX file as operators that can be priced: of ours the very blocks of their space, of anybody's single operators with their activations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.errors import DamagedFile, HwnasError, InputError
from hwnas.graph import Block, Node, block_text, parse_block
from hwnas.ops import Add, Conv2d, Flatten, GlobalPool, Linear, Mul, Op
from hwnas.profiling.model_file import read_model

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: ONNX operators that move or fold away and take next to no time.
_FREE = {"BatchNormalization", "Cast", "Constant", "Dropout", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"}
_ACTIVATIONS = {"Relu": "relu", "HardSwish": "hswish", "HardSigmoid": "hsigmoid", "Sigmoid": "sigmoid"}
_PART = re.compile(r"[\w.]+")


@dataclass(frozen=True, slots=True)
class OnnxBlocks:
    """operators: one block each. layers: the same by the layer that their names tell, empty where they do not. left_out: what has no price here, how often."""

    operators: tuple[Block, ...]
    layers: tuple[Block, ...]
    left_out: Mapping[str, int]


def read_blocks(path: Path) -> OnnxBlocks:
    """Raises DamagedFile, and InputError where the model is quantised or its shapes cannot be told."""
    from onnx import load_model_from_string, shape_inference

    model: ModelProto = load_model_from_string(read_model(path).data)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv") for node in model.graph.node):
        raise InputError(f"{path} is quantised, and its file does not say which precision of a table that is: predict its architecture with --precision")
    try:
        model = shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # of the checker, or of native code
        raise DamagedFile(f"{path}: the shapes of its values cannot be told: {next(iter(str(error).splitlines()), type(error).__name__)}") from None
    try:
        return _Reader(path, model).found()
    except HwnasError:
        raise
    except (TypeError, ValueError, LookupError, OverflowError) as error:  # attributes and constants that are not what their operator takes
        raise DamagedFile(f"{path} is no ONNX model that can be read: {error}") from None


def single(op: Op) -> Block:
    """An operator as a block of its own."""
    return (Node(op.kind, op, tuple(f"in{i}" for i in range(len(op.inputs)))),)


class _Reader:
    def __init__(self, path: Path, model: ModelProto):
        self.path, self.nodes = path, list(model.graph.node)
        self.weights = {each.name: tuple(each.dims) for each in model.graph.initializer}
        self.shapes: dict[str, tuple[int, ...]] = dict(self.weights)
        self.types: dict[str, int] = {}
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
            tensor = value.type.tensor_type
            self.types[value.name] = tensor.elem_type
            if all(dim.dim_value > 0 for dim in tensor.shape.dim):
                self.shapes.setdefault(value.name, tuple(dim.dim_value for dim in tensor.shape.dim))
        self.constants = {each.name: each for each in model.graph.initializer}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.left_out = Counter[str]()

    def found(self) -> OnnxBlocks:
        fused: set[int] = set()  # activations that became part of an operator
        alias: dict[str, str] = {}  # value -> that of the operator it belongs to
        ops: list[tuple[str, Op, list[str], str]] = []  # name of the node, operator, values read, value written
        for node in self.nodes:
            if id(node) in fused:
                continue
            if node.op_type in _FREE:
                if node.input and node.output:
                    alias[node.output[0]] = alias.get(node.input[0], node.input[0])
                continue
            made = self._operator(node)
            if made is None:
                self.left_out[node.op_type] += 1
                continue
            op, inputs, output = made[0], made[1], node.output[0]
            if isinstance(op, Conv2d | Linear):
                act, steps = self._activation(output)
                if act != "none":
                    op = type(op)(**{**_fields(op), "act": act})
                    fused |= set(map(id, steps))
                    output = steps[-1].output[0]
            ops.append((node.name, op, [alias.get(name, name) for name in inputs], output))
        operators = [single(op) for _, op, _, _ in ops if not isinstance(op, Flatten)]
        if not operators:
            raise InputError(f"{self.path} has no operator that a latency table knows: convolutions, matrix products, pooling, sums")
        return OnnxBlocks(tuple(operators), tuple(self._layers(ops)), dict(self.left_out))

    def _layers(self, ops: Sequence[tuple[str, Op, list[str], str]]) -> list[Block]:
        """Blocks of nodes that are named `layer/node`, as ours are; nothing where some are not, or do not make blocks."""
        blocks: dict[str, list[Node]] = {}
        made: dict[str, tuple[str, str]] = {}  # value -> (layer, node)
        outside: dict[str, dict[str, str]] = {}
        for name, op, inputs, output in ops:
            layer, slash, node = name.rpartition("/")
            if not slash or not _PART.fullmatch(node):
                return []
            read = []
            for value in inputs:
                if made.get(value, ("", ""))[0] == layer:
                    read.append(made[value][1])
                else:
                    names = outside.setdefault(layer, {})
                    read.append(names.setdefault(value, f"in{len(names)}"))
            made[output] = (layer, node)
            blocks.setdefault(layer, []).append(Node(node, op, tuple(read)))
        try:
            return [parse_block(block_text(tuple(nodes))) for nodes in blocks.values()]
        except InputError:
            return []

    def _operator(self, node: NodeProto) -> tuple[Op, list[str]] | None:
        """The operator and the values it reads; None where there is none of ours."""
        try:
            return self._known(node)
        except (ValueError, KeyError, IndexError):
            return None

    def _known(self, node: NodeProto) -> tuple[Op, list[str]] | None:
        settings = {each.name: each for each in node.attribute}
        source = self.shapes[node.input[0]]
        bias = len(node.input) > 2 and bool(node.input[2])
        data_type = {1: "float32", 10: "float16", 16: "bfloat16"}.get(self.types.get(node.output[0], 1), "float32")
        op: Op
        if node.op_type == "Conv":
            out, _, kernel, width = self.weights[node.input[1]]
            strides = list(settings["strides"].ints) if "strides" in settings else [1, 1]
            groups = int(settings["group"].i) if "group" in settings else 1
            dilated = "dilations" in settings and set(settings["dilations"].ints) != {1}
            if kernel != width or len(set(strides)) != 1 or dilated:
                return None
            op = Conv2d(source, out=out, kernel=kernel, stride=strides[0], groups=groups, bias=bias, dtype=data_type)
        elif node.op_type in ("Gemm", "MatMul"):
            rows, columns = self.weights[node.input[1]]
            transposed = "transB" in settings and settings["transB"].i
            features, out = (columns, rows) if transposed else (rows, columns)
            op = Linear((_product(source) // features, features), out=out, bias=bias, dtype=data_type)
        elif node.op_type == "GlobalAveragePool" or (node.op_type == "ReduceMean" and self._is_global(node, settings)):
            return GlobalPool(source, dtype=data_type), [node.input[0]]
        elif node.op_type == "Flatten":
            op = Flatten(source, dtype=data_type)
        elif node.op_type == "Add" and source == self.shapes[node.input[1]] and not set(node.input) & set(self.weights):
            return Add(source, dtype=data_type), list(node.input)
        elif node.op_type == "Mul":
            first, second = node.input
            if _product(self.shapes[first]) < _product(self.shapes[second]):
                first, second = second, first
            op = Mul(self.shapes[first], dtype=data_type)
            return (op, [first, second]) if op.inputs[1] == self.shapes[second] else None
        else:
            return None
        written = self.shapes.get(node.output[0])
        if written is not None and _product(written) != _product(op.output):  # such as padding of another kind
            return None
        return op, [node.input[0]]

    def _is_global(self, node: NodeProto, settings: Mapping[str, Any]) -> bool:
        from onnx import numpy_helper

        if "axes" in settings:
            axes = list(settings["axes"].ints)
        elif len(node.input) > 1 and node.input[1] in self.constants:
            axes = numpy_helper.to_array(self.constants[node.input[1]]).reshape(-1).tolist()
        else:
            return False
        return len(self.shapes[node.input[0]]) == 4 and sorted(axis % 4 for axis in axes) == [2, 3]

    def _activation(self, value: str) -> tuple[str, list[NodeProto]]:
        """The activation that is all that reads a value, and its nodes in order."""
        readers = self.readers.get(value, [])
        if len(readers) == 1 and (act := _ACTIVATIONS.get(readers[0].op_type)):
            return act, readers
        if len(readers) == 1 and readers[0].op_type == "Clip" and self._limits(readers[0]) == (0.0, 6.0):
            return "relu6", readers
        kinds = {each.op_type: each for each in readers}
        if len(readers) == 2 and set(kinds) in ({"Sigmoid", "Mul"}, {"HardSigmoid", "Mul"}):
            gate = kinds.get("Sigmoid") or kinds["HardSigmoid"]
            if set(kinds["Mul"].input) == {value, gate.output[0]} and len(self.readers.get(gate.output[0], [])) == 1:
                return ("swish" if "Sigmoid" in kinds else "hswish"), [gate, kinds["Mul"]]
        return "none", []

    def _limits(self, node: NodeProto) -> tuple[float, float] | None:
        from onnx import numpy_helper

        given = {each.name: float(each.f) for each in node.attribute}
        if {"min", "max"} <= set(given):
            return given["min"], given["max"]
        if len(node.input) == 3 and all(name in self.constants for name in node.input[1:]):
            low, high = (float(numpy_helper.to_array(self.constants[name]).reshape(-1)[0]) for name in node.input[1:])
            return low, high
        return None


def _fields(op: Conv2d | Linear) -> dict[str, Any]:
    return {each.name: getattr(op, each.name) for each in fields(op)}


def _product(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
