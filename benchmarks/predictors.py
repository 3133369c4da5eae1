"""Latency predictors on data that others measured: FBNet and Once-for-All networks on five processors, tables that are sums, kernels of TensorRT.

    HWNAS_DATA=DIR OPENBLAS_NUM_THREADS=1 python benchmarks/predictors.py [--draws 3] [--only networks kernels] [--json]

`network_regression` is fitted to so many networks drawn at random and predicts all others; `macs` is a line through their
multiply-accumulates, fitted to the same networks. Intervals are those of `hwnas.intervals`. The pixel3 and raspi4 columns of FBNet are
sums of a table, which was recovered from them: here they only show that look-ups and sums are exact.

Kernels are single convolutions on a V100 under TensorRT (TinyNAS): predictors of blocks are fitted to some and predict others.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.blocks import conv_bn_act, pooled_head
from hwnas.costs import macs
from hwnas.graph import IDENTITY, Block, Node
from hwnas.index import BlockIndex
from hwnas.intervals import margin
from hwnas.ops import Add, Conv2d
from hwnas.predictor import Additive
from hwnas.predictors.gaussian_process import GaussianProcess
from hwnas.predictors.graph_network import GraphNetwork
from hwnas.predictors.kernel_forest import KernelForest
from hwnas.predictors.macs import Macs
from hwnas.predictors.network_regression import regression
from hwnas.space import Choice, Codes, Layer, SearchSpace
from hwnas.spaces.ofa_mobilenet_v3 import ofa_mobilenet_v3

#: FBNet (Wu et al., 2019, table 1): out channels, blocks, stride of the first block.
STAGES = ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))
#: kernel, expansion, groups; in the order of HELP's `op_idx`, the last of which skips.
OPERATIONS = ((3, 1, 1), (3, 1, 2), (3, 3, 1), (3, 6, 1), (5, 1, 1), (5, 1, 2), (5, 3, 1), (5, 6, 1), None)

FITS = {
    "macs": Macs,
    "kernel_forest": KernelForest.fit,
    "gaussian_process": GaussianProcess,
    "graph_network": GraphNetwork.fit,
}

SUMS = ("pixel3", "raspi4")  # columns that are sums of a table

#: (column, networks) -> least share within 10 %
TARGETS = {
    **{(f"{gpu}_{batch}", n): share for gpu in ("1080ti", "titan_rtx") for batch in (1, 32, 64) for n, share in ((200, 0.99), (1_000, 0.995))},
    ("silver_4114", 200): 0.97,
    ("silver_4114", 1_000): 0.99,
    ("gold_6226", 200): 0.80,
    ("gold_6226", 1_000): 0.93,
}


def rows_of(name: str) -> tuple[list[str], list[list[str]]]:
    folder = os.environ.get("HWNAS_DATA")
    if not folder or not (path := Path(folder) / name).is_file():
        sys.exit(f"set HWNAS_DATA to the folder that holds {name}")
    with gzip.open(path, "rt") as file:
        head, *rows = csv.reader(file)
    return head, rows


def fbnet() -> SearchSpace:
    """22 layers with nine operations each."""
    shape, choices = (1, 16, 112, 112), []
    layers = [Layer("stem", (), partial(conv_bn_act, (1, 3, 224, 224), 16, 3, 2))]
    for out, blocks, first in STAGES:
        for i in range(blocks):
            choice = Choice(f"layer{len(choices)}", tuple(range(len(OPERATIONS))))
            stride = first if i == 0 else 1
            layers.append(Layer(choice.name, (choice,), partial(_block, shape, out, stride)))
            choices.append(choice)
            shape = (1, out, shape[2] // stride, shape[3] // stride)
    layers.append(Layer("head", (), partial(pooled_head, shape, 1504, 1000)))
    return SearchSpace("fbnet", choices, layers)


def _block(shape: tuple[int, ...], out: int, stride: int, operation: int) -> Block:
    parameters = OPERATIONS[operation]
    if parameters is None:  # where the shape changes, a 1x1 convolution stands in
        return IDENTITY if shape[1] == out and stride == 1 else conv_bn_act(shape, out, 1, stride)
    kernel, expand, groups = parameters
    widen = Conv2d(shape, out=shape[1] * expand, groups=groups, act="relu")
    depthwise = Conv2d(widen.output, out=widen.out, kernel=kernel, stride=stride, groups=widen.out, act="relu")
    project = Conv2d(depthwise.output, out=out, groups=groups)
    nodes = [Node("expand", widen, ("in0",)), Node("depthwise", depthwise, ("expand",)), Node("project", project, ("depthwise",))]
    return tuple(nodes) if stride != 1 or shape[1] != out else (*nodes, Node("add", Add(project.output), ("project", "in0")))


def ofa_codes(space: SearchSpace, rows: list[list[str]]) -> Codes:
    """HELP's rows: kernels, expansions and depths as `ks`, `e`, `d`; what a stage's depth leaves out is of no effect."""
    codes = np.zeros((len(rows), len(space.choices)), np.int16, order="F")
    for i, (_, kernels, expands, depths, resolution, *_) in enumerate(rows):
        kernel, expand, depth = (list(map(int, each.split())) for each in (kernels, expands, depths))
        values: dict[str, Any] = {"resolution": int(resolution)}
        for stage in range(5):
            values[f"stage{stage + 1}.depth"] = depth[stage]
            for block in range(4):
                values[f"stage{stage + 1}.block{block}.kernel"] = kernel[4 * stage + block]
                values[f"stage{stage + 1}.block{block}.expand"] = expand[4 * stage + block]
        codes[i] = [choice.values.index(values[choice.name]) for choice in space.choices]
    return codes


def judge(index: BlockIndex, codes: Codes, latency: np.ndarray, n: int, draws: int) -> dict[str, float]:
    work = Additive(index, macs(index.blocks), name="macs", unit="MACs")(codes)
    found: dict[str, list[float]] = {key: [] for key in ("within_5pct", "within_10pct", "mape", "macs_within_10pct", "coverage", "margin")}
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(codes))
        few, rest = order[:n], order[n:]
        features, fit = regression(index, codes[few], latency[few])
        linear = fit.linear
        predicted = Additive(index, features.cells(linear), name="latency", unit="ms", constant=linear.constant)(codes[rest])
        error = np.abs(predicted / latency[rest] - 1)
        weights = np.polyfit(work[few], latency[few], 1, w=1 / latency[few])
        wide = margin(latency[few], fit.left_out(), 0.9)
        values = (error <= 0.05).mean(), (error <= 0.1).mean(), error.mean(), (np.abs(np.polyval(weights, work[rest]) / latency[rest] - 1) <= 0.1).mean()
        inside = (latency[rest] <= predicted * wide) & (latency[rest] >= predicted / wide)
        for key, value in zip(found, (*values, inside.mean(), wide - 1), strict=True):
            found[key].append(float(value))
    return {key: float(np.mean(values)) for key, values in found.items()}


def recovered(index: BlockIndex, codes: Codes, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Greatest difference in ms between a column and the sums of its recovered table."""
    _, rows = rows_of("fbnet_lut_recovered_ms.csv.gz")
    worst = {}
    for device in sorted({row[0] for row in rows}):
        cells, constant = [np.zeros(len(table)) for table in index.tables], 0.0
        for _, layer, operation, cost in (row for row in rows if row[0] == device):
            if layer == "-1":
                constant = float(cost)
            else:
                cells[int(layer) + 1][int(operation)] = float(cost)  # the stem comes first
        worst[device] = float(np.abs(Additive(index, cells, name="latency", unit="ms", constant=constant)(codes) - columns[device]).max())
    return worst


