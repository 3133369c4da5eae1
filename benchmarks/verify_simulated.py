"""What `hwnas verify` says of simulated devices whose truth is known: how often it certifies what exceeds the budget, and how often what keeps it.

    python benchmarks/verify_simulated.py [--runs 2000] [--minutes 2.5] [--to FILE] [--json]

The real window (`hwnas.profiling.window`: trial, schedule, rounds, stride, bound, verdict) with simulated visits and a simulated clock. Devices, all with
log-normal runs of 5 %: steady; one that switches between a fast and a slow speed (1.3 to 1.5 times slower), each kept for exponential times whose mean is
drawn for each run from 3 to 30 s; and one that becomes slower by 5 % an hour. The anchor feels the speed as the models do. Before the window a profile
watches the device for 60 s (--profile), as `hwnas profile` does, and tells how long speeds are kept; the window is 60 s or five times that.
Truth is the stationary quantile, of the drifting device that over the window.

`over`: five candidates, each 0 to 2 % above the budget; a run is false where any is said to be within, at a level of 1 % for all. `below`: one
candidate 5 % below it. Beside it, what 100 runs of each candidate in a row would say with the same bound. With --to the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from hwnas.files import read_json, write_json
from hwnas.profiling.agent import ANCHOR_ITEM
from hwnas.profiling.protocol import TIMING, Burst, Visit
from hwnas.profiling.speeds import Speeds
from hwnas.profiling.statistics import upper_bound
from hwnas.profiling.window import needed_visits, summarise, verdict, visit_in_rounds

LEVEL, SECONDS = 0.01, 60.0
SIGMA, ANCHOR_SIGMA = 0.05, 0.01  # of a run of a model, and of the anchor's median
MODEL_MS, ANCHOR_MS = 5.0, 0.5
IN_A_ROW = 100
DEVICES, SETTINGS, QUANTILES = ("steady", "switching", "drifting"), ("over", "below"), (0.5, 0.9)


class Device:
    """A device by its own clock `now_s`, and the agent on it. `models_ms`: the median of each model at the fast speed."""

    def __init__(self, kind: str, models_ms: Sequence[float], rng: np.random.Generator):
        self.kind, self.rng, self.now_s = kind, rng, 0.0
        self.median_ms = {f"m{i}": ms for i, ms in enumerate(models_ms)} | {ANCHOR_ITEM: ANCHOR_MS}
        self.dwell_s = rng.uniform(3.0, 30.0, 2)  # fast, slow
        self.slower = rng.uniform(1.3, 1.5) if kind == "switching" else 1.0
        self.slow_share = float(self.dwell_s[1] / self.dwell_s.sum()) if kind == "switching" else 0.0
        self._slow = bool(rng.random() < self.slow_share)
        self._until = rng.exponential(self.dwell_s[int(self._slow)])
        self._noise, self._used = np.empty(0), 0

    def clock(self) -> float:
        return self.now_s

    def speed(self) -> float:
        """By what factor everything is slower now."""
        if self.kind == "drifting":
            return 1 + 0.05 * self.now_s / 3600
        if self.kind == "switching":
            while self._until < self.now_s:
                self._slow = not self._slow
                self._until += self.rng.exponential(self.dwell_s[int(self._slow)])
            return self.slower if self._slow else 1.0
        return 1.0

    def runs_ms(self, item: str, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        if self._used + n > len(self._noise):
            self._noise, self._used = np.exp(SIGMA * self.rng.standard_normal(1 << 14)), 0
        self._used += n
        return self.median_ms[item] * self.speed() * self._noise[self._used - n : self._used]

    def anchor_ns(self) -> int:
        ms = ANCHOR_MS * self.speed() * (1 + ANCHOR_SIGMA * self.rng.standard_normal())
        self.now_s += (TIMING.anchor_warmups + TIMING.anchor_runs) * ms / 1e3
        return int(1e6 * ms)

    def visit(self, order: Sequence[str], bursts: Mapping[str, Burst], *, expected_s: float = 0.0) -> list[Visit | str]:
        visits: list[Visit | str] = []
        for item in order:
            burst, before = bursts[item], self.anchor_ns()
            if item == ANCHOR_ITEM:
                runs = (before,) * burst.runs
                self.now_s += sum(runs) / 1e9
            else:
                ms = self.runs_ms(item, burst.warmups + burst.runs)
                self.now_s += float(ms.sum()) / 1e3
                runs = tuple(int(1e6 * each) for each in ms[burst.warmups :])
            wall = sum(runs)
            visits.append(Visit(item, runs, before, self.anchor_ns(), int(1e9 * self.now_s), wall, wall, 0, 0, 0))
        return visits

    def profile(self, seconds: float) -> Speeds:
        """What a profile tells of its speeds, as a table has it under `anchor`."""
        looks: list[tuple[float, int]] = []
        while self.now_s < seconds:
            looks.append((self.now_s, self.anchor_ns()))
            self.now_s += 0.1
        return Speeds.seen(*map(list, zip(*looks, strict=True))) if looks else Speeds()

    def quantile(self, q: float) -> float:
        """The stationary quantile of a model whose median at the fast speed is 1."""

        def below(x: float) -> float:
            return (1 - self.slow_share) * float(ndtr(np.log(x) / SIGMA)) + self.slow_share * float(ndtr(np.log(x / self.slower) / SIGMA)) - q

        return float(np.exp(SIGMA * ndtri(q))) if self.slow_share == 0 else float(brentq(below, 0.5, 2.5))


def one_run(kind: str, setting: str, q: float, seed: int, profile_s: float) -> dict[str, Any]:
    """The verdicts of one window, and whether runs in a row would have been certified."""
    rng = np.random.default_rng([seed, DEVICES.index(kind), SETTINGS.index(setting), int(100 * q)])
    shares = 1 + rng.uniform(0, 0.02, 5) if setting == "over" else np.array([0.95])
    device = Device(kind, list(MODEL_MS * shares), rng)
    limit_ms = MODEL_MS * device.quantile(q)  # a model's own quantile is `shares` times that
    speeds = device.profile(profile_s)
    seconds = speeds.window_s(SECONDS, q)
    needed, names = needed_visits(q, LEVEL / len(shares), speeds, seconds), [f"m{i}" for i in range(len(shares))]
    begin = device.now_s
    seen = visit_in_rounds(device, names, dict.fromkeys(names, TIMING.network_burst), needed=needed, seconds=seconds, rng=rng, clock=device.clock)
    middle = 1 + 0.05 * (begin + device.now_s) / 2 / 3600 if kind == "drifting" else 1.0
    columns = list(zip(*seen.visits, strict=True))
    rows, _ = summarise(columns, names, seen.slow, quantile=q, level=LEVEL, needed=needed, seconds=seen.seconds, rng=rng, speeds=speeds)
    verdicts = [verdict(row, limit_ms * middle) for row in rows]
    now = device.speed()
    bounds = [upper_bound(device.runs_ms(name, IN_A_ROW), q, LEVEL / len(names)) for name in names]
    in_a_row = any(bound is not None and bound <= limit_ms * (now if kind == "drifting" else 1.0) for bound in bounds)
    word = "within" if "within" in verdicts else "over" if "over" in verdicts else "inconclusive"
    return {"verdict": word, "in_a_row": in_a_row, "seconds": seen.seconds, "independent": min(row.independent_visits for row in rows)}


def name_of(kind: str, setting: str, q: float) -> str:
    return f"{kind} {setting} p{100 * q:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2_000, help="of each device, setting and quantile")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long; with --to the same command goes on")
    parser.add_argument("--to", type=Path, help="a file that keeps what was found")
    parser.add_argument("--profile", type=float, default=60.0, help="seconds of watching before the window; 0: the window is a minute whatever the device does")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[str, dict[str, float]] = read_json(given.to) if given.to is not None and given.to.is_file() else {}
    begin = time.monotonic()
    for kind in DEVICES:
        for setting in SETTINGS:
            for q in QUANTILES:
                name = name_of(kind, setting, q)
                if given.only not in name:
                    continue
                case = found.setdefault(name, dict.fromkeys(("runs", "within", "over", "inconclusive", "in_a_row", "seconds", "independent"), 0))
                while case["runs"] < given.runs and time.monotonic() - begin < 60 * given.minutes:
                    run = one_run(kind, setting, q, int(case["runs"]), given.profile)
                    case["runs"] += 1
                    case[run["verdict"]] += 1
                    case["in_a_row"] += run["in_a_row"]
                    case["seconds"] += run["seconds"]
                    case["independent"] += run["independent"]
                if given.to is not None:
                    write_json(given.to, found)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{'device, candidates, statistic':<28} {'runs':>6} {'within':>8} {'over':>8} {'inconcl.':>8} {'in a row':>9} {'window s':>9} {'visits':>7}")
    for name, case in found.items():
        if n := case["runs"]:
            shares = [f"{100 * case[key] / n:.2f} %" for key in ("within", "over", "inconclusive", "in_a_row")]
            print(
                f"{name:<28} {n:>6.0f} {shares[0]:>8} {shares[1]:>8} {shares[2]:>8} {shares[3]:>9} {case['seconds'] / n:>9.0f} {case['independent'] / n:>7.0f}"
            )
    false = {name: case["within"] for name, case in found.items() if " over " in name and case["within"] > 30 * max(case["runs"], 1) / 2_000}
    weak = {
        name: case["within"] / case["runs"]
        for name, case in found.items()
        if name.startswith("steady below") and case["runs"] and case["within"] < 0.9 * case["runs"]
    }
    print("target of `over`: at most 30 of 2,000 within; of `steady below`: at least 90 % within")
    if false or weak:
        sys.exit(f"missed: {false | weak}")


if __name__ == "__main__":
    main()
