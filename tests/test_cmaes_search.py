"""Evolution strategies behind the adapter: what they are asked, what they are told, and what becomes of budgets and known subnets."""

import sys

import numpy as np
import pytest

from hwnas.blocks import conv_bn_act
from hwnas.budget import Budget
from hwnas.cmaes_search import cmaes_search
from hwnas.driver import drive
from hwnas.errors import InputError, MissingExtra
from hwnas.index import BlockIndex
from hwnas.problem import Objective, Problem
from hwnas.searchers.catcma import catcma
from hwnas.searchers.cma_es import cma_es
from hwnas.searchers.random_search import random_search
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.testing import toy_problem

pytest.importorskip("cmaes", reason="cmaes is not installed; it comes with the extra [cmaes]")


class Uniform:
    """A distribution that learns nothing, and remembers what it drew and was told."""

    population = 8

    def __init__(self, choices, seed):
        self.sizes, self.rng, self.told = [len(choice.values) for choice in choices], np.random.default_rng(seed), []

    def draw(self):
        codes = self.rng.integers(0, self.sizes).tolist()
        return tuple(codes), codes

    def learn(self, generation):
        self.told.append(generation)

    def is_spent(self):
        return len(self.told) == 30


def watched(problem, evaluations):
    """The result of a search, and the distributions it began."""
    begun = []

    def begin(cmaes, choices, like, seed):
        assert cmaes.__name__ == "cmaes" and problem.within(like).all()
        begun.append(Uniform(choices, seed))
        return begun[-1]

    def search(problem, *, rng):
        yield from cmaes_search(problem, begin, rng=rng)

    return drive(search, problem, seed=0, evaluations=evaluations), begun


def test_every_member_is_told_and_each_subnet_asked_for_once():
    problem = toy_problem()
    result, begun = watched(problem, 400)
    values = dict(zip(map(tuple, result.codes.tolist()), (-problem.reward(result.scores)).tolist(), strict=True))
    assert len(values) == len(result.codes) == 400 and result.scores.feasible.all()
    told = [member for each in begun for generation in each.told for member in generation]
    assert all(len(generation) == 8 for each in begun for generation in each.told) and len(told) >= 392
    assert all(values[code] == loss for code, loss in told if loss < 1e299)
    assert len(begun) == 2 and len(begun[0].told) == 30  # one that is spent is begun anew


def test_what_is_over_the_budget_is_told_by_how_much_and_never_evaluated():
    toy = toy_problem()
    cost = toy.budgets[0][1]
    tight = Problem(toy.index, toy.objectives, [(Budget("macs", None, share=0.08), cost)])
    assert 0 < tight.feasible_share(np.random.default_rng(0)) < 0.02  # 16 samples seldom suffice
    result, begun = watched(tight, 20)
    assert result.scores.feasible.all()
    told = [member for each in begun for generation in each.told for member in generation]
    over = [(code, loss) for code, loss in told if loss >= 1e300]
    limit = tight.budgets[0][0].limit
    assert over and all(loss == pytest.approx(1e300 * cost(np.array([code], np.int16))[0] / limit) for code, loss in over)


def test_it_ends_when_it_has_seen_all_that_fits():
    toy = toy_problem()
    cost = toy.budgets[0][1]
    everything = np.asfortranarray(np.indices((4,) * 6).reshape(6, -1).T, np.int16)
    few = float(np.sort(cost(everything))[9])
    problem = Problem(toy.index, toy.objectives, [(Budget("macs", few), cost)])
    for searcher in (cma_es, catcma):
        result = drive(searcher, problem, seed=0, evaluations=500)
        assert 1 <= len(result.codes) <= (cost(everything) <= few).sum() and result.scores.feasible.all()
        assert len(set(map(tuple, result.codes.tolist()))) == len(result.codes)


class Matches:
    """Of a text's letter, how many choices have it: no order of the values helps."""

    name, unit, origin, expensive = "matches", "choices", "simulated", True

    def __init__(self, target):
        self.target = target

    def __call__(self, codes):
        return (codes == self.target).sum(axis=1).astype(float)


def categories(n=12):
    """Choices of five texts, none of them between two others."""
    choices = [Choice(f"c{i}", ("a", "b", "c", "d", "e")) for i in range(n)]
    layers = [Layer(choice.name, (choice,), lambda value, i=i: conv_bn_act((1, 1, 1, 1), 10 * i + "_abcde".index(value))) for i, choice in enumerate(choices)]
    target = np.random.default_rng(5).integers(1, 4, n)
    return Problem(BlockIndex(SearchSpace("texts", choices, layers)), [Objective(Matches(target), maximize=True)])


def test_texts_are_categories_to_catcma():
    pairs = [[drive(searcher, categories(), seed=seed, evaluations=250).scores.values.max() for searcher in (catcma, random_search)] for seed in range(6)]
    assert all(ours > random for ours, random in pairs), pairs  # 1/64 by chance


def test_cma_es_climbs_on_ordered_choices():
    def best(searcher, seed):
        return drive(searcher, toy_problem(), seed=seed, evaluations=200).scores.values.max()

    pairs = [(best(cma_es, seed), best(random_search, seed)) for seed in range(8)]
    assert sum(ours > random for ours, random in pairs) >= 7, pairs  # 0.035 by chance


@pytest.mark.parametrize("searcher", [cma_es, catcma])
def test_impossible_options_are_refused(searcher):
    for population in (-1, 3):
        with pytest.raises(InputError, match=f"{searcher.__name__} needs population = 0 or population >= 4, got {population}"):
            drive(searcher, toy_problem(), seed=0, evaluations=5, options={"population": population})


@pytest.mark.parametrize("searcher", [cma_es, catcma])
def test_without_cmaes_the_extra_is_named(searcher, monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(MissingExtra, match=r"needs 'cmaes', which is not installed; install it with: pip install 'hwnas\[cmaes\]'"):
        drive(searcher, toy_problem(), seed=0, evaluations=5)
