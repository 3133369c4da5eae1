"""The search of Once-for-All: what its generations are made of, and that it finds what is known to be best."""

import numpy as np
import pytest

from hwnas.budget import Budget
from hwnas.driver import drive
from hwnas.errors import InputError
from hwnas.predictor import Additive
from hwnas.problem import Objective, Problem
from hwnas.searcher import Told
from hwnas.searchers.once_for_all import once_for_all
from hwnas.testing import toy_problem

EVERYTHING = np.asfortranarray(np.indices((4,) * 6).reshape(6, -1).T, np.int16)


def cheap(share=0.55, bonus=0.0):
    """The toy problem with an accuracy that costs nothing; with `bonus` it is no sum over layers."""
    toy = toy_problem()
    gain, cost = toy.objectives[0].metric, toy.budgets[0][1]

    class Predicted:
        name, unit, origin = "accuracy", "%", "predicted"

        def __call__(self, codes):
            return gain(codes) + bonus * ((codes[:, 0] == 1) & (codes[:, 5] == 2))

    known = Additive(toy.index, list(gain.gains), name="accuracy", unit="%") if bonus == 0 else Predicted()
    return Problem(toy.index, [Objective(known, maximize=True)], [(Budget("macs", None, share=share), cost)])


def best_of(problem):
    scores = problem.evaluate(EVERYTHING)
    return scores.values[scores.feasible].max()


def test_the_exact_optimum_of_a_sum_joins_the_first_generation():
    result = drive(once_for_all, cheap(), seed=0, evaluations=60, options={"population": 50})
    assert result.scores.values[50, 0] == best_of(cheap())


@pytest.mark.parametrize("seeds", [0, 1])
def test_it_finds_the_best_of_what_is_no_sum(seeds):
    problem = cheap(bonus=1.0)
    found = [drive(once_for_all, problem, seed=seed, evaluations=1500, options={"seeds": seeds}).scores.values.max() for seed in range(5)]
    assert found.count(best_of(problem)) >= 4


def test_no_subnet_is_asked_for_twice_and_all_keep_a_budget_that_few_keep():
    problem = cheap(share=0.1)
    assert 0 < problem.feasible_share(np.random.default_rng(0)) < 0.03
    fitting = int(problem.within(EVERYTHING).sum())
    result = drive(once_for_all, problem, seed=0, evaluations=500, options={"population": 20})
    assert len({tuple(code) for code in result.codes.tolist()}) == len(result.codes) >= 0.9 * fitting and result.scores.feasible.all()


def test_children_are_of_the_best_quarter():
    """Without mutants every choice of a child is one of a parent's."""
    problem = Problem(toy_problem().index, cheap().objectives)
    search = once_for_all(problem, rng=np.random.default_rng(0), population=40, mutants=0.0, seeds=0)
    first = next(search).codes
    scores = problem.evaluate(first)
    second = search.send(Told(first, scores, np.arange(40))).codes
    parents = first[np.argsort(-problem.reward(scores), kind="stable")[:10]]
    assert len(first) == 40 and 30 <= len(second) <= 40
    assert all(code[i] in parents[:, i] for code in second for i in range(6))


def test_it_ends_when_it_has_seen_all_that_fits():
    problem = cheap()
    cost = problem.budgets[0][1]
    few = float(np.sort(cost(EVERYTHING))[29])  # thirty networks
    result = drive(once_for_all, Problem(problem.index, problem.objectives, [(Budget("macs", few), cost)]), seed=0, evaluations=5000)
    assert len(result.codes) == (cost(EVERYTHING) <= few).sum()


@pytest.mark.parametrize(("option", "value"), [("population", 1), ("parents", 0.0), ("parents", 1.5), ("mutants", -0.1), ("mutation", 2.0), ("seeds", -1)])
def test_impossible_options_are_refused(option, value):
    with pytest.raises(InputError, match=f"once_for_all needs population >= 2, .*{option}={value}"):
        drive(once_for_all, cheap(), seed=0, evaluations=5, options={option: value})
