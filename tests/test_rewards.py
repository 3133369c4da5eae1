import numpy as np
import pytest

from hwnas.rewards import absolute, feasible_first, mnasnet_hard, mnasnet_soft

ALL = (feasible_first, mnasnet_soft, mnasnet_hard, absolute)


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


def test_without_budget_the_quality_alone_counts_for_those_that_have_no_target():
    for reward in (feasible_first, mnasnet_soft, mnasnet_hard):
        assert reward(array(0.3, 0.6), array(0.0, 0.0)).tolist() == [0.3, 0.6]
