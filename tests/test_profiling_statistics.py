"""hwnas/profiling/statistics.py: ranks by hand, coverage by simulation."""

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.profiling.statistics import (
    bound_rank,
    confidence_interval,
    drift,
    quantile,
    second_speed,
    stride_of_independence,
    upper_bound,
    values_needed,
)


def test_a_quantile_is_one_of_the_values():
    values = np.array([4.0, 1.0, 3.0, 2.0])
    assert [quantile(values, q) for q in (0.25, 0.26, 0.5, 0.75, 0.9)] == [1.0, 2.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("n", "q", "level", "rank"),
    [
        (6, 0.5, 0.01, None),  # (1/2)^6 = 1/64 > 0.01
        (7, 0.5, 0.01, 7),  # 1/128 <= 0.01; seven or six below: 8/128 > 0.01
        (8, 0.5, 0.01 / 3, None),  # 1/256 > 1/300
        (9, 0.5, 0.01 / 3, 9),  # 1/512 <= 1/300; 10/512 is not
        (12, 0.5, 0.01 / 3, 11),  # 13/4096 <= 1/300; (13 + 66)/4096 is not
        (43, 0.9, 0.01, None),  # 0.9^43 = 0.0108
        (44, 0.9, 0.01, 44),  # 0.9^44 = 0.0097
    ],
)
def test_the_rank_of_the_bound_is_that_of_the_binomial(n, q, level, rank):
    assert bound_rank(n, q, level) == rank


def test_the_rank_of_many_values_follows_the_normal_approximation():
    """10,000 values: 5,000 + 2.326 * sqrt(10,000 / 4) = 5,116.3."""
    assert bound_rank(10_000, 0.5, 0.01) == pytest.approx(5117, abs=2)


@pytest.mark.parametrize(("q", "level", "n"), [(0.5, 0.01, 7), (0.5, 0.01 / 3, 9), (0.9, 0.01, 44), (0.9, 0.01 / 3, 55), (0.05, 0.3, 1)])
def test_the_fewest_values_that_have_a_bound(q, level, n):
    assert values_needed(q, level) == n


@pytest.mark.parametrize(("q", "level"), [(0.0, 0.01), (1.0, 0.01), (0.5, 0.0), (0.5, 1.0), (float("nan"), 0.01)])
def test_quantiles_and_levels_lie_between_0_and_1(q, level):
    with pytest.raises(InputError, match="between 0 and 1"):
        values_needed(q, level)


def test_the_bound_is_the_value_of_that_rank_whatever_the_order():
    assert upper_bound(np.array([5.0, 1, 2, 9, 3, 4, 8]), 0.5, 0.01) == 9.0
    assert upper_bound(np.array([5.0, 1, 2]), 0.5, 0.01) is None


@pytest.mark.parametrize("draw", [np.random.Generator.standard_normal, np.random.Generator.standard_exponential], ids=["normal", "exponential"])
def test_the_bound_is_below_the_true_median_no_more_often_than_its_level(draw):
    """20 values at level 0.06: rank 14 (P = 0.0577), so 4,000 bounds are below 231 times; five standard deviations more are 305."""
    true = {np.random.Generator.standard_normal: 0.0, np.random.Generator.standard_exponential: np.log(2)}[draw]
    samples = draw(np.random.default_rng(3), (4000, 20))
    below = sum(upper_bound(row, 0.5, 0.06) < true for row in samples)
    assert 150 < below < 305


@pytest.mark.parametrize(
    ("states", "stride"),
    [
        ("0000", 1),
        ("1111", 1),
        ("0101", 1),  # the next round is another state: nothing is remembered
        ("1100", 2),  # correlation 1/4 at lag 1, then negative: time 1.5, with caution 1.75
        ("0000010000", 1),  # a single slow round
    ],
)
def test_how_long_a_state_is_remembered(states, stride):
    assert stride_of_independence(np.array([state == "1" for state in states])) == stride


def test_states_that_last_ten_rounds_are_remembered_that_long():
    states = np.tile(np.repeat([False, True], 10), 6)
    assert 5 <= stride_of_independence(states) <= 20


def test_an_interval_holds_its_quantile_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for n, q in ((8, 0.25), (16, 0.25), (12, 0.5)):
        held = 0
        for _ in range(2_000):
            low, high = confidence_interval(rng.random(n), q, 0.75)
            held += low <= q <= high
        assert held >= 0.73 * 2_000


def test_too_few_values_have_no_interval():
    assert confidence_interval(np.arange(7.0), 0.25, 0.75) is None and confidence_interval(np.arange(8.0), 0.25, 0.75) == (0.0, 3.0)


def test_a_drift_is_told_from_chance():
    rng = np.random.default_rng(0)
    level = 100 + rng.normal(0, 1, 16)
    assert drift(level) == 0.0 and drift(level[:7] * np.arange(1, 8)) == 0.0 and drift(np.full(16, 5.0)) == 0.0
    assert drift(level * np.linspace(1, 1.2, 16)) == pytest.approx(0.10, abs=0.02)
    assert drift(level * np.linspace(1.2, 1, 16)) < -0.05


def test_a_second_speed_is_told_from_scatter():
    rng = np.random.default_rng(0)
    scatter = 100 + rng.normal(0, 1, 16)
    assert second_speed(scatter) == 0.0 and second_speed(scatter[:7]) == 0.0
    assert second_speed(np.where(np.arange(16) % 3 == 0, 1.3, 1.0) * scatter) == pytest.approx(0.30, abs=0.02)
    assert second_speed(np.r_[scatter[:15], 200.0]) == 0.0, "one outlier is no second speed"
