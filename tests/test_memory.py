"""hwnas/memory.py: peak memory of many architectures equals liveness over each lowered network."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_spaces import all_codes

from hwnas import registry
from hwnas.blocks import chain, conv_bn_act, mbconv
from hwnas.graph import ABSENT, IDENTITY, Graph, Node
from hwnas.index import BlockIndex
from hwnas.memory import LoweredPeak, is_chain, peak_bytes, peak_memory
from hwnas.ops import Add, Conv2d, Flatten, GlobalPool, Linear
from hwnas.predictor import Peak
from hwnas.space import Choice, Layer, SearchSpace

SHAPE = (1, 4, 6, 6)
ELEMENTS = 4 * 6 * 6
#: Blocks that keep SHAPE: skipped, one operator, residuals of several widths, gates, two in a row.
BLOCKS = (
    IDENTITY,
    conv_bn_act(SHAPE, 4),
    *(mbconv(SHAPE, 4, 3, expand) for expand in (1, 2, 3, 6)),
    mbconv(SHAPE, 4, 5, 4, se=True),
    mbconv(SHAPE, 4, 3, 1, expand_always=False),
    chain(mbconv(SHAPE, 4, 3, 2), conv_bn_act(SHAPE, 4, 1)),
    (Node("dead", Conv2d(SHAPE, out=500), ("in0",)), Node("conv", Conv2d(SHAPE, out=4), ("in0",))),
)


def lowered(space, codes):
    return [space.lower(code).peak_activation_bytes() for code in codes]


def picked(table, sizes, *values):
    return BLOCKS[table[int(np.ravel_multi_index(values, sizes)) if sizes else 0]]


@st.composite
def chains(draw):
    """Small spaces of blocks with very different peaks, whose layers share choices in any way."""
    choices = [Choice(f"c{i}", tuple(range(draw(st.integers(1, 3))))) for i in range(draw(st.integers(1, 4)))]
    layers = []
    for i in range(draw(st.integers(1, 5))):
        reads = tuple(c for c in choices if draw(st.booleans()))
        sizes = tuple(len(c.values) for c in reads)
        table = draw(st.lists(st.integers(0, len(BLOCKS) - 1), min_size=int(np.prod(sizes)), max_size=int(np.prod(sizes))))
        layers.append(Layer(f"layer{i}", reads, partial(picked, tuple(table), sizes)))
    layers.append(Layer("last", (), partial(conv_bn_act, SHAPE, 2, 1)))
    return SearchSpace("chain", choices, layers)


@given(chains())
def test_the_peak_of_a_chain_is_that_of_each_lowered_network_and_its_bounds_are_attained(space):
    metric, codes = peak_memory(BlockIndex(space)), all_codes(space)
    assert isinstance(metric, Peak) and metric.unit == "bytes"
    values = metric(codes)
    assert values.tolist() == lowered(space, codes)
    least, greatest = metric.bounds()
    assert (least.value, greatest.value) == (values.min(), values.max())
    assert metric(least.code)[0] == least.value and metric(greatest.code)[0] == greatest.value
    assert metric.layers(codes).max(axis=1).tolist() == values.tolist()


@pytest.mark.parametrize("name", registry.names("spaces"))
def test_the_peak_is_four_bytes_for_each_element_alive_in_every_space_that_ships(name):
    space = registry.create("spaces", name)
    index = BlockIndex(space)
    metric = peak_memory(index)
    codes = np.asfortranarray(np.concatenate([space.smallest(), space.largest(), space.sample(np.random.default_rng(3), 30)]))
    networks = [space.lower(code) for code in codes]
    assert {op.data_type for op in networks[0].ops} == {"float32"}
    assert metric(codes).tolist() == [4 * network.peak_activation_elements() for network in networks]
    if is_chain(index):
        values = metric(space.sample(np.random.default_rng(4), 10_000))
        least, greatest = metric.bounds()
        assert least.value <= values.min() and values.max() <= greatest.value
        assert [least.value, greatest.value] == lowered(space, [least.code[0], greatest.code[0]])


def test_a_shortcut_keeps_the_input_of_its_block_alive():
    # channels alive: expand 4 and 8, depthwise 4 and 8 and 8, project 4 and 8 and 4, add 4 and 4 and 4
    assert peak_bytes([mbconv(SHAPE, 4, 3, 2)]).tolist() == [4 * (4 + 8 + 8) * 36]
    # without one (another width) the input is gone when the depthwise convolution runs: 8 and 8
    assert peak_bytes([mbconv(SHAPE, 2, 3, 2)]).tolist() == [4 * (8 + 8) * 36]
    assert peak_bytes([IDENTITY]).tolist() == [0.0]


def test_bytes_are_those_of_each_operators_data_type():
    small = Node("small", Conv2d(SHAPE, out=4, dtype="int8_u8s8"), ("in0",))
    graph = Graph([("a", (small,), None), ("b", (Node("half", Conv2d(SHAPE, out=8, dtype="float16"), ("in0",)),), None)])
    assert graph.peak_activation_bytes() == ELEMENTS + 2 * 2 * ELEMENTS  # int8 in, float16 of twice the width out
    assert Graph.of_block((small,)).peak_activation_bytes() == 2 * ELEMENTS  # the input is read as int8
    assert graph.peak_activation_elements() == 3 * ELEMENTS


def branches():
    """Two branches from one stem, either of which may be absent or wide, joined by an addition where both exist."""
    left, right = Choice("left", (1, 2)), Choice("right", (0, 1, 2))

    def branch(width):
        return ABSENT if width == 0 else chain(conv_bn_act(SHAPE, 4 * width, 1), conv_bn_act((1, 4 * width, 6, 6), 4, 1))

    def join(width):
        return (Node("add", Add(SHAPE), ("in0", "in1")),) if width else conv_bn_act(SHAPE, 4, 1)

    layers = [
        Layer("stem", (), partial(conv_bn_act, SHAPE, 4)),
        Layer("a", (left,), branch, ("stem",)),
        Layer("b", (right,), branch, ("stem",)),
        Layer("join", (right,), join, ("a", "b")),
    ]
    return SearchSpace("branches", (left, right), layers)


class Counted(SearchSpace):
    """Counts the networks that are lowered."""

    lowerings = 0

    def lower(self, code):
        Counted.lowerings += 1
        return super().lower(code)


def test_what_is_no_chain_is_lowered_each_subnet_once():
    whole = branches()
    space = Counted(whole.name, whole.choices, whole.layers)
    index = BlockIndex(space)
    metric = peak_memory(index)
    assert isinstance(metric, LoweredPeak) and not is_chain(index)
    codes = all_codes(space)
    expected = lowered(whole, codes)
    assert len(set(expected)) > 2
    Counted.lowerings = 0
    assert metric(np.concatenate([codes, codes])).tolist() == expected * 2 and metric(codes).tolist() == expected
    assert Counted.lowerings == len(codes)
    assert metric(codes[:0]).shape == (0,)
    # left wide, right absent: stem and 8 channels
    assert metric(space.encode({"left": 2, "right": 0}))[0] == 4 * 3 * ELEMENTS
    # both wide: while b runs, a's output is alive, and the stem until b's first convolution has read it
    assert metric(space.encode({"left": 2, "right": 2}))[0] == 4 * 4 * ELEMENTS


def test_a_layer_that_names_the_one_before_it_is_still_part_of_a_chain():
    layers = [Layer("a", (), partial(conv_bn_act, SHAPE, 4), ("input",)), Layer("b", (), partial(conv_bn_act, SHAPE, 4), ("a",))]
    assert is_chain(BlockIndex(SearchSpace("explicit", (), layers)))
    skip = [*layers, Layer("c", (), partial(conv_bn_act, SHAPE, 4), ("a",))]
    assert not is_chain(BlockIndex(SearchSpace("skip", (), skip)))


def test_what_a_network_returns_counts_too():
    pool = GlobalPool(SHAPE)
    flatten = Flatten(pool.output)
    head = (Node("pool", pool, ("in0",)), Node("flatten", flatten, ("pool",)), Node("classifier", Linear(flatten.output, out=1000), ("flatten",)))
    assert peak_bytes([head, head[:1]]).tolist() == [4.0 * (4 + 1000), 4.0 * (ELEMENTS + 4)]
