"""Does the table of this machine predict whole networks that nobody measured? And how long does it take to make one?

    python benchmarks/prediction.py [--device NAME] [--runtime NAME] [--space "ofa_mobilenet_v3(resolutions=(128,160,192,224))"] [--again]

The space is profiled as `hwnas profile` does. Before it and after it `--unseen` uniform random networks, as many at each resolution, are measured
in the same regime: one visit of each per pass, in random order. Truth is the median run over undisturbed visits; "quiet" is what a table's price is, the
25th percentile over accepted visits of the burst's best run, predicted from the same of the table's networks: the difference is what other guests of a
shared machine do to medians. Side by side, of the same networks:
the calibrated table, its plain sum, and a line through the MACs fitted to the same calibration networks. Sessions (opening models),
waiting (between passes, which are spread over --span) and running (visits and anchors) are timed apart; the bare time of the kernels is what the
counted runs and warm-ups took themselves.
With --again the table is made twice, with another seed, and both are compared: row by row, and by what they predict of 40 networks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.costs import macs
from hwnas.device import load_device
from hwnas.errors import HwnasError
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable, Measurement
from hwnas.predictor import Additive
from hwnas.predictors.calibrated import calibrated
from hwnas.predictors.lookup import lookup
from hwnas.profiling.agent import started_agent
from hwnas.profiling.plan import make_plan
from hwnas.profiling.protocol import TIMING, Visit, is_disturbed
from hwnas.profiling.record import FILE, Record
from hwnas.profiling.session import Progress, best_anchor_ns, profile
from hwnas.profiling.tabulate import measurement
from hwnas.quality import quality
from hwnas.space import Codes, FloatArray
from hwnas.store import Store
from hwnas.weights import random_weights

BATCH = 8  # networks visited in one request
TARGETS = {"within_5pct": 0.97, "within_10pct": 1.0, "within_group_spearman": 0.98, "mape_of_macs_line": 0.60, "running_s": 40.0, "running_to_kernels": 2.0}


def unseen_networks(index: BlockIndex, n: int, rng: np.random.Generator) -> Codes:
    """(n, choices): uniform, spread evenly over the values of the resolution."""
    codes = index.space.sample(rng, n)
    column = index.space.column["resolution"]
    codes[:, column] = np.arange(n) % index.space.cardinalities[column]
    return codes


def visits_of(index: BlockIndex, codes: Codes, passes: int, given: argparse.Namespace, rng: np.random.Generator) -> list[list[Visit]]:
    """`passes` visits of each network, in random order."""
    target = load_device(given.device)
    runtime = registry.create("profiling.runtimes", target.runtime(given.runtime))
    names = [f"u{i}" for i in range(len(codes))]
    visits: dict[str, list[Visit]] = {name: [] for name in names}
    with started_agent(target, runtime, threads=target.threads, seed=1) as agent:
        for i, code in enumerate(codes):
            graph = index.space.lower(code)
            agent.load(names[i], runtime.build(graph, random_weights(graph, np.random.default_rng([9, i]))))
        bursts = dict.fromkeys(names, TIMING.network_burst)
        for number in range(passes):
            order = [names[i] for i in rng.permutation(len(names))]
            for start in range(0, len(order), BATCH):
                for visit in agent.visit(order[start : start + BATCH], bursts, expected_s=20.0):
                    if isinstance(visit, str):
                        sys.exit(f"a network failed while it was measured: {visit}")
                    visits[visit.item].append(visit)
            print(f"unseen networks: pass {number + 1} of {passes}", file=sys.stderr)
    return list(visits.values())


def medians_ms(visits: list[list[Visit]]) -> FloatArray:
    """(n,): of each network the median over all runs of undisturbed visits; NaN where every visit was disturbed."""
    kept = [[ns for visit in own if not is_disturbed(visit) for ns in visit.ns] for own in visits]
    return np.array([np.median(each) / 1e6 if each else np.nan for each in kept])


def quiet_ms(visits: list[list[Visit]]) -> FloatArray:
    """(n,): of each network the 25th percentile, over visits at the machine's best speed, of the best run."""
    best = best_anchor_ns([visit for own in visits for visit in own])
    return np.array([measurement(own, best).price_ms for own in visits])


