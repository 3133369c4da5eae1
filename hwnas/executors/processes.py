"""Candidates evaluated in processes of this machine. One that dies is replaced, and its candidate is evaluated again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pickle import PicklingError
from typing import Any

from hwnas.errors import InputError
from hwnas.executor import LIVES, Candidate, Completion, Executor, Prepare, complete, died
from hwnas.executors._failure import failure, raised
from hwnas.space import Codes

_END_S = 2.0  # that a worker has to end by itself


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: tuple[int, Codes, float] | None = None


class Processes:
    """`workers` processes, each prepared once, when there is something for it to do."""

    def __init__(self, prepare: Prepare, workers: int):
        self._prepare, self._most = prepare, workers
        self._queue: deque[tuple[int, Codes, float]] = deque()
        self._deaths: Counter[int] = Counter()
        self._workers: list[_Worker] = []

    def submit(self, number: int, candidate: Candidate) -> None:
        self._queue.append((number, candidate.code, candidate.fidelity))
        self._hand_out()

    def wait(self) -> Completion:
        while True:
            self._hand_out()
            busy = {worker.pipe: worker for worker in self._workers if worker.task is not None}
            if not busy:
                raise RuntimeError("nothing was submitted")
            for pipe in wait(list(busy)):
                if (completion := self._heard(busy[pipe])) is not None:  # type: ignore[index]
                    return completion

    def close(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_END_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers.clear()
        self._queue.clear()
        self._deaths.clear()

    def _hand_out(self) -> None:
        while self._queue and (worker := self._free()) is not None:
            worker.task = self._queue.popleft()
            with suppress(OSError):  # it died meanwhile, which is seen when it is heard
                worker.pipe.send(worker.task)

    def _free(self) -> _Worker | None:
        """A worker that has nothing to do, None where all do something."""
        for worker in [each for each in self._workers if each.task is None]:
            if worker.process.is_alive():
                return worker
            self._workers.remove(worker)
            worker.pipe.close()
        if len(self._workers) == self._most:
            return None
        # Started afresh: a copy of a process that has threads, as PyTorch has, may hang.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._prepare), name="hwnas-worker", daemon=False)
        before = None
        if hasattr(signal, "pthread_sigmask"):  # Ctrl-C is ours: it reaches all processes of a terminal, and a worker is ended by whoever started it
            resource_tracker.ensure_running()  # of multiprocessing; started by the next line but one, it would end the blocking
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
            self._workers.append(_Worker(process, ours))  # known before Ctrl-C is heard again
        except (AttributeError, TypeError, OSError, PicklingError) as error:
            ours.close()
            raise InputError(f"a worker cannot be started: {error}; what it evaluates must be named by a module that it can import") from None
        finally:
            theirs.close()
            if before is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._workers[-1]

    def _heard(self, worker: _Worker) -> Completion | None:
        """What a worker answered; None where it died, and its candidate is to be evaluated again."""
        assert worker.task is not None
        number = worker.task[0]
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            return self._buried(worker)
        worker.task = None
        if isinstance(answer, Completion):
            self._deaths.pop(number, None)
            return answer
        raise raised(answer)

    def _buried(self, worker: _Worker) -> Completion | None:
        self._workers.remove(worker)
        worker.process.join(_END_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.pipe.close()
        assert worker.task is not None
        number, code = worker.task[0], worker.process.exitcode
        self._deaths[number] += 1
        if self._deaths[number] < LIVES:
            self._queue.appendleft(worker.task)
            return None
        del self._deaths[number]
        return died(number, f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}")


def _work(pipe: Connection, prepare: Prepare) -> None:
    """The life of a worker: it ends with whoever started it, also in the middle of an evaluation."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        evaluate = None
        while True:
            number, code, fidelity = pipe.recv()
            answer: Any
            try:
                if evaluate is None:
                    evaluate = prepare()
                answer = complete(number, Candidate(code, fidelity, evaluate))
            except Exception as error:
                answer = failure(error)
            pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def processes(prepare: Prepare, workers: int) -> Executor:
    return Processes(prepare, workers)
