"""What rewards and rules do to a budget: accuracies of NAS-Bench-201 with latencies of real devices, over many seeds.

    HWNAS_DATA=DIR python benchmarks/keeping_a_budget.py [--seeds 60] [--device NAME ...] [--minutes 2] [--to FILE] [--markdown] [--json]

The budget is the 30th percentile of a device's latencies over all 15,625 cells (HELP, measured by others). Regularised evolution with its
default options evaluates 300 cells; validation accuracy after 12 epochs is what it sees, test accuracy after 12 epochs is reported. A *reward
alone* knows the exact latency of what it evaluates, and ends with the candidate of the highest reward. A *hard filter* asks only for cells
whose predicted latency is within the budget, and ends with the most accurate one; the predictor is off by an independent log-normal error for
each cell, of 0, 5 or 10 %. Rules *measure* what such a search found: in order of accuracy until one fits, or as `hwnas verify` does, --top
of them together and others after a correction of the predictions, three times at most. A measurement tells the true latency: its own error,
for which `hwnas verify` has its bounds, is another subject. Errors of real predictors go by kinds of cells, which is worse than independent ones.
Searches that were done are in FILE, a JSON line each, and are not done again: the same command goes on, for at most so many minutes.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import rewards
from hwnas.budget import Budget
from hwnas.driver import drive
from hwnas.errors import HwnasError
from hwnas.files import read_text
from hwnas.problem import Objective, Problem
from hwnas.registry import create
from hwnas.searchers.regularized_evolution import regularized_evolution
from hwnas.space import Codes, FloatArray
from hwnas.tabular_benchmark import TabularBenchmark, Tabulated
from hwnas.verbs.verify import MAX_ROUNDS, SPREAD, SPREAD_AGAIN, pick

DEVICES = ("pixel3", "raspi4", "gold_6226", "titan_rtx_32")
EVALUATIONS = 300
FILTERS = {"hard filter, exact latency": 0.0, "hard filter, 5% error": 0.05, "hard filter, 10% error": 0.10}
TARGET = 2.5  # measurements of the default rule, on average

#: chosen code (1, choices) or none (0, choices), and how many were measured
Choice = tuple[Codes, int]
#: codes of a search, the most accurate first, their accuracy, predicted and true latency, the limit, and the standard deviation of the predictor's error
Rule = Callable[[Codes, FloatArray, FloatArray, FloatArray, float, float], Choice]


def rewards_there_are() -> dict[str, rewards.Reward]:
    """Every function of rewards.py that is one, but for the hard filter."""
    found = {}
    for name, each in inspect.getmembers(rewards, inspect.isfunction):
        if each.__module__ == rewards.__name__ and list(inspect.signature(each).parameters)[:2] == ["quality", "ratio"] and not name.startswith("_"):
            found[name] = each
    del found["feasible_first"]
    return found


def task_of(made: TabularBenchmark, latency: FloatArray, limit: float, *, hard: bool, rule: rewards.Reward = rewards.feasible_first) -> Problem:
    """The benchmark's problem under this latency, quality as a share of 1. Unless `hard` a searcher is told the latency only of what it evaluates."""
    signal = made.problem.objectives[0].metric
    share = Tabulated(signal.table / 100, name="accuracy", unit="share", expensive=True)  # type: ignore[attr-defined]
    metric = Tabulated(latency, name="latency", unit="ms", origin="predicted", expensive=not hard)
    return replace(made.problem, objectives=[Objective(share, maximize=True)], budgets=[(Budget("latency", limit), metric)], rule=rule)


def in_order(codes: Codes, accuracy: FloatArray, predicted: FloatArray, truth: FloatArray, limit: float, error: float) -> Choice:
    """The most accurate one that is measured within the limit."""
    for n, row in enumerate(np.argsort(-accuracy, kind="stable"), start=1):
        if truth[row] <= limit:
            return codes[row : row + 1], n
    return codes[:0], len(codes)


