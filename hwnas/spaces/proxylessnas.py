"""ProxylessNAS (Cai, Zhu and Han, 2019): an operation of its own for each of 21 blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwnas.blocks import mbconv, pooled_head
from hwnas.errors import InputError
from hwnas.graph import IDENTITY, Block
from hwnas.ops import Shape
from hwnas.space import Choice, Published, SearchSpace, Value
from hwnas.spaces._mobile import Images, mobile_stem

#: name -> expand ratio and kernel of the inverted residual; "zero" leaves the identity shortcut alone
OPERATIONS = {
    "zero": None,
    "mb3_k3": (3, 3),
    "mb3_k5": (3, 5),
    "mb3_k7": (3, 7),
    "mb6_k3": (6, 3),
    "mb6_k5": (6, 5),
    "mb6_k7": (6, 7),
}
#: number of blocks and stride of each stage
STAGES = ((4, 2), (4, 2), (4, 2), (4, 1), (4, 2), (1, 1))
#: channels of first convolution, first block, the six stages and the head: of the search code, and of the released networks
WIDTHS = {
    "search": (32, 16, 24, 40, 80, 96, 192, 320, 1280),
    "mobile": (32, 16, 32, 40, 80, 96, 192, 320, 1280),
    "mobile_14": (48, 24, 40, 56, 112, 136, 256, 448, 1792),
    "cpu": (40, 24, 32, 48, 88, 104, 216, 360, 1432),
    "gpu": (40, 24, 32, 56, 112, 128, 256, 432, 1728),
}
#: the released networks, stage by stage: expand ratio and kernel of each block, "--" is zero
NETWORKS = {
    "mobile": "35 33 -- -- / 37 33 35 35 / 67 35 35 35 / 65 35 35 35 / 67 67 37 37 / 67",
    "mobile_14": "35 33 -- -- / 37 33 35 35 / 67 35 35 35 / 65 35 35 35 / 67 67 37 37 / 67",
    "cpu": "63 33 33 33 / 63 33 33 35 / 63 -- -- 33 / 65 33 33 33 / 65 35 35 33 / 65",
    "gpu": "35 -- -- -- / 37 -- -- 33 / 67 -- -- 35 / 65 -- 33 35 / 67 67 67 65 / 67",
}
_README = "README of mit-han-lab/proxylessnas, December 2018 (MACs); tables of pytorchcv (parameters)"
_PYTORCHCV = "tables of pytorchcv, whose MACs are more than the authors' (332 M of the mobile network)"
PUBLISHED = {
    "mobile": Published(_README, macs=320e6, params=4_080_512),
    "mobile_14": Published(_README, macs=581e6, params=6_857_568),
    "cpu": Published(_PYTORCHCV, macs=459.96e6, params=4_361_648),
    "gpu": Published(_PYTORCHCV, macs=476.08e6, params=7_119_848),
}
EPSILON = 1e-3


def proxylessnas(widths: str = "mobile", resolutions: Sequence[int] = (224,), classes: int = 1000, channels: int = 3, batch: int = 1) -> SearchSpace:
    """21 blocks, each an inverted residual of kernel 3/5/7 and expand ratio 3/6, or where its input has its output's shape nothing.

    6^6 * 7^15 = 2.2e17 networks per resolution. The released networks differ in channels too: `widths` is one of WIDTHS, and the space holds the
    network of that name. The operations of a block share its weights by prefix and centre; in ProxylessNAS each has its own.
    """
    if widths not in WIDTHS:
        raise InputError(f"proxylessnas: widths must be one of {', '.join(WIDTHS)}, got {widths!r}")
    images = Images.checked("proxylessnas", resolutions, classes, channels, batch)
    first, width, *outs, features = WIDTHS[widths]
    choices = [images.resolution]
    layers = [images.layer("stem", channels, 1, partial(mobile_stem, width=first, out=width, act="relu6", eps=EPSILON))]
    reduction = 2
    for s, ((blocks, first_stride), out) in enumerate(zip(STAGES, outs, strict=True), start=1):
        for b in range(blocks):
            stride = first_stride if b == 0 else 1
            skippable = stride == 1 and width == out
            operation = Choice(f"stage{s}.block{b}", tuple(name for name in OPERATIONS if skippable or name != "zero"))
            choices.append(operation)
            layers.append(images.layer(operation.name, width, reduction, partial(_block, out, stride), operation))
            width, reduction = out, reduction * stride
    layers.append(images.layer("head", width, reduction, partial(pooled_head, features=features, classes=classes, act="relu6", eps=EPSILON)))
    if widths not in NETWORKS or 224 not in resolutions:
        return SearchSpace("proxylessnas", choices, layers)
    name = f"proxyless_{widths}"
    return SearchSpace("proxylessnas", choices, layers, {name: {"resolution": 224} | _values(NETWORKS[widths])}, {name: PUBLISHED[widths]})


def _block(out: int, stride: int, shape: Shape, operation: str) -> Block:
    parameters = OPERATIONS[operation]
    if parameters is None:
        return IDENTITY
    expand, kernel = parameters
    return mbconv(shape, out, kernel, expand, stride=stride, act="relu6", eps=EPSILON)


def _values(network: str) -> dict[str, Value]:
    stages = enumerate(network.split(" / "), start=1)
    return {f"stage{s}.block{b}": "zero" if block == "--" else f"mb{block[0]}_k{block[1]}" for s, stage in stages for b, block in enumerate(stage.split())}
