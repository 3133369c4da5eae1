"""An agent that is started again where a model brings it down: the model is a failure with its reason, the others are measured.

The agent is a process of its own, so that whatever a runtime does to it (a crash, a hang that ends at the deadline, the system's end for
lack of memory) is seen here as a connection that ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType

from hwnas.errors import ConnectionLost, MeasurementFailed, WrongClock
from hwnas.profiling.agent import Agent, Identity, Refused
from hwnas.profiling.protocol import Burst, Visit

logger = logging.getLogger(__name__)

MAX_RESTARTS = 32


class SupervisedAgent:
    """Has the methods of an Agent. `start` begins one, `model` makes again what an item was loaded from.

    A broken connection and a wrong clock are not answered by a restart: they say nothing about the model. After MAX_RESTARTS the error is raised.
    """

    def __init__(self, start: Callable[[], AbstractContextManager[Agent]], model: Callable[[str], bytes]):
        self._start, self._model = start, model
        self._loaded: dict[str, Mapping[str, str | int | bool]] = {}
        self.load_s: dict[str, float] = {}  # item -> seconds until its model was made and loaded, kept by whoever loads, who makes the model
        self._restarts = 0
        self._stack = ExitStack()

    def __enter__(self) -> SupervisedAgent:
        self._agent = self._stack.enter_context(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def identity(self) -> Identity:
        return self._agent.identity

    def look(self) -> Mapping[str, str | int | bool]:
        return self._agent.look()

    def heat(self, told: Callable[[float], None] = lambda seconds: None) -> None:
        self._agent.heat(told)

    @property
    def loaded(self) -> set[str]:
        return set(self._loaded)

    def load(self, item: str, model: bytes, *, kept: bool = True) -> Mapping[str, str | int | bool]:
        """kept: whether it is loaded again after a restart. Raises Refused also where the model brings the agent down; ConnectionLost,
        MeasurementFailed where it is not to be started again."""
        try:
            facts = self._agent.load(item, model)
        except (ConnectionLost, WrongClock):
            raise
        except MeasurementFailed as error:
            self._restart(error)
            raise Refused(str(error)) from None
        if kept:
            self._loaded[item] = facts
        return facts

    def visit(self, order: Sequence[str], bursts: Mapping[str, Burst], *, expected_s: float = 0.0) -> list[Visit | str]:
        """Where the agent does not survive it, the items are visited one by one: who brings it down then has failed, the others are measured."""
        try:
            return self._agent.visit(order, bursts, expected_s=expected_s)
        except (ConnectionLost, WrongClock):
            raise
        except MeasurementFailed as error:
            self._restart(error)
        visits: list[Visit | str] = []
        failed: dict[str, str] = {}
        for item in order:
            if item in failed:
                visits.append(failed[item])
                continue
            try:
                visits += self._agent.visit([item], bursts, expected_s=expected_s)
            except (ConnectionLost, WrongClock):
                raise
            except MeasurementFailed as error:
                failed[item] = str(error)
                visits.append(failed[item])
                self._loaded.pop(item, None)
                self._restart(error)
        return visits

    def _restart(self, error: MeasurementFailed) -> None:
        """A new agent with the same items. Raises MeasurementFailed where that does not help."""
        self._restarts += 1
        if self._restarts > MAX_RESTARTS:
            raise MeasurementFailed(f"{error}; it was started again {MAX_RESTARTS} times: the same command goes on where it was") from None
        logger.warning("%s; it is started again", error)
        before = self._agent.identity
        self._stack.close()
        self._agent = self._stack.enter_context(self._start())
        if self._agent.identity.facts != before.facts:
            raise MeasurementFailed(f"the agent that was started again is another: {self._agent.identity.facts}, before {before.facts}")
        for item, facts in self._loaded.items():
            try:
                again = self._agent.load(item, self._model(item))
            except Refused as refused:
                raise MeasurementFailed(f"a model that was loaded before is refused after a restart: {refused}") from None
            if again != facts:  # as where the device builds something of it: visits of both must not meet
                raise MeasurementFailed(f"{error}; started again, the runtime made something else of a model: the same command goes on where it was")


def clock_step_ns(agent: SupervisedAgent) -> int:
    """Of the device's clock, 0 where it does not tell, or where groups of runs are timed."""
    try:
        step = agent.look().get("clock_step_ns")
    except Refused:
        return 0
    return step if type(step) is int and "group_us" not in agent.identity.options else 0