def kernels(n: int, draws: int) -> list[dict[str, Any]]:
    """Each predictor of blocks, fitted to n convolutions and judged by 2,000 others."""
    rows = [row for row in rows_of("tinynas_v100_trt_conv_fp32.csv.gz")[1] if int(row[6]) % 2]
    found: dict[str, list[tuple[float, ...]]] = {}
    for draw in range(draws):
        some = [rows[i] for i in np.random.default_rng(draw).permutation(len(rows))[: n + 2_000]]
        blocks, latency = [_kernel(row) for row in some], np.array([float(row[-1]) for row in some])
        for name, fit in FITS.items():
            error = np.abs(fit(blocks[:n], latency[:n]).prices(blocks[n:]) / latency[n:] - 1)
            found.setdefault(name, []).append(((error <= 0.05).mean(), (error <= 0.1).mean(), error.mean()))
    keys = ("within_5pct", "within_10pct", "mape")
    return [{"predictor": name, "kernels": n, **dict(zip(keys, np.mean(values, axis=0).tolist(), strict=True))} for name, values in found.items()]


def _kernel(row: list[str]) -> Block:
    kind, (batch, channels, height, width, out, kernel, stride, fused) = row[0], map(int, row[1:9])
    conv = Conv2d((batch, channels, height, width), out=out, kernel=kernel, stride=stride, groups=channels if kind != "Regular" else 1)
    node = Node("conv", conv, ("in0",))
    return (node, Node("add", Add(conv.output), ("conv", "in1"))) if fused else (node,)


