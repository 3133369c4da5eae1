"""`bench-search`: a searcher on the tabular benchmarks, beside the stored field and random search, at equal evaluations."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import __version__, registry
from hwnas.errors import HwnasError, InputError
from hwnas.files import csv_text, write_whole
from hwnas.search_field import FILE, read_field
from hwnas.searcher import Option, Searcher, parse_options, trains
from hwnas.significance import mean_interval, sign_test
from hwnas.space import FloatArray
from hwnas.tabular_benchmark import RUNS, TabularBenchmark, Trace, reported, traced
from hwnas.verbs.common import Progress, silent

#: Those that the stored field has, and that are taken where none is named.
BENCHMARKS = ("nasbench201", "nasbench201(device='pixel3')", "nas_bench_macro", "accel_nasbench")
BASELINE = "random_search"
#: Run at once where nothing is stored.
USUAL = ("regularized_evolution", "local_search")
ALIKE = 0.05  # level of the test against the best
TELLING, ENOUGH = 5, 30  # seeds below which no test reaches it, and from which on a searcher may be the best
MOST_SEEDS, MOST_EVALUATIONS = 1_000, 100_000
_MARKS = (1, 2, 3, 5, 7)  # times powers of ten: the points of anytime curves


@dataclass(frozen=True, slots=True)
class Searches:
    """The searches of one searcher, seeds 0, 1, ...; seconds: what they took here, None where they are stored."""

    label: str
    source: str
    traces: Sequence[Trace]
    seconds: float | None = None


def bench_search(
    searcher: str,
    *,
    benchmarks: Sequence[str] = (),
    seeds: int = 50,
    evaluations: Sequence[int] = (100, 150, 300),
    options: Sequence[str] = (),
    curves: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Run a searcher, a name or `path.py:function`, with seeds 0 to seeds - 1 on each benchmark, once for the largest number of `evaluations`.

    benchmarks: names with arguments, such as `nasbench201(device='raspi4')`; by default those of BENCHMARKS whose data is there. options: `name=value`
    of the searcher. Random search is always run beside it; the rest of the field is stored, or run where the stored one is of other data, of
    fewer evaluations, or of another benchmark. curves: a CSV file for the anytime curves. Raises InputError, UnknownName.
    """
    points = sorted(set(evaluations))
    if not 2 <= seeds <= MOST_SEEDS:
        raise InputError(f"--seeds is {seeds}, it must be 2 to {MOST_SEEDS:,}: an interval and a test need several")
    if not points or points[0] < 1 or points[-1] > MOST_EVALUATIONS:
        raise InputError(f"--evaluations must be 1 to {MOST_EVALUATIONS:,}, got {', '.join(map(str, points)) or 'none'}")
    mine: Searcher = registry.load("searchers", searcher)
    parsed = parse_options(mine, options)
    if trains(mine):
        raise InputError(f"{mine.__name__} trains shared weights, and a table has none to train; compare it by 'hwnas search' on a supernet")
    found, absent = list[dict[str, Any]](), list[str]()
    for text in dict.fromkeys(benchmarks or BENCHMARKS):
        try:
            made = registry.create("tabular_benchmarks", text)
        except InputError as error:
            if benchmarks:
                raise
            absent.append(f"{text}: {error}")
            continue
        if not isinstance(made, TabularBenchmark):
            raise InputError(f"{text} must return a TabularBenchmark of hwnas.tabular_benchmark, it returns {type(made).__name__}")
        found.append({"benchmark": text, **_compared(text, made, mine, parsed, seeds, points, progress)})
    if not found:
        raise InputError(f"no benchmark is there: {absent[0]}")
    result = {"searcher": mine.__name__, "options": parsed, "seeds": seeds, "evaluations": points, "hwnas": __version__, "benchmarks": found, "absent": absent}
    if curves is not None:
        write_whole(curves, _csv(found))
        result["curves"] = str(curves)
    return result


def _compared(
    text: str, made: TabularBenchmark, mine: Searcher, options: Mapping[str, Option], seeds: int, points: Sequence[int], progress: Progress
) -> dict[str, Any]:
    """About the benchmark, and a row for each searcher."""
    runs = list[Searches]()

    def run(searcher: Searcher, given: Mapping[str, Option]) -> list[Trace]:
        label = labelled(searcher.__name__, given)
        traces, begun = list[Trace](), time.perf_counter()
        for seed in range(seeds):
            progress(f"{label} on {text}", seed, seeds)
            traces.append(_traced(made, searcher, seed, points[-1], given))
        runs.append(Searches(label, "now", traces, time.perf_counter() - begun))
        return traces

    first = run(mine, options)
    label = runs[0].label
    baseline = first if label == BASELINE else run(registry.load("searchers", BASELINE), {})
    stored = [each for each in stored_searches(text, made, seeds, points[-1]) if each.label not in (label, BASELINE)]
    runs += stored
    for other in () if stored else USUAL:
        if other != label:
            run(registry.load("searchers", other), {})
    return {"about": made.about, "best_pct": made.best_pct, "data": made.data, "rows": compared(made, runs, baseline, points)}


