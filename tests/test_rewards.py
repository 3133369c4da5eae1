import inspect
import math
from functools import partial

import numpy as np
import pytest

from hwnas import rewards
from hwnas.errors import InputError, UnknownName
from hwnas.predictor import Additive
from hwnas.problem import Objective, Problem
from hwnas.rewards import REWARDS, absolute, feasible_first, mnasnet_hard, mnasnet_soft, named, proxylessnas_additive, proxylessnas_multiplicative
from hwnas.testing import toy_problem

ALL = tuple(REWARDS.values())


def array(*values):
    return np.array(values, float)


@pytest.mark.parametrize("reward", ALL)
def test_a_failed_candidate_is_worst_whatever_failed(reward):
    nan, inf = float("nan"), float("inf")
    assert reward(array(nan, 0.9, inf, 0.9), array(0.5, nan, 0.5, inf)).tolist() == [-inf] * 4


@pytest.mark.parametrize("reward", ALL)
def test_a_rewards_row_does_not_depend_on_the_rest_of_the_population(reward):
    quality, ratio = array(0.1, 0.5, 0.9), array(0.5, 1.0, 2.0)
    assert reward(quality, ratio).tolist() == [float(reward(quality[i : i + 1], ratio[i : i + 1])[0]) for i in range(3)]


def test_any_feasible_candidate_beats_any_other_and_those_rank_by_violation():
    # feasible at the limit exactly; then 10 % over, twice over: quality no longer counts
    reward = feasible_first(array(-5e9, 0.0, 100.0, 99.0), array(1.0, 0.2, 2.0, 1.1))
    assert np.argsort(-reward).tolist() == [1, 0, 3, 2]
    assert reward[:2].tolist() == [-5e9, 0.0]


def test_mnasnets_soft_reward_pays_for_being_under_the_target():
    # 2 ** -0.07 = 0.95264, 0.5 ** -0.07 = 1.04972: "doubling the latency for 5 % relative accuracy gain" breaks even
    assert mnasnet_soft(array(0.75, 0.75, 0.75), array(1.0, 2.0, 0.5)) == pytest.approx([0.75, 0.75 * 0.952638, 0.75 * 1.049717], rel=1e-5)


def test_mnasnets_soft_reward_ranks_alike_for_every_target():
    quality, latency = array(0.70, 0.72, 0.74), array(10.0, 18.0, 30.0)
    assert np.argsort(mnasnet_soft(quality, latency / 5)).tolist() == np.argsort(mnasnet_soft(quality, latency / 50)).tolist()


def test_mnasnets_hard_reward_leaves_the_feasible_alone_and_divides_the_rest():
    assert mnasnet_hard(array(0.8, 0.8, 0.8), array(0.3, 1.0, 1.6)).tolist() == pytest.approx([0.8, 0.8, 0.5])


def test_tunas_absolute_reward_pulls_from_both_sides():
    assert absolute(array(0.8, 0.8, 0.8), array(0.5, 1.0, 1.5)).tolist() == pytest.approx([0.75, 0.8, 0.75])


def test_proxylessnas_multiplicative_reward_is_mnasnets_soft_one_with_another_exponent():
    # 2 ** -0.1 = 0.933033
    assert proxylessnas_multiplicative(array(0.75, 0.75, 0.75), array(1.0, 2.0, 0.5)) == pytest.approx([0.75, 0.75 * 0.933033, 0.75 / 0.933033], rel=1e-5)


def test_proxylessnas_additive_reward_charges_the_same_over_and_under_the_budget():
    assert proxylessnas_additive(array(0.8, 0.8, 0.8), array(0.5, 1.0, 1.5)).tolist() == pytest.approx([0.85, 0.8, 0.75])


