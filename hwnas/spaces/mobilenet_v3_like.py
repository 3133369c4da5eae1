"""TuNAS' largest space (Bender et al., 2020), built around MobileNetV3-Large: everything but the activations and the strides is a choice."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwnas.blocks import conv_bn_act, mobilenet_head
from hwnas.graph import IDENTITY, Block
from hwnas.ops import Shape
from hwnas.space import Choice, SearchSpace
from hwnas.spaces._mobile import Images
from hwnas.spaces._tunas import EPSILON, KERNELS, PRESENCE, Stage, filters, separable, stages, width_before

STAGES = (
    Stage(16, 4, 2, "relu"),
    Stage(32, 4, 2, "relu"),
    Stage(64, 4, 2, "hswish"),
    Stage(128, 4, 1, "hswish"),
    Stage(256, 4, 2, "hswish"),
)
EXPAND_RATIOS = (1, 2, 3, 4, 5, 6)
SQUEEZE_EXCITE = (0, 0.25)  # of the middle channels


def mobilenet_v3_like(resolutions: Sequence[int] = (224,), classes: int = 1000, channels: int = 3, batch: int = 1) -> SearchSpace:
    """20 inverted residuals of kernel 3/5/7, expand ratio 1 to 6 and with or without squeeze-and-excite, of which 15 may be left out; eight widths.

    8.5e42 codes per resolution. MobileNetV3-Large itself is not among them: its width of 112 and its expand ratio of 2.5 are no choices.
    """
    images = Images.checked("mobilenet_v3_like", resolutions, classes, channels, batch)
    stem, kernel = filters("stem.filters", 16), Choice("stem.kernel", KERNELS[:2])
    presence, first = Choice("first.presence", PRESENCE), Choice("first.kernel", KERNELS)
    expand, features = filters("head.expand", 512), filters("head.features", 1024)
    choices, layers, reduction = stages(images, stem, STAGES, EXPAND_RATIOS, SQUEEZE_EXCITE)
    before = [images.layer("stem", channels, 1, _stem, stem, kernel), images.layer("first", width_before, 2, _first, stem, presence, first)]
    last = next(choice for choice in choices if choice.name == f"stage{len(STAGES)}.filters")
    behind = images.layer("head", width_before, reduction, partial(_head, classes), last, expand, features)
    return SearchSpace("mobilenet_v3_like", [images.resolution, stem, kernel, presence, first, *choices, expand, features], [*before, *layers, behind])


def _stem(shape: Shape, out: int, kernel: int) -> Block:
    return conv_bn_act(shape, out, kernel, stride=2, act="hswish", eps=EPSILON)


def _first(shape: Shape, width: int, presence: str, kernel: int) -> Block:
    return IDENTITY if presence == "skip" else separable(shape, width, kernel, shortcut=True)


def _head(classes: int, shape: Shape, _: int, expand: int, features: int) -> Block:
    return mobilenet_head(shape, expand, features, classes, eps=EPSILON, mix_bias=True)
