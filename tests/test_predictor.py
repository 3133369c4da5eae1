"""hwnas/predictor.py: additive metrics equal lowering one by one, and their bounds are attained."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_spaces import all_codes, block_prices, conv, spaces

from hwnas.costs import activations, layers, macs, params
from hwnas.index import BlockIndex
from hwnas.predictor import Additive, Peak
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.spaces.ofa_mobilenet_v3 import ofa_mobilenet_v3

seeds = st.integers(0, 2**32)


def priced(space, seed, constant=0.0):
    """A metric with random prices, some of them negative."""
    index = BlockIndex(space)
    return Additive(index, np.random.default_rng(seed).normal(0, 1, len(index.blocks)), name="cost", unit="ms", constant=constant)


def one_by_one(metric, codes):
    """The same values from the blocks of each architecture, without index or gather."""
    price, space = dict(zip(metric.index.blocks, block_prices(metric), strict=True)), metric.index.space
    values = [space.decode(row) for row in codes]
    return [metric.constant + sum(price[layer.build(*(v[c.name] for c in layer.reads))] for layer in space.layers) for v in values]


@given(spaces(), seeds)
def test_additive_equals_lowering_one_by_one(space, seed):
    metric, codes = priced(space, seed, constant=0.5), all_codes(space)
    np.testing.assert_allclose(metric(codes), one_by_one(metric, codes), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(metric.layers(codes).sum(axis=1) + 0.5, metric(codes), rtol=1e-12, atol=1e-12)


@given(spaces(), seeds)
def test_bounds_equal_brute_force_and_are_attained(space, seed):
    metric = priced(space, seed, constant=-1.0)
    values = metric(all_codes(space))
    low, high = metric.bounds()
    assert (low.value, high.value) == (pytest.approx(values.min()), pytest.approx(values.max()))
    assert metric(low.code)[0] == pytest.approx(low.value) and metric(high.code)[0] == pytest.approx(high.value)
    space.check(np.concatenate([low.code, high.code]))


@given(spaces(), seeds, st.data())
def test_bounds_with_a_choice_held_equal_brute_force(space, seed, data):
    metric, codes = priced(space, seed), all_codes(space)
    column = data.draw(st.integers(0, len(space.choices) - 1))
    code = data.draw(st.integers(0, int(space.cardinalities[column]) - 1))
    values = metric(codes[codes[:, column] == code])
    low, high = metric.bounds({space.choices[column].name: code})
    assert (low.value, high.value) == (pytest.approx(values.min()), pytest.approx(values.max()))
    assert low.code[0, column] == high.code[0, column] == code


@given(spaces(), seeds)
def test_a_peak_is_the_largest_of_the_layers_and_its_bounds_equal_brute_force(space, seed):
    sums = priced(space, seed)
    metric, codes = Peak(sums.index, block_prices(sums), name="peak", unit="bytes", constant=-0.5), all_codes(space)
    values = metric(codes)
    assert values.tolist() == np.maximum(sums.layers(codes).max(axis=1), -0.5).tolist()
    low, high = metric.bounds()
    assert (low.value, high.value) == (values.min(), values.max()) == (metric(low.code)[0], metric(high.code)[0])


@pytest.mark.parametrize("cost", [macs, params, activations, layers])
def test_costs_of_ofa_equal_those_of_the_lowered_network(cost):
    space = ofa_mobilenet_v3()
    index = BlockIndex(space)
    codes = np.concatenate([space.smallest(), space.largest(), space.sample(np.random.default_rng(7), 20)])
    metric = Additive(index, cost(index.blocks), name="cost", unit="")
    for row, value in zip(codes, metric(codes), strict=True):
        blocks = {}
        for each in space.lower(row).nodes:
            blocks.setdefault(each.layer, []).append(each.node)
        assert value == cost([tuple(block) for block in blocks.values()]).sum()


def test_a_population_larger_than_a_pass_is_priced_like_its_parts():
    space = ofa_mobilenet_v3()
    metric = priced(space, 0)
    codes = space.sample(np.random.default_rng(0), 40_000)
    for rows in (slice(0, 10), slice(16_380, 16_390), slice(39_990, 40_000)):
        np.testing.assert_array_equal(metric(codes)[rows], metric(np.asfortranarray(codes[rows])))


def test_the_layout_of_a_population_does_not_matter():
    space = ofa_mobilenet_v3()
    codes = space.sample(np.random.default_rng(0), 100)
    np.testing.assert_array_equal(priced(space, 0)(codes), priced(space, 0)(np.ascontiguousarray(codes)))
    np.testing.assert_array_equal(priced(space, 0)(codes[::-1])[::-1], priced(space, 0)(codes))


def test_an_empty_population_has_no_prices():
    space = ofa_mobilenet_v3()
    assert priced(space, 0)(space.sample(np.random.default_rng(0), 0)).shape == (0,)


def test_a_layer_of_more_cells_than_16_bits_count_is_priced_exactly():
    rows, columns = Choice("row", tuple(range(200))), Choice("column", tuple(range(300)))
    space = SearchSpace("wide", (rows, columns), [Layer("wide", (rows, columns), lambda r, c: conv(1 + 2 * ((r + c) % 4)))])
    metric = priced(space, 1)
    codes = np.concatenate([space.sample(np.random.default_rng(0), 500), space.largest()])
    np.testing.assert_allclose(metric(codes), [block_prices(metric)[metric.index.tables[0][300 * r + c]] for r, c in codes.astype(int)])


def test_costs_by_hand():
    blocks = [(), conv(3)]  # 4 -> 4 channels, 3x3, on 5x5, with bias
    assert macs(blocks).tolist() == [0, 25 * 4 * 4 * 9]
    assert params(blocks).tolist() == [0, 4 * 4 * 9 + 4]
    assert activations(blocks).tolist() == [0, 100]
    assert layers(blocks).tolist() == [0, 1]
