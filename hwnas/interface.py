"""What an ONNX file has around its network: names, opset, a free batch, preprocessing and softmax inside of the graph, metadata.

The network itself stays as it is, node by node and number by number: what is added stands before and behind it, and its names begin with
`preprocessing/` and `probabilities/`. So an exported file computes what was certified, and more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.errors import InputError
from hwnas.weights import Array

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

#: What the file is fed: float32 (n, c, h, w), prepared; uint8 (n, h, w, c) of the network's own size; or uint8 (n, h, w, c) of any size.
INPUTS = ("tensor", "pixels", "image")
#: The first opset that has what our networks are made of, and the last that ONNX Runtime takes. In between the operators that we write are the same.
OPSETS = (14, 26)
#: Of the networks that we write, unless their precision needs a later one.
OPSET = 17
#: Resizing with antialiasing exists from this opset on.
IMAGE_OPSET = 18
INPUT_NAME, OUTPUT_NAME = "input", "output"
#: Keys of the metadata begin so.
METADATA = "hwnas."
_LEAST_IR = 8
#: Logarithms of probabilities below are rounding: e^-60 of a sum of 1 in float32.
_LEAST_LOG = -60.0


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the network's input: pixels scaled to `range`, resized to the input's side by bilinear interpolation
    with antialiasing, then (x - mean) / std; mean and std have one number per channel. `crop`: only the central square is resized, whose
    side is that share of the shorter side, rounded; None: the whole image."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    range: tuple[float, float] = (0.0, 1.0)
    crop: float | None = None


@dataclass(frozen=True, slots=True)
class Interface:
    """input: one of INPUTS. softmax: probabilities in the place of logits. free_batch: any number of images at once. opset: None for the
    network's own, or what the rest needs. metadata: labels, preprocessing and origin as metadata of the file; always there where anything else is
    asked for, so that a plain interface leaves a file as it was measured, byte for byte. Raises InputError."""

    input: str = "tensor"
    softmax: bool = False
    free_batch: bool = False
    opset: int | None = None
    input_name: str = INPUT_NAME
    output_name: str = OUTPUT_NAME
    metadata: bool = False

    def __post_init__(self) -> None:
        if self.input not in INPUTS:
            raise InputError(f"the input of an export is one of {', '.join(INPUTS)}, not '{self.input}'")
        least = IMAGE_OPSET if self.input == "image" else OPSETS[0]
        if self.opset is not None and not least <= self.opset <= OPSETS[1]:
            why = f", and for images of any size {IMAGE_OPSET} at least" if least == IMAGE_OPSET else ""
            raise InputError(f"opset {self.opset} cannot be written; there are {OPSETS[0]} to {OPSETS[1]}{why}")
        for name in (self.input_name, self.output_name):
            if not name or not name.isprintable() or len(name) > 200:
                raise InputError(f"{name[:60]!r} cannot name an input or output")
        if self.input_name == self.output_name:
            raise InputError(f"input and output cannot both be named '{self.input_name}'")

    @property
    def is_plain(self) -> bool:
        """Whether a file stays as it was."""
        return self == Interface()

    @property
    def added(self) -> list[str]:
        """What a file has beside the network, in words."""
        inside = {"tensor": [], "pixels": ["normalisation"], "image": ["resizing and normalisation"]}[self.input]
        return [*inside, *(["softmax"] if self.softmax else [])]


def with_interface(
    model: ModelProto, interface: Interface, *, side: int, preprocessing: Preprocessing | None, facts: Mapping[str, Any] | None = None
) -> ModelProto:
    """A copy of a model of one float32 input (n, c, side, side) and one output (n, classes) with that interface; equal arguments give equal bytes.

    preprocessing: needed where the input is not a tensor. facts: the metadata, by key, without its prefix; whatever JSON can hold.
    Raises InputError where model and interface do not fit each other.
    """
    from onnx import ModelProto, TensorProto, helper

    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    source, target = _ends(graph)
    shape = [dim.dim_value or dim.dim_param for dim in source.type.tensor_type.shape.dim]
    if interface.opset is not None or interface.input == "image":
        _set_opset(made, interface.opset or max(IMAGE_OPSET, _opset(made)))
    kind = source.type.tensor_type.elem_type
    if interface.input != "tensor" and (len(shape) != 4 or kind != TensorProto.FLOAT or not isinstance(shape[1], int)):
        raise InputError(f"preprocessing goes before a network that takes float32 (n, channels, height, width); this one takes {shape}")
    batch: int | str = "batch" if interface.free_batch else shape[0]
    inner = {source.name: "preprocessing/input"} if interface.input != "tensor" else {source.name: interface.input_name}
    inner |= {target.name: "probabilities/logits" if interface.softmax else interface.output_name}
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {each.name for each in graph.initializer}
    for old, new in {**inner, source.name: interface.input_name, target.name: interface.output_name}.items():
        if new != old and new in taken - {source.name, target.name}:
            raise InputError(f"'{new}' is the name of a value inside of the network; give the {'input' if old == source.name else 'output'} another one")
    _rename(graph, inner)
    before: list[NodeProto] = []
    if interface.input == "tensor":
        entering = helper.make_tensor_value_info(interface.input_name, kind, [batch, *shape[1:]])
    else:
        if preprocessing is None:
            raise InputError("preprocessing inside of the graph needs to know how the network's images are prepared")
        sides: list[int | str] = [side, side] if interface.input == "pixels" else ["height", "width"]
        entering = helper.make_tensor_value_info(interface.input_name, TensorProto.UINT8, [batch, *sides, shape[1]])
        before = list(_preprocessing(graph, interface, preprocessing, side, int(shape[1])))
    classes = [dim.dim_value or dim.dim_param for dim in target.type.tensor_type.shape.dim]
    after: list[NodeProto] = []
    if interface.softmax:
        if len(classes) != 2:
            raise InputError(f"a softmax goes behind logits (n, classes); this network gives {classes}")
        after = [helper.make_node("Softmax", ["probabilities/logits"], [interface.output_name], "probabilities/softmax", axis=1)]
    leaving = helper.make_tensor_value_info(interface.output_name, target.type.tensor_type.elem_type, [batch, *classes[1:]])
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.input.append(entering)
    graph.output.append(leaving)
    if not interface.is_plain:
        known = {each.key: each.value for each in model.metadata_props}
        texts = {
            METADATA + key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True) for key, value in (facts or {}).items()
        }
        helper.set_model_props(made, dict(sorted((known | texts).items())))
    return made


def facts_of(preprocessing: Preprocessing | None, labels: Sequence[str] | None, side: int, **others: Any) -> dict[str, Any]:
    """The metadata that an exported file carries: what it is fed, and what its outputs are called."""
    prepared = None if preprocessing is None else {"preprocessing": asdict(preprocessing) | {"resolution": [side, side], "resize": "bilinear, antialiased"}}
    return {**(prepared or {}), **({"labels": list(labels)} if labels is not None else {}), **others}


def outputs_to_logits(outputs: Array, interface: Interface) -> Array:
    """What a file gives (n, classes) as numbers that can be compared: logits as they are, of probabilities the logarithms."""
    if not interface.softmax:
        return outputs
    with np.errstate(divide="ignore"):
        logs: Array = np.maximum(np.log(np.maximum(outputs, 0).astype(np.float64)), _LEAST_LOG).astype(np.float32)
    return logs


def logits_to_compare(logits: Array, interface: Interface) -> Array:
    """The reference's logits (n, classes) in the same form: as they are, or as logarithms of their softmax."""
    if not interface.softmax:
        return logits
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    logs: Array = np.maximum(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), _LEAST_LOG).astype(np.float32)
    return logs


