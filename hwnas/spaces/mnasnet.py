"""MnasNet's factorised hierarchical space (Tan et al., 2019): the layers of a block are equal, each block is its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwnas.blocks import SqueezeExcite, conv_bn_act, mbconv, pooled_head, squeeze_excite
from hwnas.graph import IDENTITY, Block, Node
from hwnas.ops import Add, Conv2d, Shape
from hwnas.space import Choice, Published, SearchSpace, Value
from hwnas.spaces._mobile import Images

EPSILON = 1e-3
STEMS = (8, 32)
#: depthwise separable convolution, inverted residuals of expand ratio 3 and 6, and the largest, a plain convolution
OPERATIONS = ("sepconv", "mb3", "mb6", "conv")
#: stride of the first layer; filters: 0.75, 1 and 1.25 times MobileNetV2's, and those of the released networks; layers: MobileNetV2's -1, +0, +1
BLOCKS = (
    (1, (8, 16, 24), (1, 2)),
    (2, (16, 24, 32), (1, 2, 3)),
    (2, (16, 24, 32, 40), (2, 3, 4)),
    (2, (32, 48, 64, 80), (3, 4, 5)),
    (1, (32, 72, 96, 112, 120), (2, 3, 4)),
    (2, (88, 120, 160, 192, 200), (2, 3, 4)),
    (1, (144, 240, 320, 400), (1, 2)),
)

#: the released networks: stem, then operation, kernel, squeeze-and-excite, filters and layers of each block
NETWORKS = {
    "a1": "32 / sepconv 3 0 16 1 / mb6 3 0 24 2 / mb3 5 0.25 40 3 / mb6 3 0 80 4 / mb6 3 0.25 112 2 / mb6 5 0.25 160 3 / mb6 3 0 320 1",
    "b1": "32 / sepconv 3 0 16 1 / mb3 3 0 24 3 / mb3 5 0 40 3 / mb6 5 0 80 3 / mb6 3 0 96 2 / mb6 5 0 192 4 / mb6 3 0 320 1",
    "small": "8 / sepconv 3 0 8 1 / mb3 3 0 16 1 / mb6 3 0 16 2 / mb6 5 0.25 32 4 / mb6 3 0.25 32 3 / mb6 5 0.25 88 3 / mb6 3 0 144 1",
}
_README = "README of tensorflow/tpu, models/official/mnasnet"
PUBLISHED = {
    ("a1", 224): Published(_README, macs=315.2e6, params=3.9e6),
    ("a1", 192): Published(_README, macs=232.0e6, params=3.9e6),
    ("a1", 160): Published(_README, macs=161.6e6, params=3.9e6),
    ("a1", 128): Published(_README, macs=104.1e6, params=3.9e6),
    ("a1", 96): Published(_README, macs=59.3e6, params=3.9e6),
    ("b1", 224): Published("torchvision, which rounds to a million MACs", macs=314e6, params=4_383_312),
    ("small", 224): Published(_README, macs=68e6, params=2.0e6),
}


def mnasnet(resolutions: Sequence[int] = (224,), classes: int = 1000, channels: int = 3, batch: int = 1) -> SearchSpace:
    """Seven blocks: operation, kernel 3/5, squeeze-and-excite ratio 0/0.25, skip, filters and number of layers of each, and the stem's filters.

    The skip is the identity wherever a layer keeps its shape, or none; the paper's third one, pooling, is in none of the released networks and is left out.
    """
    images = Images.checked("mnasnet", resolutions, classes, channels, batch)
    stem = Choice("stem.filters", STEMS)
    choices = [images.resolution, stem]
    layers = [images.layer("stem", channels, 1, _stem, stem)]
    previous, reduction = stem, 2
    for b, (stride, filters, depths) in enumerate(BLOCKS, start=1):
        name = f"block{b}"
        operation, kernel = Choice(f"{name}.op", OPERATIONS), Choice(f"{name}.kernel", (3, 5))
        ratio, skip = Choice(f"{name}.se", (0, 0.25)), Choice(f"{name}.skip", ("none", "identity"))
        out, depth = Choice(f"{name}.filters", filters), Choice(f"{name}.layers", depths)
        choices += [operation, kernel, ratio, skip, out, depth]
        reads = (operation, kernel, ratio, skip, out)
        layers.append(images.layer(f"{name}.layer0", _before, reduction, partial(_first, stride), previous, *reads))
        previous, reduction = out, reduction * stride
        for i in range(1, max(depths)):
            if i < min(depths):
                layers.append(images.layer(f"{name}.layer{i}", _same, reduction, partial(_layer, 1), *reads))
            else:
                layers.append(images.layer(f"{name}.layer{i}", _same, reduction, partial(_elastic, i), depth, *reads))
    layers.append(images.layer("head", _same, reduction, partial(_head, classes), previous))
    references: dict[str, dict[str, Value]] = {}
    published: dict[str, Published] = {}
    for (network, resolution), figures in PUBLISHED.items():
        if resolution in resolutions:
            references[f"mnasnet_{network}_{resolution}"] = {"resolution": resolution} | _values(NETWORKS[network])
            published[f"mnasnet_{network}_{resolution}"] = figures
    return SearchSpace("mnasnet", choices, layers, references, published)


def _before(previous: int, *_: object) -> int:
    return previous


def _same(*values: int) -> int:
    return values[-1]


def _stem(shape: Shape, filters: int) -> Block:
    return conv_bn_act(shape, filters, stride=2, eps=EPSILON)


def _head(classes: int, shape: Shape, _: int) -> Block:
    return pooled_head(shape, 1280, classes, eps=EPSILON)


def _first(stride: int, shape: Shape, _: int, operation: str, kernel: int, ratio: float, skip: str, out: int) -> Block:
    return _layer(stride, shape, operation, kernel, ratio, skip, out)


def _elastic(index: int, shape: Shape, depth: int, operation: str, kernel: int, ratio: float, skip: str, out: int) -> Block:
    return _layer(1, shape, operation, kernel, ratio, skip, out) if index < depth else IDENTITY


def _layer(stride: int, shape: Shape, operation: str, kernel: int, ratio: float, skip: str, out: int) -> Block:
    """The gate is as wide as its share of the layer's input says, and ends in a sigmoid."""
    gate = SqueezeExcite(max(1, int(shape[1] * ratio)), "relu", "sigmoid") if ratio else None
    if operation != "conv":
        expand = {"sepconv": 1, "mb3": 3, "mb6": 6}[operation]
        block = mbconv(shape, out, kernel, expand, stride=stride, se=gate or False, expand_always=False, eps=EPSILON)
        return block if skip == "identity" else tuple(node for node in block if node.name != "add")
    conv = Conv2d(shape, out=out, kernel=kernel, stride=stride, act="relu")
    nodes = [Node("conv", conv, ("in0",), EPSILON)]
    if gate is not None:
        nodes += squeeze_excite(conv.output, "conv", gate)
    if skip == "identity" and conv.output == shape:
        nodes.append(Node("add", Add(shape), (nodes[-1].name, "in0")))
    return tuple(nodes)


def _values(network: str) -> dict[str, Value]:
    stem, *blocks = network.split(" / ")
    values: dict[str, Value] = {"stem.filters": int(stem)}
    for b, block in enumerate(blocks, start=1):
        operation, kernel, ratio, filters, depth = block.split()
        values |= {f"block{b}.op": operation, f"block{b}.kernel": int(kernel), f"block{b}.se": float(ratio), f"block{b}.skip": "identity"}
        values |= {f"block{b}.filters": int(filters), f"block{b}.layers": int(depth)}
    return values
