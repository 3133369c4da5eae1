from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.budget import Budget
from hwnas.costs import macs, params
from hwnas.driver import drive
from hwnas.errors import Infeasible, InputError
from hwnas.exact import Front, FrontTooLarge, _Fronts, _Points, best_codes, optimum, pareto_front, solve
from hwnas.index import BlockIndex
from hwnas.memory import peak_memory
from hwnas.pareto import non_dominated
from hwnas.predictor import Additive, Peak
from hwnas.problem import Objective, Problem
from hwnas.searchers.exact import exact
from hwnas.searchers.regularized_evolution import regularized_evolution
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.testing import toy_problem
from tests.small_spaces import BLOCKS, all_codes, block_prices, conv, pick, spaces


def metric(index, prices, name="latency", constant=0.0):
    return Additive(index, np.asarray(prices, np.float64), name=name, unit="ms", constant=constant)


@st.composite
def priced(draw, n_metrics=2):
    """An index of a small space and metrics on it, whose prices tie, are negative or tiny."""
    index = BlockIndex(draw(spaces()))
    price = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, -0.7, 2.5e-3, 7.3])
    size = len(index.blocks)
    return index, [metric(index, draw(st.lists(price, min_size=size, max_size=size)), f"m{i}", draw(price)) for i in range(n_metrics)]


def listed_front(objective, cost, codes):
    """Distinct points of the front by looking at every code, points closer than rounding taken as one."""
    points = np.unique(np.round(np.stack([cost(codes), -objective(codes)], axis=1), 10), axis=0)
    return points[non_dominated(points)]


@settings(max_examples=150, deadline=None)
@given(case=priced(), maximize=st.booleans())
def test_the_front_is_the_one_found_by_listing_every_architecture(case, maximize):
    index, (objective, cost) = case
    front = pareto_front(objective, cost, maximize=maximize)
    signed = objective if maximize else metric(index, -block_prices(objective), constant=-objective.constant)
    expected = listed_front(signed, cost, all_codes(index.space))
    assert np.stack([front.costs, front.values * (-1 if maximize else 1)], axis=1) == pytest.approx(expected, abs=1e-9)
    assert front.costs.tolist() == cost(front.codes).tolist() and front.values.tolist() == objective(front.codes).tolist()
    index.space.check(front.codes)


@settings(max_examples=60, deadline=None)
@given(case=priced(n_metrics=3), shares=st.tuples(st.floats(0.05, 1.0), st.floats(0.05, 1.0)), maximize=st.booleans(), n_budgets=st.integers(0, 2))
def test_the_programme_finds_the_best_of_all_architectures_under_any_budgets(case, shares, maximize, n_budgets):
    index, (objective, *costs) = case
    codes = all_codes(index.space)
    values = objective(codes)
    budgets, inside = [], np.ones(len(codes), bool)
    for cost, share in list(zip(costs, shares, strict=True))[:n_budgets]:
        spread = cost(codes)
        limit = float(np.quantile(spread, share)) + 1e-6  # no architecture is within rounding of it
        if limit <= 0:
            continue
        budgets.append((Budget(cost.name, limit), cost))
        inside &= spread <= limit
    if not inside.any():
        with pytest.raises(Infeasible, match="cannot be met"):
            solve(objective, budgets, maximize=maximize)
        return
    best = values[inside].max() if maximize else values[inside].min()
    found = solve(objective, budgets, maximize=maximize)
    assert found.value == pytest.approx(best, abs=1e-9) and found.value == objective(found.code)[0]
    assert found.gap <= 1e-9 * max(np.ptp(values), 1) * 10 and all(cost(found.code)[0] <= budget.limit for budget, cost in budgets)
    assert (found.bound >= found.value) if maximize else (found.bound <= found.value)


@st.composite
def peaked(draw):
    """Two sums and one or two largests over a small space, with limits that some of its architectures keep, all or none."""
    index, sums = draw(priced())
    codes = all_codes(index.space)
    price = st.sampled_from([0.0, 0.1, 0.3, 1.0, 7.3])
    budgets = []
    for i in range(draw(st.integers(1, 2))):
        cells = [np.array(draw(st.lists(price, min_size=len(table), max_size=len(table)))) for table in index.tables]
        peak = Peak(index, cells, name=f"memory{i}", unit="bytes")
        limit = draw(st.sampled_from([0.05, *np.unique(peak(codes)).tolist()]))
        budgets.append((Budget(peak.name, limit or 0.05), peak))
    return index, sums, budgets, np.all([peak(codes) <= budget.limit for budget, peak in budgets], axis=0)


