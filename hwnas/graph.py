"""Operators with names and edges: a block is a short sequence of them, a graph is all blocks of a network, chained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

from hwnas.errors import InputError
from hwnas.ops import Op, Shape, parse_op
from hwnas.ops.op import ITEM_BYTES


@dataclass(frozen=True, slots=True)
class Node:
    """An operator with a block-local name and the names of its inputs (`in0`, `in1`, ... are the block's own inputs).

    `norm` is the epsilon of training's batch norm after the operator, before its activation; deployment folds it away.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    norm: float | None = None

    def __post_init__(self) -> None:
        if self.norm is not None and "weight" not in self.op.weights:
            raise InputError(f"{self.name}: a batch norm can only follow an operator with weights, not {self.op.kind}")

    @property
    def parameters(self) -> dict[str, Shape]:
        """Trained tensors: the operator's weights, where a batch norm brings scale and shift instead of the bias."""
        shapes = dict(self.op.weights)
        if self.norm is not None:
            shapes.pop("bias", None)
            shapes |= {"norm.weight": (self.op.output[1],), "norm.bias": (self.op.output[1],)}
        return shapes

    @property
    def buffers(self) -> dict[str, Shape]:
        """Running statistics of the batch norm."""
        return {} if self.norm is None else {"norm.mean": (self.op.output[1],), "norm.var": (self.op.output[1],)}


Block: TypeAlias = tuple[Node, ...]

#: The layer is skipped and its output is its input; costs nothing.
IDENTITY: Block = ()


class _Absent(tuple[Node, ...]):
    """A layer whose output does not exist; a join layer that reads the same choices leaves it out."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return 1

    def __reduce__(self) -> str:
        return "ABSENT"  # a copy or a pickle is the same object


ABSENT: Block = _Absent()


def block_text(block: Block) -> str:
    """One line that says what a block computes; the key of latency table rows. Training's batch norm is no part of it."""
    if block is ABSENT:
        return "absent"
    return "; ".join(f"{node.name} = {node.op} ({' '.join(node.inputs)})" for node in block) or "identity"


_NODE = re.compile(r"([\w.]+) = ([^()]+) \(([\w. ]*)\)")


def parse_block(text: str) -> Block:
    """The block whose `block_text` is `text`, without batch norms. Raises InputError."""
    if text in ("identity", "absent"):
        return IDENTITY if text == "identity" else ABSENT
    nodes = []
    for part in text.split("; "):
        match = _NODE.fullmatch(part)
        if match is None:
            raise InputError(f"'{part[:120]}' is no node: expected 'name = operator (inputs)'")
        nodes.append(Node(match[1], parse_op(match[2]), tuple(match[3].split())))
    _check_edges(nodes)
    if block_text(tuple(nodes)) != text:
        raise InputError(f"'{text[:120]}' is not written as hwnas writes it: '{block_text(tuple(nodes))[:120]}'")
    return tuple(nodes)


def _check_edges(block: Sequence[Node]) -> None:
    """Raises InputError where an edge inside a block does not fit; the block's own inputs have the shape their first reader says."""
    shapes: dict[str, Shape] = {}
    for node in block:
        if len(node.inputs) != len(node.op.inputs):
            raise InputError(f"{node.name} takes {len(node.op.inputs)} inputs but names {len(node.inputs)}")
        for name, expected in zip(node.inputs, node.op.inputs, strict=True):
            if re.fullmatch(r"in\d+", name):
                shapes.setdefault(name, expected)
            if name not in shapes:
                raise InputError(f"{node.name} names the input '{name}', which does not exist")
            if shapes[name] != expected:
                raise InputError(f"{node.name} expects {expected} but receives {shapes[name]} from {name}")
        if node.name in shapes:
            raise InputError(f"{node.name} occurs twice")
        shapes[node.name] = node.op.output


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A node of a whole network: `layer/name`, with inputs named the same way (`input` is the network's)."""

    layer: str
    node: Node
    inputs: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.layer}/{self.node.name}"

    @property
    def op(self) -> Op:
        return self.node.op


class Graph:
    """All blocks of one network, chained; nodes in topological order, every edge's shape checked, dead nodes pruned."""

    def __init__(self, layers: Sequence[tuple[str, Block, tuple[str, ...] | None]]):
        """layers: (name, block, names of the layers it follows); None follows the previous one, `input` is the network's.

        Raises InputError naming the edge where a shape does not fit.
        """
        self.input: Shape = ()
        #: Whether it is a part of a network, whose ends are in its operators' data types; a whole one takes and gives float32.
        self.is_block = False
        shapes: dict[str, Shape] = {}
        output_of: dict[str, str | None] = {"input": "input"}
        nodes: list[GraphNode] = []
        previous = "input"
        for layer, block, after in layers:
            for name in after or ():
                if name not in output_of:
                    raise InputError(f"{layer} follows '{name}', which is no earlier layer")
            if layer in output_of:
                raise InputError(f"two layers are named '{layer}'")
            sources = [output_of[name] for name in ((previous,) if after is None else after)]
            previous = layer
            if block is ABSENT:
                output_of[layer] = None
                continue
            if not block:
                if len(sources) != 1:
                    raise InputError(f"{layer} is the identity, which needs exactly one input, not {len(sources)}")
                output_of[layer] = sources[0]
                continue
            local = {f"in{i}": source for i, source in enumerate(sources) if source is not None}
            for node in block:
                here = f"{layer}/{node.name}"
                if len(node.inputs) != len(node.op.inputs):
                    raise InputError(f"{here} takes {len(node.op.inputs)} inputs but names {len(node.inputs)}")
                inputs = []
                for name, expected in zip(node.inputs, node.op.inputs, strict=True):
                    source = local.get(name)
                    if source is None:
                        raise InputError(f"{here} names the input '{name}', which does not exist")
                    if source == "input" and not self.input:
                        self.input = shapes["input"] = expected
                    if shapes[source] != expected:
                        raise InputError(f"{here} expects {expected} but receives {shapes[source]} from {source}")
                    inputs.append(source)
                local[node.name] = here
                if here in shapes:
                    raise InputError(f"{here} occurs twice")
                shapes[here] = node.op.output
                nodes.append(GraphNode(layer, node, tuple(inputs)))
            output_of[layer] = f"{layer}/{block[-1].name}"
        output = output_of[previous]
        if output is None or output == "input":
            raise InputError("the network is empty: its last layer computes nothing")
        self.output_name: str = output
        self.output: Shape = shapes[output]
        alive = {output}
        for each in reversed(nodes):
            if each.name in alive:
                alive.update(each.inputs)
        self.nodes: tuple[GraphNode, ...] = tuple(each for each in nodes if each.name in alive)

    @classmethod
    def of_block(cls, block: Block) -> Graph:
        """A network that is one block: what a profiler measures. All inputs of a block that has several are the network's."""
        inputs = [int(name[2:]) for node in block for name in node.inputs if re.fullmatch(r"in\d+", name)]
        graph = cls([("block", block, ("input",) * (1 + max(inputs, default=0)))])
        graph.is_block = True
        return graph

    @property
    def ops(self) -> tuple[Op, ...]:
        return tuple(each.op for each in self.nodes)

    def peak_activation_elements(self) -> int:
        """Largest number of activation elements alive at once when nodes run in order, each node's inputs and output included."""
        return self._peak(dict.fromkeys(("input", *(each.name for each in self.nodes)), 1))

    def peak_activation_bytes(self) -> int:
        """The same in bytes; the network's input has the data type of the first node that reads it. Nothing is computed in place."""
        reader = next(each for each in self.nodes if "input" in each.inputs)
        return self._peak({"input": ITEM_BYTES[reader.op.data_type]} | {each.name: ITEM_BYTES[each.op.data_type] for each in self.nodes})

    def _peak(self, width: Mapping[str, int]) -> int:
        """Largest sum of what is alive at once; width: what an element of each node's output counts."""
        last_use = {"input": -1, self.output_name: len(self.nodes)}
        for i, each in enumerate(self.nodes):
            for name in each.inputs:
                last_use[name] = max(last_use.get(name, -1), i)
        size = {"input": prod(self.input) * width["input"]} | {each.name: prod(each.op.output) * width[each.name] for each in self.nodes}
        alive, peak = size["input"], size["input"]
        for i, each in enumerate(self.nodes):
            alive += size[each.name]
            peak = max(peak, alive)
            alive -= sum(size[name] for name in set(each.inputs) if last_use[name] == i)
        return peak

    def in_float32(self) -> Graph:
        """The same network with every operator in float32."""
        made = copy(self)
        made.nodes = tuple(replace(each, node=replace(each.node, op=replace(each.op, dtype="float32"))) for each in self.nodes)  # type: ignore[call-arg]  # all have one
        return made

    def __str__(self) -> str:
        return "\n".join(f"{each.name} = {each.op} ({' '.join(each.inputs)})" for each in self.nodes)


def layers_of(graph: Graph) -> Iterable[str]:
    """Names of the layers that compute something, in order, each once."""
    return dict.fromkeys(each.layer for each in graph.nodes)
