"""A search whose candidates are evaluated by other processes, for tests that kill some of them: python worked_search.py FOLDER SIDE_FILE WORKERS [EXECUTOR].

Every evaluation appends its process and its code to SIDE_FILE before it answers. A file `SIDE_FILE.kill-CODE` kills the worker that evaluates CODE, with
SIGKILL, and each such file kills once; `SIDE_FILE.always-CODE` whoever evaluates it.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas import registry
from hwnas.driver import drive
from hwnas.errors import InputError, MeasurementFailed
from hwnas.problem import Objective, Problem
from hwnas.run import RunDirectory
from hwnas.searchers.regularized_evolution import regularized_evolution
from hwnas.testing import toy_problem

EVALUATIONS = 60


def text_of(code):
    return "".join(map(str, code))


class Noted:
    """The toy problem's gain, with a line in the side file for each evaluation, later for some codes than for others."""

    name, unit, origin, expensive = "gain", "points", "simulated", True

    def __init__(self, gains, side, delay_s, fails):
        self.gains, self.side, self.delay_s, self.fails = gains, side, delay_s, fails

    def __call__(self, codes):
        for code in codes.tolist():
            with self.side.open("a") as file:
                file.write(f"{os.getpid()} {text_of(code)}\n")
            mark = self.side.with_name(f"{self.side.name}.kill-{text_of(code)}")
            if mark.exists():
                mark.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if mark.with_name(f"{self.side.name}.always-{text_of(code)}").exists():
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fails == "measurement" and code[0] == 0:
                raise MeasurementFailed("the device is off")
            if self.fails == "input":
                raise InputError("the metric 'gain' has no such thing")
            if self.fails == "bug":
                raise ZeroDivisionError("a bug")
            time.sleep(self.delay_s * (1 + sum(code) % 3))
        return self.gains[np.arange(codes.shape[1]), codes].sum(axis=1)


@dataclass(frozen=True)
class Prepared:
    """Makes, in a worker, what evaluates."""

    side: Path
    delay_s: float = 0.001
    fails: str = ""

    def problem(self):
        toy = toy_problem()
        return Problem(toy.index, [Objective(Noted(toy.objectives[0].metric.gains, self.side, self.delay_s, self.fails), maximize=True)], toy.budgets)

    def __call__(self):
        return self.problem().evaluate_travelling


def search(prepared, run=None, executor=None, *, pending=0, evaluations=EVALUATIONS):
    options = {"pending": pending, "population": 16, "tournament": 4}
    return drive(regularized_evolution, prepared.problem(), run, seed=3, evaluations=evaluations, options=options, executor=executor)


def lines(side):
    """(process, code) of each evaluation that was begun."""
    return [tuple(line.split()) for line in side.read_text().splitlines()] if side.exists() else []


if __name__ == "__main__":
    prepared = Prepared(Path(sys.argv[2]), delay_s=0.02)
    executor = registry.create("executors", (sys.argv[4:] or ["processes"])[0], prepared, int(sys.argv[3]))
    try:
        with RunDirectory(Path(sys.argv[1])) as run:
            search(prepared, run, executor, pending=3)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        executor.close()
