"""hwnas/feasible_set.py: whether budgets can be met is known exactly, before anything is trained."""

import re
from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_spaces import all_codes, spaces

from hwnas.blocks import conv_bn_act
from hwnas.budget import Budget
from hwnas.costs import macs, params
from hwnas.errors import Infeasible, InputError
from hwnas.expectation import expected
from hwnas.feasible_set import Constraint, FeasibleSet, Share, amount, describe
from hwnas.index import BlockIndex
from hwnas.memory import peak_memory
from hwnas.predictor import Additive, Peak
from hwnas.problem import Objective, Problem
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.spaces.ofa_mini import ofa_mini

KERNELS = (1, 3, 5)


def small_index():
    """81 networks: four convolutions in a row, each of kernel 1, 3 or 5, 4 x 4 pixels, 1 + i channels in and 2 + i out."""
    choices = [Choice(f"layer{i}.kernel", KERNELS) for i in range(4)]
    layers = [Layer(f"layer{i}", (choice,), partial(conv_bn_act, (1, 1 + i, 4, 4), 2 + i)) for i, choice in enumerate(choices)]
    return BlockIndex(SearchSpace("small", choices, layers))


INDEX = small_index()
EVERYTHING = np.asfortranarray(list(product(range(3), repeat=4)), np.int16)
MACS = Additive(INDEX, macs(INDEX.blocks), name="macs", unit="MACs")
PARAMS = Additive(INDEX, params(INDEX.blocks), name="params", unit="parameters")


class Lookup:
    """A metric by a function of one code, with no bounds."""

    unit, origin = "points", "simulated"

    def __init__(self, value, *, expensive=False):
        self.value, self.name, self.expensive, self.calls = value, "gain", expensive, 0

    def __call__(self, codes):
        self.calls += len(codes)
        return np.array([self.value(code.tolist()) for code in codes], float)


# -- the survey ---------------------------------------------------------------------------------------------------------------------


def test_the_survey_tells_extremes_shares_and_a_witness():
    memory = Peak(INDEX, np.arange(len(INDEX.blocks), dtype=float), name="memory", unit="bytes")  # rises with layer and kernel: 0 ... 11
    feasible = FeasibleSet(INDEX, [(Budget("macs", 4_000.0), MACS), (Budget("memory", 9.0), memory)])
    told = feasible.survey(np.random.default_rng(0))
    work, peak = told.reaches
    assert (work.least.value, work.greatest.value, work.exact) == (640, 16_000, True)
    assert (peak.least.value, peak.greatest.value, peak.exact) == (9, 11, True)  # the last layer alone has 9, 10, 11
    assert MACS(work.greatest.code)[0] == 16_000 and memory(peak.least.code)[0] == 9
    inside = (MACS(EVERYTHING) <= 4_000) & (memory(EVERYTHING) <= 9)
    for share, exact in ((work.share, MACS(EVERYTHING) <= 4_000), (peak.share, memory(EVERYTHING) <= 9), (told.share, inside)):
        assert share.samples == 65_536 and share.low <= exact.mean() <= share.high and share.high - share.low < 0.01
    assert told.witness.shape == (1, 4) and feasible.within(told.witness)[0]


def test_the_problem_asks_its_feasible_set():
    problem = Problem(INDEX, [Objective(PARAMS, maximize=True)], [(Budget.parse("macs", "<= 25%"), MACS)])
    told = problem.feasible(np.random.default_rng(0), 1_000)
    assert told.share.samples == 1_000 and told.reaches[0].constraint.limit == problem.constraints[0].limit == 4_000
    assert problem.feasible(np.random.default_rng(0), 1_000).share == told.share
    with pytest.raises(InputError, match="at least 1 sample, got 0"):
        problem.feasible(np.random.default_rng(0), 0)


def test_without_budgets_everything_is_feasible():
    told = FeasibleSet(INDEX, ()).survey(np.random.default_rng(0), 10)
    assert told.reaches == () and told.share.value == 1 and told.witness.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("inside", "of", "low", "high"),
    # the score interval, by its formula: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with z = 1.96
    [(0, 10, 0, 0.27753), (5, 10, 0.23659, 0.76341), (10, 10, 0.72247, 1), (1, 1_000, 0.00018, 0.00565)],
)
def test_a_share_has_its_wilson_interval(inside, of, low, high):
    share = Share.of(np.arange(of) < inside)
    assert (share.value, share.samples) == (inside / of, of)
    assert (share.low, share.high) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


# -- several budgets, exactly -------------------------------------------------------------------------------------------------------


