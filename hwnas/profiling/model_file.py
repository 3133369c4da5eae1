"""ONNX files of other people, made ready to be measured: read with limits, free dimensions fixed on a copy, never written to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hwnas.errors import DamagedFile, InputError
from hwnas.profiling.window import model_bytes

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto

MAX_DIMENSION = 1 << 31


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model as it is measured: `data` has inputs of the fixed `shapes`. `sha256` is of the file as it was given.

    graph_sha256: of operators, attributes, edges and shapes alone, so that networks that differ in weights share it. batch: the first dimension of
    the first input. nodes: in the file, before a runtime optimises it. names: of what a shape may be given for, inputs and free dimensions.
    """

    name: str
    data: bytes = field(repr=False)
    sha256: str
    graph_sha256: str
    opset: Mapping[str, int] = field(hash=False)
    shapes: Mapping[str, tuple[int, ...]] = field(hash=False)
    batch: int
    nodes: int
    names: frozenset[str] = field(repr=False)


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`NAME=1x3x224x224` of an input, or `NAME=224` of a free dimension with a name -> {name: sizes}. Raises InputError."""
    shapes = {}
    for text in texts:
        name, equals, sizes = text.rpartition("=")
        parts = sizes.lower().split("x")
        if not equals or not name or not all(part.isdecimal() and 0 < int(part[:20]) < MAX_DIMENSION for part in parts):
            raise InputError(f"'{text}' is no shape; write input=1x3x224x224, or height=224 for a free dimension of that name")
        shapes[name] = tuple(map(int, parts))
    return shapes


def read_model(path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None, batch: int | None = None) -> ModelFile:
    """The model of a file with all its inputs of fixed shape.

    shapes: of inputs by name, or sizes (one each) of free dimensions by name; others are ignored. batch: of every input whose first dimension is
    free; 1 by default. Raises DamagedFile, and InputError naming what is still free, what contradicts, or what to do about weights in other files.
    """
    from onnx import load_model_from_string

    raw = model_bytes(path)
    try:
        model: ModelProto = load_model_from_string(raw)
    except Exception as error:  # protobuf's own kind, which a message from outside may be the first to import
        raise DamagedFile(f"{path} is no ONNX model: {error}") from None
    if not model.graph.node or not model.graph.output:
        raise DamagedFile(f"{path} is no ONNX model: it has no graph")
    if other := next((_location(tensor) for tensor in _tensors(model.graph) if tensor.data_location == tensor.EXTERNAL), None):
        one = f"python -c \"import onnx; onnx.save(onnx.load('{path.name}'), 'one_file.onnx')\""
        raise InputError(f"{path} keeps weights in another file ({other}), which is not read; write all into one of at most 1 GiB with: {one}")
    try:
        return _prepared(path, raw, model, shapes or {}, batch)
    except (TypeError, UnicodeError):  # texts that are no UTF-8 are bytes, which go with nothing here
        raise DamagedFile(f"{path} is no ONNX model: one of its names is no text") from None


def _prepared(path: Path, raw: bytes, model: ModelProto, shapes: Mapping[str, tuple[int, ...]], batch: int | None) -> ModelFile:
    inputs = _inputs(model.graph)
    names = {each.name for each in inputs} | {dim.dim_param for each in inputs for dim in _dims(each) if dim.dim_param}
    fixed, changed = _fixed(path, inputs, shapes, batch)
    opset = {each.domain: each.version for each in model.opset_import}
    data = raw if not changed else model.SerializeToString(deterministic=True)
    first = next((shape[0] for shape in fixed.values() if shape), 1)
    digests = hashlib.sha256(raw).hexdigest(), hashlib.sha256(_skeleton(model)).hexdigest()
    return ModelFile(path.name, data, *digests, opset, fixed, first, len(model.graph.node), frozenset(names))


def _inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """Those that must be fed; old files list their weights among them, too."""
    weights = {each.name for each in graph.initializer}
    return [each for each in graph.input if each.name not in weights]


def _dims(value: ValueInfoProto) -> Sequence[TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim)


def _fixed(path: Path, inputs: Sequence[ValueInfoProto], shapes: Mapping[str, tuple[int, ...]], batch: int | None) -> tuple[dict[str, tuple[int, ...]], bool]:
    """Writes the sizes of all free dimensions into the inputs; (shape of each input, whether anything was free)."""
    sizes: dict[str, int] = {}
    changed = False
    for each in inputs:
        if each.type.WhichOneof("value") != "tensor_type":
            raise InputError(f"input '{each.name}' of {path.name} is a {each.type.WhichOneof('value')}; only models whose inputs are tensors can be measured")

    def bind(name: str, size: int) -> int:
        if name and sizes.setdefault(name, size) != size:
            raise InputError(f"the dimension '{name}' of {path.name} is both {sizes[name]} and {size}: give the same size for it everywhere")
        return size

    for name in {dim.dim_param for each in inputs for dim in _dims(each)} & set(shapes):
        if len(shapes[name]) == 1 and name not in {each.name for each in inputs}:
            bind(name, shapes[name][0])
    for each in inputs:
        if (given := shapes.get(each.name)) is None:
            continue
        if not each.type.tensor_type.HasField("shape"):  # not even the number of its dimensions is fixed
            for _ in given:
                each.type.tensor_type.shape.dim.add()
        dims = _dims(each)
        if len(given) != len(dims) or any(dim.dim_value > 0 and dim.dim_value != size for dim, size in zip(dims, given, strict=True)):
            raise InputError(f"input '{each.name}' of {path.name} has the shape {_text(each)}, which {'x'.join(map(str, given))} does not fit")
        for dim, size in zip(dims, given, strict=True):
            if dim.dim_value <= 0:
                bind(dim.dim_param, size)
                dim.dim_value, changed = size, True
    for each in inputs:
        for position, dim in enumerate(_dims(each)):
            if dim.dim_value <= 0:
                known = sizes.get(dim.dim_param) if dim.dim_param else None
                if known is None and position == 0:
                    known = bind(dim.dim_param, 1 if batch is None else batch)
                if known is not None:
                    dim.dim_value, changed = known, True
    free = [each for each in inputs if not each.type.tensor_type.HasField("shape") or any(dim.dim_value <= 0 for dim in _dims(each))]
    if free:
        names = ", ".join(f"'{each.name}' ({_text(each)})" for each in free)
        example = "x".join(str(dim.dim_value or "N") for dim in _dims(free[0])) or "1x3x224x224"
        raise InputError(f"{path.name} has inputs with free dimensions: {names}; fix them with --shape '{free[0].name}={example}', a number for each N")
    found = {each.name: tuple(dim.dim_value for dim in _dims(each)) for each in inputs}
    firsts = [shape[0] for shape in found.values() if shape]
    if batch is not None and batch not in firsts:
        fixed = firsts[0] if firsts else "no size"
        raise InputError(f"{path.name} has a batch of {fixed}, not {batch}: export it with a free first dimension, or leave --batch out")
    return found, changed


def _text(value: ValueInfoProto) -> str:
    if not value.type.tensor_type.HasField("shape"):
        return "of unknown rank"
    return " x ".join(str(dim.dim_value) if dim.dim_value > 0 else dim.dim_param or "?" for dim in _dims(value)) or "scalar"


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """All constants of a graph and of the graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _tensors(inner)


