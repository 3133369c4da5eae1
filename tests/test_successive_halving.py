"""Searchers that look at shares of an evaluation: successive_halving, hyperband, asha."""

from collections import Counter

import numpy as np
import pytest

from hwnas.budget import Budget
from hwnas.driver import drive
from hwnas.errors import InputError
from hwnas.problem import Objective, Problem
from hwnas.searchers.asha import asha
from hwnas.searchers.hyperband import hyperband
from hwnas.searchers.successive_halving import successive_halving
from hwnas.testing import toy_problem


class Steady:
    """An accuracy whose early looks rank as the full evaluation does."""

    unit, origin, expensive = "points", "simulated", True

    def __init__(self, gain, share=1.0):
        self.gain, self.share, self.name = gain, share, f"at {share:g}"

    def __call__(self, codes):
        return self.share * self.gain(codes)

    def at(self, fidelity):
        return Steady(self.gain, fidelity)


def steady():
    toy = toy_problem()
    return Problem(toy.index, [Objective(Steady(toy.objectives[0].metric), maximize=True)], toy.budgets)


@pytest.mark.parametrize("searcher", [successive_halving, hyperband, asha])
def test_a_candidate_that_failed_is_not_looked_at_again(searcher):
    toy, looks = toy_problem(), Counter()

    class Failing(Steady):
        def __call__(self, codes):
            looks.update(map(tuple, codes.tolist()))
            return np.full(len(codes), np.nan)

        def at(self, fidelity):
            return Failing(self.gain, fidelity)

    problem = Problem(toy.index, [Objective(Failing(toy.objectives[0].metric), maximize=True)], toy.budgets)
    drive(searcher, problem, seed=0, evaluations=20)
    assert len(looks) > 9 and max(looks.values()) == 1


def test_where_ranks_never_cross_the_best_of_a_round_is_evaluated_in_full():
    problem = steady()
    result = drive(successive_halving, problem, seed=0, evaluations=30, options={"start": 27, "rungs": 4})
    # a round: 27 at 1/27, 9 at 1/9, 3 at 1/3, 1 at 1, which costs 4
    assert np.round(27 * result.fidelity).astype(int).tolist()[:40] == [1] * 27 + [3] * 9 + [9] * 3 + [27]
    values = toy_problem().objectives[0].metric(result.codes)
    for first in range(0, 7 * 40, 40):
        assert values[first + 39] == values[first : first + 27].max()
        assert sorted(values[first + 27 : first + 36]) == sorted(values[first : first + 27])[-9:]


def test_the_best_goes_on_where_a_rung_has_fewer_than_eta():
    result = drive(successive_halving, steady(), seed=0, evaluations=2, options={"start": 2, "rungs": 3})
    assert np.round(9 * result.fidelity).astype(int).tolist()[:4] == [1, 1, 3, 9]


@pytest.mark.parametrize("searcher", [successive_halving, hyperband, asha])
def test_no_subnet_begins_twice(searcher):
    result = drive(searcher, steady(), seed=0, evaluations=60)
    looks = Counter(zip(map(tuple, result.codes.tolist()), result.fidelity.tolist(), strict=True))
    assert max(looks.values()) == 1 and result.scores.feasible.all()


def test_of_each_rung_of_asha_a_third_is_promoted():
    result = drive(asha, steady(), seed=0, evaluations=40)
    counts = Counter(np.round(9 * result.fidelity).astype(int).tolist())
    for below, above in ((1, 3), (3, 9)):  # who was among the best third once may be overtaken later, so that more than a third is promoted
        assert counts[below] // 3 <= counts[above] <= counts[below] / 2
    assert counts[9] >= 10


@pytest.mark.parametrize("searcher", [successive_halving, hyperband, asha])
def test_it_ends_when_it_has_seen_all_that_fits(searcher):
    toy = toy_problem()
    cost = toy.budgets[0][1]
    few = float(np.sort(cost(np.asfortranarray(np.indices((4,) * 6).reshape(6, -1).T, np.int16)))[19])
    result = drive(searcher, Problem(toy.index, steady().objectives, [(Budget("macs", few), cost)]), seed=0, evaluations=500)
    assert len({tuple(code) for code in result.codes.tolist()}) <= 24 and result.evaluations < 30


@pytest.mark.parametrize(
    ("searcher", "options"),
    [
        *((successive_halving, {"start": 0}), (successive_halving, {"eta": 1})),
        *((hyperband, {"brackets": 0}), (hyperband, {"eta": 1}), (asha, {"rungs": 0}), (asha, {"pending": -1})),
    ],
)
def test_impossible_options_are_refused(searcher, options):
    with pytest.raises(InputError, match=f"{searcher.__name__} needs"):
        drive(searcher, steady(), seed=0, evaluations=5, options=options)