#: Each written out for one candidate, as its paper does.
FORMULAS = {
    "feasible_first": lambda q, r: q if r <= 1 else -1e300 * r,
    "mnasnet_soft": lambda q, r: q * math.pow(r, -0.07),
    "mnasnet_hard": lambda q, r: q * math.pow(r, 0.0 if r <= 1 else -1.0),
    "absolute": lambda q, r: q - 0.1 * abs(r - 1),
    "proxylessnas_multiplicative": lambda q, r: q * math.pow(1 / r, 0.1),
    "proxylessnas_additive": lambda q, r: q - 0.1 * (r - 1),
}


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_equals_its_formula_over_a_whole_space(name):
    toy = toy_problem()
    problem = Problem(toy.index, toy.objectives, toy.budgets, named(name))
    codes = np.asfortranarray(np.indices((4,) * 6).reshape(6, -1).T, np.int16)
    scores = problem.evaluate(codes)
    expected = [FORMULAS[name](quality, ratio) for quality, ratio in zip(scores.values[:, 0].tolist(), scores.ratio.tolist(), strict=True)]
    assert problem.reward(scores) == pytest.approx(expected, rel=1e-12)


def test_an_objective_in_percent_counts_as_a_share_of_one():
    toy = toy_problem()
    prices = [np.linspace(0, 10, 4)] * 6
    problems = [
        Problem(toy.index, [Objective(Additive(toy.index, prices, name="a", unit=unit), maximize=True)], toy.budgets, absolute) for unit in ("%", "points")
    ]
    codes = toy.space.largest()
    assert [float(each.reward(each.evaluate(codes))[0]) for each in problems] == pytest.approx([0.6 - 0.1 * (1 / 0.55 - 1), 60 - 0.1 * (1 / 0.55 - 1)])


# -- by name --------------------------------------------------------------------------------------------------------------------------


def test_every_reward_of_the_module_has_its_name():
    public = {name for name, each in vars(rewards).items() if inspect.isfunction(each) and each.__module__ == rewards.__name__ and not name.startswith("_")}
    assert public - {"named"} == set(REWARDS)


def test_a_name_may_set_constants():
    quality, ratio = array(0.7, 0.7), array(0.5, 2.0)
    assert named("mnasnet_soft(exponent=-0.15)")(quality, ratio).tolist() == mnasnet_soft(quality, ratio, exponent=-0.15).tolist()
    assert named("absolute(weight=1)")(quality, ratio) == pytest.approx([0.2, -0.3])
    assert named("absolute") is absolute


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ("mnasnet_sof", UnknownName, "no reward named 'mnasnet_sof'; did you mean 'mnasnet_soft'"),
        ("mnasnet_soft(weight=1)", UnknownName, "no constant of mnasnet_soft named 'weight'. Known: exponent"),
        ("feasible_first(exponent=1)", UnknownName, "no constant of feasible_first named 'exponent'. Known: none"),
        ("absolute(weight=True)", InputError, "weight of absolute is True, it must be a finite number"),
        ("absolute(weight='1')", InputError, "must be a finite number"),
        ("absolute(weight=1e999)", InputError, "weight of absolute is inf, it must be a finite number"),
        ("absolute(weight=-0.1)", InputError, "it would reward being over the budget; it must be at least 0"),
        ("mnasnet_soft(exponent=0.07)", InputError, "it must be at most 0"),
        ("absolute(0.1)", InputError, "arguments are key=value"),
        ("absolute(weight=__import__('os'))", InputError, "is not of the form"),
    ],
)
def test_what_names_no_reward_is_one_sentence(text, kind, sentence):
    with pytest.raises(kind, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        named(text)


def test_a_named_reward_with_constants_says_of_failures_what_all_say():
    assert isinstance(named("mnasnet_soft(exponent=-1)"), partial)
    assert named("mnasnet_soft(exponent=-1)")(array(float("nan"), 0.9), array(0.5, float("inf"))).tolist() == [-np.inf] * 2


def test_without_budget_the_quality_alone_counts_for_those_that_have_no_target():
    for reward in (feasible_first, mnasnet_soft, mnasnet_hard, proxylessnas_multiplicative):
        assert reward(array(0.3, 0.6), array(0.0, 0.0)).tolist() == [0.3, 0.6]
