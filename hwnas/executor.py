"""Where candidates are evaluated: in this process one at a time, or wherever a class of the same two methods takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hwnas.errors import MeasurementFailed
from hwnas.space import FloatArray


@dataclass(frozen=True, slots=True)
class Completion:
    """An evaluated candidate: the values of the expensive metrics, None where the evaluation failed, with the reason."""

    number: int
    values: FloatArray | None
    error: str = ""


class Executor(Protocol):
    """Evaluates candidates, in any order."""

    def submit(self, number: int, evaluate: Callable[[], FloatArray]) -> None:
        """Take on a candidate; `evaluate` may raise MeasurementFailed."""
        ...

    def wait(self) -> Completion:
        """The next candidate to complete."""
        ...


class InProcess:
    """Evaluates candidates one at a time when waited for, in the order submitted."""

    def __init__(self) -> None:
        self._queue: deque[tuple[int, Callable[[], FloatArray]]] = deque()

    def submit(self, number: int, evaluate: Callable[[], FloatArray]) -> None:
        self._queue.append((number, evaluate))

    def wait(self) -> Completion:
        return complete(*self._queue.popleft())


def complete(number: int, evaluate: Callable[[], FloatArray]) -> Completion:
    """Evaluate a candidate; a failed measurement is an outcome."""
    try:
        return Completion(number, evaluate())
    except MeasurementFailed as error:
        return Completion(number, None, str(error))
