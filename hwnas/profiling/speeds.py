"""How a device changes its speed: what a profile learns of it from the anchor, and what that means for a window measured later.

A window that is shorter than the times for which a device keeps a speed may see one speed only, and nothing in it can tell. So a profile
records for how long speeds are kept and how much of the time is slow, and a window lasts long enough, or is judged as if it had been slow as often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from hwnas.profiling.protocol import TIMING, Timing, is_slow
from hwnas.space import FloatArray

_DWELL_TIMES = 5.0  # a state that is kept for exponential times is missed by such a window in 0.7 % of the cases
_LONGEST_S = 1_800.0
_LOOK_S = 0.5  # anchors are looked at through their median over so long
_SAME_WATCH_S = 60.0  # looks that are farther apart say nothing about what was between


@dataclass(frozen=True, slots=True)
class Speeds:
    """For how long a device keeps a speed, the mean of the one kept longer, in s, and the share of the time that it is slow; 0 and 0 of a single speed."""

    dwell_s: float = 0.0
    slow_share: float = 0.0

    @classmethod
    def seen(cls, at_s: npt.ArrayLike, anchor_ns: npt.ArrayLike, timing: Timing = TIMING) -> Speeds:
        """From anchors (n,) and when they were timed, looked at as a window does: by medians."""
        bins = np.floor(np.asarray(at_s, np.float64) / _LOOK_S)
        anchors = np.asarray(anchor_ns, np.float64)
        starts = np.flatnonzero(np.diff(bins, prepend=np.nan) != 0)  # the clock may begin anew where a profile was continued
        medians = np.array([np.median(part) for part in np.split(anchors, starts[1:])])
        slow = is_slow(medians, timing)
        return cls(dwell_s(bins[starts] * _LOOK_S, slow), float(slow.mean()))

    @classmethod
    def of(cls, anchor: Mapping[str, Any]) -> Speeds:
        """What the section `anchor` of a table says; nothing is known from one that is older, or from somebody's that says what cannot be."""
        kept, share = anchor.get("dwell_s"), anchor.get("slow_share")
        if not isinstance(kept, int | float) or not isinstance(share, int | float) or not (kept >= 0 and 0 <= share < 1):
            return cls()
        return cls(float(kept), float(share))

    def window_s(self, seconds: float, quantile: float) -> float:
        """How long a window is that was asked to last `seconds`: at least five times as long as the device keeps a speed, at most half an hour.

        Only where the slow speed matters: where the device is in it for more than 1 - quantile of the time, and half of that is the line,
        the share being an estimate.
        """
        return seconds if self.slow_share <= (1 - quantile) / 2 else max(seconds, min(_DWELL_TIMES * self.dwell_s, _LONGEST_S))

    def bounded(self, quantile: float, slow_share: float, seconds: float) -> float:
        """The quantile of a window's visits that is no less than the device's own quantile; 1 or more where there is none. The window lasted `seconds`,
        and the device was slow for `slow_share` of it.

        A device that is slow for p of the time, and was for w < p of a window: its distribution is at least (1 - p) / (1 - w) times the window's,
        whatever the slow runs take. So q (1 - w) / (1 - p) of the window is q of the device. Profile and window are taken for equally long looks at it:
        p is the mean of what both saw, and a standard error above it, of a share that is known from 2 seconds / dwell_s independent looks.
        """
        if slow_share >= self.slow_share:
            return quantile
        mean = (self.slow_share + slow_share) / 2
        share = mean + sqrt(mean * (1 - mean) * min(1.0, self.dwell_s / (2 * seconds)))
        return quantile * (1 - slow_share) / (1 - share) if share < 1 else 1.0


def dwell_s(at_s: FloatArray, slow: npt.NDArray[np.bool_]) -> float:
    """For how long a device keeps a speed before it changes it, in s: the mean of the speed that it keeps longer; 0 where it has one speed.

    at_s, slow: (n,) looks in the order of time. A single look that differs from both its neighbours is a disturbance, not a change.
    """
    steady = slow.copy()
    alone = (slow[1:-1] != slow[:-2]) & (slow[:-2] == slow[2:])
    steady[1:-1] = np.where(alone, slow[:-2], slow[1:-1])
    steps = np.diff(at_s)
    watched = (steps >= 0) & (steps < _SAME_WATCH_S)
    before, changes = steady[:-1], steady[1:] != steady[:-1]
    if not (watched & changes).any():
        return 0.0
    return max(float(steps[watched & (before == state)].sum()) / max(1, int((watched & changes & (before == state)).sum())) for state in (False, True))
