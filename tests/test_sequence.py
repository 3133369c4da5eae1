"""Searchers that walk through a sequence of architectures: grid and quasi_random."""

import numpy as np
import pytest

from hwnas import registry
from hwnas.budget import Budget
from hwnas.driver import drive
from hwnas.errors import InputError
from hwnas.index import BlockIndex
from hwnas.problem import Objective, Problem
from hwnas.searchers.grid import grid
from hwnas.searchers.quasi_random import quasi_random
from hwnas.testing import toy_problem

EVERYTHING = np.indices((4,) * 6).reshape(6, -1).T


def free():
    """The toy problem without a budget."""
    return Problem(toy_problem().index, toy_problem().objectives)


def walked(searcher, n, problem=None, seed=0, **options):
    return drive(searcher, problem or free(), seed=seed, evaluations=n, options=options).codes


@pytest.mark.parametrize("order", ["stratified", "ordered"])
def test_a_grid_has_every_architecture_once(order):
    codes = walked(grid, 5000, order=order)
    assert len(codes) == 4096 == len(set(map(tuple, codes.tolist())))


def test_an_ordered_grid_goes_from_small_to_large_and_the_last_choice_changes_fastest():
    assert walked(grid, 300, order="ordered").tolist() == EVERYTHING[:300].tolist()


def test_every_stretch_of_a_stratified_grid_is_spread_evenly():
    for seed in range(5):
        codes = walked(grid, 1024, seed=seed)
        for part in (codes[:64], codes[500:564], codes[:1024]):
            counts = np.stack([np.bincount(column, minlength=4) for column in part.T])
            assert abs(counts / len(part) - 0.25).max() <= 0.1, counts  # uniform samples of 64 are off by 0.16 in one of 24 counts, as a rule


def test_a_grid_of_two_levels_has_the_corners_alone_and_of_three_the_middle_too():
    assert sorted(map(tuple, walked(grid, 100, levels=2).tolist())) == sorted(map(tuple, (3 * np.indices((2,) * 6).reshape(6, -1).T).tolist()))
    assert set(np.unique(walked(grid, 1000, levels=3))) == {0, 2, 3}  # the middle of four values is rounded to the even one


def test_a_grid_of_a_space_of_more_than_64_bits_begins_at_once_and_repeats_no_subnet():
    index = BlockIndex(registry.create("spaces", "ofa_mobilenet_v3"))
    assert index.space.size > 2**64
    cost = toy_cost(index)
    codes = walked(grid, 64, Problem(index, [Objective(cost)], [(Budget("macs", None, share=0.5), cost)]))
    assert len(codes) == 64 == len(index.distinct(codes)) and np.ptp(codes, axis=0).min() >= 1


def toy_cost(index):
    from hwnas.costs import macs
    from hwnas.predictor import Additive

    return Additive(index, macs(index.blocks), name="macs", unit="MACs")


def test_a_sobol_sequence_has_each_value_of_each_choice_equally_often():
    for seed in (0, 1):
        codes = walked(quasi_random, 256, seed=seed)
        assert len(set(map(tuple, codes.tolist()))) > 240
    drawn = next(iter(registry.load("searchers", "quasi_random").__globals__["_sobol"](toy_problem().space, np.random.default_rng(3))))
    assert all(np.bincount(column).tolist() == [64] * 4 for column in drawn.T)


def test_seeds_differ_and_equal_seeds_do_not():
    for searcher in (grid, quasi_random):
        first, again, other = (walked(searcher, 32, seed=seed) for seed in (1, 1, 2))
        assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("searcher", [grid, quasi_random])
def test_where_next_to_nothing_fits_the_effort_is_bounded(searcher):
    toy = toy_problem()
    cost = toy.budgets[0][1]
    few = float(np.sort(cost(np.asfortranarray(EVERYTHING, np.int16)))[1])
    tight = Problem(toy.index, toy.objectives, [(Budget("macs", few), cost)])
    codes = walked(searcher, 50, tight)
    assert 1 <= len(codes) <= 3 and tight.within(codes).all()


@pytest.mark.parametrize(
    ("searcher", "option", "value"), [(grid, "levels", 1), (grid, "levels", -1), (grid, "batch", 0), (grid, "pending", -1), (quasi_random, "batch", 0)]
)
def test_impossible_options_are_refused(searcher, option, value):
    with pytest.raises(InputError, match=f"{searcher.__name__} needs"):
        walked(searcher, 5, **{option: value})