@settings(max_examples=150, deadline=None)
@given(case=peaked(), maximize=st.booleans())
def test_the_front_within_a_limit_of_every_layer_is_the_one_found_by_listing(case, maximize):
    index, (objective, cost), budgets, allowed = case
    codes = all_codes(index.space)[allowed]
    front = pareto_front(objective, cost, maximize=maximize, within=budgets)
    if not len(codes):
        assert len(front) == 0 and front.codes.shape == (0, len(index.space.choices))
        return
    signed = objective if maximize else metric(index, -block_prices(objective), constant=-objective.constant)
    expected = listed_front(signed, cost, np.asfortranarray(codes))
    assert np.stack([front.costs, front.values * (-1 if maximize else 1)], axis=1) == pytest.approx(expected, abs=1e-9)
    assert all((peak(front.codes) <= budget.limit).all() for budget, peak in budgets)


@settings(max_examples=60, deadline=None)
@given(case=peaked(), share=st.floats(0.05, 1.0), maximize=st.booleans())
def test_the_programme_keeps_budgets_on_the_largest_layer_beside_those_on_sums(case, share, maximize):
    index, (objective, cost), budgets, inside = case
    codes = all_codes(index.space)
    limit = float(np.quantile(cost(codes), share)) + 1e-6
    if limit > 0:
        budgets, inside = [(Budget(cost.name, limit), cost), *budgets], inside & (cost(codes) <= limit)
    if not inside.any():
        with pytest.raises(Infeasible, match="cannot be met"):
            solve(objective, budgets, maximize=maximize)
        return
    values = objective(codes)[inside]
    found = solve(objective, budgets, maximize=maximize)
    assert found.value == pytest.approx(values.max() if maximize else values.min(), abs=1e-9)
    assert all(each(found.code)[0] <= budget.limit for budget, each in budgets)


@pytest.fixture(scope="module")
def mini():
    return BlockIndex(ofa_mini())


def table_like(index, seed):
    """Prices that follow MACs as those of a device do, and a worth with diminishing returns."""
    rng = np.random.default_rng(seed)
    work = macs(index.blocks)
    cost = np.where(work > 0, 0.02 + work / 1e7 * np.exp(0.3 * rng.standard_normal(len(work))), 0.0)
    worth = np.sqrt(work) * np.exp(0.3 * rng.standard_normal(len(work)))
    return metric(index, worth, "worth"), metric(index, cost)


@pytest.mark.parametrize("seed", range(3))
def test_front_and_programme_agree_and_nothing_sampled_is_better(mini, seed):
    worth, latency = table_like(mini, seed)
    front = pareto_front(worth, latency)
    codes = mini.space.sample(np.random.default_rng(seed), 20_000)
    costs, values = latency(codes), worth(codes)
    for quantile in (0.001, 0.1, 0.5, 0.99):
        limit = float(np.quantile(costs, quantile))
        best, found = front.within(limit), solve(worth, [(Budget("latency", limit), latency)])
        assert best.values[-1] == pytest.approx(found.value, rel=1e-9) and found.gap <= 1e-9 * found.value
        assert values[costs <= limit].max() <= best.values[-1] + 1e-9
        assert latency(found.code)[0] <= limit


def chain(n, seed, sizes=(3, 3)):
    """Layers that each read two neighbours' choices, their blocks drawn at random, and two metrics."""
    choices = [Choice(f"c{i}", tuple(range(sizes[i % len(sizes)]))) for i in range(n + 1)]
    rng = np.random.default_rng(seed)
    layers = []
    for i in range(n):
        shape = (len(choices[i].values), len(choices[i + 1].values))
        layers.append(Layer(f"l{i}", (choices[i], choices[i + 1]), partial(pick, tuple(rng.integers(0, len(BLOCKS), shape).ravel().tolist()), shape)))
    index = BlockIndex(SearchSpace("chain", choices, [*layers, Layer("last", (), partial(conv, 3))]))
    return metric(index, rng.random(len(index.blocks)), "worth"), metric(index, rng.random(len(index.blocks)))


@pytest.mark.parametrize("levels", [0, 5])
def test_the_front_of_a_chain_is_the_one_found_by_listing(monkeypatch, levels):
    monkeypatch.setattr("hwnas.exact._LEVELS_AT_ONCE", levels)
    objective, cost = chain(6, seed=5)
    front = pareto_front(objective, cost)
    assert np.stack([front.costs, -front.values], axis=1) == pytest.approx(listed_front(objective, cost, all_codes(objective.index.space)), abs=1e-9)


