"""Where candidates are evaluated: in this process one at a time, or wherever one of `hwnas/executors/` takes them.

An executor decides when a candidate is evaluated and where, never what comes of it: the driver alone records, and tells the searcher in the order
in which it asked. So a seeded search ends the same with one process, with many, and with any of them killed in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

from hwnas.errors import MeasurementFailed
from hwnas.space import Codes, FloatArray

#: One candidate (1, choices) at a share of a full evaluation -> values (m,) of the metrics that travel, see `Problem.travelling`.
Evaluate: TypeAlias = Callable[[Codes, float], FloatArray]
#: Makes that in a process of its own, on any machine: it is pickled, and called once there.
Prepare: TypeAlias = Callable[[], Evaluate]

Made = TypeVar("Made")

LIVES = 3  # of a candidate: so many workers may die over it before that is its result


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is to be evaluated: a code (1, choices) at a share of a full evaluation. Called, it is evaluated here, by `by`."""

    code: Codes
    fidelity: float
    by: Evaluate

    def __call__(self) -> FloatArray:
        return self.by(self.code, self.fidelity)


@dataclass(frozen=True, slots=True)
class Completion:
    """An evaluated candidate: the values of the metrics, None where the evaluation failed, with the reason."""

    number: int
    values: FloatArray | None
    error: str = ""


class Executor(Protocol):
    """Evaluates candidates, in any order. Each number that was submitted is completed once, whatever happens to workers."""

    def submit(self, number: int, candidate: Candidate) -> None:
        """Take on a candidate; its evaluation may raise MeasurementFailed. No candidate of that number is being evaluated."""
        ...

    def wait(self) -> Completion:
        """The next candidate to complete. Raises what an evaluation raised, MeasurementFailed excepted, which is an outcome."""
        ...

    def close(self) -> None:
        """End all workers; what they were evaluating is lost."""
        ...


@runtime_checkable
class Leasing(Protocol):
    """An executor that knows which machine a device is attached to."""

    def has(self, device: str) -> bool:
        """Whether some machine has the device of that name."""
        ...

    def lease(self, device: str, make: Callable[[], Made]) -> Made:
        """What `make` makes, in a process on that machine; nobody else gets a lease of the device before `close`. Raises InputError, RunHeld."""
        ...


class InProcess:
    """Evaluates candidates one at a time when waited for, in the order submitted."""

    def __init__(self) -> None:
        self._queue: deque[tuple[int, Candidate]] = deque()

    def submit(self, number: int, candidate: Candidate) -> None:
        self._queue.append((number, candidate))

    def wait(self) -> Completion:
        return complete(*self._queue.popleft())

    def close(self) -> None:
        self._queue.clear()


def complete(number: int, evaluate: Callable[[], FloatArray]) -> Completion:
    """Evaluate a candidate; a failed measurement is an outcome."""
    try:
        return Completion(number, evaluate())
    except MeasurementFailed as error:
        return Completion(number, None, str(error))


def died(number: int, how: str) -> Completion:
    """Of a candidate that LIVES workers died over."""
    return Completion(number, None, f"{LIVES} workers died over this candidate, the last one {how}")
