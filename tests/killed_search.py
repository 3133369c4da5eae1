"""A recorded search in a process of its own, for tests that kill it: python killed_search.py FOLDER SIDE_FILE [WHERE COUNT].

Every evaluation appends its code to SIDE_FILE before it answers. With WHERE, the process kills itself with SIGKILL at the point of
that name (evaluating, evaluated, recorded) when it passes it for the COUNT-th time.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from hwnas.driver import drive
from hwnas.executor import InProcess
from hwnas.problem import Objective, Problem
from hwnas.run import RunDirectory
from hwnas.searchers.regularized_evolution import regularized_evolution
from hwnas.testing import toy_problem

EVALUATIONS = 60


class Death:
    """Comes when the named point is passed for the given time."""

    def __init__(self, where="", count=0):
        self.where, self.left = where, int(count)

    def passes(self, where):
        if where == self.where:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class Slow:
    """The toy problem's gain, a few milliseconds late, with a line in the side file for each evaluation."""

    name, unit, origin, expensive = "gain", "points", "simulated", True

    def __init__(self, gains, side, death):
        self.gains, self.side, self.death = gains, side, death

    def __call__(self, codes):
        with self.side.open("a") as file:
            file.writelines("".join(map(str, code)) + "\n" for code in codes.tolist())
        self.death.passes("evaluating")
        time.sleep(0.003)
        return self.gains[np.arange(codes.shape[1]), codes].sum(axis=1)


class Mortal(InProcess):
    """Evaluates in this process, and may die between an evaluation and its record, or before the next one."""

    def __init__(self, death):
        super().__init__()
        self.death = death

    def wait(self):
        self.death.passes("recorded")
        completion = super().wait()
        self.death.passes("evaluated")
        return completion


def search(folder, side, death):
    toy = toy_problem()
    metric = Slow(toy.objectives[0].metric.gains, side, death)
    problem = Problem(toy.index, [Objective(metric, maximize=True)], toy.budgets)
    with RunDirectory(folder) as run:
        drive(regularized_evolution, problem, run, seed=3, evaluations=EVALUATIONS, executor=Mortal(death))


if __name__ == "__main__":
    search(Path(sys.argv[1]), Path(sys.argv[2]), Death(*sys.argv[3:]))
