"""Once-for-All's MobileNetV3 space (Cai et al., 2020; official code `ofa_mbv3`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwnas.blocks import make_divisible, mobilenet_head
from hwnas.errors import InputError
from hwnas.space import SearchSpace
from hwnas.spaces._mobile import Images, Stage, elastic_mobilenet, mobile_stem

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


def ofa_mobilenet_v3(width: float = 1.0, resolutions: Sequence[int] = RESOLUTIONS, classes: int = 1000, channels: int = 3, batch: int = 1) -> SearchSpace:
    """20 elastic blocks in five stages: kernel 3/5/7, expand ratio 3/4/6, depth 2/3/4, and the input resolution.

    7371^5 = 2.18e19 networks, times 25 resolutions. The released supernets have width 1.0 and 1.2.
    """
    if not 0 < width < 100:
        raise InputError(f"ofa_mobilenet_v3: width must be above 0 and below 100, got {width:g}")
    stem = make_divisible(16 * width)
    return elastic_mobilenet(
        "ofa_mobilenet_v3",
        Images.checked("ofa_mobilenet_v3", resolutions, classes, channels, batch),
        stem=partial(mobile_stem, width=stem, out=stem, act="hswish", first_act="relu"),
        width=stem,
        stages=[Stage(make_divisible(out * width), stride, act, se, DEPTHS) for out, stride, act, se in STAGES],
        head=partial(mobilenet_head, expand=make_divisible(960 * width), features=make_divisible(1280 * width), classes=classes),
        kernels=KERNELS,
        expand_ratios=EXPAND_RATIOS,
        official_head={"expand": "final_expand_layer.conv", "mix": "feature_mix_layer.conv", "classifier": "classifier.linear"},
    )
