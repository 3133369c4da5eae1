"""Once-for-All's ResNet50 space (Cai et al., 2020; official code `ofa_resnet50`), around ResNet50-D."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwnas.blocks import bottleneck, conv_bn_act, linear_head, make_divisible
from hwnas.graph import IDENTITY, Block, Node
from hwnas.ops import Add, MaxPool, Shape
from hwnas.space import Choice, Layer, Published, SearchSpace, Value
from hwnas.spaces._mobile import Images

WIDTHS = (0.65, 0.8, 1.0)
EXPAND_RATIOS = (0.2, 0.25, 0.35)
RESOLUTIONS = tuple(range(128, 225, 4))
#: out channels at width 1.0, stride of the first block, depths
STAGES = ((256, 1, (2, 3, 4)), (512, 2, (2, 3, 4)), (1024, 2, (4, 5, 6)), (2048, 2, (2, 3, 4)))
STEM = 64
#: depths of ResNet50
RESNET50 = (3, 4, 6, 3)

#: Node of a bottleneck -> its module in a block of Once-for-All's checkpoints. Only the first block of a stage has a shortcut with weights.
_OFFICIAL_BLOCK = {"conv1": "conv1", "conv2": "conv2", "conv3": "conv3", "shortcut": "downsample"}


def ofa_resnet50(resolutions: Sequence[int] = RESOLUTIONS, classes: int = 1000, channels: int = 3, batch: int = 1) -> SearchSpace:
    """Depth and width of four stages, bottleneck ratio of each of 18 blocks, two widths of the stem, whether it has its residual, the resolution.

    2.46e12 networks, times 25 resolutions. The bottleneck's ratio is of its *output* width. ResNet50-D is a point of it, up to the residual in the stem;
    ResNet50 is none, for its stem is one 7x7 convolution and its shortcuts do not pool: that is in the space `resnet`.
    """
    images = Images.checked("ofa_resnet50", resolutions, classes, channels, batch)
    middle, residual, width = Choice("stem.middle", WIDTHS), Choice("stem.residual", ("skip", "keep")), Choice("stem.width", WIDTHS)
    choices = [images.resolution, middle, residual, width]
    layers = [
        images.layer("stem.first", channels, 1, _first, middle),
        images.layer("stem.residual", _stem_middle, 2, _residual, middle, residual),
        images.layer("stem.last", _stem_middle, 2, _last, middle, width),
    ]
    names = {"stem.first/conv": "input_stem.0.conv", "stem.residual/conv": "input_stem.1.conv.conv", "stem.last/conv": "input_stem.2.conv"}
    names |= {"head/classifier": "classifier.linear"}
    base, reduction, number = STEM, 4, 0
    for s, (out, first_stride, depths) in enumerate(STAGES, start=1):
        before, width, depth = width, Choice(f"stage{s}.width", WIDTHS), Choice(f"stage{s}.depth", depths)
        choices += [width, depth]
        for b in range(depths[-1]):
            expand = Choice(f"stage{s}.block{b}.expand", EXPAND_RATIOS)
            choices.append(expand)
            names |= {f"stage{s}.block{b}/{node}": f"blocks.{number}.{module}.conv" for node, module in _OFFICIAL_BLOCK.items()}
            number += 1
            layers.append(_layer(images, f"stage{s}.block{b}", base, out, reduction, first_stride, b, before, width, depth, expand))
            if b == 0:
                reduction *= first_stride
        base = out
    layers.append(images.layer("head", partial(_scaled, base), reduction, partial(_head, classes), width))
    if 224 not in resolutions:
        return SearchSpace("ofa_resnet50", choices, layers, checkpoint_names=names)
    resnet50d: dict[str, Value] = {choice.name: 0.25 if choice.name.endswith("expand") else choice.values[-1] for choice in choices}
    resnet50d |= {"resolution": 224} | {f"stage{s}.depth": depth for s, depth in enumerate(RESNET50, start=1)}
    published = Published("timm's results table, whose resnet50d has no residual in its stem", macs=4.35e9, params=25.58e6)
    return SearchSpace("ofa_resnet50", choices, layers, {"resnet50d": resnet50d}, {"resnet50d": published}, checkpoint_names=names)


def _layer(
    images: Images, name: str, base: int, out: int, reduction: int, stride: int, index: int, before: Choice, width: Choice, depth: Choice, expand: Choice
) -> Layer:
    """A block; the first of a stage reads the width of the stage before it, those that may be left out the depth."""
    if index == 0:
        return images.layer(name, partial(_scaled, base), reduction, partial(_first_block, out, stride), before, width, expand)
    if index < depth.values[0]:  # type: ignore[operator]  # depths are numbers
        return images.layer(name, partial(_scaled, out), reduction, partial(_block, out), width, expand)
    return images.layer(name, partial(_scaled, out), reduction, partial(_elastic, out, index), width, expand, depth)


def _scaled(channels: int, width: float, *_: object) -> int:
    return make_divisible(channels * width)


def _stem_middle(middle: float, *_: object) -> int:
    return make_divisible(_scaled(STEM, middle) // 2)


def _first(shape: Shape, middle: float) -> Block:
    return conv_bn_act(shape, _stem_middle(middle), stride=2)


def _residual(shape: Shape, middle: float, residual: str) -> Block:
    """Its activation is before the addition."""
    return IDENTITY if residual == "skip" else (*conv_bn_act(shape, shape[1]), Node("add", Add(shape), ("conv", "in0")))


def _last(shape: Shape, middle: float, width: float) -> Block:
    conv = conv_bn_act(shape, _scaled(STEM, width))
    return (*conv, Node("pool", MaxPool(conv[-1].op.output, kernel=3, stride=2, padding=1), ("conv",)))


def _first_block(out: int, stride: int, shape: Shape, before: float, width: float, expand: float) -> Block:
    """It has a convolution in its shortcut, whatever the widths."""
    out = _scaled(out, width)
    return bottleneck(shape, out, make_divisible(round(out * expand)), stride, pooled_shortcut=True)


def _block(out: int, shape: Shape, width: float, expand: float) -> Block:
    return bottleneck(shape, shape[1], make_divisible(round(shape[1] * expand)))


def _elastic(out: int, index: int, shape: Shape, width: float, expand: float, depth: int) -> Block:
    return _block(out, shape, width, expand) if index < depth else IDENTITY


def _head(classes: int, shape: Shape, width: float) -> Block:
    return linear_head(shape, classes)
