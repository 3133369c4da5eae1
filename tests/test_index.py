"""hwnas/index.py: distinct blocks, ids and counts, against brute force on small spaces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_spaces import BLOCKS, all_codes, conv, spaces

from hwnas.errors import InputError
from hwnas.graph import IDENTITY, Node
from hwnas.index import BlockIndex, Count
from hwnas.ops import Conv2d
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.spaces.ofa_mobilenet_v3 import ofa_mobilenet_v3


def built(space, code):
    """The blocks of one architecture, straight from its layers."""
    values = space.decode(code)
    return [layer.build(*(values[c.name] for c in layer.reads)) for layer in space.layers]


@given(spaces())
def test_ids_name_the_block_that_each_layer_builds(space):
    index, codes = BlockIndex(space), all_codes(space)
    for row, ids in zip(codes, index.ids(codes), strict=True):
        assert [index.blocks[i] for i in ids] == built(space, row)


@given(spaces())
def test_blocks_are_distinct_and_all_used(space):
    index = BlockIndex(space)
    assert len(set(index.blocks)) == len(index.blocks)
    assert set(np.unique(index.ids(all_codes(space)))) == set(range(len(index.blocks)))


@given(spaces())
def test_counting_subnets_agrees_with_listing_them(space):
    index = BlockIndex(space)
    count, listed = index.subnets(), len(np.unique(index.ids(all_codes(space)), axis=0))
    assert count.n == listed if count.exact else count.n >= listed


@given(spaces(max_choices=3), st.integers(0, 2))
@settings(max_examples=50)
def test_counting_encodings_collapses_what_skipped_layers_read(space, excluded):
    name = f"c{excluded}"
    index, codes = BlockIndex(space), all_codes(space)
    if name in space.column:
        codes = codes[codes[:, space.column[name]] == codes[:, space.column[name]].max()]

    def collapsed(row):
        """What is left of an encoding once layers that are skipped forget what they read."""
        blocks = zip(space.layers, built(space, row), strict=True)
        return tuple(tuple(row[space.column[c.name]] for c in layer.reads) if block else None for layer, block in blocks)

    seen = {collapsed(row) for row in codes}
    count = index.encodings((name,))
    assert count.n == len(seen) if count.exact else count.n >= len(seen)


def test_choices_of_a_skipped_layer_are_one_subnet():
    depth, kernel = Choice("depth", (0, 1)), Choice("kernel", (1, 3, 5, 7))
    layers = [Layer("maybe", (depth, kernel), lambda d, k: conv(k) if d else IDENTITY), Layer("last", (), conv)]
    index = BlockIndex(SearchSpace("s", (depth, kernel), layers))
    assert (index.subnets().n, index.subnets().exact) == (1 + 4, True)
    assert index.space.size == 8
    assert len(index.distinct(all_codes(index.space))) == 5


def test_values_that_no_block_tells_apart_are_counted_once(monkeypatch):
    # of c0, which both layers read, no block shows anything
    shared, *own = Choice("c0", (0, 1)), *(Choice(f"c{i}", tuple(range(1100))) for i in (1, 2))
    layers = [Layer(f"l{i}", (shared, choice), lambda s, v: conv(1 + 2 * (v % 4))) for i, choice in enumerate(own)]
    index = BlockIndex(SearchSpace("s", (shared, *own), layers))
    assert index.subnets() == Count(4 * 4, exact=True)
    monkeypatch.setattr("hwnas.index._MAX_PAIRS", 0)
    assert index.subnets() == Count(2 * 4 * 4, exact=False)  # once for each value of c0


@given(spaces())
@settings(max_examples=50)
def test_a_count_that_is_not_exact_is_a_bound(space):
    index = BlockIndex(space)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hwnas.index._MAX_PAIRS", 0)
        assert index.subnets().n >= len(np.unique(index.ids(all_codes(space)), axis=0))


def chained(n, size, build):
    """A chain of n layers, each reading two neighbouring choices of `size` values."""
    choices = [Choice(f"c{i}", tuple(range(size))) for i in range(n + 1)]
    layers = [Layer(f"l{i}", (choices[i], choices[i + 1]), build) for i in range(n)]
    return BlockIndex(SearchSpace("chain", choices, [*layers, Layer("last", (), conv)]))


def test_a_long_chain_is_counted_exactly():
    # 3 x 3 where neighbours differ, else 1 x 1: two codes for every subnet
    assert chained(60, 2, lambda a, b: conv(3 if a != b else 1)).subnets() == Count(2**60, exact=True)
    # every layer shows its second choice, and of the first whether it is odd: c0 has two sorts, all others four
    assert chained(60, 4, lambda a, b: BLOCKS[1 + 4 * (a % 2) + b]).subnets() == Count(2 * 4**60, exact=True)


def test_choices_that_all_hang_together_are_refused_by_name():
    choices = [Choice(f"c{i}", tuple(range(11))) for i in range(6)]
    layers = [Layer(f"l{i}{j}", (choices[i], choices[j]), lambda *_: conv()) for i in range(6) for j in range(i)]
    with pytest.raises(InputError, match=r"share too many choices: c0, c1, c2, c3, c4, c5 would have to be looked at together, 1,771,561 combinations"):
        BlockIndex(SearchSpace("all", choices, layers)).subnets()


def test_distinct_keeps_the_first_of_each_subnet_in_order():
    space = ofa_mini()
    codes = np.concatenate([space.largest(), space.smallest(), space.largest(), space.smallest()])
    skipped = space.smallest()
    skipped[0, space.column["stage1.block2.kernel"]] = 1  # stage 1 has depth 1: block 2 is not there
    assert (BlockIndex(space).distinct(np.concatenate([codes, skipped])) == codes[:2]).all()


def test_ofa_has_1227_distinct_blocks():
    index = BlockIndex(ofa_mobilenet_v3())
    # per resolution: stem, head and, where sides of neighbouring resolutions coincide, shared blocks; counted in the design's prototype
    assert len(index.blocks) == 1227
    assert len(index.tables) == 22 and sum(map(len, index.tables)) == 25 * (2 + 10 * 9 + 10 * 27)


def test_equal_blocks_of_different_objects_share_a_number():
    choice = Choice("c", (0, 1))
    index = BlockIndex(SearchSpace("s", (choice,), [Layer("l", (choice,), lambda v: (Node("conv", Conv2d((1, 4, 5, 5), out=4), ("in0",)),))]))
    assert len(index.blocks) == 1 and index.tables[0].tolist() == [0, 0]


def test_a_layer_that_reads_too_much_is_refused_with_its_reads():
    choices = [Choice(f"c{i}", tuple(range(101))) for i in range(3)]
    with pytest.raises(InputError, match=r"layer wide reads c0, c1, c2: 1,030,301 combinations, over the limit of 1,000,000; split the layer"):
        BlockIndex(SearchSpace("s", choices, [Layer("wide", tuple(choices), lambda *_: conv())]))


def test_the_fingerprint_depends_on_choices_layers_and_operators_only():
    def fingerprint(values=(1, 3), layer="l", eps=1e-5, name="s"):
        choice = Choice("c", values)
        build = lambda v: (Node("conv", Conv2d((1, 4, 5, 5), out=4, kernel=v), ("in0",), eps),)  # noqa: E731
        return BlockIndex(SearchSpace(name, (choice,), [Layer(layer, (choice,), build)])).fingerprint

    assert fingerprint() == fingerprint() == fingerprint(name="renamed")
    assert len({fingerprint(), fingerprint((1, 5)), fingerprint((3, 1)), fingerprint(layer="m"), fingerprint(eps=1e-3)}) == 5


def test_the_small_blocks_of_these_tests_are_nine():
    assert len(set(BLOCKS)) == 9
