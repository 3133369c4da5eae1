"""What a run has evaluated, and answers from it: networks within other limits, of a corrected predictor, without new training.

Accuracies that were measured stay measured. What nobody evaluated is the exact optimum of an additive surrogate of them, and its accuracy predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwnas.architecture import Architecture
from hwnas.budget import Budget
from hwnas.errors import Infeasible
from hwnas.exact import FrontTooLarge, pareto_front, solve
from hwnas.feasible_set import Constraint
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable, NetworkMeasurement
from hwnas.predictor import Additive, Layerwise, Metric, Origin, Peak
from hwnas.space import Codes, FloatArray
from hwnas.surrogate import Surrogate, fit_surrogate
from hwnas.verbs.accuracy import recorded_codes
from hwnas.verbs.common import Job
from hwnas.verbs.records import KNOWN, TABLE, checked

#: Stages that evaluate subnets at the cost of a pass over the validation images.
STAGES = ("search", "random", "uniform", "accuracy", "verify")
#: Of the limits on latency: where the surrogate is solved, so that one network fits where measurements disagree with predictions.
SHARES = (1.0, 0.985, 0.97, 0.955, 0.94, 0.92, 0.9, 0.87)
_MOST_SAMPLES = 2_000  # that the surrogate is fitted to


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Distinct subnets and their accuracy in %, (n, choices) and (n,); `origin` is measured where a supernet was evaluated."""

    codes: Codes
    accuracy_pct: FloatArray
    origin: Origin

    def surrogate(self, index: BlockIndex) -> Surrogate:
        """Raises InputError where they are too few."""
        rows = np.sort(np.random.default_rng(0).permutation(len(self.codes))[:_MOST_SAMPLES])
        return fit_surrogate(index, np.asfortranarray(self.codes[rows]), self.accuracy_pct[rows])


def evaluated(job: Job) -> Evaluated:
    """Every distinct subnet whose accuracy the run has, the last evaluation of each. Raises DamagedFile."""
    where = f"the accuracies of {job.run.folder}"
    rows: list[Sequence[int]] = []
    accuracy: list[float] = []
    for event in job.run.events("solve", "known"):
        body = checked(event.body, KNOWN, where)
        rows += body["codes"]
        accuracy += body["accuracy_pct"]
    origin: Origin = "measured" if job.is_trained else "predicted"
    if job.is_trained:
        for stage in STAGES:
            for body in job.evaluations(stage):
                if body["values"] and body["values"][0] is not None and body.get("fidelity", 1.0) == 1.0:
                    rows.append(body["code"])
                    accuracy.append(body["values"][0])
    elif not rows:
        search = job.result("search")
        for point in [*search["points"], *(point for each in (search.get("baselines") or {}).values() for point in each["points"])]:
            rows.append(point["code"])
            accuracy.append(point["accuracy_pct"])
    codes = recorded_codes(job, rows, where)
    last = len(codes) - 1 - job.index.first_rows(np.asfortranarray(codes[::-1]))[::-1]
    return Evaluated(np.asfortranarray(codes[last]), np.array(accuracy, np.float64)[last], origin)


def solved(index: BlockIndex, accuracy: Additive, budgets: Sequence[tuple[Budget, Metric]], shares: Sequence[float] = SHARES) -> Codes:
    """The exact optimum of an additive accuracy within each share of the limits on latency, (n, choices): distinct subnets, that of the largest share first.

    Budgets whose metric is neither a sum over layers nor the largest of them only sort out. Empty where nothing is within them.
    """
    constraints = [Constraint.of(index.space, *each) for each in budgets]
    exact = [(each.budget, each.metric) for each in constraints if isinstance(each.metric, Layerwise)]
    sums, peaks = [each for each in exact if isinstance(each[1], Additive)], [(budget, metric) for budget, metric in exact if isinstance(metric, Peak)]
    found: list[Codes] = []
    try:
        if len(sums) != 1 or not isinstance(sums[0][1], Additive):
            raise FrontTooLarge("there is no front of several budgets")
        front = pareto_front(accuracy, sums[0][1], within=peaks)
        limit = Constraint(*sums[0]).limit
        found += [front.within(limit * share).codes[-1:] for share in shares]
    except FrontTooLarge:
        with suppress(Infeasible):
            for share in shares:
                found.append(solve(accuracy, [(_cut(budget, share), metric) for budget, metric in exact]).code)
    codes = np.asfortranarray(np.concatenate([np.empty((0, len(index.space.choices)), np.int16), *found]))
    inside = np.all([np.ones(len(codes)), *(each.price(codes) <= each.limit for each in constraints)], axis=0)
    return index.distinct(np.asfortranarray(codes[inside]))


def _cut(budget: Budget, share: float) -> Budget:
    return replace(budget, limit=budget.limit * share) if budget.metric == "latency" and budget.limit is not None else budget


def gap_of(surrogate: Surrogate, optimum: Codes, best_pct: float) -> dict[str, Any]:
    """What the surrogate says of its own optimum, and of how far it lies above the best that was evaluated."""
    optimum_pct = float(surrogate.metric(optimum)[0])
    return {
        "samples": surrogate.samples,
        "error_points": surrogate.error,
        "spearman": surrogate.spearman,
        "optimum_pct": optimum_pct,
        "best_found_pct": best_pct,
        "gap_points": max(0.0, optimum_pct - best_pct),
        "proof": "exact optimum of the surrogate",
    }


# -- the calibration learns ---------------------------------------------------------------------------------------------------


def latest_table(job: Job) -> LatencyTable:
    """The run's own copy of its table, with the networks that `verify` has measured since."""
    copies = job.run.events("verify", "table")
    if not copies:
        return job.table
    loaded: list[LatencyTable] = []
    body = checked(copies[-1].body, TABLE, f"the table that verify of {job.run.folder} corrected")
    job.run.load_files(body["files"], lambda folder: loaded.append(LatencyTable.load(folder)))
    return loaded[0]


def fed(table: LatencyTable, networks: Sequence[NetworkMeasurement], origin: Mapping[str, Any]) -> LatencyTable:
    """The table with these networks, each in the place of an earlier measurement of itself; `provenance.verified` says where they come from.

    origin: of this window, such as its date and length.
    """
    kept = {_key(each): each for each in table.networks} | {_key(each): each for each in networks}
    before = table.provenance.get("verified")
    windows = [*(before if isinstance(before, list) else []), {**origin, "networks": [dict(each.architecture.values) for each in networks]}]
    return replace(table, networks=tuple(kept.values()), provenance={**table.provenance, "verified": windows})


def keep_table(job: Job, table: LatencyTable) -> None:
    """Record a corrected table: the next `verify` and `solve` of this run begin with it."""
    job.run.append("verify", "table", {"name": job.table_name, "files": job.run.keep_files(table.save)})


def as_network(job: Job, code: Sequence[int], row: Mapping[str, Any]) -> NetworkMeasurement:
    """A network as `verify` measured it."""
    architecture = Architecture.of(job.deployed.space, np.array([code], np.int16))
    percentiles = (row["p10_ms"], row["p50_ms"], row["p90_ms"])
    return NetworkMeasurement(architecture, job.deployed.fingerprint, *percentiles, row["visits"], row["dropped"])


def _key(network: NetworkMeasurement) -> tuple[str, str]:
    return network.fingerprint, network.architecture.to_json()