def verified(top: int) -> Rule:
    """As `hwnas verify` chooses candidates and corrects its predictions."""

    def rule(codes: Codes, accuracy: FloatArray, predicted: FloatArray, truth: FloatArray, limit: float, error: float) -> Choice:
        points = [{"row": int(row), "accuracy_pct": float(accuracy[row]), "latency_ms": float(predicted[row])} for row in np.argsort(-accuracy, kind="stable")]
        known, correction = dict[int, float](), 1.0  # row -> measured by predicted
        for attempt in range(MAX_ROUNDS):
            rest = [point for point in points if point["row"] not in known]
            first = max(SPREAD, 0.8 * error)  # of a normal error the mean is 0.8 standard deviations
            candidates = pick(rest, top, limit / correction, (first, SPREAD_AGAIN, SPREAD)[attempt])
            if not candidates:
                break
            known |= {each["row"]: truth[each["row"]] / each["latency_ms"] for each in candidates}
            fitting = [row for row in known if truth[row] <= limit]
            if fitting:
                best = max(fitting, key=lambda row: accuracy[row])
                return codes[best : best + 1], len(known)
            correction = float(np.median(list(known.values())))
        return codes[:0], len(known)

    return rule


#: What comes after the name of the search -> what is measured of it, and chosen.
MEASURING: dict[str, Rule] = {", measured in order until one fits": in_order, **{f", as hwnas verify --top {top}": verified(top) for top in (1, 2, 3)}}


def rules() -> list[str]:
    """The names of all rules, in the order of the table."""
    filters = [f"{name}{rule}" for name, error in FILTERS.items() for rule in ("", *(MEASURING if error else ()))]
    return [*(f"{name} alone" for name in rewards_there_are()), *filters]


def outcomes(made: TabularBenchmark, seed: int, known: set[str]) -> Iterator[dict[str, Any]]:
    """A row for each reward and rule with that seed, but for the rules that are known."""
    assert made.latency_ms is not None
    exact, limit = made.latency_ms.table, made.problem.constraints[0].limit  # type: ignore[attr-defined]

    def row(rule: str, choice: Choice) -> dict[str, Any]:
        code, measured = choice
        if len(code) == 0:
            return {"rule": rule, "used": None, "test_pct": None, "measured": measured}
        return {"rule": rule, "used": float(made.latency_ms(code)[0] / limit), "test_pct": float(made.reported(code)[0]), "measured": measured}  # type: ignore[misc]

    for name, reward in rewards_there_are().items():
        if f"{name} alone" in known:
            continue
        task = task_of(made, exact, limit, hard=False, rule=reward)
        result = drive(regularized_evolution, task, seed=seed, evaluations=EVALUATIONS)
        best = int(np.argmax(task.reward(result.scores)))
        yield row(f"{name} alone", (result.codes[best : best + 1], 0))
    for what, error in FILTERS.items():
        if known.issuperset(f"{what}{rule}" for rule in ("", *(MEASURING if error else ()))):
            continue
        noise = np.exp(error * np.random.default_rng([seed, 201]).normal(size=exact.shape))
        task = task_of(made, exact * noise, limit, hard=True)
        result = drive(regularized_evolution, task, seed=seed, evaluations=EVALUATIONS)
        codes = result.codes[result.ranked()]
        accuracy, predicted, truth = task.objectives[0].metric(codes), task.budgets[0][1](codes), made.latency_ms(codes)
        yield row(what, (codes[:1], 0))
        for rule, choose in MEASURING.items() if error else ():
            yield row(f"{what}{rule}", choose(codes, accuracy, predicted, truth, limit, error))


