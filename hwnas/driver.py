"""The driver: answers a searcher's requests, records what cost something, and stops in time. Resume is replay.

The same call again sends the recorded answers into a fresh searcher of the same seed, which then continues where it stopped;
nothing that was paid for is evaluated twice. Cheap metrics are pure functions of the codes and are computed again.

Whatever evaluates them, candidates are recorded as they complete, and told in the order they were asked for: who was faster changes nothing.
"""

from __future__ import annotations

import hashlib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hwnas.errors import DamagedFile, InputError
from hwnas.executor import Candidate, Completion, Executor, InProcess
from hwnas.pareto import crowding_distance, domination_ranks, non_dominated
from hwnas.predictor import Metric
from hwnas.problem import OnDevice, Problem, Scores
from hwnas.run import RunDirectory
from hwnas.searcher import Ask, Gradient, Option, Searcher, Told, Trace, Train, Trainer, Validate, options_of, trains
from hwnas.space import Codes, FloatArray
from hwnas.store import Event, pack, unpack

_IDLE = 10  # a search stops after asking this many times its evaluations, and at least 1,000, brought nothing new
_FIRST_MARK = 1024
_SLACK = 1e-9  # shares of an evaluation are summed in floating point


@dataclass(frozen=True)
class SearchResult:
    """All evaluated candidates in the order they were asked for; with expensive metrics each subnet once."""

    problem: Problem
    codes: Codes
    scores: Scores
    fidelity: FloatArray
    """Share of a full evaluation that each score comes from, (n,)."""
    evaluations: float
    """What was spent, in full evaluations."""
    trace: tuple[Mapping[str, Any], ...] = ()
    """What the searcher told of its course, in order: `values` by name, `evaluations` that were done, and `best`, the best objective so far, if any."""

    def ranked(self) -> npt.NDArray[np.intp]:
        """Rows of the feasible candidates, best first, each subnet once, of the highest fidelity reached.

        With one objective they rank by it, whatever the reward that was searched by; with several, candidates come front by front, and the least
        crowded of a front first, as NSGA-II ranks them (Deb et al., 2002).
        """
        rows = self._comparable
        values = self.problem.minimised(self.scores[rows])
        if len(self.problem.objectives) == 1:
            return rows[np.argsort(values[:, 0], kind="stable")]
        ranks, crowding = domination_ranks(values), np.zeros(len(rows))
        for rank in np.unique(ranks):
            crowding[ranks == rank] = crowding_distance(values[ranks == rank])
        return rows[np.lexsort((-crowding, ranks))]

    def front(self, *metrics: Metric) -> npt.NDArray[np.intp]:
        """Rows of the feasible candidates that none other beats in the objectives and in `metrics` (minimised), best first objective first."""
        rows = self._comparable
        values = np.column_stack([self.problem.minimised(self.scores[rows]), *(metric(self.codes[rows]) for metric in metrics)])
        kept = non_dominated(values)
        return rows[kept][np.argsort(values[kept, 0], kind="stable")]

    @cached_property
    def _comparable(self) -> npt.NDArray[np.intp]:
        rows = np.flatnonzero(self.scores.feasible & (self.fidelity == self.fidelity.max(initial=0.0)))
        return rows[self.problem.index.first_rows(self.codes[rows])]


def drive(
    searcher: Searcher,
    problem: Problem,
    run: RunDirectory | None = None,
    *,
    seed: int,
    evaluations: int,
    options: Mapping[str, Option] | None = None,
    stage: str = "search",
    trainer: Trainer | None = None,
    executor: Executor | None = None,
    progress: Callable[[float, float | None], None] | None = None,
) -> SearchResult:
    """Search until `evaluations` full evaluations are spent, the searcher ends, or nothing new is asked for any more.

    Where the problem has expensive metrics, an evaluation is a distinct subnet (asking again is free), else any candidate. With
    `run`, each is recorded under `stage` as it completes, and a run that was interrupted continues. Ctrl-C finishes the evaluation
    in progress, a second one does not. progress: called with the evaluations that are done and the best
    feasible value of a single objective so far. executor: where candidates are evaluated, by default in this process; whoever gives one closes it.

    Raises InputError where the run was written by another searcher, seed or version, or where a searcher that trains has no trainer.
    """
    if evaluations < 1:
        raise InputError(f"a search needs at least 1 evaluation, got {evaluations}")
    if trains(searcher) and trainer is None:
        raise InputError(f"{searcher.__name__} trains shared weights and needs a trainer; choose another searcher, or give it a supernet")
    driver = _Driver(searcher, problem, run, seed, evaluations, dict(options or {}), stage, trainer, executor or InProcess(), progress)
    return driver.run_to_end()


