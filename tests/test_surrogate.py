"""hwnas/features.py and hwnas/surrogate.py: architectures as numbers, and the additive model that is solved in an accuracy's place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas import registry
from hwnas.budget import Budget
from hwnas.costs import macs
from hwnas.errors import InputError
from hwnas.exact import optimum
from hwnas.features import OneHot
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.problem import Objective, Problem, Scores
from hwnas.surrogate import best_by_surrogate, fit_surrogate
from hwnas.testing import toy_problem
from tests.small_spaces import all_codes, spaces


def test_every_choice_is_one_hot_and_those_of_a_skipped_layer_are_left_out():
    index = BlockIndex(registry.create("spaces", "ofa_mini"))
    one_hot, space = OneHot(index), index.space
    smallest, largest = one_hot(space.smallest())[0], one_hot(space.largest())[0]
    assert one_hot.width == sum(len(choice.values) for choice in space.choices if len(choice.values) > 1)
    free = sum(len(choice.values) > 1 for choice in space.choices)
    assert largest.sum() == free > smallest.sum()
    deep = space.largest()
    shallow = deep.copy(order="F")
    depth = next(choice.name for choice in space.choices if choice.name.endswith("depth"))
    shallow[0, space.column[depth]] = 0
    again = shallow.copy(order="F")
    kernels = [c for c in space.choices if c.name.startswith(depth.split(".")[0]) and c.name.endswith("kernel")]
    again[0, space.column[kernels[-1].name]] = 0  # of the last block of the stage, which is skipped
    assert (one_hot(shallow) == one_hot(again)).all() and (index.ids(shallow) == index.ids(again)).all()


@settings(max_examples=60, deadline=None)
@given(spaces(), st.integers(0, 2**32))
def test_a_linear_model_of_the_features_is_a_sum_over_layers(space, seed):
    index = BlockIndex(space)
    one_hot = OneHot(index)
    weights = np.random.default_rng(seed).normal(0, 1, one_hot.width)
    codes = all_codes(space)
    read = {column for columns in index.columns for column in columns}
    for choice, start, stop in zip(one_hot.choices, one_hot.starts[:-1], one_hot.starts[1:], strict=True):
        if choice not in read:  # a choice that no layer reads decides nothing
            weights[start:stop] = 0
    linear = Additive(index, one_hot.cells(weights), name="accuracy", unit="%", constant=0.5)
    np.testing.assert_allclose(linear(codes), 0.5 + one_hot(codes) @ weights, atol=1e-5)


def test_keys_are_equal_for_equal_subnets_alone():
    index = BlockIndex(registry.create("spaces", "ofa_mini"))
    codes = index.space.sample(np.random.default_rng(0), 500)
    ids, keys = index.ids(codes), index.keys(codes)
    assert [key == keys[0] for key in keys] == (ids == ids[0]).all(axis=1).tolist()
    assert len(set(keys)) == len(np.unique(ids, axis=0))


def test_a_sum_over_choices_is_recovered_and_its_error_is_small():
    index = BlockIndex(registry.create("spaces", "nas_bench_macro"))
    rng = np.random.default_rng(0)
    one_hot = OneHot(index)
    truth = Additive(index, one_hot.cells(rng.normal(0, 1, one_hot.width)), name="accuracy", unit="%", constant=90.0)
    codes = index.space.sample(rng, 200)
    surrogate = fit_surrogate(index, codes, truth(codes) + rng.normal(0, 0.01, 200))
    unseen = index.space.sample(rng, 200)
    assert np.abs(surrogate.metric(unseen) - truth(unseen)).max() < 0.1
    assert surrogate.samples == 200 and 0.005 < surrogate.error < 0.03 and surrogate.spearman > 0.999


def test_its_left_out_error_is_that_of_fits_without_the_sample():
    """The closed form against the definition, at the ridge that is chosen where only one is tried."""
    index = BlockIndex(registry.create("spaces", "nas_bench_macro"))
    rng = np.random.default_rng(1)
    codes = index.space.sample(rng, 60)
    values = rng.normal(0, 1, 60)
    whole = fit_surrogate(index, codes, values)
    errors = []
    for i in range(60):
        rest = fit_surrogate(index, np.delete(codes, i, 0), np.delete(values, i))
        errors.append(abs(float(rest.metric(codes[i : i + 1])[0]) - values[i]))
    assert whole.error == pytest.approx(np.mean(errors), rel=0.25)  # each refit may choose another ridge, and scales anew


def test_too_few_values_are_refused_and_failed_ones_do_not_count():
    index = BlockIndex(registry.create("spaces", "nas_bench_macro"))
    codes = index.space.sample(np.random.default_rng(0), 10)
    values = np.arange(10.0)
    values[:3] = np.nan
    with pytest.raises(InputError, match="at least 8 evaluated architectures, got 7"):
        fit_surrogate(index, codes, values)


def test_the_best_by_surrogate_is_the_exact_optimum_of_an_additive_objective():
    index = BlockIndex(registry.create("spaces", "nas_bench_macro"))
    gain = Additive(index, OneHot(index).cells(np.random.default_rng(3).normal(0, 1, OneHot(index).width)), name="gain", unit="points")
    cost = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    problem = Problem(index, [Objective(gain, maximize=True)], [(Budget("macs", None, share=0.5), cost)])
    none = Scores(np.empty((0, 1)), np.empty(0))
    found = best_by_surrogate(problem, index.space.sample(np.random.default_rng(0), 0), none, 3)
    assert len(found) == 3 and problem.within(found).all()
    assert float(gain(found[:1])[0]) == pytest.approx(optimum(problem).value)
    assert (np.diff(gain(found)) < 0).all()


def test_an_objective_that_is_paid_for_is_not_looked_into():
    """Its prices may be known to us; a search pays for each value it learns."""
    problem = toy_problem()
    codes = problem.space.sample(np.random.default_rng(0), 4)
    assert len(best_by_surrogate(problem, codes, problem.evaluate(codes), 3)) == 0  # four values fit no surrogate
