"""hwnas/predictors/network_regression.py: a space priced from whole networks alone."""

import numpy as np
import pytest

from hwnas.costs import macs
from hwnas.errors import InputError
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.predictors.network_regression import NetworkFeatures, network_regression
from hwnas.spaces.ofa_mini import ofa_mini
from tests.simulated_tables import prices_ms


@pytest.fixture(scope="module")
def index():
    return BlockIndex(ofa_mini())


@pytest.fixture(scope="module")
def codes(index):
    return index.space.sample(np.random.default_rng(1), 500)


def test_forty_networks_of_a_sum_over_blocks_predict_the_others(index, codes):
    """Each block has a price that has nothing to do with its work by up to 30 %."""
    odd = prices_ms(index.blocks) * np.random.default_rng(2).uniform(0.7, 1.3, len(index.blocks))
    truth = Additive(index, odd, name="latency", unit="ms", constant=0.2)(codes)
    errors = [np.abs(network_regression(index, codes[:n], truth[:n])(codes[200:]) / truth[200:] - 1).mean() for n in (20, 200)]
    work = Additive(index, macs(index.blocks), name="", unit="")(codes)
    line = np.abs(np.polyval(np.polyfit(work[:200], truth[:200], 1), work[200:]) / truth[200:] - 1).mean()
    assert errors[0] < line and errors[1] < 0.25 * line


def test_the_cells_say_what_the_features_say(index, codes):
    features = NetworkFeatures(index)
    rng = np.random.default_rng(3)
    from hwnas.grouped_ridge import Linear

    linear = Linear(tuple(rng.normal(size=group.shape[1]) for group in features(codes[:2])), 1.5)
    metric = Additive(index, features.cells(linear), name="", unit="", constant=linear.constant)
    assert metric(codes) == pytest.approx(linear(features(codes)), rel=1e-6)


def test_too_few_networks_are_refused(index, codes):
    with pytest.raises(InputError, match="3 networks were measured, 5 are needed"):
        network_regression(index, codes[:3], np.ones(3))
