"""The table under construction: acknowledged visits in a store, so that a killed profile goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from hwnas.errors import DamagedFile, InputError
from hwnas.latency_table import Fact
from hwnas.profiling.protocol import Burst, Visit
from hwnas.store import Store

FILE = "profile.sqlite"
_MAY_LACK = {"budget_minutes"}  # options that are recorded only where they were given


@dataclass(frozen=True, slots=True)
class TimedBurst:
    """What a visit of an item runs, and about how long one run takes (for deadlines and progress)."""

    burst: Burst
    run_ns: int


class Record:
    """What one profile has come to: options, bursts of the items, visits in order, items that failed, and those whose loading broke the connection.

    `plans` has the hash of what the device built of an item, where it builds something. Of a profile with a limit of time there are also the
    seconds spent, and the blocks chosen by their number in the plan.
    """

    def __init__(self, store: Store):
        self._store = store
        self.visits: list[Visit] = []
        self.failures: dict[str, str] = {}
        self.bursts: dict[str, TimedBurst] = {}
        self.lost: set[str] = set()
        self.plans: dict[str, str] = {}
        self.spent_s = 0.0
        self.chosen: list[int] | None = None
        self._options: dict[str, Fact] = {}
        try:
            for event in store.events():
                self._replay(event.kind, event.body)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DamagedFile(f"{store.path} is no record of a profile; name another folder") from None

    def _replay(self, kind: str, body: Any) -> None:
        if kind == "options":
            self._options = dict(body)
        elif kind == "bursts":
            self.bursts |= {item: TimedBurst(Burst(warmups, runs, *cold), run_ns) for item, (warmups, runs, run_ns, *cold) in body.items()}
        elif kind == "visits":
            self.visits += [Visit(item, tuple(ns), *rest) for item, ns, *rest in body["visits"]]
            self.failures |= body["failures"]
        elif kind == "lost":
            self.lost.add(str(body["item"]))
        elif kind == "plans":
            self._take_plans({str(item): str(plan) for item, plan in body.items()})
        elif kind == "disbelieved":
            self.visits = []
        elif kind == "time":
            self.spent_s += float(body["spent_s"])
        elif kind == "chosen":
            self.chosen = [int(number) for number in body["blocks"]]
        else:
            raise ValueError(kind)

    def bind(self, options: Mapping[str, Fact]) -> None:
        """Record the options of a new profile, or compare them with those it was begun with. Raises InputError."""
        if not self._options:
            self._options = dict(options)
            self._store.append("options", self._options)
        refuse_other_options(self._options, options, self._store.path.parent)

    def add_bursts(self, bursts: Mapping[str, TimedBurst]) -> None:
        self._store.append("bursts", {item: [each.burst.warmups, each.burst.runs, each.run_ns, each.burst.cold] for item, each in bursts.items()})
        self.bursts |= bursts

    def add_lost(self, item: str) -> None:
        self._store.append("lost", {"item": item})
        self.lost.add(item)

    def add_plans(self, plans: Mapping[str, str]) -> int:
        """Item -> hash of what was built of it now. Visits of items of which another plan was built before no longer count; how many they were."""
        new = {item: plan for item, plan in plans.items() if self.plans.get(item) != plan}
        if not new:
            return 0
        self._store.append("plans", new)
        return self._take_plans(new)

    def _take_plans(self, new: Mapping[str, str]) -> int:
        changed, before = set(new) & set(self.plans), len(self.visits)
        self.visits = [visit for visit in self.visits if visit.item not in changed]
        self.plans |= new
        return before - len(self.visits)

    def disbelieve(self) -> None:
        """All visits up to now stay on record and no longer count: the clock that timed them was wrong."""
        self._store.append("disbelieved", {"visits": len(self.visits)})
        self.visits = []

    def add_time(self, spent_s: float) -> None:
        self._store.append("time", {"spent_s": round(spent_s, 3)})
        self.spent_s += spent_s

    def choose(self, blocks: Sequence[int]) -> None:
        self._store.append("chosen", {"blocks": list(blocks)})
        self.chosen = list(blocks)

    def add(self, visits: Sequence[Visit], failures: Mapping[str, str]) -> None:
        """One event: once it returns, these are never measured again."""
        self._store.append("visits", {"visits": [astuple(visit) for visit in visits], "failures": dict(failures)})
        self.visits += visits
        self.failures |= failures


def refuse_other_options(recorded: Mapping[str, Fact], options: Mapping[str, Fact], folder: Path) -> None:
    """Raises InputError naming the first option that differs from the recorded ones."""
    for name, value in {**dict.fromkeys(_MAY_LACK & recorded.keys()), **options}.items():
        if recorded.get(name) != value:
            had, has = (("nothing" if each is None else each) for each in (recorded.get(name), value))
            raise InputError(f"{folder} was profiled with {name} = {had}, and now it is {has}; name another folder, or use what is recorded")
