"""NAS-Bench-Macro (Su et al., 2021): all 6,561 networks of three choices in eight places, each trained on CIFAR-10 three times."""

from __future__ import annotations

import re

import numpy as np

from hwnas.benchmark_tables import Columns, find_table
from hwnas.budget import Budget
from hwnas.costs import macs
from hwnas.errors import DamagedFile, InputError
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.problem import Objective, Problem
from hwnas.spaces.nas_bench_macro import nas_bench_macro as space_of_blocks
from hwnas.tabular_benchmark import TabularBenchmark, Tabulated

FILE = "nas_bench_macro_cifar10.csv.gz"
_SHAPE = (3,) * 8


def nas_bench_macro(share: float = 0.5) -> TabularBenchmark:
    """share: the budget, of the largest network's MACs. Searchers see the accuracy of a network's first training, the mean of its two others is reported.

    Raises InputError where the table is not there.
    """
    if not 0 < share <= 1:
        raise InputError(f"share is {share:g}, it must be above 0 and at most 1")
    table = Columns(find_table(FILE, "get it with: hwnas data fetch nas_bench_macro"), ("arch", "acc0", "acc1", "acc2"))
    names = table.texts("arch")
    if not all(re.fullmatch("[012]{8}", name) for name in names) or len(set(names)) != len(names) or len(names) != 3**8:
        raise DamagedFile(f"{table.path} does not hold every network of NAS-Bench-Macro once")
    place = tuple(np.array([list(map(int, name)) for name in names]).T)
    first, others = np.empty(_SHAPE), np.empty(_SHAPE)
    first[place], others[place] = table.numbers("acc0"), (table.numbers("acc1") + table.numbers("acc2")) / 2
    index = BlockIndex(space_of_blocks())
    cost = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    signal = Tabulated(first, name="accuracy", unit="%", expensive=True)
    problem = Problem(index, [Objective(signal, maximize=True)], [(Budget("macs", None, share=share), cost)])
    inside = problem.within(np.asfortranarray(np.indices(_SHAPE).reshape(len(_SHAPE), -1).T, np.int16))
    about = "CIFAR-10: searchers see the accuracy of a network's first training, the mean of its two other trainings is reported; "
    about += f"{problem.budgets[0][0]}, which {inside.mean():.0%} of the networks keep"
    reported = Tabulated(others, name="test accuracy", unit="%")
    return TabularBenchmark(problem, reported, float(others.reshape(-1)[inside].max()), about, table.digest("arch", "acc0", "acc1", "acc2"))
