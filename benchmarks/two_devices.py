"""How far two latency tables of one space disagree: block by block, and about which architecture is the best within a budget.

    python benchmarks/two_devices.py TABLE_A TABLE_B --space ofa_mini

Blocks are grouped by the share of their MACs that is in depthwise convolutions. The best architecture is the exact one: the most MACs that
fit into the same share of each device's own range, priced on both. No accuracy is involved, and none is claimed.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from hwnas import registry
from hwnas.costs import macs
from hwnas.exact import pareto_front
from hwnas.graph import Graph, block_text
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable, Measurement
from hwnas.ops import Conv2d
from hwnas.predictor import Additive
from hwnas.predictors.calibrated import LEAST_NETWORKS, calibrated

BUDGETS = (0.3, 0.5, 0.7)


def depthwise_share(block):
    """Share of a block's MACs that is in depthwise convolutions."""
    graph = Graph.of_block(block)
    work = [(node.op.macs, isinstance(node.op, Conv2d) and node.op.groups > 1) for node in graph.nodes]
    return sum(each for each, is_depthwise in work if is_depthwise) / max(1, sum(each for each, _ in work))


def ratios(a, b, index):
    """(group, number of blocks, least, median and greatest price of b in prices of a) for each group of blocks."""
    blocks = [block for block in index.blocks if block and all(isinstance(t.entries.get(block_text(block)), Measurement) for t in (a, b))]
    shares = np.array([depthwise_share(block) for block in blocks])
    ratio = np.array([b.price_ms(block) / a.price_ms(block) for block in blocks])
    groups = {"no depthwise": shares == 0, "some depthwise": (shares > 0) & (shares < 1), "depthwise alone": shares == 1}
    return [(name, int(chosen.sum()), *np.quantile(ratio[chosen], (0, 0.5, 1))) for name, chosen in groups.items() if chosen.any()]


def best_of_each(a, b, index):
    """For each budget: MACs of the best architecture of each device, and what the other's best would be on this one."""
    work = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    latencies = [calibrated(table, index) for table in (a, b)]
    fronts = [pareto_front(work, latency) for latency in latencies]
    rows = []
    for share in BUDGETS:
        limits = [front.costs[0] + share * (front.costs[-1] - front.costs[0]) for front in fronts]
        best = [front.within(limit) for front, limit in zip(fronts, limits, strict=True)]
        for own, other in ((0, 1), (1, 0)):
            code, foreign = best[own].codes[-1:], best[other].codes[-1:]
            over = float(latencies[own](foreign)[0] / limits[own] - 1)
            row = {"budget_share": share, "device": own, "best_macs": best[own].values[-1], "others_best_macs": best[other].values[-1]}
            rows.append(row | {"others_best_over_budget": over, "choices_that_differ": int((code != foreign).sum()), "choices": code.shape[1]})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs=2, type=Path)
    parser.add_argument("--space", default="ofa_mini")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    a, b = (LatencyTable.load(folder) for folder in arguments.tables)
    index = BlockIndex(registry.create("spaces", arguments.space))
    found = {"devices": [str(a.conditions), str(b.conditions)], "ratios": ratios(a, b, index)}
    if min(len(a.networks), len(b.networks)) >= LEAST_NETWORKS:
        codes = index.space.sample(np.random.default_rng(0), 2000)
        found["kendall"] = float(kendalltau(calibrated(a, index)(codes), calibrated(b, index)(codes)).statistic)
        found["best"] = best_of_each(a, b, index)
    if arguments.json:
        json.dump(found, sys.stdout, indent=1)
        return
    print(f"price on {found['devices'][1]} over price on {found['devices'][0]}")
    for name, n, least, median, greatest in found["ratios"]:
        print(f"  {name:16}{n:5} blocks   {least:6.2f} ... {median:6.2f} ... {greatest:6.2f}")
    for row in found.get("best", []):
        print(
            f"  {100 * row['budget_share']:.0f} % of the range on {found['devices'][row['device']]}: best {row['best_macs'] / 1e6:.3f} M MACs; "
            f"the other device's best is {100 * row['others_best_over_budget']:+.1f} % off the budget, {row['choices_that_differ']} choices differ"
        )
    if "kendall" in found:
        print(f"  rank correlation of 2,000 random subnets: {found['kendall']:.3f}")


if __name__ == "__main__":
    main()