def compared(made: TabularBenchmark, runs: Sequence[Searches], baseline: Sequence[Trace], points: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each of the searches, the best mean at the last of `points` first: figures at each point with the sign test against the baseline's
    searches of the same seeds, anytime curve, cost, and the chance that the best one is no better than it (sign test): the best of those
    with ENOUGH seeds, or with the most, since against a few no test tells anything."""
    last, marks = points[-1], _marks(points[-1])
    values = [{n: reported(made, each.traces, n) for n in (*points, *marks)} for each in runs]
    random = {n: reported(made, baseline, n) for n in points}
    order = sorted(range(len(runs)), key=lambda i: -values[i][last].mean())
    enough = min(ENOUGH, max(len(each.traces) for each in runs))
    best = next(values[i][last] for i in order if len(runs[i].traces) >= enough)
    rows = []
    for i in order:
        own, seeds = values[i], len(runs[i].traces)
        at = [{"evaluations": n, **_figures(own[n], made.best_pct), **_test(own[n], random[n])} for n in points]
        rows.append(
            {
                "searcher": runs[i].label,
                "source": runs[i].source,
                "seeds": seeds,
                "at": at,
                "curve": [{"evaluations": n, **_figures(own[n], made.best_pct)} for n in marks],
                "cost": _cost(runs[i]),
                "p_behind_best": _test(best, own[last])["p"],
            }
        )
    return rows


def _test(first: FloatArray, second: FloatArray) -> dict[str, Any]:
    """The sign test over the seeds that both have."""
    n = min(len(first), len(second))
    return asdict(sign_test(first[:n], second[:n]))


def standing(row: Mapping[str, Any]) -> str:
    """How a row of `compared` stands to the best, in words; nothing where it lost."""
    if row["seeds"] < TELLING:
        return "too few seeds to tell"
    return "" if row["p_behind_best"] < ALIKE else "level with the best"


def labelled(name: str, options: Mapping[str, Option]) -> str:
    """A searcher with the options that are not its defaults, as `name option=value`."""
    return " ".join([name, *(f"{key}={value}" for key, value in sorted(options.items()))])


def stored_searches(text: str, made: TabularBenchmark, seeds: int, evaluations: int, path: Path = FILE) -> list[Searches]:
    """The stored searches on this benchmark and data with seeds 0, 1, ... below `seeds`, of at least so many evaluations; searchers with two or more."""
    found: dict[tuple[str, str], dict[int, Trace]] = {}
    for row in read_field(path):
        if row.benchmark == text and row.data == made.data and row.evaluations >= evaluations and row.seed < seeds:
            found.setdefault((row.searcher, row.hwnas), {})[row.seed] = row.trace(made.problem.space)
    counts = {key: next((seed for seed in range(seeds) if seed not in traces), seeds) for key, traces in found.items()}
    return [Searches(label, f"stored, hwnas {version}", [found[label, version][seed] for seed in range(n)]) for (label, version), n in counts.items() if n >= 2]


def _traced(made: TabularBenchmark, searcher: Searcher, seed: int, evaluations: int, options: Mapping[str, Option]) -> Trace:
    try:
        return traced(made, searcher, seed=seed, evaluations=evaluations, options=options)
    except HwnasError:
        raise
    except Exception as error:  # a searcher may be anybody's file
        raise InputError(f"{searcher.__name__} failed with seed {seed}: {type(error).__name__}: {error}") from error


def _figures(values: FloatArray, best: float) -> dict[str, float]:
    """Mean of searches (seeds,), in percent, its 95 % interval, their standard deviation, and the points that the mean is from the best."""
    low, high = mean_interval(values)
    return {"mean_pct": float(values.mean()), "low_pct": low, "high_pct": high, "sd": float(values.std(ddof=1)), "regret": best - float(values.mean())}


def _cost(runs: Searches) -> dict[str, Any]:
    """Of one search, on average: evaluations; what their training and measuring would have taken (simulated); what searching took here (measured)."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None

    return {
        "evaluations": float(np.mean([trace.evaluations for trace in runs.traces])),
        "training_s_simulated": mean([trace.training_s for trace in runs.traces]),
        "device_s_simulated": mean([trace.device_s for trace in runs.traces]),
        "device_runs_each": RUNS,
        "search_s_measured": None if runs.seconds is None else runs.seconds / len(runs.traces),
    }


def _marks(most: int) -> list[int]:
    """1, 2, 3, 5, 7, 10, 20, ... and the last: where curves are looked at."""
    marks = [mark * 10**power for power in range(len(str(most))) for mark in _MARKS]
    return [*(mark for mark in marks if mark < most), most]


def _csv(found: Sequence[Mapping[str, Any]]) -> str:
    rows: list[list[object]] = [["benchmark", "searcher", "source", "seeds", "evaluations", "mean_pct", "low_pct", "high_pct"]]
    for each in found:
        for row in each["rows"]:
            for point in row["curve"]:
                figures = [f"{point[key]:.4f}" for key in ("mean_pct", "low_pct", "high_pct")]
                rows.append([each["benchmark"], row["searcher"], row["source"], row["seeds"], point["evaluations"], *figures])
    return csv_text(rows)
