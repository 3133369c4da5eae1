from functools import partial
from itertools import product

import numpy as np
import pytest

from hwnas.blocks import conv_bn_act
from hwnas.budget import Budget
from hwnas.costs import macs, params
from hwnas.errors import Infeasible, InputError
from hwnas.feasible_set import describe
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.problem import Objective, Problem, Scores
from hwnas.rewards import mnasnet_hard
from hwnas.space import Choice, Layer, SearchSpace
from tests.small_spaces import block_prices

KERNELS = (1, 3, 5)
#: MACs of layer i with kernel k: 4 x 4 pixels, 1 + i channels in, 2 + i out.
COSTS = [[16 * (1 + i) * (2 + i) * k * k for k in KERNELS] for i in range(4)]
LEAST, MOST = sum(row[0] for row in COSTS), sum(row[-1] for row in COSTS)  # 640 and 16,000


def small_index():
    """81 networks: four convolutions in a row, each of kernel 1, 3 or 5."""
    choices = [Choice(f"layer{i}.kernel", KERNELS) for i in range(4)]
    layers = [Layer(f"layer{i}", (choice,), partial(conv_bn_act, (1, 1 + i, 4, 4), 2 + i)) for i, choice in enumerate(choices)]
    return BlockIndex(SearchSpace("small", choices, layers))


INDEX = small_index()
EVERYTHING = np.asfortranarray(list(product(range(3), repeat=4)), np.int16)
MACS = Additive(INDEX, macs(INDEX.blocks), name="macs", unit="MACs")
PARAMS = Additive(INDEX, params(INDEX.blocks), name="params", unit="parameters")


class Lookup:
    """A metric by a function of one code."""

    unit, origin = "points", "simulated"

    def __init__(self, value, *, name="gain", expensive=False):
        self.value, self.name, self.expensive, self.calls = value, name, expensive, 0

    def __call__(self, codes):
        self.calls += len(codes)
        return np.array([self.value(code.tolist()) for code in codes], float)


GAIN = Lookup(sum)


def codes(*rows):
    return np.asfortranarray(rows, np.int16)


def test_the_costs_of_the_small_space_are_those_computed_by_hand():
    assert (LEAST, MOST) == (640, 16_000)
    assert MACS(codes([0, 0, 0, 0], [2, 2, 2, 2], [1, 0, 0, 0])).tolist() == [640, 16_000, 640 - 32 + 288]


def test_scores_hold_values_in_their_own_units_and_the_share_of_the_tightest_budget():
    problem = Problem(INDEX, [Objective(GAIN, maximize=True)], [(Budget("macs", 8_000.0), MACS), (Budget("params", 1e9), PARAMS)])
    scores = problem.evaluate(codes([0, 0, 0, 0], [2, 2, 2, 2]))
    assert scores.values.tolist() == [[0.0], [8.0]]
    assert scores.ratio.tolist() == [640 / 8_000, 2.0]
    assert scores.violation.tolist() == [0.0, 1.0]
    assert scores.feasible.tolist() == [True, False]


def test_a_candidate_exactly_at_the_limit_is_feasible():
    problem = Problem(INDEX, [Objective(GAIN)], [(Budget("macs", 640.0), MACS)])
    assert problem.evaluate(codes([0, 0, 0, 0], [1, 0, 0, 0])).feasible.tolist() == [True, False]


def test_without_budgets_everything_is_feasible():
    scores = Problem(INDEX, [Objective(GAIN)]).evaluate(EVERYTHING)
    assert scores.feasible.all() and (scores.ratio == 0).all() and len(scores) == 81


def test_a_failed_value_makes_a_candidate_infeasible_and_worst():
    failing = Lookup(lambda code: float("nan") if code[0] == 1 else float("inf") if code[0] == 2 else 3.0)
    problem = Problem(INDEX, [Objective(failing)])
    scores = problem.evaluate(codes([0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]))
    assert scores.failed.tolist() == [False, True, True] and scores.feasible.tolist() == [True, False, False]
    assert scores.violation.tolist() == [0.0, np.inf, np.inf]
    assert problem.reward(scores).tolist() == [-3.0, -np.inf, -np.inf]
    assert problem.minimised(scores).tolist() == [[3.0], [np.inf], [np.inf]]


def test_minimised_turns_the_sign_of_what_is_maximised():
    problem = Problem(INDEX, [Objective(GAIN, maximize=True), Objective(MACS)])
    assert problem.minimised(problem.evaluate(codes([2, 2, 2, 2]))).tolist() == [[-8.0, 16_000.0]]