def test_bounds_front_and_programme_agree_on_a_chain_of_10_to_the_28_codes():
    objective, cost = chain(59, seed=1, sizes=(2, 4, 3))
    assert objective.index.space.size > 10**27
    front = pareto_front(objective, cost)
    assert front.costs[0] == pytest.approx(cost.bounds()[0].value) and front.values[-1] == pytest.approx(objective.bounds()[1].value)
    limit = float(front.costs[len(front) // 2])
    assert solve(objective, [(Budget("latency", limit + 1e-6), cost)]).value == pytest.approx(front.within(limit).values[-1], rel=1e-9)
    assert front.costs.tolist() == cost(front.codes).tolist()


def test_layers_that_hang_together_have_no_front_and_an_optimum_all_the_same(monkeypatch):
    objective, cost = chain(6, seed=5)
    limit = float(np.median(cost(all_codes(cost.index.space))))
    problem = Problem(objective.index, [Objective(objective, maximize=True)], [(Budget("latency", limit), cost)])
    expected = optimum(problem)
    assert expected.proof.startswith("the whole exact front")
    vars(objective.index).pop("buckets")  # found again, under another limit
    monkeypatch.setattr("hwnas.index.MAX_CELLS", 8)
    with pytest.raises(FrontTooLarge, match=r"share too many choices: .* over the limit of 8; solve it for one budget at a time"):
        pareto_front(objective, cost)
    found = optimum(problem)
    assert found.proof.startswith("integer programme") and found.value == pytest.approx(expected.value, abs=1e-9)


@pytest.mark.parametrize("levels", [0, 1, 5])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 37), (5, 300), (64, 64), (129, 100)])
def test_the_front_of_a_sum_is_that_of_all_pairs(monkeypatch, mini, sizes, levels):
    """Fronts with clustered costs and plateaus of value, whose sums have ties; every pair is formed here, few in the programme."""
    monkeypatch.setattr("hwnas.exact._LEVELS_AT_ONCE", levels)
    rng = np.random.default_rng(sizes)
    metric = Additive(mini, params(mini.blocks), name="params", unit="parameters")
    fronts = _Fronts(mini, metric, metric, 1.0, [])
    fronts.rounding = 0.0, 0.0
    parts = []
    for n in sizes:
        steps = rng.integers(1, 5, (2, n)).cumsum(axis=1) / 8.0  # exact in floating point
        parts.append(_Points(np.sqrt(steps[0]).round(3), steps[1], np.zeros((n, 1), np.int16)))
    found = fronts._sum(*parts)
    pairs = np.stack([np.add.outer(parts[0].costs, parts[1].costs).ravel(), -np.add.outer(parts[0].values, parts[1].values).ravel()], axis=1)
    expected = pairs[non_dominated(pairs)]
    assert np.array_equal(np.stack([found.costs, -found.values], axis=1), np.unique(expected, axis=0))


def test_a_front_that_grows_without_end_is_refused_and_its_optimum_found_all_the_same(monkeypatch, mini):
    """Every sum is on the front of a metric against itself; only the integer programme is left."""
    size = Additive(mini, params(mini.blocks), name="params", unit="parameters")
    monkeypatch.setattr("hwnas.exact._MAX_SUMS", 1_000)
    with pytest.raises(FrontTooLarge, match=r"the whole front of ofa_mini has too many points: .* over the limit of 1,000 in all or .* at once; solve it"):
        pareto_front(size, size)
    limit = float(np.median(size(mini.space.sample(np.random.default_rng(0), 100))))
    problem = Problem(mini, [Objective(size, maximize=True)], [(Budget("params", limit), size)])
    found = optimum(problem)
    assert found.proof.startswith("integer programme") and 0.99 * limit < found.value <= limit
    with pytest.raises(FrontTooLarge):
        best_codes(problem, 2)


def test_the_part_of_a_front_within_a_limit_ends_with_the_best():
    front = Front(np.array([[0], [1], [2]], np.int16, order="F"), np.array([1.0, 2.0, 3.0]), np.array([5.0, 6.0, 7.0]))
    inside = front.within(6.0)
    assert (len(inside), inside.values.tolist(), inside.codes.tolist()) == (2, [1.0, 2.0], [[0], [1]])
    assert len(front.within(4.9)) == 0


