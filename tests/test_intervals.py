"""hwnas/intervals.py: what an interval takes, and that it covers what it says."""

from math import exp, inf

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.intervals import least_networks, margin


def test_nine_networks_are_the_fewest_for_ninety_percent():
    """Of ten exchangeable ratios the last is the largest with probability 1/10."""
    assert [least_networks(level) for level in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]
    measured = np.ones(9)
    assert margin(measured, np.exp(np.arange(9) / 100), 0.9) == pytest.approx(exp(0.08))
    assert margin(measured[:8], np.exp(np.arange(8) / 100), 0.9) == inf


def test_the_margin_is_the_same_upwards_and_downwards():
    assert margin(np.ones(9), np.full(9, 1.25)) == pytest.approx(1.25)
    assert margin(np.full(9, 1.25), np.ones(9)) == pytest.approx(1.25)


def test_a_network_predicted_as_nothing_makes_the_interval_endless():
    left_out = np.ones(9)
    left_out[4] = 0.0
    assert margin(np.ones(9), left_out) == inf
    left_out[4] = -1.0
    assert margin(np.ones(9), left_out) == inf


@pytest.mark.parametrize("n", [9, 20, 40])
def test_the_coverage_is_what_the_level_says(n):
    """Ratios of any distribution, here two kinds of networks of which one is far off: 90 to 90 + 100 / (n + 1) percent."""
    rng = np.random.default_rng(n)
    inside = []
    for _ in range(4_000):
        ratios = np.exp(np.where(rng.random(n + 1) < 0.2, rng.normal(0.3, 0.02, n + 1), rng.normal(0, 0.05, n + 1)))
        factor = margin(ratios[:-1], np.ones(n))
        inside.append(1 / factor <= ratios[-1] <= factor)
    assert 0.885 <= np.mean(inside) <= 0.9 + 1 / (n + 1) + 0.015


def test_levels_and_lengths_are_checked():
    with pytest.raises(InputError, match="between 0 and 1"):
        margin(np.ones(9), np.ones(9), 1.0)
    with pytest.raises(InputError, match="9 networks were measured and 8 predicted"):
        margin(np.ones(9), np.ones(8))
