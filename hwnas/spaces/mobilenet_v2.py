"""MobileNetV2 (Sandler et al., 2018): one network at several widths and resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwnas.blocks import conv_bn_act, make_divisible, mbconv, pooled_head
from hwnas.graph import Block
from hwnas.ops import Shape
from hwnas.space import Choice, Published, SearchSpace, Value
from hwnas.spaces._mobile import Images

WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
RESOLUTIONS = (96, 128, 160, 192, 224)
#: expand ratio, out channels at width 1.0, number of blocks, stride of the first one
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
EPSILON = 1e-3

SOURCE = "README of tensorflow/models, research/slim/nets/mobilenet"
#: width -> millions of parameters, and of MACs at 224, 192, ... pixels
PUBLISHED = {
    1.4: (6.06, 582),
    1.3: (5.34, 509),
    1.0: (3.47, 300, 221, 154, 99, 56),
    0.75: (2.61, 209, 153, 107, 69, 39),
    0.5: (1.95, 97, 71, 50, 32, 18),
    0.35: (1.66, 59, 43, 30, 20, 11),
}


def mobilenet_v2(resolutions: Sequence[int] = RESOLUTIONS, classes: int = 1000, channels: int = 3, batch: int = 1) -> SearchSpace:
    """The width multiplier, 0.35 to 1.4, and the input resolution: 30 networks, of which the authors published 22."""
    images = Images.checked("mobilenet_v2", resolutions, classes, channels, batch)
    width = Choice("width", WIDTHS)
    layers = [images.layer("stem", channels, 1, _stem, width)]
    previous, reduction = 32, 2
    for s, (expand, out, blocks, first_stride) in enumerate(STAGES, start=1):
        for b in range(blocks):
            stride = first_stride if b == 0 else 1
            layers.append(images.layer(f"stage{s}.block{b}", partial(_scaled, previous), reduction, partial(_block, expand, out, stride), width))
            previous, reduction = out, reduction * stride
    layers.append(images.layer("head", partial(_scaled, previous), reduction, partial(_head, classes), width))
    references: dict[str, dict[str, Value]] = {}
    published: dict[str, Published] = {}
    for factor, (params, *macs) in PUBLISHED.items():
        for resolution, million in zip(RESOLUTIONS[::-1], macs, strict=False):
            if resolution in resolutions:
                name = f"mobilenet_v2_{factor}_{resolution}"
                references[name] = {"resolution": resolution, "width": factor}
                published[name] = Published(SOURCE, macs=million * 1e6, params=params * 1e6)
    return SearchSpace("mobilenet_v2", [images.resolution, width], layers, references, published)


def _scaled(channels: int, width: float) -> int:
    return make_divisible(channels * width)


def _stem(shape: Shape, width: float) -> Block:
    return conv_bn_act(shape, _scaled(32, width), stride=2, act="relu6", eps=EPSILON)


def _block(expand: int, out: int, stride: int, shape: Shape, width: float) -> Block:
    return mbconv(shape, _scaled(out, width), 3, expand, stride=stride, act="relu6", expand_always=False, eps=EPSILON)


def _head(classes: int, shape: Shape, width: float) -> Block:
    """Its channels are not narrowed."""
    return pooled_head(shape, _scaled(1280, max(width, 1.0)), classes, act="relu6", eps=EPSILON)
