"""NAS-Bench-201 (Dong and Yang, 2020): all 15,625 cells, trained for 12 epochs; and latencies of real devices (HELP, Lee et al., 2021) as budgets."""

from __future__ import annotations

import re

import numpy as np

from hwnas.benchmark_tables import Columns, find_table
from hwnas.budget import Budget
from hwnas.errors import DamagedFile, InputError, UnknownName
from hwnas.index import BlockIndex
from hwnas.predictor import Metric
from hwnas.problem import Objective, Problem
from hwnas.space import FloatArray
from hwnas.spaces.nasbench201 import EDGES, OPERATIONS
from hwnas.spaces.nasbench201 import nasbench201 as space_of_cells
from hwnas.tabular_benchmark import TabularBenchmark, Tabulated

ACCURACY = "nb201_accuracy.csv.gz"
LATENCY = "help_nasbench201_latency_ms.csv.gz"
#: images: beginning of the columns, and their name in words
IMAGES = {"cifar10": ("cifar10", "CIFAR-10"), "cifar100": ("cifar100", "CIFAR-100"), "imagenet16": ("imagenet", "ImageNet16-120")}
_CELL = re.compile(r"\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|\+\|(\w+)~0\|(\w+)~1\|(\w+)~2\|")


def nasbench201(images: str = "cifar10", device: str = "", quantile: float = 0.3) -> TabularBenchmark:
    """images: cifar10, cifar100 or imagenet16. device: a column of HELP's latencies, whose `quantile` is the budget; without one there is none.

    Searchers see validation accuracy after 12 epochs, test accuracy after 12 epochs is reported. Raises InputError where a table is not there.
    """
    if images not in IMAGES:
        raise UnknownName("set of images", images, IMAGES)
    if not 0 < quantile <= 1:
        raise InputError(f"quantile is {quantile:g}, it must be above 0 and at most 1")
    prefix, words = IMAGES[images]
    table = Columns(find_table(ACCURACY, "get it with: hwnas data fetch nasbench201"), ("arch_str", f"{prefix}_val", f"{prefix}_test"))
    place = _places(table)
    validation, test = (_tabulated(table, f"{prefix}_{part}", place) for part in ("val", "test"))
    signal = Tabulated(validation, name="accuracy", unit="%", expensive=True)
    data, latency, budgets = table.digest("arch_str", f"{prefix}_val", f"{prefix}_test"), None, list[tuple[Budget, Metric]]()
    about = f"{words} after 12 epochs: searchers see the validation accuracy, the test accuracy is reported"
    inside = np.ones(test.shape, np.bool_)
    if device:
        measured = Columns(find_table(LATENCY, "it is published as part of HELP (Lee et al., 2021), and is not fetched by hwnas"), ("arch_idx",))
        if device not in measured.head[1:]:
            raise UnknownName("device of HELP's latencies", device, measured.head[1:])
        if len(measured.rows) != len(table.rows) or measured.texts("arch_idx") != table.texts("arch_idx"):
            raise DamagedFile(f"{measured.path} is not of the same cells as {table.path}, or in another order")
        milliseconds = _tabulated(measured, device, place)
        limit = float(np.quantile(milliseconds, quantile))
        latency = Tabulated(milliseconds, name="latency", unit="ms")
        budgets.append((Budget("latency", limit), latency))
        inside = milliseconds <= limit
        data = f"{data}+{measured.digest(device)}"
        about += f"; latency on {device} (measured by others) within {limit:.4g} ms, which {inside.mean():.0%} of the cells keep"
    problem = Problem(BlockIndex(space_of_cells()), [Objective(signal, maximize=True)], budgets)
    reported = Tabulated(test, name="test accuracy", unit="%")
    return TabularBenchmark(problem, reported, float(test[inside].max()), about, data, latency_ms=latency)


def _places(table: Columns) -> tuple[np.ndarray, ...]:
    """The code of each row's cell, an array (rows,) for each edge. Raises DamagedFile where the cells are not all cells."""
    numbers = {operation: i for i, operation in enumerate(OPERATIONS)}
    codes = np.full((len(table.rows), len(EDGES)), -1)
    for row, cell in enumerate(table.texts("arch_str")):
        match = _CELL.fullmatch(cell)
        codes[row] = [numbers.get(operation, -1) for operation in match.groups()] if match else -1
    if codes.min() < 0 or len(np.unique(codes, axis=0)) != len(codes) or len(codes) != len(OPERATIONS) ** len(EDGES):
        raise DamagedFile(f"{table.path} does not hold every cell of NAS-Bench-201 once")
    return tuple(codes.T)


def _tabulated(table: Columns, column: str, place: tuple[np.ndarray, ...]) -> FloatArray:
    values = np.empty((len(OPERATIONS),) * len(EDGES))
    values[place] = table.numbers(column)
    return values
