"""ResNet (He et al., 2016) with bottlenecks, and Wide ResNet (Zagoruyko and Komodakis, 2016), as torchvision has them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwnas.blocks import bottleneck, conv_bn_act, linear_head
from hwnas.graph import IDENTITY, Block, Node
from hwnas.ops import MaxPool, Shape
from hwnas.space import Choice, Published, SearchSpace, Value
from hwnas.spaces._mobile import Images

#: layers with weights -> number of blocks of each stage
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
#: out channels of each stage, stride of its first block; the bottleneck is a quarter as wide, or half
STAGES = ((256, 1), (512, 2), (1024, 2), (2048, 2))
BOTTLENECKS = (0.25, 0.5)
RESOLUTIONS = (128, 160, 192, 224)

#: torchvision's name -> layers, bottleneck, MACs and parameters as it states them with its weights
NETWORKS = {
    "resnet50": (50, 0.25, 4.089e9, 25_557_032),
    "resnet101": (101, 0.25, 7.801e9, 44_549_160),
    "resnet152": (152, 0.25, 11.514e9, 60_192_808),
    "wide_resnet50_2": (50, 0.5, 11.398e9, 68_883_240),
    "wide_resnet101_2": (101, 0.5, 22.753e9, 126_886_696),
}


def resnet(resolutions: Sequence[int] = RESOLUTIONS, classes: int = 1000, channels: int = 3, batch: int = 1) -> SearchSpace:
    """Layers (50, 101, 152), width of the bottlenecks, and resolution; the stride is in the 3x3 convolution ("v1.5")."""
    images = Images.checked("resnet", resolutions, classes, channels, batch)
    depth, middle = Choice("layers", tuple(DEPTHS)), Choice("bottleneck", BOTTLENECKS)
    layers = [images.layer("stem", channels, 1, _stem)]
    width, reduction = 64, 4
    for s, (out, first_stride) in enumerate(STAGES):
        for b in range(max(blocks[s] for blocks in DEPTHS.values())):
            stride = first_stride if b == 0 else 1
            layers.append(images.layer(f"stage{s + 1}.block{b}", width, reduction, partial(_block, out, stride, s, b), depth, middle))
            width, reduction = out, reduction * stride
    layers.append(images.layer("head", width, reduction, partial(linear_head, classes=classes)))
    references: dict[str, dict[str, Value]] = {}
    published: dict[str, Published] = {}
    for name, (deep, wide, macs, params) in NETWORKS.items():
        if 224 in resolutions:
            references[name] = {"resolution": 224, "layers": deep, "bottleneck": wide}
            published[name] = Published("torchvision's weights", macs=macs, params=params)
    return SearchSpace("resnet", [images.resolution, depth, middle], layers, references, published)


def _stem(shape: Shape) -> Block:
    conv = conv_bn_act(shape, 64, 7, 2)
    return (*conv, Node("pool", MaxPool(conv[-1].op.output, kernel=3, stride=2, padding=1), ("conv",)))


def _block(out: int, stride: int, stage: int, index: int, shape: Shape, layers: int, middle: float) -> Block:
    return bottleneck(shape, out, int(out * middle), stride) if index < DEPTHS[layers][stage] else IDENTITY
