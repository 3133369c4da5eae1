"""Intervals around predictions whose coverage is that of networks left out, whatever the predictor: split conformal (Vovk et al., 2005), in ratios.

Measured latencies are not normal around predicted ones, and standard deviations of models are models, too. What is exchangeable are networks drawn alike: the
ratio of measured to predicted of a further network is as likely to be the largest as any of the n known ones. So the interval of level 90 % reaches as far as
the ceil(0.9 (n + 1))-th smallest of theirs. It holds for networks like those, in the mean over draws, and says nothing about another device or space.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError
from hwnas.space import FloatArray

LEVEL = 0.9


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of n architectures, (n,) each: latency, and the ends of the interval of `level`; 0 and inf where networks are too few to tell.

    shares: (n, 3), of the latency that rests on measured, interpolated and extrapolated rows. is_outside: the architecture lies outside of
    the measured networks, so that the interval promises nothing of it.
    """

    value_ms: FloatArray
    low_ms: FloatArray
    high_ms: FloatArray
    level: float
    shares: FloatArray
    is_outside: npt.NDArray[np.bool_]


def least_networks(level: float) -> int:
    """How many networks an interval of that level takes."""
    return ceil(level / (1 - level) - 1e-9)


def margin(measured_ms: FloatArray, left_out_ms: FloatArray, level: float = LEVEL) -> float:
    """The factor q such that a further network takes between value / q and value * q with probability `level`, at least; inf where networks are too few.

    measured_ms, left_out_ms: (n,), of each network, and predicted without it. Raises InputError.
    """
    if not 0 < level < 1:
        raise InputError(f"the level of an interval is between 0 and 1, got {level:g}")
    if len(measured_ms) != len(left_out_ms):
        raise InputError(f"{len(measured_ms)} networks were measured and {len(left_out_ms)} predicted")
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.sort(np.nan_to_num(np.abs(np.log(left_out_ms / measured_ms)), nan=inf, posinf=inf))
    rank = ceil(level * (len(scores) + 1) - 1e-9)
    return float(np.exp(scores[rank - 1])) if rank <= len(scores) else inf
