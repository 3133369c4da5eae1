"""MobileNetV3 (Howard et al., 2019): Large and Small, their minimalistic forms, at two widths."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwnas.blocks import conv_bn_act, inverted_residual, make_divisible, mobilenet_head
from hwnas.graph import IDENTITY, Block
from hwnas.ops import Shape
from hwnas.space import Choice, Layer, Published, SearchSpace, Value
from hwnas.spaces._mobile import Images

WIDTHS = (0.75, 1.0)
EPSILON = 1e-3

#: kernel, expanded and out channels at width 1.0, squeeze-and-excite, activation, stride of each block
LARGE = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hswish", 2),
    (3, 200, 80, False, "hswish", 1),
    (3, 184, 80, False, "hswish", 1),
    (3, 184, 80, False, "hswish", 1),
    (3, 480, 112, True, "hswish", 1),
    (3, 672, 112, True, "hswish", 1),
    (5, 672, 160, True, "hswish", 2),
    (5, 960, 160, True, "hswish", 1),
    (5, 960, 160, True, "hswish", 1),
)
SMALL = (
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hswish", 2),
    (5, 240, 40, True, "hswish", 1),
    (5, 240, 40, True, "hswish", 1),
    (5, 120, 48, True, "hswish", 1),
    (5, 144, 48, True, "hswish", 1),
    (5, 288, 96, True, "hswish", 2),
    (5, 576, 96, True, "hswish", 1),
    (5, 576, 96, True, "hswish", 1),
)
#: variant -> its blocks, and channels of the feature mix; the minimalistic ones have ReLU, 3x3 kernels and no squeeze-and-excite
VARIANTS = {
    "small_minimalistic": (SMALL, 1024),
    "small": (SMALL, 1024),
    "large_minimalistic": (LARGE, 1280),
    "large": (LARGE, 1280),
}

SOURCE = "README of tensorflow/models, research/slim/nets/mobilenet"
#: variant, width -> millions of MACs and of parameters; what it says of Small is more than Small has here and in torchvision
PUBLISHED = {
    ("large", 1.0): (217, 5.4),
    ("large", 0.75): (155, 4.0),
    ("small", 1.0): (66, 2.9),
    ("small", 0.75): (44, 2.4),
    ("large_minimalistic", 1.0): (209, 3.9),
    ("small_minimalistic", 1.0): (65, 2.0),
}


def mobilenet_v3(resolutions: Sequence[int] = (224,), classes: int = 1000, channels: int = 3, batch: int = 1) -> SearchSpace:
    """Variant, width multiplier and input resolution; of the blocks, Small has 11 and Large 15."""
    images = Images.checked("mobilenet_v3", resolutions, classes, channels, batch)
    variant, width = Choice("variant", tuple(VARIANTS)), Choice("width", WIDTHS)
    layers = [images.layer("stem", channels, 1, _stem, variant, width)]
    layers += [Layer(f"block{b}", (images.resolution, variant, width), partial(_block, b, batch)) for b in range(len(LARGE))]
    layers.append(Layer("head", (images.resolution, variant, width), partial(_head, batch, classes)))
    references: dict[str, dict[str, Value]] = {}
    published: dict[str, Published] = {}
    for (which, factor), (macs, params) in PUBLISHED.items():
        if 224 in resolutions:
            name = f"mobilenet_v3_{which}_{factor}"
            references[name] = {"resolution": 224, "variant": which, "width": factor}
            published[name] = Published(SOURCE, macs=macs * 1e6, params=params * 1e6)
    return SearchSpace("mobilenet_v3", [images.resolution, variant, width], layers, references, published)


def _arriving(batch: int, blocks: Sequence[tuple[int, int, int, bool, str, int]], index: int, resolution: int, width: float) -> Shape:
    """Shape of what arrives at a block."""
    side = -(-resolution // 2)
    for *_, stride in blocks[:index]:
        side = -(-side // stride)
    return (batch, make_divisible(_arriving_channels(blocks, index) * width), side, side)


def _arriving_channels(blocks: Sequence[tuple[int, int, int, bool, str, int]], index: int) -> int:
    """At width 1.0."""
    return blocks[index - 1][2] if index else 16


def _stem(shape: Shape, variant: str, width: float) -> Block:
    return conv_bn_act(shape, make_divisible(16 * width), stride=2, act=_act("hswish", variant), eps=EPSILON)


def _block(index: int, batch: int, resolution: int, variant: str, width: float) -> Block:
    blocks, _ = VARIANTS[variant]
    if index >= len(blocks):
        return IDENTITY
    shape = _arriving(batch, blocks, index, resolution, width)
    kernel, expanded, out, se, act, stride = blocks[index]
    if "minimalistic" in variant:
        kernel, se = 3, False
    at_one, out = _arriving_channels(blocks, index), make_divisible(out * width)
    middle = None if expanded == at_one else make_divisible(shape[1] * expanded / at_one)  # a ratio of the width that arrives, as in the authors' code
    shortcut = stride == 1 and out == shape[1]
    return inverted_residual(shape, out, kernel, middle, stride=stride, act=_act(act, variant), se=se, shortcut=shortcut, eps=EPSILON)


def _head(batch: int, classes: int, resolution: int, variant: str, width: float) -> Block:
    """The feature mix is not narrowed."""
    blocks, features = VARIANTS[variant]
    shape = _arriving(batch, blocks, len(blocks), resolution, width)
    return mobilenet_head(shape, make_divisible(6 * blocks[-1][2] * width), features, classes, act=_act("hswish", variant), eps=EPSILON, mix_bias=True)


def _act(act: str, variant: str) -> str:
    return "relu" if "minimalistic" in variant else act
