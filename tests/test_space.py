"""hwnas/space.py: codes, values, mutation and lowering; hwnas/spaces/: the published numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_spaces import conv, spaces

from hwnas.costs import macs, params
from hwnas.errors import InputError
from hwnas.graph import IDENTITY
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.spaces.ofa_mobilenet_v3 import ofa_mobilenet_v3

seeds = st.integers(0, 2**32)


def two_choices():
    kernel, skip = Choice("kernel", (1, 3, 5)), Choice("skip", ("no", "yes"))
    layers = [Layer("first", (kernel,), conv), Layer("second", (skip, kernel), lambda s, k: IDENTITY if s == "yes" else conv(k))]
    return SearchSpace("two", (kernel, skip), layers)


# -- generic ----------------------------------------------------------------------------------------------------------------------


def test_values_become_codes_and_return():
    space = two_choices()
    assert space.encode({"skip": "yes", "kernel": 5}).tolist() == [[2, 1]]
    assert space.decode([2, 1]) == {"kernel": 5, "skip": "yes"}


@given(spaces(), seeds)
def test_every_code_survives_its_values(space, seed):
    codes = space.sample(np.random.default_rng(seed), 5)
    for row in codes:
        assert (space.encode(space.decode(row)) == row).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kernel": 3}, "skip is missing"),
        ({"kernel": 3, "skip": "no", "depth": 1}, "unknown choice depth"),
        ({"kernel": 4, "skip": "no"}, r"kernel is 4, must be one of \(1, 3, 5\)"),
        ({"kernel": True, "skip": "no"}, "kernel is True"),
        ({"kernel": [3], "skip": "no"}, r"kernel is \[3\]"),
        ({"kernel": "3", "skip": "no"}, "kernel is '3'"),
    ],
)
def test_values_that_are_no_architecture_are_refused(values, message):
    with pytest.raises(InputError, match=f"not an architecture of two: {message}"):
        two_choices().encode(values)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.array([[0, 0], [3, 0]]), r"code 3 of kernel in row 1 is outside 0\.\.2"),
        (np.array([[0, -1]]), r"code -1 of skip in row 0 is outside 0\.\.1"),
        (np.array([[0.0, 1.0]]), "are integers of shape"),
        (np.array([0, 1]), "are integers of shape"),
        (np.array([[0, 1, 0]]), "are integers of shape"),
    ],
)
def test_codes_out_of_range_are_refused(codes, message):
    with pytest.raises(InputError, match=message):
        two_choices().check(codes)


def test_populations_are_int16_and_column_major():
    space, rng = two_choices(), np.random.default_rng(0)
    first = space.sample(rng, 7)
    for codes in (first, space.mutate(first, rng), space.crossover(first, first, rng), space.check(first.tolist() and np.array(first.tolist()))):
        assert codes.dtype == np.int16 and codes.flags.f_contiguous and codes.shape == (7, 2)


def test_sampling_reaches_every_value_and_follows_its_seed():
    space = two_choices()
    codes = space.sample(np.random.default_rng(1), 200)
    assert len(np.unique(codes, axis=0)) == space.size == 6
    assert (codes == space.sample(np.random.default_rng(1), 200)).all()


@given(spaces(), seeds, st.floats(0, 1))
def test_mutation_changes_at_least_one_gene_and_stays_in_range(space, seed, rate):
    rng = np.random.default_rng(seed)
    codes = space.sample(rng, 20)
    if space.size == 1:
        with pytest.raises(InputError, match="nothing to mutate"):
            space.mutate(codes, rng, rate)
        return
    before = codes.copy()
    mutated = space.mutate(codes, rng, rate)
    assert (codes == before).all()
    assert (mutated != codes).any(axis=1).all()
    space.check(mutated)


def test_mutation_at_rate_one_changes_every_gene_and_at_rate_zero_exactly_one():
    space, rng = ofa_mobilenet_v3(), np.random.default_rng(3)
    codes = space.sample(rng, 50)
    assert (space.mutate(codes, rng, 1.0) != codes).all()
    assert ((space.mutate(codes, rng, 0.0) != codes).sum(axis=1) == 1).all()


def test_mutation_takes_every_other_value_equally_often():
    space = SearchSpace("one", (Choice("c", (0, 1, 2, 3)),), [Layer("l", (), conv)])
    mutated = space.mutate(np.full((3000, 1), 1, np.int16), np.random.default_rng(0), 1.0)
    counts = np.bincount(mutated[:, 0], minlength=4)
    assert counts[1] == 0 and (abs(counts[[0, 2, 3]] - 1000) < 4 * np.sqrt(1000 * 2 / 3)).all()  # four standard deviations


@given(spaces(), seeds)
def test_crossover_takes_each_gene_from_a_parent(space, seed):
    rng = np.random.default_rng(seed)
    first, second = space.sample(rng, 10), space.sample(rng, 10)
    child = space.crossover(first, second, rng)
    assert ((child == first) | (child == second)).all()


def test_the_smallest_and_largest_codes_are_the_ends():
    space = two_choices()
    assert (space.smallest().tolist(), space.largest().tolist()) == ([[0, 0]], [[2, 1]])


def test_lowering_builds_each_layer_from_what_it_reads():
    space = two_choices()
    assert [each.op.kernel for each in space.lower([[2, 0]]).nodes] == [5, 5]
    assert [each.name for each in space.lower([[1, 1]]).nodes] == ["first/conv"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice("c", ()), "choice c needs distinct values"),
        (lambda: Choice("c", (1, 1)), "choice c needs distinct values"),
        (lambda: SearchSpace("s", [Choice("c", (1,)), Choice("c", (2,))], []), "s: two choices share a name"),
        (lambda: SearchSpace("s", [Choice("c", (1,))], [Layer("l", (), conv)] * 2), "s: two layers share a name"),
        (lambda: SearchSpace("s", [Choice("c", (1,))], [Layer("l", (Choice("d", (1,)),), conv)]), "s: layer l reads d, which is none of the choices"),
        (lambda: SearchSpace("s", [Choice("c", (1,))], [Layer("l", (Choice("c", (2,)),), conv)]), "s: layer l reads c, which is none of the choices"),
    ],
)
def test_a_space_that_contradicts_itself_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# -- published numbers ------------------------------------------------------------------------------------------------------------


def ofa_by_hand(resolution, kernel, expand, depth):
    """MACs and parameters of a uniform OFA-MobileNetV3 w1.0, from the table of the paper's code and nothing of ours."""
    side = resolution // 2
    cost = {"macs": side * side * 16 * 27, "params": 16 * 27 + 32}  # 3x3 convolution of stride 2 to 16 channels, batch norm

    def conv(side, weights, channels_with_norm):
        cost["macs"] += side * side * weights
        cost["params"] += weights + 2 * channels_with_norm

    conv(side, 16 * 9, 16)
    conv(side, 16 * 16, 16)
    width = 16
    for out, stride, se in ((24, 2, False), (40, 2, True), (80, 2, False), (112, 1, True), (160, 2, True)):
        for block in range(depth):
            middle = width * expand  # every product is a multiple of 8 here
            conv(side, width * middle, middle)
            side = side // stride if block == 0 else side
            conv(side, middle * kernel**2, middle)
            if se:
                quarter = middle // 4
                reduced = max(8, (quarter + 4) // 8 * 8)
                reduced += 8 if reduced < 0.9 * quarter else 0
                cost["macs"] += 2 * middle * reduced
                cost["params"] += 2 * middle * reduced + middle + reduced
            conv(side, middle * out, out)
            width = out
    conv(side, 160 * 960, 960)
    cost["macs"] += 960 * 1280 + 1280 * 1000
    cost["params"] += 960 * 1280 + 1280 * 1000 + 1000
    return cost["macs"], cost["params"]


@pytest.mark.parametrize("uniform", [(3, 3, 2), (7, 6, 4), (5, 4, 3), (3, 6, 4), (7, 3, 2)])
@pytest.mark.parametrize("resolution", [128, 192, 224])
def test_ofa_costs_what_its_table_says(uniform, resolution):
    kernel, expand, depth = uniform
    space = ofa_mobilenet_v3()
    wanted = {"resolution": resolution, "kernel": kernel, "expand": expand, "depth": depth}
    graph = space.lower(space.encode({choice.name: wanted[choice.name.rpartition(".")[2]] for choice in space.choices}))
    block = tuple(each.node for each in graph.nodes)
    assert (macs([block])[0], params([block])[0]) == ofa_by_hand(resolution, *uniform)


def test_the_ends_of_ofa_are_the_published_ones():
    space = ofa_mobilenet_v3()
    index = BlockIndex(space)
    for cost, smallest, largest, digit in ((macs, 121.3e6, 566.2e6, 0.1e6), (params, 3.41e6, 7.66e6, 0.01e6)):
        low, high = Additive(index, cost(index.blocks), name="cost", unit="").bounds({"resolution": 24})
        assert space.choices[0].values[24] == 224
        assert (low.value, high.value) == (pytest.approx(smallest, abs=digit / 2), pytest.approx(largest, abs=digit / 2))


def test_ofa_counts_7371_encodings_per_stage_and_25_resolutions():
    # a stage of depth d has 9^d choices of kernel and ratio: 9^2 + 9^3 + 9^4 = 7371; five stages
    index = BlockIndex(ofa_mobilenet_v3())
    assert 9**2 + 9**3 + 9**4 == 7371
    assert index.encodings().n == 7371**5 == 21_758_655_492_572_485_851 and index.encodings().exact
    assert index.subnets().n == 25 * 7371**5 and index.subnets().exact


def test_width_1_2_has_the_published_channels():
    graph = ofa_mobilenet_v3(width=1.2).lower(ofa_mobilenet_v3(width=1.2).largest())
    by_name = {each.name: each.op for each in graph.nodes}
    assert [by_name[f"stage{s}.block3/project"].out for s in range(1, 6)] == [32, 48, 96, 136, 192]
    assert (by_name["stem/0.conv"].out, by_name["head/expand"].out, by_name["head/mix"].out) == (24, 1152, 1536)


def test_the_demo_space_stays_under_two_million_macs():
    space = ofa_mini()
    index = BlockIndex(space)
    low, high = Additive(index, macs(index.blocks), name="macs", unit="").bounds()
    assert high.value <= 2e6 and (high.code == space.largest()).all() and (low.code[:, 1] == 0).all()


@pytest.mark.parametrize("options", [{"resolutions": (48, 32)}, {"resolutions": ()}, {"resolutions": (4,)}, {"classes": 0}, {"batch": 0}])
def test_a_space_refuses_options_it_cannot_build(options):
    with pytest.raises(InputError, match="ofa_mini"):
        ofa_mini(**options)
