"""Once-for-All's MobileNetV3 space (Cai et al., 2020; official code `ofa_mbv3`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwnas.blocks import chain, conv_bn_act, make_divisible, mbconv, mobilenet_head
from hwnas.errors import InputError
from hwnas.graph import IDENTITY, Block
from hwnas.ops import Shape
from hwnas.space import Choice, Layer, SearchSpace

KERNELS = (3, 5, 7)
EXPAND_RATIOS = (3, 4, 6)
DEPTHS = (2, 3, 4)
RESOLUTIONS = tuple(range(128, 225, 4))

#: out channels at width 1.0, stride of the first block, activation, squeeze-and-excite
STAGES = (
    (24, 2, "relu", False),
    (40, 2, "relu", True),
    (80, 2, "hswish", False),
    (112, 1, "hswish", True),
    (160, 2, "hswish", True),
)


def ofa_mobilenet_v3(
    width: float = 1.0, resolutions: Sequence[int] = RESOLUTIONS, classes: int = 1000, channels: int = 3, batch: int = 1
) -> SearchSpace:
    """20 elastic blocks in five stages: kernel 3/5/7, expand ratio 3/4/6, depth 2/3/4, and the input resolution.

    7371^5 = 2.18e19 networks, times 25 resolutions. The released supernets have width 1.0 and 1.2.
    """
    if not 0 < width < 100:
        raise InputError(f"ofa_mobilenet_v3: width must be above 0 and below 100, got {width:g}")
    stages = tuple((make_divisible(out * width), stride, act, se) for out, stride, act, se in STAGES)
    return elastic_mobilenet(
        "ofa_mobilenet_v3",
        stem=make_divisible(16 * width),
        stages=stages,
        head=(make_divisible(960 * width), make_divisible(1280 * width)),
        kernels=KERNELS,
        expand_ratios=EXPAND_RATIOS,
        depths=DEPTHS,
        resolutions=resolutions,
        classes=classes,
        channels=channels,
        batch=batch,
    )


def elastic_mobilenet(
    name: str,
    *,
    stem: int,
    stages: Sequence[tuple[int, int, str, bool]],
    head: tuple[int, int],
    kernels: Sequence[int],
    expand_ratios: Sequence[int],
    depths: Sequence[int],
    resolutions: Sequence[int],
    classes: int,
    channels: int,
    batch: int,
) -> SearchSpace:
    """MobileNetV3 with elastic stages: of a stage's blocks the first `depth` run; the first one carries stride and width.

    stages: (out channels, stride, activation, squeeze-and-excite) each; head: channels of the final expansion and feature mix.
    """
    if not resolutions or min(resolutions) < 8 or list(resolutions) != sorted(set(resolutions)):
        raise InputError(f"{name}: resolutions must be distinct, ascending and at least 8, got {tuple(resolutions)}")
    if not all(isinstance(each, int) and each >= 1 for each in (*resolutions, classes, channels, batch)):
        raise InputError(f"{name}: resolutions, classes, channels and batch must be positive whole numbers, got {classes}, {channels}, {batch}")
    resolution = Choice("resolution", tuple(resolutions))
    choices = [resolution]
    layers = [Layer("stem", (resolution,), partial(_stem, batch, channels, stem))]
    previous, reduction = stem, 2
    for s, (out, stride, act, se) in enumerate(stages, start=1):
        depth = Choice(f"stage{s}.depth", tuple(depths))
        choices.append(depth)
        for b in range(max(depths)):
            kernel = Choice(f"stage{s}.block{b}.kernel", tuple(kernels))
            expand = Choice(f"stage{s}.block{b}.expand", tuple(expand_ratios))
            choices += [kernel, expand]
            fixed = partial(_block, batch, previous, reduction, out, stride if b == 0 else 1, act, se)
            if b < min(depths):
                layers.append(Layer(f"stage{s}.block{b}", (resolution, kernel, expand), fixed))
            else:
                layers.append(Layer(f"stage{s}.block{b}", (resolution, depth, kernel, expand), partial(_elastic, fixed, b)))
            if b == 0:
                previous, reduction = out, reduction * stride
    layers.append(Layer("head", (resolution,), partial(_head, batch, previous, reduction, *head, classes)))
    return SearchSpace(name, choices, layers)


def _size(resolution: int, reduction: int) -> int:
    """Side of the feature map: every stride-2 layer rounds up, and so does the whole."""
    return -(-resolution // reduction)


def _stem(batch: int, channels: int, out: int, resolution: int) -> Block:
    conv = conv_bn_act((batch, channels, resolution, resolution), out, stride=2, act="hswish")
    shape: Shape = conv[-1].op.output
    return chain(conv, mbconv(shape, out, 3, 1, expand_always=False))


def _block(batch: int, channels: int, reduction: int, out: int, stride: int, act: str, se: bool, resolution: int, kernel: int, expand: int) -> Block:
    side = _size(resolution, reduction)
    return mbconv((batch, channels, side, side), out, kernel, expand, stride=stride, act=act, se=se)


def _elastic(fixed: partial[Block], index: int, resolution: int, depth: int, kernel: int, expand: int) -> Block:
    return fixed(resolution, kernel, expand) if index < depth else IDENTITY


def _head(batch: int, channels: int, reduction: int, expand: int, features: int, classes: int, resolution: int) -> Block:
    side = _size(resolution, reduction)
    return mobilenet_head((batch, channels, side, side), expand, features, classes)
