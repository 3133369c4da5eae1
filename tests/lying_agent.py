"""A device of known truth whose agent speaks the real contract and tells what its file's name says; `honest.py` tells the truth.

It really waits as long as a run takes (`truth_ns`), so that what it does not lie about is true in every respect. Standard library only.
"""

import json
import math
import random
import sys
import time
from pathlib import Path

LIE = Path(__file__).stem
SLOW = 1.4
DWELL_NS = 10_000_000  # mean time in a speed state

clock = time.perf_counter_ns
BEGUN = clock()
VISITED = {}


def truth_ns(item):
    """How long a run of an item takes on this device at full speed."""
    if item == "anchor":
        return 50_000
    return 20_000 + 5_000 * int(item[1:]) if item[0] == "e" else 150_000 + 1_000 * int(item[1:])


class States:
    """A Markov chain of two speeds, each for exponential times: factors 1 and SLOW."""

    def __init__(self, seed):
        self.rng, self.slow, self.until = random.Random(seed), False, clock()

    def factor(self):
        while clock() > self.until:
            self.slow = not self.slow
            self.until += int(self.rng.expovariate(1 / DWELL_NS))
        return SLOW if self.slow else 1.0


STATES = States(1)


def run(item):
    """Wait for as long as a run takes; nanoseconds."""
    factor = STATES.factor() if LIE == "two_speeds" else 1.0
    if LIE == "growing" and item == "e1":  # no lie: it takes longer each time
        factor *= 1.2 ** VISITED.get(item, 0)
    start = clock()
    while (took := clock() - start) < factor * truth_ns(item):
        pass
    return took


def visit(item, burst, anchor):
    """An honest report."""
    before = min(run("anchor") for _ in range(anchor["runs"]))
    at = clock()
    for _ in range(burst["warmups"]):
        run(item)
    ns = [run(item) for _ in range(burst["runs"])]
    wall = clock() - at
    after = min(run("anchor") for _ in range(anchor["runs"]))
    VISITED[item] = VISITED.get(item, 0) + 1
    probes = {"cpu_ns": wall, "involuntary": 0, "psi_us": 0, "steal_ms": 0}
    return {"item": item, "ns": ns, "anchor_ns": [before, after], "at_ns": at, "wall_ns": wall, **probes}


def by_a_clock(factor, report):
    """The same by a clock that runs so much faster."""
    times = {"at_ns": BEGUN + int((report["at_ns"] - BEGUN) * factor), "wall_ns": int(report["wall_ns"] * factor)}
    return {**times, **{key: [int(ns * factor) for ns in report[key]] for key in ("ns", "anchor_ns")}}


#: Lies about everything: report -> what is told otherwise.
ABOUT_ALL = {
    "constant": lambda report: {"ns": [30_000] * len(report["ns"]), "anchor_ns": [50_000, 50_000]},
    "fast_clock": lambda report: by_a_clock(3.0, report),
    "slow_clock": lambda report: by_a_clock(0.3, report),
    "slowing_clock": lambda report: by_a_clock(1 / (1 + (clock() - BEGUN) / 1e9), report),
}
#: Lies about the item e1: (times of its runs, how often it was visited) -> what is told instead.
ABOUT_ONE = {
    "zero": lambda ns, k: [0, *ns[1:]],
    "negative": lambda ns, k: [-5, *ns[1:]],
    "not_a_number": lambda ns, k: [math.nan, *ns[1:]],
    "inflated": lambda ns, k: [int(each * 1.2**k) for each in ns],
    "shrinking": lambda ns, k: [max(1_000, int(each * 0.8**k)) for each in ns],
    "below_the_clock": lambda ns, k: [random.randrange(300, 900) for _ in ns],
    "next_to_nothing": lambda ns, k: [random.randrange(1, 40) for _ in ns],
    "hidden_speeds": lambda ns, k: [int(each * STATES.factor() / SLOW) for each in ns],  # the anchor does not show them
}


def told(report):
    if LIE == "failing" and report["item"] == "m1" and VISITED["m1"] > 2:  # no lie either: it can be run, and then no more
        return {"item": "m1", "error": "it fell over"}
    if LIE in ABOUT_ALL:
        return {**report, **ABOUT_ALL[LIE](report)}
    if LIE in ABOUT_ONE and report["item"] == "e1":
        return {**report, "ns": ABOUT_ONE[LIE](report["ns"], VISITED["e1"])}
    return report


def answer(request):
    if request["op"] == "hello":
        return {"contract": 2, "runtime": "onnxruntime", "version": "1", "options": request["options"], "system": {"processor": "of known truth"}}
    if request["op"] == "look":
        return {"state": {"clock_step_ns": 1_000 if LIE == "below_the_clock" else 40}}
    if request["op"] == "load":
        sys.stdin.buffer.read(request["bytes"])
        if LIE == "hanging" and request["item"] == "e1":
            time.sleep(1_000)
        return {"item": request["item"], "facts": {}}
    if request["op"] == "run":
        return {"visits": [told(visit(item, request["items"][item], request["anchor"])) for item in request["order"]], "crowding_pct": 0}
    return {}


def main():
    for line in sys.stdin.buffer:
        sys.stdout.write(json.dumps({"ok": True, **answer(json.loads(line))}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