def _location(tensor: TensorProto) -> str:
    return next((each.value for each in tensor.external_data if each.key == "location"), "unnamed")[:100]


def _skeleton(model: ModelProto) -> bytes:
    """All of a model that a runtime plans by: no documentation, and of weights only names, types and shapes.

    Values of int64 stay in: in ONNX these are shapes, axes and indices, never weights.
    """
    from onnx import TensorProto

    def constant(tensor: TensorProto) -> str:
        values = repr((tensor.raw_data, list(tensor.int64_data))) if tensor.data_type == TensorProto.INT64 else ""
        return f"{tensor.name}:{tensor.data_type}{list(tensor.dims)}{values}"

    def parts(nodes: Iterable[NodeProto]) -> Iterator[str]:
        for node in nodes:
            yield f"{node.domain}.{node.op_type}({','.join(node.input)})->({','.join(node.output)})"
            for attribute in sorted(node.attribute, key=lambda each: each.name):
                inner = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
                tensors = [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
                if inner or tensors:
                    yield f"{attribute.name}=" + ";".join(map(constant, tensors))
                    for graph in inner:
                        yield from whole(graph)
                else:
                    yield f"{attribute.name}={attribute.SerializeToString(deterministic=True)!r}"

    def whole(graph: GraphProto) -> Iterator[str]:
        for kind, values in (("input", graph.input), ("output", graph.output)):
            yield from (f"{kind} {each.name}:{each.type.SerializeToString(deterministic=True)!r}" for each in values)
        yield from sorted(map(constant, graph.initializer))
        yield from parts(graph.node)

    opset = sorted(f"{each.domain}:{each.version}" for each in model.opset_import)
    functions = [line for function in model.functions for line in (function.name, *parts(function.node))]
    return "\n".join([*opset, *functions, *whole(model.graph)]).encode("utf-8", "surrogateescape")