def test_sums_equal_but_for_rounding_are_one_point():
    """0.1 + 0.2 + 0.3 differs from 0.3 + 0.2 + 0.1 by rounding; of the six orders the front keeps one."""
    choices = [Choice(f"c{i}", (0, 1, 2)) for i in range(3)]
    layers = [Layer(f"l{i}", (choice,), lambda v: conv(2 * v + 1)) for i, choice in enumerate(choices)]
    index = BlockIndex(SearchSpace("orders", choices, layers))
    prices = np.array([0.1, 0.2, 0.3])
    front = pareto_front(metric(index, prices), metric(index, prices))
    assert front.costs == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


def test_a_limit_that_some_orders_of_a_sum_exceed_by_rounding_still_finds_those_within(mini):
    choices = [Choice(f"c{i}", (0, 1, 2)) for i in range(3)]
    layers = [Layer(f"l{i}", (choice,), lambda v: conv(2 * v + 1)) for i, choice in enumerate(choices)]
    index = BlockIndex(SearchSpace("orders", choices, layers))
    worth, cost = metric(index, [1.0, 2.0, 3.0]), metric(index, [0.1, 0.2, 0.3])
    codes = all_codes(index.space)
    for limit in np.unique(cost(codes)):
        problem = Problem(index, [Objective(worth, maximize=True)], [(Budget("latency", float(limit)), cost)])
        found = optimum(problem)
        assert found.value == worth(codes)[cost(codes) <= limit].max() and cost(found.code)[0] <= limit


def test_a_budget_that_cannot_be_met_names_the_least_value_and_its_architecture(mini):
    latency = Additive(mini, macs(mini.blocks) / 1e6, name="latency", unit="ms", origin="simulated")
    least = latency.bounds()[0].value
    told = rf"latency <= 0\.001 ms p50 cannot be met: every architecture of ofa_mini takes at least {least:.6g} ms \(simulated\), reached by the smallest"
    with pytest.raises(Infeasible, match=told):
        solve(latency, [(Budget("latency", 0.001), latency)])


def test_budgets_that_exclude_each_other_name_the_nearest_architecture():
    choice = Choice("c", (0, 1))
    index = BlockIndex(SearchSpace("two", [choice], [Layer("l", (choice,), lambda v: conv(1 + 2 * v))]))
    rising, falling = metric(index, [1.0, 3.0], "rising"), metric(index, [4.0, 1.0], "falling")
    budgets = [(Budget("rising", 2.0), rising), (Budget("falling", 2.0), falling)]
    # c=0 takes 4/2 of the second limit, c=1 only 3/2 of the first
    with pytest.raises(Infeasible) as told:
        solve(rising, budgets)
    assert str(told.value) == (
        "rising <= 2 and falling <= 2 cannot be met together: every architecture of two takes at least 1.5 times one of the limits; "
        "the nearest takes 3 ms and 1 ms: the smallest architecture but for c=1"
    )


@pytest.mark.parametrize("seed", range(2))
def test_a_memory_budget_gives_one_optimum_by_the_front_and_by_the_programme(mini, seed):
    worth, latency = table_like(mini, seed)
    memory = peak_memory(mini)
    codes = mini.space.sample(np.random.default_rng(seed), 20_000)
    limits = (Budget("latency", float(np.quantile(latency(codes), 0.6))), Budget("memory", float(np.quantile(memory(codes), 0.05))))
    problem = Problem(mini, [Objective(worth, maximize=True)], list(zip(limits, (latency, memory), strict=True)))
    found = optimum(problem)
    assert found.proof.startswith("the whole exact front")
    assert found.value == pytest.approx(solve(worth, problem.budgets).value, rel=1e-9)
    assert problem.within(found.code)[0] and worth(codes[problem.within(codes)]).max() <= found.value
    free = optimum(Problem(mini, [Objective(worth, maximize=True)], [(limits[0], latency)]))
    assert memory(free.code)[0] > limits[1].limit and free.value > found.value  # the memory budget binds
    several = drive(exact, problem, seed=0, evaluations=60, options={"candidates": 3})
    assert len(several.codes) == 3 and several.scores.feasible.all() and several.codes[0].tolist() == found.code[0].tolist()


def test_a_memory_budget_alone_is_solved_too(mini):
    worth, _ = table_like(mini, 0)
    memory = peak_memory(mini)
    limit = float(np.median(memory(mini.space.sample(np.random.default_rng(0), 1_000))))
    found = optimum(Problem(mini, [Objective(worth, maximize=True)], [(Budget("memory", limit), memory)]))
    codes = mini.space.sample(np.random.default_rng(1), 20_000)
    assert memory(found.code)[0] <= limit and worth(codes[memory(codes) <= limit]).max() <= found.value


