"""NAS-Bench-201's space (Dong and Yang, 2020): 5^6 cells, fifteen equal ones in a network for images of 32 x 32.

All 15,625 were trained by its authors, and measured on many devices by others, which makes it a testbed of searchers and predictors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hwnas.blocks import conv_bn_act
from hwnas.errors import InputError
from hwnas.graph import IDENTITY, Block, Node
from hwnas.ops import Activation, Add, Affine, AvgPool, Conv2d, Flatten, GlobalPool, Linear, Shape, Zero
from hwnas.space import Choice, Layer, Published, SearchSpace, Value

OPERATIONS = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")
#: source and target of each edge, in the order of the benchmark's strings: the cell's input is node 0, its output node 3
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
WIDTHS = (16, 32, 64)
CELLS = 5  # of each stage

_NATS = "cost_info of the benchmark's files, CIFAR-10; its FLOPs are MACs, and one for each class"
PUBLISHED = {
    "none": ("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", Published(_NATS, macs=7.78305e6, params=73_306)),
    "arch_0": (
        "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
        Published(_NATS, macs=15.64737e6, params=129_306),
    ),
    "nor_conv_3x3": (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
        Published(_NATS, macs=220.11969e6, params=1_531_546),
    ),
}


def nasbench201(resolution: int = 32, classes: int = 10, channels: int = 3, batch: int = 1) -> SearchSpace:
    """The operation of each of a cell's six edges. Stem, three stages of five cells, two residual blocks of stride 2 between them, classifier.

    As in the benchmark every edge is computed, "none" to zeros, and also where nothing but "none" reads it: that is what its parameters, FLOPs
    and latencies are of. The batch norm before the classifier, which follows no convolution, is a scale and a shift here.
    """
    if not all(isinstance(each, int) and each >= 1 for each in (resolution, classes, channels, batch)) or resolution % 4:
        given = f"{resolution}, {classes}, {channels}, {batch}"
        raise InputError(f"nasbench201: resolution must be a multiple of 4, classes, channels and batch positive, got {given}")
    choices = {edge: Choice(f"edge{edge[0]}{edge[1]}", OPERATIONS) for edge in EDGES}
    layers = [Layer("stem", (), partial(conv_bn_act, (batch, channels, resolution, resolution), WIDTHS[0], act="none"))]
    shape: Shape = (batch, WIDTHS[0], resolution, resolution)
    for s, width in enumerate(WIDTHS, start=1):
        if s > 1:
            layers.append(Layer(f"reduction{s - 1}", (), partial(_reduction, shape, width)))
            shape = (batch, width, shape[2] // 2, shape[3] // 2)
        for c in range(CELLS):
            layers += _cell(f"stage{s}.cell{c}", layers[-1].name, partial(_edge, shape), partial(_sum, shape), choices)
    layers.append(Layer("head", (), partial(_head, shape, classes)))
    references = {name: values_of(cell) for name, (cell, _) in PUBLISHED.items()} if (resolution, classes, channels) == (32, 10, 3) else {}
    published = {name: figures for name, (_, figures) in PUBLISHED.items() if name in references}
    return SearchSpace("nasbench201", tuple(choices.values()), layers, references, published)


def values_of(cell: str) -> dict[str, Value]:
    """Values by choice name of a cell as the benchmark writes it, `|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|`. Raises InputError."""
    values: dict[str, Value] = {}
    for target, node in enumerate(cell.split("+"), start=1):
        for source, edge in enumerate(node.strip("|").split("|")):
            operation, _, number = edge.partition("~")
            if operation not in OPERATIONS or number != str(source):
                raise InputError(f"'{cell[:120]}' is no cell of NAS-Bench-201: '{edge[:40]}' is no operation on node {source}")
            values[f"edge{source}{target}"] = operation
    if list(values) != [f"edge{source}{target}" for source, target in EDGES]:
        raise InputError(f"'{cell[:120]}' is no cell of NAS-Bench-201: it must have {len(EDGES)} edges to three nodes")
    return values


def _cell(name: str, source: str, edge: Callable[..., Block], summed: Callable[[int], Block], choices: dict[tuple[int, int], Choice]) -> list[Layer]:
    """A layer for each edge and for each sum; node 1 is its only edge."""
    nodes, layers = [source], list[Layer]()
    for target in (1, 2, 3):
        arriving = []
        for begin in range(target):
            layers.append(Layer(f"{name}.edge{begin}{target}", (choices[begin, target],), edge, (nodes[begin],)))
            arriving.append(layers[-1].name)
        if target > 1:
            layers.append(Layer(f"{name}.node{target}", (), partial(summed, target), tuple(arriving)))
        nodes.append(layers[-1].name)
    return layers


def _edge(shape: Shape, operation: str) -> Block:
    if operation == "none":
        return (Node("zero", Zero(shape), ("in0",)),)
    if operation == "skip_connect":
        return IDENTITY
    if operation == "avg_pool_3x3":
        return (Node("pool", AvgPool(shape, kernel=3, padding=1), ("in0",)),)
    return _relu_conv_bn(shape, shape[1], int(operation[-1]))


def _relu_conv_bn(shape: Shape, out: int, kernel: int, stride: int = 1, source: str = "in0", prefix: str = "") -> Block:
    conv = Conv2d(shape, out=out, kernel=kernel, stride=stride)
    return (Node(f"{prefix}relu", Activation(shape, act="relu"), (source,)), Node(f"{prefix}conv", conv, (f"{prefix}relu",), 1e-5))


def _sum(shape: Shape, terms: int) -> Block:
    nodes, total = list[Node](), "in0"
    for term in range(1, terms):
        nodes.append(Node(f"add{term}", Add(shape), (total, f"in{term}")))
        total = f"add{term}"
    return tuple(nodes)


def _reduction(shape: Shape, out: int) -> Block:
    """ResNet's basic block of stride 2, activations before convolutions; the shortcut is averaged over 2 x 2 and has neither batch norm nor bias."""
    first = _relu_conv_bn(shape, out, 3, stride=2, prefix="a.")
    second = _relu_conv_bn(first[-1].op.output, out, 3, source="a.conv", prefix="b.")
    pool = AvgPool(shape, kernel=2, stride=2)
    shortcut = Conv2d(pool.output, out=out, bias=False)
    return (
        *first,
        *second,
        Node("pool", pool, ("in0",)),
        Node("shortcut", shortcut, ("pool",)),
        Node("add", Add(shortcut.output), ("b.conv", "shortcut")),
    )


def _head(shape: Shape, classes: int) -> Block:
    n, width = shape[:2]
    return (
        Node("norm", Affine(shape, act="relu"), ("in0",)),
        Node("pool", GlobalPool(shape), ("norm",)),
        Node("flatten", Flatten((n, width, 1, 1)), ("pool",)),
        Node("classifier", Linear((n, width), out=classes), ("flatten",)),
    )
