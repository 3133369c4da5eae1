"""hwnas/quality.py: figures computed by hand."""

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.quality import quality, spearman


def test_errors_are_relative_to_what_was_measured():
    """Relative errors 0.04, 0.09, 0, -0.25; absolute ones 0.04, 0.18, 0, -2."""
    found = quality(np.array([1.0, 2.0, 4.0, 8.0]), np.array([1.04, 2.18, 4.0, 6.0]))
    assert found.networks == 4
    assert (found.mape, found.bias) == pytest.approx((0.095, -0.03))
    assert found.rmse_ms == pytest.approx(((0.04**2 + 0.18**2 + 4) / 4) ** 0.5)
    assert (found.within_5pct, found.within_10pct) == (0.5, 0.75)
    assert (found.kendall, found.spearman, found.within_group_spearman) == (1.0, 1.0, None)


def test_rank_correlations_of_one_swap_of_three():
    """One discordant pair of three: tau (2 - 1) / 3; squared rank differences 0, 1, 1: rho 1 - 6 * 2 / (3 * 8)."""
    found = quality(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
    assert (found.kendall, found.spearman) == pytest.approx((1 / 3, 0.5))


def test_ranks_within_a_resolution_are_not_helped_by_the_resolution():
    """Each group is ranked backwards, the groups themselves rightly; a group of three is too small to be counted."""
    measured = np.array([1.0, 2.0, 3.0, 4.0, 11.0, 12.0, 13.0, 14.0, 100.0, 101.0, 102.0])
    predicted = np.array([4.0, 3.0, 2.0, 1.0, 14.0, 13.0, 12.0, 11.0, 100.0, 101.0, 102.0])
    found = quality(measured, predicted, ["low"] * 4 + ["mid"] * 4 + ["high"] * 3)
    assert found.within_group_spearman == pytest.approx(-1.0)
    assert found.spearman > 0.8


def test_a_constant_prediction_ranks_nothing():
    found = quality(np.array([1.0, 2.0, 3.0]), np.full(3, 2.0))
    assert (found.kendall, found.spearman) == (0.0, 0.0)


@pytest.mark.parametrize("lengths", [(1, 1), (3, 2)])
def test_too_few_or_unpaired_networks_are_refused(lengths):
    with pytest.raises(InputError, match="two or more networks"):
        quality(np.ones(lengths[0]), np.ones(lengths[1]))


def test_ranks_with_ties_are_those_of_scipy():
    """Accuracies of a few hundred images are often equal."""
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, 40).astype(float), rng.integers(0, 7, 40).astype(float)
    assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert spearman(first, np.ones(40)) == 0
