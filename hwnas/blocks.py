"""Blocks of the literature as pure, cached functions from choice values to nodes.

Every weight axis can be sliced by prefix and every kernel by its centre, and a node's name is shared across choices only by
weights that differ in sizes alone: that is what lets one supernet hold them all.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from hwnas.graph import Block, Node
from hwnas.ops import Add, AvgPool, Conv2d, Flatten, GlobalPool, Linear, Mul, Shape

BN_EPSILON = 1e-5  # OFA, MobileNetV3


def make_divisible(value: float, divisor: int = 8) -> int:
    """Nearest multiple of `divisor`, one more step where that would lose over 10 % (MobileNet's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@cache
def conv_bn_act(shape: Shape, out: int, kernel: int = 3, stride: int = 1, act: str = "relu", eps: float = BN_EPSILON) -> Block:
    """Convolution, batch norm, activation on (n, c, h, w)."""
    return (Node("conv", Conv2d(shape, out=out, kernel=kernel, stride=stride, act=act), ("in0",), eps),)


class SqueezeExcite(NamedTuple):
    """How a channel gate (Hu et al., 2018) is made. The default is MobileNetV3's: a quarter of the gated width, ReLU, h-sigmoid."""

    reduced: int | None = None
    """Channels between the two convolutions; None for a quarter of the gated width, made divisible."""
    act: str = "relu"
    gate: str = "hsigmoid"


def squeeze_excite(shape: Shape, source: str, how: SqueezeExcite = SqueezeExcite()) -> Block:  # noqa: B008
    """The mean of each channel of (n, c, h, w), through two 1x1 convolutions, scales that channel."""
    n, channels, _, _ = shape
    reduced = make_divisible(channels // 4) if how.reduced is None else how.reduced
    return (
        Node("se.pool", GlobalPool(shape), (source,)),
        Node("se.reduce", Conv2d((n, channels, 1, 1), out=reduced, act=how.act), ("se.pool",)),
        Node("se.expand", Conv2d((n, reduced, 1, 1), out=channels, act=how.gate), ("se.reduce",)),
        Node("se.scale", Mul(shape), (source, "se.expand")),
    )


@cache
def mbconv(
    shape: Shape,
    out: int,
    kernel: int,
    expand: int,
    stride: int = 1,
    act: str = "relu",
    se: bool | SqueezeExcite = False,
    expand_always: bool = True,
    eps: float = BN_EPSILON,
) -> Block:
    """Inverted residual (MobileNetV2/V3): expand 1x1, depthwise, optional squeeze-and-excite, project 1x1, shortcut.

    The shortcut is the identity where stride is 1 and the width stays, else none. With `expand_always` false an
    `expand` of 1 leaves the first convolution out, as in the published networks' first block.
    """
    channels = shape[1]
    middle = make_divisible(round(channels * expand)) if expand_always or expand != 1 else None
    return inverted_residual(shape, out, kernel, middle, stride=stride, act=act, se=se, shortcut=stride == 1 and channels == out, eps=eps)


@cache
def inverted_residual(
    shape: Shape,
    out: int,
    kernel: int,
    middle: int | None,
    *,
    stride: int,
    act: str,
    se: bool | SqueezeExcite,
    shortcut: bool,
    eps: float = BN_EPSILON,
) -> Block:
    """`mbconv` with everything said: its middle channels, or None to leave the expansion out, and whether there is a shortcut."""
    n, channels, height, width = shape
    nodes: list[Node] = []
    source = "in0"
    if middle is None:
        middle = channels
    else:
        nodes.append(Node("expand", Conv2d(shape, out=middle, act=act), ("in0",), eps))
        source = "expand"
    depthwise = Conv2d((n, middle, height, width), out=middle, kernel=kernel, stride=stride, groups=middle, act=act)
    nodes.append(Node("depthwise", depthwise, (source,), eps))
    source = "depthwise"
    if se:
        nodes.extend(squeeze_excite(depthwise.output, source, se if isinstance(se, SqueezeExcite) else SqueezeExcite()))
        source = "se.scale"
    project = Conv2d(depthwise.output, out=out)
    nodes.append(Node("project", project, (source,), eps))
    if shortcut:
        nodes.append(Node("add", Add(project.output), ("project", "in0")))
    return tuple(nodes)


@cache
def bottleneck(shape: Shape, out: int, middle: int, stride: int = 1, *, pooled_shortcut: bool = False, eps: float = BN_EPSILON) -> Block:
    """ResNet's bottleneck (He et al., 2016): 1x1 to `middle` channels, 3x3 with the stride, 1x1 to `out`, and ReLU behind the shortcut.

    Where the shape changes the shortcut is a 1x1 convolution with the stride, or with `pooled_shortcut` one behind an average pooling of that
    stride, as in ResNet-D (He et al., 2019).
    """
    first = Conv2d(shape, out=middle, act="relu")
    second = Conv2d(first.output, out=middle, kernel=3, stride=stride, act="relu")
    third = Conv2d(second.output, out=out)
    nodes = [Node("conv1", first, ("in0",), eps), Node("conv2", second, ("conv1",), eps), Node("conv3", third, ("conv2",), eps)]
    source = "in0"
    if stride != 1 or shape[1] != out:
        if pooled_shortcut and stride != 1:
            pool = AvgPool(shape, kernel=stride, stride=stride, ceil=True)
            nodes.append(Node("pool", pool, ("in0",)))
            shape, stride, source = pool.output, 1, "pool"
        nodes.append(Node("shortcut", Conv2d(shape, out=out, stride=stride), (source,), eps))
        source = "shortcut"
    return (*nodes, Node("add", Add(third.output, act="relu"), ("conv3", source)))


@cache
def linear_head(shape: Shape, classes: int) -> Block:
    """Global mean and classifier, as in ResNets."""
    return (
        Node("pool", GlobalPool(shape), ("in0",)),
        Node("flatten", Flatten((*shape[:2], 1, 1)), ("pool",)),
        Node("classifier", Linear(shape[:2], out=classes), ("flatten",)),
    )


@cache
def pooled_head(shape: Shape, features: int, classes: int, act: str = "relu", eps: float = BN_EPSILON) -> Block:
    """MobileNetV2's head: 1x1 convolution with batch norm, global mean, classifier."""
    n = shape[0]
    conv = Conv2d(shape, out=features, act=act)
    return (
        Node("conv", conv, ("in0",), eps),
        Node("pool", GlobalPool(conv.output), ("conv",)),
        Node("flatten", Flatten((n, features, 1, 1)), ("pool",)),
        Node("classifier", Linear((n, features), out=classes), ("flatten",)),
    )


@cache
def mobilenet_head(shape: Shape, expand: int, features: int, classes: int, act: str = "hswish", eps: float = BN_EPSILON, mix_bias: bool = False) -> Block:
    """MobileNetV3's head: 1x1 convolution, global mean, feature mix without batch norm (in Once-for-All without bias too), classifier."""
    n = shape[0]
    return (
        Node("expand", Conv2d(shape, out=expand, act=act), ("in0",), eps),
        Node("pool", GlobalPool((n, expand, *shape[2:])), ("expand",)),
        Node("mix", Conv2d((n, expand, 1, 1), out=features, bias=mix_bias, act=act), ("pool",)),
        Node("flatten", Flatten((n, features, 1, 1)), ("mix",)),
        Node("classifier", Linear((n, features), out=classes), ("flatten",)),
    )


@cache
def chain(*blocks: Block) -> Block:
    """Several blocks in a row as one, names prefixed `0.`, `1.`, ...: for parts of a network that no choice separates."""
    nodes: list[Node] = []
    source = "in0"
    for i, block in enumerate(blocks):
        rename = {"in0": source} | {node.name: f"{i}.{node.name}" for node in block}
        nodes.extend(Node(rename[node.name], node.op, tuple(rename[name] for name in node.inputs), node.norm) for node in block)
        source = nodes[-1].name
    return tuple(nodes)
