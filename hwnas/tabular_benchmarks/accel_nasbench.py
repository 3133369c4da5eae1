"""Accel-NASBench (Ahmad et al., 2024): 5,138 networks of a space of 7.8e10, trained on ImageNet and timed on an FPGA; the others are predicted from them.

As in the original what searchers ask is a surrogate. Here it is a quadratic form of the one-hot choices, fitted by ridge regression: a number
for each value and for each pair of values. Two are fitted to halves of the networks, so that errors of the one that searchers see are not
rewarded by the one that is reported.
"""

from __future__ import annotations

import numpy as np

from hwnas.benchmark_tables import Columns, find_table
from hwnas.budget import Budget
from hwnas.errors import DamagedFile, InputError
from hwnas.index import BlockIndex
from hwnas.predictor import Origin
from hwnas.problem import Objective, Problem
from hwnas.space import Codes, FloatArray, SearchSpace
from hwnas.spaces.accel_nasbench import accel_nasbench as space_of_stages
from hwnas.tabular_benchmark import TabularBenchmark

FILE = "accel_nasbench.csv.gz"
#: columns of the table, in the order of a stage's choices
CHOICES = ("expand", "kernel", "layers", "se")
RIDGE = 0.3  # of standard deviations of errors to those of weights, squared; 0.1 to 1 rank the other half alike


class Quadratic:
    """A number for each pair of values of the choices, and for each value, summed: fitted to values (n,) of codes (n, choices)."""

    origin: Origin = "predicted"

    def __init__(self, space: SearchSpace, codes: Codes, values: FloatArray, *, name: str, unit: str, expensive: bool = False):
        self.name, self.unit, self.expensive = name, unit, expensive
        self._sizes = space.cardinalities
        hot = self._hot(codes)
        rows, columns = np.triu_indices(hot.shape[1])
        features = hot[:, rows] * hot[:, columns]
        mean, center = float(values.mean()), features.mean(axis=0)
        features -= center
        weights = np.linalg.solve(features.T @ features + RIDGE * np.eye(len(rows)), features.T @ (values - mean))
        self._form = np.zeros((hot.shape[1], hot.shape[1]))
        self._form[rows, columns] = weights
        self._constant = mean - float(center @ weights)

    def __call__(self, codes: Codes) -> FloatArray:
        hot = self._hot(codes)
        values: FloatArray = self._constant + ((hot @ self._form) * hot).sum(axis=1)
        return values

    def _hot(self, codes: Codes) -> FloatArray:
        """Which value each choice has, (n, values but the first of each choice)."""
        return np.concatenate([codes[:, [i]] == np.arange(1, size) for i, size in enumerate(self._sizes)], axis=1).astype(np.float64)


def accel_nasbench(quantile: float = 0.5) -> TabularBenchmark:
    """quantile: the budget, of the trained networks' latencies on the FPGA ZCU102. Raises InputError where the table is not there."""
    if not 0 < quantile <= 1:
        raise InputError(f"quantile is {quantile:g}, it must be above 0 and at most 1")
    columns = (*CHOICES, "val_top1", "zcu102_latency_mean")
    table = Columns(find_table(FILE, "get it with: hwnas data fetch accel_nasbench"), columns)
    space = space_of_stages()
    codes = _codes(table, space)
    accuracy, latency = table.numbers("val_top1"), table.numbers("zcu102_latency_mean", missing=True)
    timed = np.isfinite(latency)
    signal, reported = (
        Quadratic(space, codes[half::2], accuracy[half::2], name=name, unit="%", expensive=half == 0) for half, name in enumerate(("accuracy", "other half"))
    )
    milliseconds = Quadratic(space, codes[timed], latency[timed], name="latency", unit="ms")
    limit = float(np.quantile(latency[timed], quantile))
    problem = Problem(BlockIndex(space), [Objective(signal, maximize=True)], [(Budget("latency", limit), milliseconds)])
    seconds = Quadratic(space, codes, table.numbers("train_s"), name="training", unit="s") if "train_s" in table.head else None
    known = reported(codes[problem.within(codes)])
    about = "ImageNet, predicted: searchers see a surrogate fitted to one half of the trained networks, the surrogate of the other half is reported; "
    about += f"predicted latency on ZCU102 within {limit:.4g} ms"
    return TabularBenchmark(problem, reported, float(known.max()), about, table.digest(*columns), training_s=seconds, latency_ms=milliseconds)


def _codes(table: Columns, space: SearchSpace) -> Codes:
    """(rows, choices). Raises DamagedFile where a row is no network of the space."""
    try:
        values = np.array([[text.split() for text in table.texts(column)] for column in CHOICES], np.int64)  # (4, rows, stages)
    except ValueError:
        raise DamagedFile(f"{table.path} has a row that does not name seven stages") from None
    flat = values.transpose(1, 2, 0).reshape(len(table.rows), -1)
    if flat.shape[1] != len(space.choices):
        raise DamagedFile(f"{table.path} has rows of {values.shape[2]} stages, they must be seven")
    codes = np.empty(flat.shape, np.int16, order="F")
    for i, choice in enumerate(space.choices):
        allowed = np.array(choice.values, np.int64)
        codes[:, i] = np.searchsorted(allowed, flat[:, i]).clip(max=len(allowed) - 1)
        if (allowed[codes[:, i]] != flat[:, i]).any():
            raise DamagedFile(f"{table.path} has a value of {choice.name} that is none of {', '.join(map(str, allowed))}")
    return codes
