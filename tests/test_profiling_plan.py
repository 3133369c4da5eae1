"""hwnas/profiling/plan.py: what is to be measured."""

import numpy as np
import pytest
from hypothesis import given, settings

from hwnas.costs import macs
from hwnas.errors import InputError
from hwnas.graph import Node, block_text
from hwnas.index import BlockIndex
from hwnas.ops import Conv2d
from hwnas.predictor import Additive
from hwnas.profiling.plan import calibration_networks, make_plan
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.spaces.ofa_mini import ofa_mini
from tests.small_spaces import spaces


@pytest.fixture(scope="module")
def index():
    return BlockIndex(ofa_mini())


def test_a_plan_holds_every_block_that_computes_once(index):
    plan = make_plan(index, visits=8, networks=24, seed=0)
    texts = [block_text(block) for block in plan.blocks]
    assert texts == sorted({block_text(block) for block in index.blocks if block})
    assert (plan.visits, len(plan.networks)) == (8, 24)


def test_blocks_that_differ_in_their_batch_norm_alone_are_measured_once():
    norm = Choice("norm", (1e-5, 1e-3))
    conv = Conv2d((1, 3, 4, 4), out=3)
    index = BlockIndex(SearchSpace("norms", [norm], [Layer("conv", (norm,), lambda eps: (Node("conv", conv, ("in0",), eps),))]))
    assert len(index.blocks) == 2
    assert len(make_plan(index, visits=1, networks=0, seed=0).blocks) == 1


def test_networks_are_different_subnets_with_both_ends_and_the_extreme_resolutions(index):
    codes = calibration_networks(index, 24, np.random.default_rng(0))
    assert codes.shape == (24, len(index.space.choices)) and codes.dtype == np.int16
    assert len(np.unique(index.ids(codes), axis=0)) == 24
    for code in (index.space.smallest(), index.space.largest()):
        assert (index.ids(codes) == index.ids(code)).all(axis=1).any()
    column = index.space.column["resolution"]
    rest = np.delete(codes, column, axis=1)
    for resolution in (0, 2):
        same = rest[codes[:, column] == resolution]
        assert (same == 0).all(axis=1).any() and (same == np.delete(index.space.largest(), column, axis=1)).all(axis=1).any()


def test_networks_are_spread_over_the_whole_range_of_macs(index):
    """Of six equal parts of the logarithmic range each has two networks or more; uniform codes leave the first one nearly empty."""
    cost = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    found = np.log(cost(calibration_networks(index, 24, np.random.default_rng(0))))
    edges = np.linspace(found.min(), found.max(), 7)
    assert np.histogram(found, edges)[0].min() >= 2
    assert np.histogram(np.log(cost(index.space.sample(np.random.default_rng(0), 1000))), edges)[0][0] < 1000 / 6 / 4


def test_the_same_seed_gives_the_same_plan_and_another_one_others(index):
    first, second, other = (make_plan(index, visits=2, networks=24, seed=seed).networks for seed in (3, 3, 4))
    assert (first == second).all() and (first != other).any()


@settings(max_examples=40, deadline=None)
@given(spaces())
def test_every_space_has_networks_to_measure_and_no_more_than_it_holds(space):
    index = BlockIndex(space)
    codes = space.check(calibration_networks(index, 6, np.random.default_rng(0)))
    assert 1 <= len(codes) <= min(6, index.subnets().n)
    assert len(np.unique(index.ids(codes), axis=0)) == len(codes)


@pytest.mark.parametrize(("visits", "networks"), [(0, 24), (2000, 24), (8, -1), (8, 20_000)])
def test_counts_out_of_range_are_refused(index, visits, networks):
    with pytest.raises(InputError, match="visits must be from 1 to 1,000 and networks from 0 to 10,000"):
        make_plan(index, visits=visits, networks=networks, seed=0)