def networks(draws: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Figures of each measured column, and how exactly the columns that are sums are reproduced."""
    head, rows = rows_of("help_fbnet_latency_ms.csv.gz")
    index, codes = BlockIndex(fbnet()), np.asfortranarray([list(map(int, row[1].split())) for row in rows], np.int16)
    columns = {name: np.array([float(row[i]) for row in rows]) for i, name in enumerate(head) if i > 1}
    figures = [
        {"space": "fbnet", "device": name, "networks": n, "target": TARGETS.get((name, n)), **judge(index, codes, columns[name], n, draws)}
        for n in (200, 1_000)
        for name in columns
        if name not in SUMS
    ]
    sums = recovered(index, codes, columns)
    head, rows = rows_of("help_ofa_latency_ms.csv.gz")
    index = BlockIndex(ofa_mobilenet_v3())
    codes = ofa_codes(index.space, rows)
    for name in ("titan_rtx_64", "titan_rtx_32", "2080ti_64"):
        latency = np.array([float(row[head.index(name)]) for row in rows])
        target = 0.99 if name == "titan_rtx_64" else None
        figures.append({"space": "ofa", "device": name, "networks": 50, "target": target, **judge(index, codes, latency, 50, draws)})
    return figures, sums


def show_networks(figures: list[dict[str, Any]], sums: Mapping[str, float]) -> None:
    print("network_regression                    of the others within                   mean   MACs line,      within intervals")
    print("space  device        networks       5 %      10 %    target              error  within 10 %      of 90 % (they are)")
    for each in figures:
        target = "" if each["target"] is None else f"{100 * each['target']:5.1f} % {'met' if each['within_10pct'] >= each['target'] else 'MISSED'}"
        shares = f"{100 * each['within_5pct']:8.1f}  {100 * each['within_10pct']:8.2f}"
        rest = f"{100 * each['mape']:5.1f} %     {100 * each['macs_within_10pct']:6.1f}        {100 * each['coverage']:6.1f} (+-{100 * each['margin']:.1f} %)"
        print(f"{each['space']:6s} {each['device']:13s} {each['networks']:8d}  {shares}    {target:15s}  {rest}")
    for device, worst in sums.items():
        print(f"recovered table of {device}: 5,000 sums reproduced to {worst:.1e} ms, target 1e-4 {'met' if worst <= 1e-4 else 'MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency predictors on measured data.")
    parser.add_argument("--draws", type=int, default=3, help="random draws of what is fitted to")
    parser.add_argument("--only", nargs="+", choices=("networks", "kernels"), default=["networks", "kernels"])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    report: dict[str, Any] = {"draws": given.draws}
    if "networks" in given.only:
        report["networks"], report["recovered_worst_ms"] = networks(given.draws)
    if "kernels" in given.only:
        report["kernels"] = [each for n in (200, 1_000) for each in kernels(n, given.draws)]
    if given.json:
        print(json.dumps(report, indent=1))
        return
    if "networks" in report:
        show_networks(report["networks"], report["recovered_worst_ms"])
    if "kernels" in report:
        print("convolutions, fitted to   predictor          within 5 %  within 10 %  mean error")
        for each in report["kernels"]:
            shares = f"{100 * each['within_5pct']:8.1f}  {100 * each['within_10pct']:11.1f}"
            print(f"{each['kernels']:23d}   {each['predictor']:17s}  {shares}  {100 * each['mape']:9.1f} %")


if __name__ == "__main__":
    main()