def _ends(graph: GraphProto) -> tuple[Any, Any]:
    weights = {each.name for each in graph.initializer}
    inputs = [each for each in graph.input if each.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise InputError(f"an image network has one input and one output; this one has {len(inputs)} and {len(graph.output)}")
    return inputs[0], graph.output[0]


def _opset(model: ModelProto) -> int:
    return int(next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0))


def _set_opset(model: ModelProto, opset: int) -> None:
    """Of a model that we wrote: its operators mean the same in all of OPSETS. Raises InputError for others."""
    from onnx import helper

    if opset == _opset(model):
        return
    if model.producer_name != "hwnas":
        raise InputError(f"this file is of opset {_opset(model)}; write it in opset {opset} where it is made")
    if _opset(model) > OPSET and opset < _opset(model):  # it was chosen because the network needs it
        raise InputError(f"opset {opset} cannot hold this network, whose precision needs {_opset(model)} or later")
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = max(_LEAST_IR, helper.find_min_ir_version_for(list(model.opset_import)))


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Other names of some values of a graph, wherever it or a graph inside of it reads or writes them."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename(inner, names)


def _preprocessing(graph: GraphProto, interface: Interface, preprocessing: Preprocessing, side: int, channels: int) -> Iterator[NodeProto]:
    """Nodes from uint8 (n, h, w, c) to the network's input; their constants become initialisers of the graph."""
    from onnx import TensorProto, helper, numpy_helper

    mean, std = (np.array(each, np.float64) for each in (preprocessing.mean, preprocessing.std))
    if mean.shape != (channels,) or std.shape != (channels,) or std.min() <= 0:
        raise InputError(f"preprocessing needs a mean and a positive std for each of {channels} channels, got {preprocessing.mean} and {preprocessing.std}")
    low, high = preprocessing.range

    def constant(name: str, array: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), f"preprocessing/{name}"))
        return f"preprocessing/{name}"

    def node(operator: str, inputs: Sequence[str], name: str, **settings: Any) -> NodeProto:
        return helper.make_node(operator, list(inputs), [f"preprocessing/{name}"], f"preprocessing/{name}", **settings)

    yield node("Cast", [interface.input_name], "real", to=TensorProto.FLOAT)  # first: TensorRT does nothing else with uint8
    yield node("Transpose", ["preprocessing/real"], "planes", perm=[0, 3, 1, 2])
    value = "preprocessing/planes"
    if interface.input == "image" and preprocessing.crop is not None:
        yield from _crop(node, constant, preprocessing.crop)
        value = "preprocessing/square"
    if interface.input == "image":
        sizes = constant("sizes", np.array([side, side], np.int64))
        # At the border, too, training weighs what is inside of the image alone.
        how = {"mode": "linear", "antialias": 1, "exclude_outside": 1, "coordinate_transformation_mode": "half_pixel", "axes": [2, 3]}
        yield node("Resize", [value, "", "", sizes], "resized", **how)
        value = "preprocessing/resized"
    scale = ((high - low) / 255 / std).astype(np.float32).reshape(1, channels, 1, 1)
    shift = ((low - mean) / std).astype(np.float32).reshape(1, channels, 1, 1)
    yield node("Mul", [value, constant("scale", scale)], "scaled")
    yield node("Add", ["preprocessing/scaled", constant("shift", shift)], "input")


