"""What the mobile spaces share: images of several resolutions, and stages of inverted residuals whose depth is a choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from hwnas.blocks import BN_EPSILON, chain, conv_bn_act, mbconv
from hwnas.errors import InputError
from hwnas.graph import IDENTITY, Block
from hwnas.ops import Shape
from hwnas.space import Choice, Layer, SearchSpace


@dataclass(frozen=True, slots=True)
class Images:
    """What every layer of a space for square images knows: batch, channels of the image, classes, and the choice of resolution."""

    batch: int
    channels: int
    classes: int
    resolution: Choice

    @classmethod
    def checked(cls, name: str, resolutions: Sequence[int], classes: int, channels: int, batch: int) -> Images:
        """Raises InputError in the name of the space where an option cannot be built."""
        if not all(isinstance(each, int) and each >= 1 for each in (*resolutions, classes, channels, batch)):
            raise InputError(f"{name}: resolutions, classes, channels and batch must be positive whole numbers, got {classes}, {channels}, {batch}")
        if not resolutions or min(resolutions) < 8 or list(resolutions) != sorted(set(resolutions)):
            raise InputError(f"{name}: resolutions must be distinct, ascending and at least 8, got {tuple(resolutions)}")
        return cls(batch, channels, classes, Choice("resolution", tuple(resolutions)))

    def layer(self, name: str, channels: int | Callable[..., int], reduction: int, build: Callable[..., Block], *reads: Choice) -> Layer:
        """A layer that reads the resolution and `reads`: build(shape, *values), with the shape of its input at 1 / reduction of the resolution.

        channels: of the input, or a function of the values that gives them.
        """
        return Layer(name, (self.resolution, *reads), partial(_at, self.batch, channels, reduction, build))


def _at(batch: int, channels: int | Callable[..., int], reduction: int, build: Callable[..., Block], resolution: int, *values: object) -> Block:
    side = -(-resolution // reduction)  # every stride-2 layer rounds up, and so does the whole
    return build((batch, channels if isinstance(channels, int) else channels(*values), side, side), *values)


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of one width; the first one carries the stride. Of `max(depths)` blocks the first `depth` run; a single depth is no choice."""

    out: int
    stride: int
    act: str
    se: bool
    depths: tuple[int, ...]


def elastic_mobilenet(
    name: str,
    images: Images,
    *,
    stem: Callable[[Shape], Block],
    width: int,
    stages: Sequence[Stage],
    head: Callable[[Shape], Block],
    kernels: Sequence[int],
    expand_ratios: Sequence[int],
    eps: float = BN_EPSILON,
    official_head: Mapping[str, str] | None = None,
) -> SearchSpace:
    """A network of inverted residuals with elastic stages: kernel and expand ratio of each block, depth of each stage, and the resolution.

    stem, head: the fixed parts, from the shape of their input; `width`: channels that leave the stem, at half the resolution.
    official_head: node of the head -> its module in Once-for-All's checkpoints, where there are some.
    """
    choices = [images.resolution]
    layers = [images.layer("stem", images.channels, 1, stem)]
    reduction = 2
    for s, stage in enumerate(stages, start=1):
        depth = Choice(f"stage{s}.depth", stage.depths)
        if len(stage.depths) > 1:
            choices.append(depth)
        for b in range(max(stage.depths)):
            kernel = Choice(f"stage{s}.block{b}.kernel", tuple(kernels))
            expand = Choice(f"stage{s}.block{b}.expand", tuple(expand_ratios))
            choices += [kernel, expand]
            fixed = partial(_block, stage.out, stage.stride if b == 0 else 1, stage.act, stage.se, eps)
            if b < min(stage.depths):
                layers.append(images.layer(f"stage{s}.block{b}", width, reduction, fixed, kernel, expand))
            else:
                layers.append(images.layer(f"stage{s}.block{b}", width, reduction, partial(_elastic, fixed, b), depth, kernel, expand))
            if b == 0:
                width, reduction = stage.out, reduction * stage.stride
    layers.append(images.layer("head", width, reduction, head))
    names = {} if official_head is None else _official_names([layer.name for layer in layers[1:-1]], official_head)
    return SearchSpace(name, choices, layers, checkpoint_names=names)


#: Node of an inverted residual -> its module in a block of Once-for-All's checkpoints.
_OFFICIAL_BLOCK = {
    "expand": "inverted_bottleneck.conv",
    "depthwise": "depth_conv.conv",
    "se.reduce": "depth_conv.se.fc.reduce",
    "se.expand": "depth_conv.se.fc.expand",
    "project": "point_linear.conv",
}


def _official_names(blocks: Sequence[str], head: Mapping[str, str]) -> dict[str, str]:
    """Node -> module of Once-for-All's checkpoints; blocks: names of the elastic layers in order. Block 0 is part of our stem."""
    names = {"stem/0.conv": "first_conv.conv"} | {f"stem/1.{node}": f"blocks.0.conv.{_OFFICIAL_BLOCK[node]}" for node in ("depthwise", "project")}
    for i, block in enumerate(blocks, start=1):
        names |= {f"{block}/{node}": f"blocks.{i}.conv.{module}" for node, module in _OFFICIAL_BLOCK.items()}
    return names | {f"head/{node}": module for node, module in head.items()}


def mobile_stem(shape: Shape, width: int, out: int, act: str, eps: float = BN_EPSILON, first_act: str | None = None) -> Block:
    """3x3 convolution of stride 2 to `width` channels, then an inverted residual without expansion to `out`; `act`s of the two."""
    conv = conv_bn_act(shape, width, stride=2, act=act, eps=eps)
    return chain(conv, mbconv(conv[-1].op.output, out, 3, 1, act=first_act or act, expand_always=False, eps=eps))


def _block(out: int, stride: int, act: str, se: bool, eps: float, shape: Shape, kernel: int, expand: int) -> Block:
    return mbconv(shape, out, kernel, expand, stride=stride, act=act, se=se, eps=eps)


def _elastic(fixed: partial[Block], index: int, shape: Shape, depth: int, kernel: int, expand: int) -> Block:
    return fixed(shape, kernel, expand) if index < depth else IDENTITY