@dataclass(frozen=True, slots=True)
class _Flight:
    """A candidate that is being evaluated. digest: of everything asked up to then."""

    code: Codes  # (1, choices)
    fidelity: float
    key: tuple[float, bytes]
    digest: str


class _Driver:
    """One call of `drive`: what is asked, in flight, known and spent, and the records still to be replayed."""

    def __init__(
        self,
        searcher: Searcher,
        problem: Problem,
        run: RunDirectory | None,
        seed: int,
        evaluations: int,
        options: dict[str, Option],
        stage: str,
        trainer: Trainer | None,
        executor: Executor,
        progress: Callable[[float, float | None], None] | None,
    ):
        self.problem, self.run, self.stage, self.trainer, self.executor, self.progress = problem, run, stage, trainer, executor, progress
        self.evaluations, self.spent, self.landed, self.full, self.idle, self.asked = evaluations, 0.0, 0.0, False, 0, 0
        self.digest = ""  # of everything asked so far
        self.rng, self.state = np.random.default_rng(seed), dict[str, Any]()
        self.known: dict[tuple[float, bytes], FloatArray] = {}
        self.flying: dict[int, _Flight] = {}  # in the order they were asked for
        self.submitted: set[int] = set()
        self.arrived: dict[int, FloatArray | None] = {}  # evaluated and recorded, while others that were asked for before are not
        self.again: dict[tuple[float, bytes], list[tuple[int, Codes]]] = {}  # asked again while in flight
        self.untold: list[tuple[int, Codes, FloatArray]] = []
        self.results: list[tuple[Codes, FloatArray, FloatArray]] = []  # codes, expensive values, fidelity
        self.scored: list[Scores] = []  # of the results, where nothing is expensive
        self.best: tuple[float, float | None] = (-math.inf, None)  # objective so that larger is better, and as it is
        self.seen = 0  # results that `best` knows of
        self.trace: list[Mapping[str, Any]] = []
        self.traces_kept = 0  # points of the trace that are recorded already
        self.recorded: dict[int, Event] = {}  # answers that are still to be replayed, by the number of the candidate
        self.marks: dict[int, str] = {}
        self.saved: dict[str, Any] | None = None  # the Train that a restarted searcher asks for first, already answered
        if run is not None:
            self._settle(run, searcher, seed, options)
            self._recall(run)
        given: dict[str, Any] = {**options, "state": self.state} if trains(searcher) else options
        self.search = searcher(problem, rng=self.rng, **given)

    def run_to_end(self) -> SearchResult:
        answer: Any = None
        try:
            while True:
                try:
                    request = self.search.send(answer)
                except StopIteration:
                    self._land_until(0)
                    if self.recorded or self.saved is not None:  # by then it had asked for more
                        raise self._another() from None
                    break
                if self.saved is not None and not isinstance(request, Train):
                    raise self._another()
                if isinstance(request, Ask):
                    answer = self._ask(request)
                    if answer is None:
                        break
                elif isinstance(request, Train):
                    answer = self._train(request)
                elif isinstance(request, Gradient):
                    answer = self._trainer().gradient(request.gates, request.paths)
                elif isinstance(request, Validate):
                    answer = self._trainer().validate(self.problem.space.check(np.asarray(request.codes)))
                elif isinstance(request, Trace):
                    self._add_to_trace(request)
                    answer = None
                else:
                    raise InputError(f"the searcher yielded {type(request).__name__}; it may yield Ask, Train, Gradient, Validate and Trace")
        finally:
            self.search.close()
        return self._finish()

    # -- Ask ------------------------------------------------------------------------------------------------------------------

    def _ask(self, request: Ask) -> Told | None:
        """The answer, None where the search is over."""
        if not 0 < request.fidelity <= 1 or request.pending < 0:
            raise InputError(f"the searcher asked with fidelity {request.fidelity} and pending {request.pending}; they are in (0, 1] and at least 0")
        codes = self.problem.space.check(np.asarray(request.codes)).copy(order="F")  # the searcher may reuse its array
        if len(codes) == 0 and not self.flying and not self.untold:
            raise InputError("the searcher asked for nothing while nothing is unscored; it would wait for ever")
        first = self.asked
        self.asked += len(codes)
        if self.run is not None and len(codes):
            self._chain(codes, request)
        told = self._ask_expensive(codes, first, request) if self.problem.expensive else self._ask_cheap(codes, first, request)
        return None if self._is_over else told

    @property
    def _is_over(self) -> bool:
        return self.full or self.spent >= self.evaluations - _SLACK or self.idle > max(1000, _IDLE * self.evaluations)

    def _ask_cheap(self, codes: Codes, first: int, request: Ask) -> Told:
        room = int((self.evaluations - self.spent + _SLACK) / request.fidelity)
        self.full = room < len(codes)
        codes = codes[:room]
        self.spent += len(codes) * request.fidelity
        known = np.empty((len(codes), 0))
        self.landed = self.spent
        scores = self.problem.scores(codes, known)
        self.results.append((codes, known, np.full(len(codes), request.fidelity)))
        self.scored.append(scores)
        self._report()
        return Told(codes, scores, np.arange(first, first + len(codes)))

    def _ask_expensive(self, codes: Codes, first: int, request: Ask) -> Told:
        for row, subnet in enumerate(self.problem.index.keys(codes)):
            number, code, key = first + row, codes[row : row + 1], (request.fidelity, subnet)
            if key in self.known:
                self.untold.append((number, code, self.known[key]))
                self.idle += 1
            elif key in self.again:
                self.again[key].append((number, code))
                self.idle += 1
            elif self.spent + request.fidelity > self.evaluations + _SLACK:
                self.full = True  # what is left does not pay for it
                break
            else:
                self.spent += request.fidelity
                self.idle = 0
                self.again[key] = []
                self.flying[number] = _Flight(code, request.fidelity, key, self.digest)
        self._land_until(0 if self._is_over else request.pending)
        codes = np.concatenate([code for _, code, _ in self.untold] or [codes[:0]])
        known = np.stack([values for _, _, values in self.untold]) if self.untold else np.empty((0, len(self.problem.expensive)))
        numbers = np.array([number for number, _, _ in self.untold], np.int64)
        self.untold = []
        codes = np.asfortranarray(codes)
        return Told(codes, self.problem.scores(codes, known), numbers)

    def _land_until(self, pending: int) -> None:
        """Wait until at most so many asked candidates are unscored, the first ones asked first."""
        while len(self.flying) + sum(map(len, self.again.values())) > pending:
            number, flight = next(iter(self.flying.items()))
            found = self._replayed(number, flight) if number in self.recorded else self._evaluated(number)
            values = np.full(len(self.problem.expensive), np.nan) if found is None else found
            del self.flying[number]
            self.known[flight.key] = values
            self.untold += [(number, flight.code, values), *((other, code, values) for other, code in self.again.pop(flight.key))]
            self.landed += flight.fidelity
            self.results.append((flight.code, values[None], np.array([flight.fidelity])))
            self._report()

    def _replayed(self, number: int, flight: _Flight) -> FloatArray | None:
        body = self.recorded.pop(number).body
        try:
            code, fidelity, digest, values = body["code"], body["fidelity"], body["digest"], _values_of(body)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._damaged() from None
        if flight.code[0].tolist() != code or flight.fidelity != fidelity or digest != flight.digest:
            raise self._another()
        return values

    def _evaluated(self, number: int) -> FloatArray | None:
        """The values of a candidate, once it has arrived; others may arrive before it."""
        if new := {each: flight for each, flight in self.flying.items() if each not in self.submitted and each not in self.recorded}:
            self._launch(new)
        while number not in self.arrived:
            self._wait()
        return self.arrived.pop(number)

    def _launch(self, new: Mapping[int, _Flight]) -> None:
        """Submit these, and measure them where a metric holds a device: on this machine while nothing else is evaluated on it."""
        codes = np.asfortranarray(np.concatenate([flight.code for flight in new.values()]))
        on_device = [metric for metric in self.problem.expensive if isinstance(metric, OnDevice)]
        if any(metric.here for metric in on_device):
            while len(self.arrived) < sum(each in self.submitted for each in self.flying):
                self._wait()
        for metric in on_device:
            if metric.here:
                metric.measure(codes)
        for number, flight in new.items():
            self.submitted.add(number)
            self.executor.submit(number, Candidate(flight.code, flight.fidelity, self.problem.evaluate_travelling))
        for metric in on_device:
            if not metric.here:
                metric.measure(codes)

    def _wait(self) -> None:
        """For the next candidate to complete, which is then on record."""
        with _interrupt_deferred():
            completion = self.executor.wait()
            self.arrived[completion.number] = self._recorded(completion)

    def _recorded(self, completion: Completion) -> FloatArray | None:
        """Its values of all expensive metrics, which are now on record."""
        flight, problem = self.flying[completion.number], self.problem
        here = {id(metric): value for metric, value in zip(problem.travelling, () if completion.values is None else completion.values, strict=False)}
        known = [metric(flight.code)[0] if isinstance(metric, OnDevice) else here.get(id(metric), np.nan) for metric in problem.expensive]
        values = None if not np.isfinite(known).any() else np.where(np.isfinite(known), known, np.nan)
        if self.run is not None:
            listed = [None] * len(self.problem.expensive) if values is None else _finite_or_none(values)
            body = {"number": completion.number, "code": flight.code[0], "fidelity": flight.fidelity, "values": listed, "digest": flight.digest}
            self.run.append(self.stage, "evaluated", {**body, "error": completion.error} if completion.error else body)
        return values

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(self.landed, self._best_objective())

    def _best_objective(self) -> float | None:
        """Of a single objective, among the feasible results."""
        for row in range(self.seen, len(self.results) if len(self.problem.objectives) == 1 else 0):
            codes, known, _ = self.results[row]
            scores = self.scored[row] if self.scored else self.problem.scores(codes, known)
            quality = np.where(scores.feasible, -self.problem.minimised(scores)[:, 0], -math.inf)
            if len(scores) and quality.max() > self.best[0]:
                first = int(np.argmax(quality))
                self.best = (float(quality[first]), float(scores.values[first, 0]))
        self.seen = len(self.results)
        return self.best[1]

    def _add_to_trace(self, request: Trace) -> None:
        values = {name: float(value) for name, value in request.values.items() if math.isfinite(value)}
        point = {"number": len(self.trace), "evaluations": self.landed, "best": self._best_objective(), "values": values}
        if self.run is not None and len(self.trace) >= self.traces_kept:  # else it is being replayed
            self.run.append(self.stage, "trace", point)
        self.trace.append(point)
        self._report()

    # -- Train ----------------------------------------------------------------------------------------------------------------

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise InputError("the searcher trains shared weights without saying so: its signature needs a keyword `state`, and `drive` a trainer")
        return self.trainer

    def _train(self, request: Train) -> float:
        trainer = self._trainer()
        if self.flying:
            raise InputError("the searcher wants to train while candidates are unscored; it must wait for their scores with pending=0")
        if self.saved is not None:
            loss, steps, self.saved = self.saved["loss"], self.saved["steps"], None
            if steps != request.steps:
                raise self._another()
            return float(loss)
        if self.recorded:  # by then it had asked for more
            raise self._another()
        before = {"steps": request.steps, "state": pack(self.state), "rng": self.rng.bit_generator.state, "asked": self.asked, "idle": self.idle}
        best = None if self._best_objective() is None else list(self.best)
        before |= {"traced": len(self.trace), "best": best}
        with _interrupt_deferred():
            loss = float(trainer.train(request.sampler, request.steps, request.rate))
            self.known.clear()  # the shared weights have changed
            if self.run is not None:
                self.run.checkpoint(self.stage, "trained", trainer.save, {**before, "digest": self.digest, "spent": self.spent, "loss": loss})
        self._report()
        return loss

    # -- the record -----------------------------------------------------------------------------------------------------------

    def _settle(self, run: RunDirectory, searcher: Searcher, seed: int, options: Mapping[str, Option]) -> None:
        """Bind the stage to what its records mean."""
        problem = self.problem
        names = [f"{'maximize' if objective.maximize else 'minimize'} {objective.metric.name}" for objective in problem.objectives]
        budgets = [[budget.metric, budget.limit, budget.statistic] for budget, _ in problem.budgets]
        run.settle(
            self.stage,
            "problem",
            {
                "space": problem.space.name,
                "space fingerprint": problem.index.fingerprint,
                "objectives": names,
                "budgets": budgets,
                "expensive metrics": [metric.name for metric in problem.expensive],
                "searcher": searcher.__name__,
                "searcher options": {name: options.get(name, spec.default) for name, spec in options_of(searcher).items()},
                "seed": seed,
            },
        )

    def _recall(self, run: RunDirectory) -> None:
        """Queue the recorded answers; where the searcher trains, restart from the last saved point."""
        evaluated, trained = run.events(self.stage, "evaluated"), run.events(self.stage, "trained")
        try:
            traced: list[Mapping[str, Any]] = [_traced(event.body) for event in run.events(self.stage, "trace")]
            self.traces_kept = len(traced)
            self.marks = {event.body["asked"]: event.body["digest"] for event in run.events(self.stage, "asked")}
            if trained:
                last = self.saved = trained[-1].body
                self.state.update(unpack(last["state"]))
                self.rng.bit_generator.state = last["rng"]
                self.asked, self.idle, self.digest = int(last["asked"]), int(last["idle"]), str(last["digest"])
                self.spent = self.landed = float(last["spent"])
                self.trace = list(traced[: int(last.get("traced", 0))])
                if last.get("best") is not None:
                    self.best = (float(last["best"][0]), float(last["best"][1]))
                run.load_files(last["files"], self._trainer().load)
                for event in sorted(evaluated, key=lambda event: int(event.body["number"])):
                    if event.id < trained[-1].id:
                        code = np.array([event.body["code"]])  # its values are checked at the end: a space that grows has not grown yet
                        if code.shape != (1, len(self.problem.space.choices)):
                            raise ValueError("a code of another length")
                        values = _values_of(event.body)
                        known = np.full(len(self.problem.expensive), np.nan) if values is None else values
                        self.results.append((code, known[None], np.array([float(event.body["fidelity"])])))
                self.seen = len(self.results)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise self._damaged() from None
        for event in evaluated:
            if not trained or event.id > trained[-1].id:
                number = event.body.get("number") if isinstance(event.body, dict) else None
                if type(number) is not int or number in self.recorded:
                    raise self._damaged()
                self.recorded[number] = event

    def _chain(self, codes: Codes, request: Ask) -> None:
        """Add what is asked to the digest; where no evaluation is recorded, record the digest itself each time the count doubles."""
        link = f"{self.digest} {request.fidelity!r} {request.pending} ".encode() + codes.astype("<i2").tobytes(order="C")
        self.digest = hashlib.sha256(link).hexdigest()[:16]
        if self.marks.get(self.asked, self.digest) != self.digest:
            raise self._another()
        if not self.problem.expensive and self.asked >= max([_FIRST_MARK, *(2 * mark for mark in self.marks)]):
            self._mark()

    def _mark(self) -> None:
        assert self.run is not None
        self.marks[self.asked] = self.digest
        self.run.append(self.stage, "asked", {"asked": self.asked, "digest": self.digest})

    def _finish(self) -> SearchResult:
        if self.run is not None and not self.recorded and self.asked not in self.marks:
            self._mark()
        width = len(self.problem.space.choices)
        codes = self.problem.space.check(np.concatenate([np.empty((0, width), np.int16), *(codes for codes, _, _ in self.results)]))
        known = np.concatenate([np.empty((0, len(self.problem.expensive))), *(known for _, known, _ in self.results)])
        fidelity = np.concatenate([np.empty(0), *(fidelity for _, _, fidelity in self.results)])
        if self.scored:
            scores = Scores(np.concatenate([each.values for each in self.scored]), np.concatenate([each.ratio for each in self.scored]))
        else:
            scores = self.problem.scores(codes, known)
        return SearchResult(self.problem, codes, scores, fidelity, self.spent, tuple(self.trace))

    def _another(self) -> InputError:
        where = self.run.folder if self.run is not None else "this run"
        return InputError(f"{where} was written by another searcher, seed or version of hwnas; name another folder")

    def _damaged(self) -> DamagedFile:
        return DamagedFile(f"{self.run.folder if self.run is not None else 'the run'} holds a record of {self.stage} that is not as hwnas writes it")


def _finite_or_none(values: FloatArray) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _traced(body: Mapping[str, Any]) -> dict[str, Any]:
    """A `trace` record."""
    best = None if body["best"] is None else float(body["best"])
    values = {str(name): float(value) for name, value in body["values"].items()}
    return {"number": int(body["number"]), "evaluations": float(body["evaluations"]), "best": best, "values": values}


def _values_of(body: Mapping[str, Any]) -> FloatArray | None:
    """The values of an `evaluated` record; None where all failed."""
    values = np.array([math.nan if value is None else float(value) for value in body["values"]])
    return None if np.isnan(values).all() else values


@contextmanager
def _interrupt_deferred() -> Iterator[None]:
    """Ctrl-C takes effect at the end of the block, a second one at once."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    pressed = False

    def press(*_: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt
