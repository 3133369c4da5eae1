"""Accel-NASBench's space (Ahmad et al., 2024): MnasNet's kind of choices in the seven stages of EfficientNet-B0.

5,138 of its networks were trained on ImageNet by its authors, and measured on accelerators.
"""

from __future__ import annotations

from functools import partial

from hwnas.blocks import SqueezeExcite, conv_bn_act, mbconv, pooled_head
from hwnas.graph import IDENTITY, Block
from hwnas.ops import Shape
from hwnas.space import Choice, Layer, SearchSpace

#: out channels, stride of the first block, and the most blocks of each stage
STAGES = ((16, 1, 3), (24, 2, 3), (40, 2, 3), (80, 2, 3), (112, 1, 3), (192, 2, 4), (320, 1, 3))
EXPAND_RATIOS = (1, 4, 6)
KERNELS = (3, 5)


def accel_nasbench(resolution: int = 224, classes: int = 1000, channels: int = 3, batch: int = 1) -> SearchSpace:
    """Expand ratio, kernel, number of blocks and squeeze-and-excite of each stage; all blocks of a stage are alike."""
    choices: list[Choice] = []
    layers = [Layer("stem", (), partial(conv_bn_act, (batch, channels, resolution, resolution), 32, stride=2, act="swish"))]
    width, side = 32, -(-resolution // 2)
    for s, (out, first_stride, most) in enumerate(STAGES, start=1):
        expand, kernel = Choice(f"stage{s}.expand", EXPAND_RATIOS), Choice(f"stage{s}.kernel", KERNELS)
        depth, se = Choice(f"stage{s}.depth", tuple(range(1, most + 1))), Choice(f"stage{s}.se", (0, 1))
        choices += [expand, kernel, depth, se]
        for b in range(most):
            fixed = partial(_block, (batch, width, side, side), out, first_stride if b == 0 else 1)
            if b == 0:
                layers.append(Layer(f"stage{s}.block{b}", (expand, kernel, se), fixed))
                width, side = out, -(-side // first_stride)
            else:
                layers.append(Layer(f"stage{s}.block{b}", (depth, expand, kernel, se), partial(_elastic, fixed, b)))
    layers.append(Layer("head", (), partial(pooled_head, (batch, width, side, side), 1280, classes, act="swish")))
    return SearchSpace("accel_nasbench", choices, layers)


def _block(shape: Shape, out: int, stride: int, expand: int, kernel: int, se: int) -> Block:
    """The gate is a quarter as wide as the block's input."""
    gate = SqueezeExcite(max(1, shape[1] // 4), "swish", "sigmoid") if se else False
    return mbconv(shape, out, kernel, expand, stride=stride, act="swish", se=gate, expand_always=False)


def _elastic(fixed: partial[Block], index: int, depth: int, expand: int, kernel: int, se: int) -> Block:
    return fixed(expand, kernel, se) if index < depth else IDENTITY