def summary(made: TabularBenchmark, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per rule: share of runs over the budget and without a choice, and means over runs."""
    found = []
    for rule in rules():
        runs = [row for row in rows if row["rule"] == rule]
        if not runs:
            continue
        used = np.array([row["used"] for row in runs if row["used"] is not None])
        lost = made.best_pct - np.array([row["test_pct"] for row in runs if row["test_pct"] is not None])
        found.append(
            {
                "rule": rule,
                "runs": len(runs),
                "over": int((used > 1).sum()),
                "none": len(runs) - len(used),
                "worst_used": float(used.max()) if len(used) else None,
                "used": float(used.mean()) if len(used) else None,
                "lost_points": float(lost.mean()) if len(lost) else None,
                "measured": float(np.mean([row["measured"] for row in runs])),
            }
        )
    return found


def in_markdown(report: dict[str, list[dict[str, Any]]]) -> str:
    """One table: of each rule and device the runs over the budget, the share of it that is used, points lost, and what was measured."""
    lines = [f"| rule | {' | '.join(report)} |", "|---" * (1 + len(report)) + "|"]
    for rule in rules():
        cells = []
        for found in report.values():
            row = next((each for each in found if each["rule"] == rule), None)
            if row is None or row["used"] is None:
                cells.append("-")
                continue
            texts = [f"{row['over'] / row['runs']:.0%} over", f"uses {row['used']:.0%}", f"loses {row['lost_points']:.2f}"]
            texts += [f"none in {row['none'] / row['runs']:.0%}"] if row["none"] else []
            cells.append(", ".join(texts + ([f"measures {row['measured']:.2f}"] if row["measured"] else [])))
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    return "\n".join(lines)


def printed(device: str, made: TabularBenchmark, found: list[dict[str, Any]]) -> str:
    head = ["rule", "over budget", "none found", "worst, of the budget", "budget used", "points lost", "measured"]
    lines = [f"{device}: {made.about}; the most accurate cell within it has {made.best_pct:.2f} % test accuracy", ""]
    table = [head]
    for row in found:
        texts = [f"{row['over'] / row['runs']:.0%}", f"{row['none'] / row['runs']:.0%}"]
        texts += ["-"] * 3 if row["used"] is None else [f"{row['worst_used']:.2f}", f"{row['used']:.0%}", f"{row['lost_points']:.2f}"]
        table.append([row["rule"], *texts, f"{row['measured']:.2f}" if row["measured"] else "-"])
    lines += [f"{row[0]:52s}" + "".join(f"{text:>22s}" for text in row[1:]) for row in table]
    return "\n".join(lines)


def overall(rule: str, rows: list[dict[str, Any]]) -> str:
    """One line about a rule on all devices and with all errors."""
    if not rows:
        return f"{rule[2:]}: nothing yet"
    runs = sum(row["runs"] for row in rows)
    over, none = (sum(row[key] for row in rows) for key in ("over", "none"))
    measured, worst = float(np.average([row["measured"] for row in rows], weights=[row["runs"] for row in rows])), max(row["measured"] for row in rows)
    verdict = "met" if over == 0 and measured <= TARGET else "MISSED"
    return f"{rule[2:]}: {over} of {runs} runs over budget, {none} without a choice, {measured:.2f} measured on average ({worst:.2f} at worst): {verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description="What rewards and rules do to a latency budget.")
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--device", action="append", default=[], help=f"columns of HELP's latencies, by default {', '.join(DEVICES)}")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--to", type=Path, default=Path("runs/keeping_a_budget.jsonl"))
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    done: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    try:
        if given.to.is_file():
            for line in read_text(given.to).splitlines():
                each = json.loads(line)
                done[each["device"], each["seed"]] += each["rows"]
        devices = {name: create("tabular_benchmarks", f"nasbench201(device='{name}')") for name in given.device or DEVICES}
        given.to.parent.mkdir(parents=True, exist_ok=True)
        left = 0
        with given.to.open("a") as file:
            for seed in range(given.seeds):
                for device, made in devices.items():
                    known = {row["rule"] for row in done[device, seed]}
                    if known.issuperset(rules()):
                        continue
                    if time.monotonic() > until:
                        left += 1
                        continue
                    rows = [row for row in outcomes(made, seed, known) if row["rule"] not in known]
                    done[device, seed] += rows
                    file.write(json.dumps({"device": device, "seed": seed, "rows": rows}) + "\n")
                    file.flush()
    except HwnasError as error:
        sys.exit(str(error))
    report = {device: summary(made, [row for seed in range(given.seeds) for row in done[device, seed]]) for device, made in devices.items()}
    if given.json:
        print(json.dumps({"left": left, "devices": report}, indent=1))
        return
    if given.markdown:
        print(f"{in_markdown(report)}\n")
    for device, found in () if given.markdown else report.items():
        print(f"{printed(device, devices[device], found)}\n")
    for rule in MEASURING:
        print(overall(rule, [row for found in report.values() for row in found if row["rule"].endswith(rule)]))
    if left:
        print(f"{left} pairs of device and seed are left; the same command goes on")


if __name__ == "__main__":
    main()