def quiet_table(table: LatencyTable, folder: Path, index: BlockIndex, given: argparse.Namespace) -> LatencyTable:
    """The same with the quiet latency of its networks in the place of their medians."""
    with Store(folder / FILE) as store:
        record = Record(store)
    planned = make_plan(index, visits=given.visits, networks=given.networks, seed=given.seed).networks  # what the record numbers; a table sorts them
    names = {tuple(code): f"n{number}" for number, code in enumerate(planned.tolist())}
    by_item: dict[str, list[Visit]] = {}
    for visit in record.visits:
        by_item.setdefault(visit.item, []).append(visit)
    prices = quiet_ms([by_item[names[tuple(each.architecture.code(index.space)[0].tolist())]] for each in table.networks])
    return replace(table, networks=tuple(replace(each, p50_ms=float(price)) for each, price in zip(table.networks, prices, strict=True)))


def kernels_s(folder: Path) -> float:
    """Seconds that counted runs and their warm-ups took themselves, as far as the record tells: each warm-up as long as a run."""
    with Store(folder / FILE) as store:
        record = Record(store)
    return sum(float(np.mean(visit.ns)) * (record.bursts[visit.item].burst.warmups + len(visit.ns)) for visit in record.visits) / 1e9


def waiting_s(folder: Path) -> float:
    """Seconds between the passes of a profile, in which nothing ran."""
    with Store(folder / FILE) as store:
        gaps = np.diff([visit.at_ns for visit in Record(store).visits]) / 1e9
    return float(gaps[gaps > 1.0].sum())


def _profiled(index: BlockIndex, folder: Path, given: argparse.Namespace, seed: int, progress: Progress | None = None) -> LatencyTable:
    device = load_device(given.device)
    options = {"runtime": given.runtime, "threads": device.threads, "visits": given.visits, "networks": given.networks}
    return profile(index, device, folder, **options, timing=replace(TIMING, least_span_s=given.span), seed=seed, progress=progress)


def repeated(index: BlockIndex, first: LatencyTable, given: argparse.Namespace) -> dict[str, float]:
    """How much a second table of the same device differs: largest and mean difference of 40 predictions, median and 90th percentile of rows."""
    with tempfile.TemporaryDirectory() as folder:
        second = _profiled(index, Path(folder), given, given.seed + 1)
    codes = unseen_networks(index, 40, np.random.default_rng([given.seed, 78]))
    predicted = np.abs(calibrated(second, index)(codes) / calibrated(first, index)(codes) - 1)
    both = [(first.entries[text], second.entries[text]) for text in first.entries if text in second.entries]
    rows = np.abs([b.price_ms / a.price_ms - 1 for a, b in both if isinstance(a, Measurement) and isinstance(b, Measurement)])
    return {
        "predictions_largest": float(predicted.max()),
        "predictions_mean": float(predicted.mean()),
        "rows_median": float(np.median(rows)),
        "rows_p90": float(np.quantile(rows, 0.9)),
    }


