"""`space list` and `space show`: what a search space holds, in the literature's numbers, and whether budgets can be kept in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.budget import Budget
from hwnas.errors import InputError
from hwnas.feasible_set import FeasibleSet, describe
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable
from hwnas.predictor import Layerwise, Metric
from hwnas.predictors.calibrated import calibrated, variant_for
from hwnas.space import SearchSpace
from hwnas.variant import Variant
from hwnas.verbs.common import COSTS, budget_facts, cost_metrics, elsewhere, other_tables, share_facts, table_folder


def show_space(
    name: str,
    *,
    table: Path | str | None = None,
    latency: str | None = None,
    macs: str | None = None,
    params: str | None = None,
    memory: str | None = None,
    size: str | None = None,
    also: Sequence[str] = (),
    precision: str | None = None,
    batch: int | None = None,
) -> Mapping[str, Any]:
    """Facts about the space that `name` (or `name(key=value)`, or `path.py:name`) makes.

    `encodings`: choices of skipped layers collapsed, resolution excluded. `subnets`: distinct networks, all resolutions. `macs`,
    `params`, `memory` (peak of the activations in bytes; null where layers form no chain) and `size` (of the exported file): least and greatest at the largest
    resolution. `references`: architectures of the literature, each with its `architecture`, `macs` and `params`, what was published of them, the
    difference in per cent and the `source`. With budgets, `feasibility`: each budget with its reach and share of the space, the share within all, and a
    `witness`, an architecture that keeps all of them, also `in_words`. latency: `<= 12ms p50`, predicted from `table`; also: on other
    devices, `TABLE <= 30ms p50`; the others: `<= 300M`, `<= 4M`, `<= 512kB`, `<= 4MB`; or a share of the largest subnet, `<= 60%`.
    precision, batch: what it is deployed in, by default the table's, else float32 for one image: memory and size depend on it, MACs are those of one image.

    Raises UnknownName, InputError, and Infeasible where no architecture keeps the budgets.
    """
    if (latency is None) != (table is None):
        missing = "--latency is predicted from a table: give its folder with --table" if table is None else "--table prices a budget: give it with --latency"
        raise InputError(f"{missing}, or leave both out")
    space: SearchSpace = registry.create("spaces", name)
    index = BlockIndex(space)
    hold = {"resolution": len(space.choices[space.column["resolution"]].values) - 1} if "resolution" in space.column else {}
    loaded = None if table is None else LatencyTable.load(table_folder(table))
    variant = Variant(precision or "fp32", 1 if batch is None else batch) if loaded is None else variant_for(loaded, index, precision, batch)
    encodings, subnets, costs = index.encodings(), index.subnets(), cost_metrics(index, variant.index(index))
    budgets: list[tuple[Budget, Metric]] = []
    if latency is not None and loaded is not None:
        budget = Budget.parse("latency", latency)
        budget = replace(budget, where=str(loaded.conditions)) if also else budget
        budgets.append((budget, calibrated(loaded, index, budget.quantile, variant)))
    others = [elsewhere(index, variant, LatencyTable.load(folder), text) for folder, text in other_tables(also)]
    budgets += [(each.budget, each.latency) for each in others]
    budgets += [(Budget.parse(cost, text), costs[cost]) for cost, text in zip(COSTS, (macs, params, memory, size), strict=True) if text is not None]
    return {
        "name": space.name,
        "fingerprint": index.fingerprint,
        "precision": variant.precision,
        "batch": variant.batch,
        "choices": [{"name": choice.name, "values": list(choice.values)} for choice in space.choices],
        "layers": len(space.layers),
        "distinct_blocks": len(index.blocks),
        "encodings": encodings.n,
        "encodings_exact": encodings.exact,
        "subnets": subnets.n,
        "subnets_exact": subnets.exact,
        "resolution": space.choices[space.column["resolution"]].values[-1] if hold else None,
        **{cost: _range(metric, hold) for cost, metric in costs.items()},
        "references": [_reference(space, name, costs) for name in space.references],
        **({"feasibility": _feasibility(index, budgets)} if budgets else {}),
    }


def _reference(space: SearchSpace, name: str, costs: Mapping[str, Metric]) -> dict[str, Any]:
    """An architecture of the literature: what it costs here, what was published, and by how much the two differ."""
    values, published = space.references[name], space.published.get(name)
    facts: dict[str, Any] = {"name": name, "architecture": dict(values), "source": None if published is None else published.source}
    for cost in ("macs", "params"):
        here, there = int(costs[cost](space.encode(values))[0]), getattr(published, cost, None)
        facts[cost] = here
        facts[f"{cost}_published"] = there
        facts[f"{cost}_difference_pct"] = None if there is None else 100 * (here / there - 1)
    return facts


def _range(metric: Metric, hold: Mapping[str, int]) -> dict[str, int] | None:
    if not isinstance(metric, Layerwise):
        return None
    least, greatest = metric.bounds(hold)
    return {"min": int(least.value), "max": int(greatest.value)}


def _feasibility(index: BlockIndex, budgets: list[tuple[Budget, Metric]]) -> dict[str, Any]:
    found = FeasibleSet(index, budgets).survey(np.random.default_rng(0))
    return {
        "budgets": budget_facts(found),
        "share": share_facts(found.share),
        "witness": index.space.decode(found.witness[0]),
        "in_words": describe(index.space, found.witness),
    }