@st.composite
def budgeted(draw, slack):
    """An index, and two to four budgets on sums and largests of any prices, each met by some architecture."""
    index = BlockIndex(draw(spaces()))
    codes = all_codes(index.space)
    price = st.sampled_from([0.1, 0.2, 0.3, 1.0, 2.5e-3, 7.3])
    budgets = []
    for i in range(draw(st.integers(2, 4))):
        kind = draw(st.sampled_from([Additive, Additive, Peak]))
        cells = [np.array(draw(st.lists(price, min_size=len(table), max_size=len(table)))) for table in index.tables]
        metric = kind(index, cells, name=f"m{i}", unit="ms")
        values = np.unique(metric(codes))
        budgets.append((Budget(metric.name, float(values[draw(st.integers(0, (len(values) - 1) // 2))]) + slack), metric))
    return index, budgets


def decided(index, budgets):
    """FeasibleSet's answer compared with that of listing every architecture."""
    codes = all_codes(index.space)
    inside = np.all([metric(codes) <= budget.limit for budget, metric in budgets], axis=0)
    if inside.any():
        feasible = FeasibleSet(index, budgets)
        assert all(metric(feasible.witness)[0] <= budget.limit for budget, metric in budgets)
        assert feasible.within(codes).tolist() == inside.tolist()
        return
    with pytest.raises(Infeasible) as told:
        FeasibleSet(index, budgets)
    nearest = np.max([metric(codes) / budget.limit for budget, metric in budgets], axis=0).min()
    stated = re.search(r"at least ([\d.e-]+) times one of the limits", str(told.value))
    assert stated and float(stated[1]) == pytest.approx(nearest, rel=1e-5)


@settings(max_examples=150, deadline=None)
@given(case=budgeted(slack=1e-7))
def test_whether_budgets_can_be_met_together_is_what_listing_every_architecture_says(case):
    decided(*case)


@settings(max_examples=150, deadline=None)
@given(case=budgeted(slack=0.0))
def test_limits_that_some_architecture_meets_exactly_are_decided_too(case):
    decided(*case)


def test_the_integer_programme_finds_what_random_architectures_do_not():
    """40 binary choices, exactly ten of them large: 1 in 1,300 at best, and here 1 in 10^9, for the ten are given."""
    choices = [Choice(f"layer{i}.kernel", (1, 3)) for i in range(40)]
    layers = [Layer(f"layer{i}", (choice,), partial(conv_bn_act, (1, 1 + i % 7, 1 + i, 4), 1 + (i + 1) % 7)) for i, choice in enumerate(choices)]
    index = BlockIndex(SearchSpace("needle", choices, layers))
    wanted = np.arange(40) % 4 == 1

    def cells(small, large):
        return [np.array([small, large]) if each else np.array([0.0, 1.0]) for each in wanted]

    some = Additive(index, cells(2.0, 0.0), name="some", unit="ms")  # falls with the wanted layers, rises with the others
    few = Additive(index, [np.array([0.0, 1.0])] * 40, name="few", unit="layers")
    assert FeasibleSet(index, [(Budget("some", 1.0), some), (Budget("few", 10.0), few)]).witness.tolist() == [wanted.astype(int).tolist()]
    with pytest.raises(Infeasible) as told:
        FeasibleSet(index, [(Budget("some", 1.0), some), (Budget("few", 9.0), few)])
    # ten large layers take 10/9 of the second limit; nine take 2 of the first
    assert str(told.value) == (
        "some <= 1 and few <= 9 cannot be met together: every architecture of needle takes at least 1.11111 times one of the limits; "
        "the nearest takes 0 ms and 10 layers: " + describe(index.space, np.array([wanted.astype(np.int16)]))
    )


def test_one_budget_that_cannot_be_met_names_its_least_value_and_who_reaches_it():
    memory = peak_memory(INDEX)
    with pytest.raises(Infeasible) as told:
        FeasibleSet(INDEX, [(Budget.parse("memory", "<= 0.5kB"), memory), (Budget("macs", 1e9), MACS)])
    # the last layer has 4 channels of 16 pixels in and 5 out
    assert str(told.value) == (
        "memory <= 0.5 kB cannot be met: every architecture of small takes at least 576 bytes (predicted), reached by the smallest architecture"
    )
    assert (amount(1_234_567.0), amount(196_928.0), amount(4.123456789)) == ("1,234,567", "196928", "4.12346")


def test_metrics_of_prices_that_are_not_finite_are_left_to_sampling():
    prices = macs(INDEX.blocks)
    prices[0] = np.inf  # the first layer's kernel of 1 failed to be measured
    broken = Additive(INDEX, prices, name="latency", unit="ms")
    feasible = FeasibleSet(INDEX, [(Budget("latency", 4_000.0), broken), (Budget("params", 100.0), PARAMS)])
    assert feasible.witness[0, 0] > 0 and feasible.within(feasible.witness)[0]


# -- metrics that are no look-ups -----------------------------------------------------------------------------------------------------


def test_a_metric_without_bounds_is_sampled_and_says_so():
    odd = Lookup(lambda code: 10.0 if code[0] == 0 or code[1] == 2 else 1.0)  # neither the smallest nor the largest is within
    told = FeasibleSet(INDEX, [(Budget("gain", 2.0), odd), (Budget("macs", 12_000.0), MACS)]).survey(np.random.default_rng(0))
    gain, work = told.reaches
    assert (gain.exact, gain.least.value, gain.greatest.value, gain.share.samples) == (False, 1, 10, 2_048)
    assert work.exact and work.share.samples == 2_048
    assert odd(told.witness)[0] == 1 and MACS(told.witness)[0] <= 12_000
    assert gain.share.low <= 4 / 9 <= gain.share.high


def test_a_metric_that_is_no_look_up_is_asked_only_where_the_look_ups_allow():
    odd = Lookup(lambda code: 1.0)
    feasible = FeasibleSet(INDEX, [(Budget("gain", 2.0), odd), (Budget("macs", 640.0), MACS)])
    odd.calls = 0
    assert feasible.within(EVERYTHING).sum() == 1 and odd.calls == 1


def test_an_odd_metric_that_nothing_random_meets_is_infeasible_as_far_as_is_known():
    odd = Lookup(lambda code: 5.0 + sum(code))
    feasible = FeasibleSet(INDEX, [(Budget("gain", 2.0), odd)])
    for asked in (lambda: feasible.witness, lambda: feasible.survey(np.random.default_rng(0)), lambda: feasible.sample(np.random.default_rng(0), 1)):
        with pytest.raises(Infeasible, match="no architecture of small within gain <= 2 was found among random ones; allow more, or give fewer budgets"):
            asked()
    nan = FeasibleSet(INDEX, [(Budget("gain", 2.0), Lookup(lambda code: np.nan if code[0] else 1.0))])
    assert nan.survey(np.random.default_rng(0)).reaches[0].greatest.value == 1


def test_what_is_paid_for_is_not_asked_for():
    paid = Lookup(sum, expensive=True)
    told = FeasibleSet(INDEX, [(Budget("gain", 2.0), paid), (Budget("macs", 4_000.0), MACS)]).survey(np.random.default_rng(0))
    assert paid.calls == 0 and [each.constraint.budget.metric for each in told.reaches] == ["macs"]


# -- one object for every searcher ----------------------------------------------------------------------------------------------------


def test_a_constraint_gives_values_to_some_searchers_and_slopes_to_others():
    index = BlockIndex(ofa_mini())
    work = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    (constraint,) = FeasibleSet(index, [(Budget.parse("macs", "<= 60%"), work)]).constraints
    codes = index.space.sample(np.random.default_rng(0), 50)
    assert constraint.price(codes).tolist() == work(codes).tolist()
    assert constraint.limit == pytest.approx(0.6 * work(index.space.largest())[0])
    uniform = [np.full(n, 1 / n) for n in index.space.cardinalities]
    value, slopes = constraint.expected(uniform)
    known, expected_slopes = expected(work, uniform)
    assert value == known and all(np.array_equal(a, b) for a, b in zip(slopes, expected_slopes, strict=True))
    # a step down the slopes by the logits costs less
    logits = [-1e-7 * (slope - slope.mean()) for slope in slopes]
    cheaper = [np.exp(each) / np.exp(each).sum() for each in logits]
    assert constraint.expected(cheaper)[0] < value


def test_what_is_no_sum_has_no_slopes():
    memory = Constraint(Budget("memory", 1e6), peak_memory(INDEX))
    with pytest.raises(InputError, match="the budget memory <= 1000 kB has no exact expectation, memory being no sum over layers"):
        memory.expected([np.full(3, 1 / 3)] * 4)


def test_wrong_limits_and_shares_are_refused():
    for limit in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(InputError, match="needs a positive limit"):
            FeasibleSet(INDEX, [(Budget("macs", limit), MACS)])
    with pytest.raises(InputError, match="is a share of a space that is not given"):
        _ = Constraint(Budget("macs", None, share=0.5), MACS).limit
    with pytest.raises(InputError, match="the largest subnet of small has no gain"):
        FeasibleSet(INDEX, [(Budget("macs", None, share=0.5), Lookup(lambda code: np.nan))])