def measure(given: argparse.Namespace) -> dict[str, Any]:
    index = BlockIndex(registry.create("spaces", given.space))
    stages: dict[str, float] = {}
    rng = np.random.default_rng([given.seed, 77])
    codes = unseen_networks(index, given.unseen, rng)
    before = visits_of(index, codes, given.passes // 2, given, rng)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.table or Path(temporary) / "table"
        started = time.monotonic()
        table = _profiled(index, folder, given, given.seed, lambda stage, done, total: stages.setdefault(stage, time.monotonic() - started))
        ended = time.monotonic() - started
        quiet = quiet_table(table, folder, index, given) if (folder / FILE).exists() else None
        kernels, waiting = (kernels_s(folder), waiting_s(folder)) if (folder / FILE).exists() else (float("nan"), 0.0)
    again = repeated(index, table, given) if given.again else None
    after = visits_of(index, codes, given.passes - len(before[0]), given, rng)
    visits = [a + b for a, b in zip(before, after, strict=True)]
    truth, at_best = medians_ms(visits), quiet_ms(visits)
    moved = np.nanmedian(medians_ms(after) / medians_ms(before)) - 1
    known = ~np.isnan(truth)
    codes, truth, at_best = np.asfortranarray(codes[known]), truth[known], at_best[known]
    groups = codes[:, index.space.column["resolution"]].tolist()
    work = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    own = [each for each in table.networks if each.fingerprint == index.fingerprint]
    fitted, measured = np.concatenate([each.architecture.code(index.space) for each in own]), np.array([each.p50_ms for each in own])
    line = np.stack([work(np.asfortranarray(fitted)), np.ones(len(own))], axis=1) / measured[:, None]
    slope, constant = np.linalg.lstsq(line, np.ones(len(own)), rcond=None)[0]
    prices = Additive(index, lookup(table, index.space.name).prices(index.blocks), name="latency", unit="ms")
    predictions = {"calibrated table": calibrated(table, index)(codes), "plain sum": prices(codes), "line through MACs": slope * work(codes) + constant}
    figures = {name: asdict(quality(truth, predicted, groups)) for name, predicted in predictions.items()}
    if quiet is not None:
        figures["quiet, calibrated"] = asdict(quality(at_best, calibrated(quiet, index)(codes), groups))
    running = ended - stages.get("measure", 0.0) - waiting
    return {
        "space": given.space,
        "conditions": str(table.conditions),
        "processor": table.conditions.processor,
        "blocks": len(table.entries),
        "calibration_networks": len(own),
        "unseen_networks": len(truth),
        "moved_meanwhile": float(moved),
        "steadiness": table.anchor.get("visits", {}),
        "sessions_s": stages.get("measure", 0.0),
        "waiting_s": waiting,
        "running_s": running,
        "kernels_s": kernels,
        "running_to_kernels": running / kernels,
        "mape_of_macs_line": figures["calibrated table"]["mape"] / figures["line through MACs"]["mape"],
        "predictions": figures,
        "again": again,
        "targets": TARGETS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="ofa_mobilenet_v3(resolutions=(128,160,192,224))")
    parser.add_argument("--device", default="localhost")
    parser.add_argument("--runtime", default="", help="one of the device's, by default its first")
    parser.add_argument("--unseen", type=int, default=200)
    parser.add_argument("--passes", type=int, default=32, help="visits of each unseen network, half of them before the profile")
    parser.add_argument("--networks", type=int, default=60)
    parser.add_argument("--visits", type=int, default=16)
    parser.add_argument("--span", type=float, default=120.0, help="seconds over which the profile's visits are spread at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="make the table twice and compare")
    parser.add_argument("--table", type=Path, help="keep the table in this folder, or use the one that is there")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.unseen < 8 or given.passes < 2:
        sys.exit("--unseen must be at least 8, --passes at least 2")
    try:
        report = measure(given)
    except HwnasError as error:
        sys.exit(str(error))
    if given.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{report['space']} on {report['processor']} ({report['conditions']})")
    print(f"{report['blocks']} blocks and {report['calibration_networks']} calibration networks; {report['unseen_networks']} unseen networks")
    print(f"sessions {report['sessions_s']:.1f} s, waiting {report['waiting_s']:.1f} s, running {report['running_s']:.1f} s", end=", ")
    print(f"{report['running_to_kernels']:.2f} times the bare kernels")
    print(f"between the visits before the profile and those after it the networks' latency changed by {report['moved_meanwhile']:+.2%}")
    print("steadiness: " + str({key: value for key, value in report["steadiness"].items() if key != "most_uneven"}))
    print("prediction            bias   mean error  within 5 %  within 10 %  rho within a resolution")
    for name, each in report["predictions"].items():
        errors = f"{each['bias']:>+7.2%} {each['mape']:>11.2%} {each['within_5pct']:>11.1%} {each['within_10pct']:>12.1%}"
        print(f"{name:<18} {errors} {each['within_group_spearman']:>12.4f}")
    if report["again"]:
        print("made twice: " + ", ".join(f"{name.replace('_', ', ')} {value:.2%}" for name, value in report["again"].items()) + " (target of the largest: 1 %)")
    print(f"mean error is {report['mape_of_macs_line']:.2f} of the line's")
    print(f"targets: {TARGETS}")


if __name__ == "__main__":
    main()
