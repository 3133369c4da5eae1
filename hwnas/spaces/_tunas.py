"""What the spaces of TuNAS (Bender et al., 2020) share: widths around powers of two, and stages of inverted residuals that may be left out.

Source: google-research, tunas/mobile_search_space_v3.py and tunas/rematlib/mobile_model_v3.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from hwnas.blocks import SqueezeExcite, inverted_residual
from hwnas.graph import IDENTITY, Block
from hwnas.ops import Shape
from hwnas.space import Choice, Layer
from hwnas.spaces._mobile import Images

EPSILON = 1e-3
KERNELS = (3, 5, 7)
PRESENCE = ("skip", "keep")
GATE = SqueezeExcite(gate="sigmoid")


def filters(name: str, base: int) -> Choice:
    """Multiples of 8 next to 0.5, 0.625, 0.75, 1, 1.25, 1.5 and 2 times `base`."""
    return Choice(name, tuple(sorted({max(8, int(base * multiplier / 8 + 0.5) * 8) for multiplier in (0.5, 0.625, 0.75, 1.0, 1.25, 1.5, 2.0)})))


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of one width; the first one carries the stride and is always there."""

    base: int
    blocks: int
    stride: int
    act: str


def stages(
    images: Images, previous: Choice, shapes: Sequence[Stage], expand_ratios: Sequence[int], squeeze_excite: Sequence[float]
) -> tuple[list[Choice], list[Layer], int]:
    """(choices, layers, reduction behind them) of stages that follow the width `previous` at half the resolution.

    Of each stage the width; of each block kernel, expand ratio, squeeze-and-excite where there is a choice, and but for the first presence.
    """
    choices: list[Choice] = []
    layers: list[Layer] = []
    reduction = 2
    for s, stage in enumerate(shapes, start=1):
        out = filters(f"stage{s}.filters", stage.base)
        choices.append(out)
        for b in range(stage.blocks):
            name = f"stage{s}.block{b}"
            own = [Choice(f"{name}.kernel", KERNELS), Choice(f"{name}.expand", tuple(expand_ratios))]
            own += [Choice(f"{name}.se", tuple(squeeze_excite))] if len(squeeze_excite) > 1 else []
            if b == 0:
                layers.append(images.layer(name, width_before, reduction, partial(_first, stage.stride, stage.act), previous, out, *own))
                reduction *= stage.stride
            else:
                own.insert(0, Choice(f"{name}.presence", PRESENCE))
                layers.append(images.layer(name, width_before, reduction, partial(_optional, stage.act), out, *own))
            choices += own
        previous = out
    return choices, layers, reduction


def width_before(previous: int, *_: object) -> int:
    """Channels of the input, which a layer reads first."""
    return previous


def separable(shape: Shape, out: int, kernel: int, *, shortcut: bool, act: str = "relu") -> Block:
    """Depthwise and pointwise convolution."""
    return inverted_residual(shape, out, kernel, None, stride=1, act=act, se=False, shortcut=shortcut, eps=EPSILON)


def _first(stride: int, act: str, shape: Shape, previous: int, out: int, kernel: int, expand: int, ratio: float = 0) -> Block:
    """No shortcut, also where the shape stays."""
    return inverted_residual(shape, out, kernel, previous * expand, stride=stride, act=act, se=GATE if ratio else False, shortcut=False, eps=EPSILON)


def _optional(act: str, shape: Shape, out: int, presence: str, kernel: int, expand: int, ratio: float = 0) -> Block:
    if presence == "skip":
        return IDENTITY
    return inverted_residual(shape, out, kernel, out * expand, stride=1, act=act, se=GATE if ratio else False, shortcut=True, eps=EPSILON)
