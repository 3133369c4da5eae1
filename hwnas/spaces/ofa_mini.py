"""The small sibling of `ofa_mobilenet_v3` that the demo trains on a CPU in minutes: 48-pixel grey images, three stages."""

from __future__ import annotations

from collections.abc import Sequence

from hwnas.space import SearchSpace
from hwnas.spaces.ofa_mobilenet_v3 import elastic_mobilenet

#: out channels, stride of the first block, activation, squeeze-and-excite
STAGES = (
    (8, 2, "relu", False),
    (16, 2, "hswish", False),
    (32, 2, "hswish", True),
)


def ofa_mini(resolutions: Sequence[int] = (32, 40, 48), classes: int = 10, channels: int = 1, batch: int = 1) -> SearchSpace:
    """9 elastic blocks in three stages: kernel 3/5, expand ratio 2/3/4, depth 1/2/3, and the resolution; 0.16 to 1.48 M MACs.

    No 7 x 7 kernels: the feature maps have 12, 6 and 3 pixels, and the backward pass of such a kernel takes most of a CPU's step.
    """
    return elastic_mobilenet(
        "ofa_mini",
        stem=8,
        stages=STAGES,
        head=(96, 128),
        kernels=(3, 5),
        expand_ratios=(2, 3, 4),
        depths=(1, 2, 3),
        resolutions=resolutions,
        classes=classes,
        channels=channels,
        batch=batch,
    )
