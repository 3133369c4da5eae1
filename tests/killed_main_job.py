"""Runs stages of the main job in forked children that kill themselves (SIGKILL) at a numbered write. Driven by tests/test_kill_points.py.

Reads lines `STAGE FOLDER POINT` and answers each with the child's exit status. A point is a moment before or after an event or a blob
is written: odd points before, even ones after; 0 lets the stage come to its end. One import of PyTorch serves all children.
"""

import functools
import os
import signal
import sys
from pathlib import Path

import torch

from hwnas import store
from hwnas.datasets import cluttered_digits
from hwnas.verbs.profile import profile
from hwnas.verbs.search import search
from hwnas.verbs.train import train

torch.set_num_threads(1)
SPACE = "ofa_mini(resolutions=(24,))"
VISITS = 6
EVALUATIONS = 14


def run(stage, folder):
    if stage == "profile":
        profile("localhost", space=SPACE, to=folder / "table", visits=VISITS, networks=8)
    elif stage == "train":
        train(folder / "run", space=SPACE, data="cluttered_digits", schedule="small", length=0.02, threads=1)  # of several phases
    else:
        options = ["population=3", "tournament=2", "seeds=0"]
        search(folder / "run", table=folder / "table", latency="<= 900ms", evaluations=EVALUATIONS, baselines=False, options=options, threads=1)


def dying_at(point):
    """Store.append and Store.add_blob as they are, but that this process ends at the numbered point."""
    passed = 0

    def reach():
        nonlocal passed
        passed += 1
        if passed == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(write):
        def written(*arguments):
            reach()
            answer = write(*arguments)
            reach()
            return answer

        return written

    store.Store.append = around(store.Store.append)
    store.Store.add_blob = around(store.Store.add_blob)


def main():
    cluttered_digits.cluttered_digits = functools.cache(cluttered_digits.cluttered_digits)
    for split in ("train", "validation"):  # made once, for all children
        cluttered_digits.cluttered_digits(split)
    print("ready", flush=True)
    for line in sys.stdin:
        stage, folder, point = line.split()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                dying_at(int(point))
                run(stage, Path(folder))
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