def test_a_layer_without_choices_that_is_over_a_limit_leaves_nothing():
    choice = Choice("c", (0, 1))
    index = BlockIndex(SearchSpace("fixed", [choice], [Layer("l", (choice,), lambda v: conv(1 + 2 * v)), Layer("last", (), partial(conv, 7))]))
    worth, memory = metric(index, [1.0, 2.0, 0.0]), Peak(index, [1.0, 2.0, 5.0], name="memory", unit="bytes")
    assert len(pareto_front(worth, worth, within=[(Budget("memory", 4.0), memory)])) == 0
    with pytest.raises(Infeasible, match=r"memory <= 0.004 kB cannot be met: every architecture of fixed takes at least 5 bytes \(predicted\)"):
        solve(worth, [(Budget("memory", 4.0), memory)])
    floor = Peak(index, [1.0, 2.0, 1.0], name="memory", unit="bytes", constant=5.0)
    assert len(pareto_front(worth, worth, within=[(Budget("memory", 4.0), floor)])) == 0
    with pytest.raises(Infeasible, match="takes at least 5 bytes"):
        solve(worth, [(Budget("memory", 4.0), floor)])
    with pytest.raises(InputError, match="needs a positive limit"):
        pareto_front(worth, worth, within=[(Budget("memory", 0.0), memory)])


def test_a_share_is_resolved_against_the_largest_subnet(mini):
    cost = Additive(mini, macs(mini.blocks), name="macs", unit="MACs")
    size = Additive(mini, params(mini.blocks), name="params", unit="parameters")
    limit = 0.5 * float(cost(mini.space.largest())[0])
    assert solve(size, [(Budget("macs", None, share=0.5), cost)]).value == solve(size, [(Budget("macs", limit), cost)]).value


def test_without_a_budget_the_optimum_is_the_bound_of_the_metric(mini):
    worth, _ = table_like(mini, 0)
    least, greatest = worth.bounds()
    assert solve(worth).value == pytest.approx(greatest.value, rel=1e-12)
    assert optimum(Problem(mini, [Objective(worth)])).value == pytest.approx(least.value, rel=1e-12)


def test_a_search_cut_short_states_what_it_may_have_missed(mini):
    worth, latency = table_like(mini, 1)
    budget = [(Budget("latency", float(np.median(latency(mini.space.sample(np.random.default_rng(0), 500))))), latency)]
    exact = solve(worth, budget)
    with pytest.raises(InputError, match="no architecture was found within 0 s; allow more time"):
        solve(worth, budget, time_limit_s=0)
    assert solve(worth, budget, time_limit_s=60).value == exact.value


def test_metrics_that_cannot_be_solved_together_are_refused(mini):
    worth, latency = table_like(mini, 0)
    other = table_like(BlockIndex(ofa_mini()), 0)[1]
    with pytest.raises(InputError, match="worth and latency are of two indices"):
        pareto_front(worth, other)
    nan = metric(mini, np.full(len(mini.blocks), np.nan), "broken")
    with pytest.raises(InputError, match="broken has a price that is not finite"):
        solve(worth, [(Budget("latency", 1.0), nan)])
    with pytest.raises(InputError, match="needs a positive limit"):
        solve(worth, [(Budget("latency", -1.0), latency)])


class Curved:
    name, unit, origin = "accuracy", "%", "predicted"

    def __call__(self, codes):
        return codes.sum(axis=1).astype(float) ** 2


def test_what_is_not_additive_is_refused_in_words(mini):
    worth, latency = table_like(mini, 0)
    with pytest.raises(InputError, match="the objective is not one: accuracy is of type Curved; use another searcher"):
        optimum(Problem(mini, [Objective(Curved())]))
    with pytest.raises(InputError, match="the budget macs <= 1e\\+09 is not one"):
        optimum(Problem(mini, [Objective(worth)], [(Budget("macs", 1e9), Curved())]))
    with pytest.raises(InputError, match="takes one objective, this problem has 2"):
        optimum(Problem(mini, [Objective(worth), Objective(latency)]))


# -- as a searcher ------------------------------------------------------------------------------------------------------------------


def test_the_searcher_asks_once_for_the_optimum_of_the_toy_problem():
    problem = toy_problem()
    everything = np.asfortranarray(np.indices((4,) * 6).reshape(6, -1).T, np.int16)
    result = drive(exact, problem, seed=0, evaluations=60)
    assert result.evaluations == len(result.codes) == 1
    assert problem.reward(result.scores)[0] == problem.reward(problem.evaluate(everything)).max()


