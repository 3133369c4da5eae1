"""How long a profile may take. What it took before it was interrupted counts, so the record keeps it."""

from __future__ import annotations

import time
from collections.abc import Callable

from hwnas.errors import InputError
from hwnas.profiling.record import Record

MOST_MINUTES = 100_000.0
_KEPT_EVERY_S = 0.5
_PREDICT_S = 10.0  # kept for what follows, but not over a tenth: the fit, its check on blocks left out, the table


class OutOfTime(Exception):
    """Raised between batches once the time is up."""


class TimeLimit:
    """minutes: None is no limit. Counts from its construction. Raises InputError."""

    def __init__(self, record: Record, minutes: float | None, *, begun_s: float):
        """begun_s: `time.monotonic` when the command began."""
        if minutes is not None and not 0 < minutes <= MOST_MINUTES:
            raise InputError(f"--budget-minutes is {minutes:g}, it must be above 0 and at most {MOST_MINUTES:,.0f}")
        self._record, self._limit_s, self._kept_s = record, None if minutes is None else 60 * minutes, begun_s

    @property
    def left_s(self) -> float:
        """Seconds that are left for measuring; negative where more were taken."""
        if self._limit_s is None:
            return float("inf")
        return self._limit_s - min(_PREDICT_S, 0.1 * self._limit_s) - self._record.spent_s - (time.monotonic() - self._kept_s)

    def checking(self, interrupted: Callable[[], None]) -> Callable[[], None]:
        """What is called between batches: raises as `interrupted` does, and OutOfTime."""

        def check() -> None:
            interrupted()
            now = time.monotonic()
            if self._limit_s is not None and now - self._kept_s >= _KEPT_EVERY_S:
                self._record.add_time(now - self._kept_s)
                self._kept_s = now
            if self.left_s <= 0:
                raise OutOfTime

        return check