def _crop(node: Any, constant: Any, share: float) -> Iterator[NodeProto]:
    """The central square, whose side is that share of the shorter side, rounded to even: as training cuts it."""
    from onnx import TensorProto

    yield node("Shape", ["preprocessing/planes"], "sides", start=2, end=4)
    yield node("ReduceMin", ["preprocessing/sides"], "shorter", keepdims=1)
    yield node("Cast", ["preprocessing/shorter"], "shorter_real", to=TensorProto.DOUBLE)
    yield node("Mul", ["preprocessing/shorter_real", constant("share", np.array([share], np.float64))], "share_of_it")
    yield node("Round", ["preprocessing/share_of_it"], "rounded")
    yield node("Cast", ["preprocessing/rounded"], "whole", to=TensorProto.INT64)
    yield node("Max", ["preprocessing/whole", constant("one", np.array([1], np.int64))], "side")
    yield node("Sub", ["preprocessing/sides", "preprocessing/side"], "rest")
    yield node("Div", ["preprocessing/rest", constant("two", np.array([2], np.int64))], "begin")
    yield node("Add", ["preprocessing/begin", "preprocessing/side"], "end")
    yield node("Slice", ["preprocessing/planes", "preprocessing/begin", "preprocessing/end", constant("axes", np.array([2, 3], np.int64))], "square")