def test_the_default_reward_puts_any_feasible_candidate_before_any_other():
    problem = Problem(INDEX, [Objective(GAIN, maximize=True)], [(Budget("macs", 1_000.0), MACS)])
    scores = problem.evaluate(codes([0, 0, 0, 0], [1, 0, 0, 0], [2, 2, 2, 2], [2, 2, 2, 0]))
    assert np.argsort(-problem.reward(scores)).tolist() == [1, 0, 3, 2]


def test_another_reward_is_a_function_of_quality_and_share():
    problem = Problem(INDEX, [Objective(GAIN, maximize=True)], [(Budget("macs", 4_000.0), MACS)], mnasnet_hard)
    assert problem.reward(problem.evaluate(codes([2, 2, 2, 2]))).tolist() == [8 / (16_000 / 4_000)]


def test_a_reward_of_several_objectives_is_refused():
    problem = Problem(INDEX, [Objective(GAIN), Objective(MACS)])
    with pytest.raises(InputError, match="needs one objective, this problem has 2"):
        problem.reward(problem.evaluate(EVERYTHING))


def test_a_problem_without_objectives_or_with_a_budget_of_nothing_is_refused():
    with pytest.raises(InputError, match="at least one objective"):
        Problem(INDEX, [])
    with pytest.raises(InputError, match="positive limit"):
        Problem(INDEX, [Objective(GAIN)], [(Budget("macs", 0.0), MACS)])


def test_an_impossible_budget_is_answered_with_the_least_value_and_who_reaches_it():
    with pytest.raises(Infeasible) as error:
        Problem(INDEX, [Objective(GAIN)], [(Budget("macs", 639.0), MACS)])
    assert str(error.value) == (
        "macs <= 639 cannot be met: every architecture of small takes at least 640 MACs (predicted), reached by the smallest architecture"
    )


def test_the_witness_is_named_by_how_it_differs_from_the_smallest():
    # price falls with the kernel of layer 2 alone: 3 - code
    prices = np.zeros(len(INDEX.blocks))
    for cell, block in enumerate(INDEX.tables[2]):
        prices[block] = 3.0 - cell
    odd = Additive(INDEX, prices, name="latency", unit="ms", origin="measured")
    with pytest.raises(Infeasible, match=r"latency <= 0.5 ms p50 cannot be met: .* at least 1 ms \(measured\), reached by .* but for layer2.kernel=5"):
        Problem(INDEX, [Objective(GAIN)], [(Budget("latency", 0.5), odd)])
    assert describe(INDEX.space, codes([0, 1, 0, 2])) == "the smallest architecture but for layer1.kernel=3, layer3.kernel=5"


def test_two_budgets_that_exclude_each_other_are_refused_before_the_search():
    # a layer's second price is its least plus its greatest MACs minus its MACs: 640 .. 16,000 too, and 16,640 in sum, always
    mirrored = block_prices(MACS).copy()
    for table, row in zip(INDEX.tables, COSTS, strict=True):
        mirrored[table] = row[0] + row[-1] - block_prices(MACS)[table]
    opposite = Additive(INDEX, mirrored, name="params", unit="parameters")
    Problem(INDEX, [Objective(GAIN)], [(Budget("macs", 8_000.0), MACS)])
    Problem(INDEX, [Objective(GAIN)], [(Budget("params", 8_000.0), opposite)])
    Problem(INDEX, [Objective(GAIN)], [(Budget("macs", 8_320.0), MACS), (Budget("params", 8_320.0), opposite)])
    told = "macs <= 8000 and params <= 8000 cannot be met together: every architecture of small takes at least 1.04 times one of the limits"
    with pytest.raises(Infeasible, match=rf"{told}; the nearest takes 8320 MACs and 8320 parameters: the smallest architecture but for "):
        Problem(INDEX, [Objective(GAIN)], [(Budget("macs", 8_000.0), MACS), (Budget("params", 8_000.0), opposite)])


def test_a_share_is_resolved_against_the_largest_subnet():
    problem = Problem(INDEX, [Objective(GAIN)], [(Budget.parse("macs", "<= 25%"), MACS)])
    assert problem.budgets[0][0].limit == 4_000.0
    with pytest.raises(InputError, match="expensive to evaluate; give the limit in points"):
        Problem(INDEX, [Objective(GAIN)], [(Budget("macs", None, share=0.5), Lookup(sum, expensive=True))])


def test_the_feasible_share_is_that_of_the_whole_space():
    problem = Problem(INDEX, [Objective(GAIN)], [(Budget("macs", 4_000.0), MACS)])
    exact = float((MACS(EVERYTHING) <= 4_000).mean())
    assert problem.feasible_share(np.random.default_rng(0)) == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 65_536))


