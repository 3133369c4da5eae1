"""EfficientNet (Tan and Le, 2019): one network scaled in width, depth and resolution, together or each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import ceil

from hwnas.blocks import SqueezeExcite, conv_bn_act, make_divisible, mbconv, pooled_head
from hwnas.graph import IDENTITY, Block
from hwnas.ops import Shape
from hwnas.space import Choice, Published, SearchSpace, Value
from hwnas.spaces._mobile import Images

EPSILON = 1e-3
#: expand ratio, kernel, out channels and number of blocks at factor 1, stride of the first block
STAGES = ((1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2), (6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1))
#: width, depth and resolution by compound scaling, and the paper's millions of MACs and of parameters (table 2)
NETWORKS = {
    "b0": (1.0, 1.0, 224, 390, 5.3),
    "b1": (1.0, 1.1, 240, 700, 7.8),
    "b2": (1.1, 1.2, 260, 1000, 9.2),
    "b3": (1.2, 1.4, 300, 1800, 12),
    "b4": (1.4, 1.8, 380, 4200, 19),
    "b5": (1.6, 2.2, 456, 9900, 30),
    "b6": (1.8, 2.6, 528, 19000, 43),
    "b7": (2.0, 3.1, 600, 37000, 66),
}
WIDTHS = tuple(sorted({width for width, *_ in NETWORKS.values()}))
DEPTHS = tuple(sorted({depth for _, depth, *_ in NETWORKS.values()}))
RESOLUTIONS = tuple(resolution for _, _, resolution, *_ in NETWORKS.values())


def efficientnet(resolutions: Sequence[int] = RESOLUTIONS, classes: int = 1000, channels: int = 3, batch: int = 1) -> SearchSpace:
    """Factors of width (1 to 2) and depth (1 to 3.1), and the resolution: B0 to B7 are the points at which compound scaling takes all three."""
    images = Images.checked("efficientnet", resolutions, classes, channels, batch)
    width, depth = Choice("width", WIDTHS), Choice("depth", DEPTHS)
    layers = [images.layer("stem", channels, 1, _stem, width)]
    previous, reduction = 32, 2
    for s, (expand, kernel, out, blocks, first_stride) in enumerate(STAGES, start=1):
        for b in range(_blocks(blocks, DEPTHS[-1])):
            stride = first_stride if b == 0 else 1
            build = partial(_block, expand, kernel, out, stride)
            if b < blocks:
                layers.append(images.layer(f"stage{s}.block{b}", partial(_scaled, previous), reduction, build, width))
            else:
                layers.append(images.layer(f"stage{s}.block{b}", partial(_scaled, previous), reduction, partial(_elastic, build, blocks, b), width, depth))
            previous, reduction = out, reduction * stride
    layers.append(images.layer("head", partial(_scaled, previous), reduction, partial(_head, classes), width))
    references: dict[str, dict[str, Value]] = {}
    published: dict[str, Published] = {}
    for name, (wide, deep, resolution, macs, params) in NETWORKS.items():
        if resolution in resolutions:
            references[f"efficientnet_{name}"] = {"resolution": resolution, "width": wide, "depth": deep}
            published[f"efficientnet_{name}"] = Published("Tan and Le, 2019, table 2", macs=macs * 1e6, params=params * 1e6)
    return SearchSpace("efficientnet", [images.resolution, width, depth], layers, references, published)


def _scaled(channels: int, width: float, *_: float) -> int:
    return make_divisible(channels * width)


def _blocks(blocks: int, depth: float) -> int:
    return ceil(blocks * depth)


def _stem(shape: Shape, width: float) -> Block:
    return conv_bn_act(shape, _scaled(32, width), stride=2, act="swish", eps=EPSILON)


def _block(expand: int, kernel: int, out: int, stride: int, shape: Shape, width: float) -> Block:
    """The gate is a quarter as wide as the block's input."""
    se = SqueezeExcite(max(1, shape[1] // 4), "swish", "sigmoid")
    return mbconv(shape, _scaled(out, width), kernel, expand, stride=stride, act="swish", se=se, expand_always=False, eps=EPSILON)


def _elastic(build: partial[Block], blocks: int, index: int, shape: Shape, width: float, depth: float) -> Block:
    return build(shape, width) if index < _blocks(blocks, depth) else IDENTITY


def _head(classes: int, shape: Shape, width: float) -> Block:
    return pooled_head(shape, _scaled(1280, width), classes, act="swish", eps=EPSILON)
