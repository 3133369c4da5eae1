import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.costs import macs
from hwnas.errors import InputError
from hwnas.expectation import expected
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.spaces.ofa_mini import ofa_mini
from tests.small_spaces import all_codes, conv, spaces


def additive(index, prices, constant=0.0):
    return Additive(index, np.asarray(prices, np.float64), name="latency", unit="ms", constant=constant)


def distributions(space, rng):
    return [rng.dirichlet(np.ones(n)) for n in space.cardinalities]


def listed(metric, probabilities):
    """The expectation by visiting every code: its value times the product of its probabilities."""
    codes = all_codes(metric.index.space)
    weights = np.prod([p[codes[:, i]] for i, p in enumerate(probabilities)], axis=0)
    return float(weights @ metric(codes))


@settings(max_examples=150, deadline=None)
@given(space=spaces(), seed=st.integers(0, 2**32 - 1))
def test_value_and_gradient_are_those_of_listing_every_architecture(space, seed):
    rng = np.random.default_rng(seed)
    index = BlockIndex(space)
    metric = additive(index, rng.normal(0, 10, len(index.blocks)), constant=rng.normal())
    probabilities = distributions(space, rng)
    value, gradients = expected(metric, probabilities)
    assert value == pytest.approx(listed(metric, probabilities), rel=1e-9, abs=1e-9)
    for i, gradient in enumerate(gradients):
        for code in range(len(gradient)):
            # The expectation is linear in each probability alone: moving mass from one value to another changes it by the
            # difference of their derivatives, however large the move.
            sure = [*probabilities[:i], np.eye(len(gradient))[code], *probabilities[i + 1 :]]
            change = (np.eye(len(gradient))[code] - probabilities[i]) @ gradient
            assert listed(metric, sure) - value == pytest.approx(change, rel=1e-9, abs=1e-9)


def test_the_gradient_is_that_of_finite_differences_in_every_probability_alone():
    rng = np.random.default_rng(3)
    index = BlockIndex(ofa_mini())
    metric = additive(index, rng.random(len(index.blocks)), constant=0.5)
    probabilities = distributions(index.space, rng)
    _, gradients = expected(metric, probabilities)
    step = 1e-4
    for i, gradient in enumerate(gradients):
        for code in range(len(gradient)):
            moved = [each.copy() for each in probabilities]
            moved[i][code] += step
            above = expected(metric, moved)[0]
            moved[i][code] -= 2 * step
            assert (above - expected(metric, moved)[0]) / (2 * step) == pytest.approx(gradient[code], rel=1e-7, abs=1e-7)


def test_a_sure_choice_has_the_metric_s_own_value():
    space = ofa_mini()
    index = BlockIndex(space)
    metric = additive(index, macs(index.blocks))
    for code in space.sample(np.random.default_rng(0), 20):
        sure = [np.eye(n)[c] for n, c in zip(space.cardinalities, code, strict=True)]
        assert expected(metric, sure)[0] == pytest.approx(metric(code[None])[0], rel=1e-12)


def test_the_expectation_is_the_mean_over_samples():
    space = ofa_mini()
    index = BlockIndex(space)
    metric = additive(index, np.random.default_rng(1).random(len(index.blocks)))
    uniform = [np.full(n, 1 / n) for n in space.cardinalities]
    sampled = metric(space.sample(np.random.default_rng(2), 100_000))
    assert expected(metric, uniform)[0] == pytest.approx(sampled.mean(), abs=5 * sampled.std() / np.sqrt(100_000))


def test_a_choice_read_twice_takes_one_value_and_an_unread_one_has_no_slope():
    a, b = Choice("a", (1, 3)), Choice("b", (1, 2, 3))
    index = BlockIndex(SearchSpace("twice", [a, b], [Layer("l", (a, a), lambda x, y: conv(x + y - 1))]))
    prices = [{1: 2.0, 3: 100.0, 5: 6.0}[block[0].op.kernel] for block in index.blocks]  # a = 1, one of each, a = 3
    value, gradients = expected(additive(index, prices), [np.array([0.25, 0.75]), np.full(3, 1 / 3)])
    assert value == 0.25 * 2 + 0.75 * 6
    assert [each.tolist() for each in gradients] == [[2.0, 6.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], r"ofa_mini has \d+ choices, got probabilities of 0"),
        (None, r"resolution needs \d finite probabilities, one for each of its values, got \[0\.5\]"),
        (np.nan, r"resolution needs \d finite probabilities"),
    ],
)
def test_probabilities_that_do_not_fit_are_refused(wrong, message):
    index = BlockIndex(ofa_mini())
    given = [np.full(n, 1 / n) for n in index.space.cardinalities]
    if wrong is None:
        given[0] = np.array([0.5])
    elif wrong == []:
        given = []
    else:
        given[0] = given[0] * wrong
    with pytest.raises(InputError, match=message):
        expected(additive(index, np.ones(len(index.blocks))), given)
