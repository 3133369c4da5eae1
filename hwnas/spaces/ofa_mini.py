"""The small sibling of `ofa_mobilenet_v3` that the demo trains on a CPU in minutes: 48-pixel grey images, three stages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwnas.blocks import mobilenet_head
from hwnas.space import SearchSpace
from hwnas.spaces._mobile import Images, Stage, elastic_mobilenet, mobile_stem

DEPTHS = (1, 2, 3)
STAGES = (
    Stage(8, 2, "relu", False, DEPTHS),
    Stage(16, 2, "hswish", False, DEPTHS),
    Stage(32, 2, "hswish", True, DEPTHS),
)


def ofa_mini(resolutions: Sequence[int] = (32, 40, 48), classes: int = 10, channels: int = 1, batch: int = 1) -> SearchSpace:
    """9 elastic blocks in three stages: kernel 3/5, expand ratio 2/3/4, depth 1/2/3, and the resolution; 0.16 to 1.48 M MACs.

    No 7 x 7 kernels: the feature maps have 12, 6 and 3 pixels, and the backward pass of such a kernel takes most of a CPU's step.
    """
    return elastic_mobilenet(
        "ofa_mini",
        Images.checked("ofa_mini", resolutions, classes, channels, batch),
        stem=partial(mobile_stem, width=8, out=8, act="hswish", first_act="relu"),
        width=8,
        stages=STAGES,
        head=partial(mobilenet_head, expand=96, features=128, classes=classes),
        kernels=(3, 5),
        expand_ratios=(2, 3, 4),
    )