def test_several_candidates_are_the_top_of_the_front(mini):
    worth, latency = table_like(mini, 2)
    limit = float(np.median(latency(mini.space.sample(np.random.default_rng(0), 500))))
    problem = Problem(mini, [Objective(worth, maximize=True)], [(Budget("latency", limit), latency)])
    result = drive(exact, problem, seed=0, evaluations=60, options={"candidates": 4})
    front = pareto_front(worth, latency).within(limit)
    assert result.codes.tolist() == front.codes[::-1][:4].tolist() and result.scores.feasible.all()
    assert (np.diff(result.scores.values[:, 0]) < 0).all()
    least = Problem(mini, [Objective(latency)], [(Budget("latency", limit), latency)])
    assert len(drive(exact, least, seed=0, evaluations=60, options={"candidates": 4}).codes) == 1  # a front of one point


def test_options_that_the_problem_cannot_answer_are_refused(mini):
    worth, latency = table_like(mini, 2)
    with pytest.raises(InputError, match="3 candidates come from the front of objective and budget, and there are 0 budgets on sums; ask for one candidate"):
        drive(exact, Problem(mini, [Objective(worth, maximize=True)]), seed=0, evaluations=5, options={"candidates": 3})
    with pytest.raises(InputError, match="candidates >= 1, got 0"):
        drive(exact, toy_problem(), seed=0, evaluations=5, options={"candidates": 0})
    with pytest.raises(InputError, match="the objective is not one: accuracy is of type Curved"):
        drive(exact, Problem(mini, [Objective(Curved())], [(Budget("latency", 1e9), latency)]), seed=0, evaluations=5)


def test_evolution_never_beats_the_optimum(mini):
    worth, latency = table_like(mini, 3)
    limit = float(np.quantile(latency(mini.space.sample(np.random.default_rng(0), 500)), 0.2))
    problem = Problem(mini, [Objective(worth, maximize=True)], [(Budget("latency", limit), latency)])
    best = optimum(problem)
    evolved = drive(regularized_evolution, problem, seed=0, evaluations=2_000, options={"children": 50, "population": 100})
    assert 0.9 * best.value < evolved.scores.values[evolved.ranked()[0], 0] <= best.value + 1e-9


def test_a_programme_that_highs_gives_up_is_an_error_in_words(mini, monkeypatch):
    from scipy.optimize import OptimizeResult

    worth, latency = table_like(mini, 0)
    given_up = OptimizeResult(status=4, x=None, fun=None, mip_dual_bound=None, message="numerical difficulties")
    monkeypatch.setattr("scipy.optimize.milp", lambda *_, **__: given_up)
    with pytest.raises(InputError, match="the integer programme of ofa_mini was not solved: numerical difficulties"):
        solve(worth, [(Budget("latency", 1.0), latency)])


def test_a_fraction_that_highs_takes_for_a_whole_number_does_not_loosen_the_proof(monkeypatch):
    """A millionth of the cell worth 7.3 fits into what the limit leaves, and HiGHS takes that for none of it."""
    a, b = Choice("a", (0, 1, 2)), Choice("b", (0, 1, 2))
    index = BlockIndex(
        SearchSpace("fractions", [a, b], [Layer("l", (a, b), partial(pick, (0, 1, 2, 4, 5, 4, 4, 3, 6), (3, 3))), Layer("last", (), partial(conv, 3))])
    )
    worth = metric(index, [0.0, 1.0, 0.2, 7.3, 0.1, 0.1, 0.0])
    budgets = [
        (Budget("latency", 1.000001), metric(index, [1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0025])),
        (Budget("latency", 0.300001), metric(index, [2.5e-3, 7.3, 0.2, 0.1, 0.1, 0.2, 0.1])),
    ]
    codes = all_codes(index.space)
    inside = np.all([cost(codes) <= budget.limit for budget, cost in budgets], axis=0)
    found = solve(worth, budgets)
    assert found.value == worth(codes)[inside].max() and found.gap <= 2e-9 * np.ptp(block_prices(worth))
    monkeypatch.setattr("hwnas.milp._MAX_REFUSED", 0)
    loose = solve(worth, budgets)
    assert loose.value == found.value and loose.bound >= found.value
    assert loose.proof.endswith("gap not closed") == (loose.gap > 1e-9 * np.ptp(block_prices(worth)))
