"""Once-for-All's ProxylessNAS space (Cai et al., 2020; official code `ofa_proxyless`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwnas.blocks import make_divisible, pooled_head
from hwnas.errors import InputError
from hwnas.space import SearchSpace
from hwnas.spaces._mobile import Images, Stage, elastic_mobilenet, mobile_stem

KERNELS = (3, 5, 7)
EXPAND_RATIOS = (3, 4, 6)
DEPTHS = (2, 3, 4)
RESOLUTIONS = tuple(range(128, 225, 4))
EPSILON = 1e-3

#: out channels at width 1.0, stride of the first block, depths; the sixth stage has exactly one block
STAGES = ((24, 2, DEPTHS), (40, 2, DEPTHS), (80, 2, DEPTHS), (96, 1, DEPTHS), (192, 2, DEPTHS), (320, 1, (1,)))


def ofa_proxylessnas(width: float = 1.3, resolutions: Sequence[int] = RESOLUTIONS, classes: int = 1000, channels: int = 3, batch: int = 1) -> SearchSpace:
    """21 elastic blocks, 20 in five stages of depth 2/3/4 and one more: kernel 3/5/7, expand ratio 3/4/6, and the input resolution.

    9 * 7371^5 = 1.96e20 networks, times 25 resolutions. ReLU6, no squeeze-and-excite. The released supernet has width 1.3.
    """
    if not 0 < width < 100:
        raise InputError(f"ofa_proxylessnas: width must be above 0 and below 100, got {width:g}")
    first = make_divisible(16 * width)
    return elastic_mobilenet(
        "ofa_proxylessnas",
        Images.checked("ofa_proxylessnas", resolutions, classes, channels, batch),
        stem=partial(mobile_stem, width=make_divisible(32 * width), out=first, act="relu6", eps=EPSILON),
        width=first,
        stages=[Stage(make_divisible(out * width), stride, "relu6", False, depths) for out, stride, depths in STAGES],
        head=partial(pooled_head, features=make_divisible(1280 * width), classes=classes, act="relu6", eps=EPSILON),
        kernels=KERNELS,
        expand_ratios=EXPAND_RATIOS,
        eps=EPSILON,
        official_head={"conv": "feature_mix_layer.conv", "classifier": "classifier.linear"},
    )
