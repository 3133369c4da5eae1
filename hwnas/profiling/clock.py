"""Whether a device's clock can be believed: what it says took so long must fit into what passed here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from hwnas.errors import WrongClock
from hwnas.profiling.protocol import Visit

_TOLERANCE = 0.02  # quartzes differ by a hundredth of it
_STEP_NS = 300_000  # of the coarsest clocks, those of browsers, three steps
_RATE, _SLACK_NS = 0.10, 1_000_000_000  # between requests: virtual machines catch up late
_SLEPT_NS, _SLEEPS = 10_000_000_000, 3  # a phone may sleep while we wait, and its clock with it; not time and again

#: Counts on while this machine sleeps, where the system has such a clock.
_UPPER_CLOCK = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


class Moment(NamedTuple):
    """Nanoseconds by two clocks of this machine: between two moments at least `awake_ns` passed, and at most `all_ns`."""

    awake_ns: int
    all_ns: int


def moment() -> Moment:
    """Now."""
    return Moment(time.monotonic_ns(), time.monotonic_ns() if _UPPER_CLOCK is None else time.clock_gettime_ns(_UPPER_CLOCK))


class ClockCheck:
    """Compares the clock of one agent with ours, from its first visits on."""

    def __init__(self) -> None:
        self._first: tuple[int, Moment, Moment] | None = None
        self._asleep_ns, self._sleeps = 0, 0

    def check(self, visits: Sequence[Visit], sent: Moment, received: Moment) -> None:
        """visits: what was answered to a request that was sent and answered at these moments. Raises WrongClock where one says that its runs took longer than
        their burst, or all that they took longer than we waited, or where more or less time passed between requests by that clock than here."""
        if not visits:
            return
        waited_ns, slack_ns = received.all_ns - sent.all_ns, len(visits) * _STEP_NS
        for visit in visits:
            runs_ns = sum(visit.ns) if visit.busy_ns is None else max(visit.busy_ns, *visit.ns)  # several streams run at once
            _fits(runs_ns, visit.wall_ns, _STEP_NS, f"the runs of '{visit.item}' took", "their burst took")
        span_ns = visits[-1].at_ns - visits[0].at_ns
        _fits(sum(visit.wall_ns for visit in visits), waited_ns, slack_ns, "its bursts took", "their answer was here after")
        _fits(span_ns, waited_ns, slack_ns, "its visits were spread over", "their answer was here after")
        if self._first is None:
            self._first = (visits[0].at_ns, sent, received)
        at_ns, first_sent, first_received = self._first
        passed_ns, most_ns = visits[0].at_ns - at_ns, received.all_ns - first_sent.all_ns
        least_ns = max(0, sent.awake_ns - first_received.awake_ns - self._asleep_ns)
        if not (1 - _RATE) * least_ns - _SLACK_NS <= passed_ns <= (1 + _RATE) * most_ns + _SLACK_NS:
            raise WrongClock(f"{_WHO}: by it {passed_ns / 1e9:.4g} s passed between two visits, and here {least_ns / 1e9:.4g} to {most_ns / 1e9:.4g} s")
        missing_ns = received.awake_ns - sent.awake_ns - span_ns - visits[-1].wall_ns
        if missing_ns > _SLEPT_NS and self._sleeps < _SLEEPS:
            self._asleep_ns, self._sleeps = self._asleep_ns + missing_ns, self._sleeps + 1


_WHO = "the agent's clock cannot be believed"


def _fits(part_ns: int, whole_ns: int, slack_ns: int, part: str, whole: str) -> None:
    if part_ns > (1 + _TOLERANCE) * whole_ns + slack_ns:
        raise WrongClock(f"{_WHO}: it says that {part} {part_ns / 1e9:.4g} s, and {whole} {whole_ns / 1e9:.4g} s")