def test_feasible_samples_are_uniform_over_the_feasible_codes():
    problem = Problem(INDEX, [Objective(GAIN)], [(Budget("macs", 4_000.0), MACS)])
    inside = [tuple(code) for code in EVERYTHING[MACS(EVERYTHING) <= 4_000].tolist()]
    n = 200 * len(inside)
    drawn, counts = np.unique(problem.sample_feasible(np.random.default_rng(3), n), axis=0, return_counts=True)
    assert sorted(map(tuple, drawn.tolist())) == sorted(inside)
    chi_square = float(((counts - 200) ** 2 / 200).sum())
    freedom = len(inside) - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)  # four standard deviations


def test_samples_are_column_major_of_the_right_number_and_equal_for_equal_seeds():
    problem = Problem(INDEX, [Objective(GAIN)], [(Budget("macs", 4_000.0), MACS)])
    for n in (0, 1, 7):
        drawn = problem.sample_feasible(np.random.default_rng(5), n)
        assert drawn.shape == (n, 4) and drawn.flags.f_contiguous and drawn.dtype == np.int16
        assert np.array_equal(drawn, problem.sample_feasible(np.random.default_rng(5), n))


def needle():
    """40 binary choices of which at most one may be large: 41 of 2^40 architectures are feasible."""
    choices = [Choice(f"layer{i}.kernel", (1, 3)) for i in range(40)]
    layers = [Layer(f"layer{i}", (choice,), partial(conv_bn_act, (1, 1 + i % 7, 1 + i, 4), 1 + (i + 1) % 7)) for i, choice in enumerate(choices)]
    index = BlockIndex(SearchSpace("needle", choices, layers))
    large = np.array([float(block[-1].op.kernel == 3) for block in index.blocks])
    return index, Additive(index, large, name="large", unit="layers")


def test_a_feasible_set_too_small_to_hit_is_reached_by_repair():
    index, large = needle()
    problem = Problem(index, [Objective(large)], [(Budget("macs", 1.0), large)])
    drawn = problem.sample_feasible(np.random.default_rng(0), 300)
    assert large(drawn).max() == 1.0
    assert len(np.unique(drawn, axis=0)) > 20  # not the witness alone


def test_a_budget_on_a_metric_without_bounds_that_nothing_random_meets_is_infeasible():
    index, _ = needle()
    problem = Problem(index, [Objective(Lookup(sum))], [(Budget("macs", 1.0), Lookup(lambda code: 1.5 + sum(code), name="odd"))])
    with pytest.raises(Infeasible, match="within macs <= 1 was found among random ones"):
        problem.sample_feasible(np.random.default_rng(0), 1)


def test_expensive_metrics_are_computed_once_however_often_they_are_used():
    paid, cheap = Lookup(sum, expensive=True), Lookup(max)
    problem = Problem(INDEX, [Objective(paid), Objective(cheap)], [(Budget("macs", 5.0), paid)])
    assert problem.expensive == (paid,)
    scores = problem.evaluate(codes([1, 1, 1, 1], [2, 2, 2, 2]))
    assert paid.calls == 2 and scores.values.tolist() == [[4.0, 1.0], [8.0, 2.0]] and scores.feasible.tolist() == [True, False]
    again = problem.scores(codes([1, 1, 1, 1]), np.array([[7.0]]))
    assert paid.calls == 2 and again.values.tolist() == [[7.0, 1.0]] and again.feasible.tolist() == [False]
    assert problem.within(codes([2, 2, 2, 2])).tolist() == [True]  # what is expensive is not asked for


class Epochs(Lookup):
    def at(self, fidelity):
        return Lookup(lambda code: fidelity * sum(code), name=self.name, expensive=True)


def test_a_share_of_an_evaluation_goes_to_metrics_that_offer_it():
    problem = Problem(INDEX, [Objective(Epochs(sum, expensive=True))])
    assert problem.evaluate_expensive(codes([2, 2, 2, 2]), 0.25).tolist() == [[2.0]]
    with pytest.raises(InputError, match=r"gain cannot be evaluated at a fidelity of 0.25"):
        Problem(INDEX, [Objective(Lookup(sum, expensive=True))]).evaluate_expensive(codes([2, 2, 2, 2]), 0.25)


def test_a_metric_of_the_wrong_shape_is_named():
    broken = Lookup(sum, name="broken")
    broken.value = lambda code: code
    with pytest.raises(InputError, match=r"broken returned values of shape \(2, 4\) for 2 architectures"):
        Problem(INDEX, [Objective(broken)]).evaluate(codes([0, 0, 0, 0], [1, 1, 1, 1]))


def test_rows_of_scores_can_be_taken():
    scores = Scores(np.array([[1.0], [2.0], [3.0]]), np.array([0.5, 2.0, 1.0]))
    assert scores[1:].values.tolist() == [[2.0], [3.0]] and scores[np.array([2, 0])].feasible.tolist() == [True, True]
