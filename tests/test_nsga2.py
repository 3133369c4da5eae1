from functools import partial

import numpy as np
import pytest

from hwnas.budget import Budget
from hwnas.driver import drive
from hwnas.errors import InputError, MeasurementFailed
from hwnas.pareto import crowding_distance, domination_ranks, hypervolume, non_dominated
from hwnas.problem import Objective, Problem
from hwnas.run import RunDirectory
from hwnas.searcher import Told
from hwnas.searchers.nsga2 import nsga2
from hwnas.searchers.random_search import random_search
from hwnas.testing import check_searcher, toy_problem

pytest.importorskip("optuna", reason="Optuna is not installed; it comes with the extra [optuna]")

EVERYTHING = np.asfortranarray(np.indices((4,) * 6).reshape(6, -1).T, np.int16)
two = partial(toy_problem, objectives=2)


def test_with_two_objectives_it_keeps_the_contract():
    check_searcher("nsga2", problem=two)


def test_its_front_covers_more_than_that_of_random_search():
    problem = two()
    scores = problem.evaluate(EVERYTHING)
    true = problem.minimised(scores)[scores.feasible]
    worst = true[non_dominated(true)].max(axis=0)

    def covered(searcher, seed):
        result = drive(searcher, two(), seed=seed, evaluations=150)
        return hypervolume(problem.minimised(result.scores), worst) / hypervolume(true, worst)

    pairs = np.array([(covered(nsga2, seed), covered(random_search, seed)) for seed in range(10)])
    assert (pairs[:, 0] > pairs[:, 1]).sum() >= 9  # p = 0.01
    assert pairs[:, 0].mean() > 0.9


def generations(problem, n, **options):
    """The first n generations of a search: (codes, scores) each."""
    search = nsga2(problem, rng=np.random.default_rng(0), **options)
    request, told, number = next(search), [], 0
    for _ in range(n):
        scores = problem.evaluate(request.codes)
        told.append((request.codes, scores))
        numbers = np.arange(number, number + len(request.codes))
        number += len(request.codes)
        request = search.send(Told(request.codes, scores, numbers))
    return told


def test_children_without_mutation_are_made_of_the_best_of_the_generations_before():
    """Parents are taken front by front, the least crowded of the last front first; here every choice of a child is one of theirs."""
    problem = Problem(two().index, two().objectives)  # without a budget, nothing has to be moved into it
    (first, first_scores), (second, second_scores), (third, _) = generations(problem, 3, population=8, crossover=1.0, mutation=1e-12)
    assert [len(each) for each in (first, second, third)] == [8, 8, 8]
    assert all(code[i] in first[:, i] for code in second for i in range(6))
    codes = np.concatenate([first, second])
    values = np.concatenate([problem.minimised(first_scores), problem.minimised(second_scores)])
    ranks, crowding = domination_ranks(values), np.zeros(16)
    for rank in set(ranks):
        crowding[ranks == rank] = crowding_distance(values[ranks == rank])
    last = np.sort(ranks)[7]
    certain, last_front = np.flatnonzero(ranks < last), np.flatnonzero(ranks == last)
    ends = last_front[np.isinf(crowding[last_front])]
    elite = codes[[*certain, *last_front]]
    assert len(certain) + len(ends) <= 8 <= len(elite) < 16
    assert all(code[i] in elite[:, i] for code in third for i in range(6))
    assert any(value not in elite[:, i] for i in range(6) for value in codes[:, i])  # which some values did not survive


def test_one_objective_is_a_front_of_one():
    best = max(toy_problem().reward(toy_problem().evaluate(EVERYTHING)))
    found = [drive(nsga2, toy_problem(), seed=seed, evaluations=300).scores.values.max() for seed in range(5)]
    assert sum(value == pytest.approx(best) for value in found) >= 3


def test_a_budget_that_is_known_after_the_evaluation_alone_leads_into_it():
    toy = two()
    gain, cost = toy.objectives[0].metric, toy.objectives[1].metric

    class Measured:
        name, unit, origin, expensive = "latency", "ms", "simulated", True

        def __call__(self, codes):
            return cost(codes)

    limit = float(np.quantile(cost(EVERYTHING), 0.02))
    problem = Problem(toy.index, [Objective(gain, maximize=True), Objective(cost)], [(Budget("latency", limit), Measured())])
    result = drive(nsga2, problem, seed=0, evaluations=200)
    inside = result.scores.feasible
    assert inside[:50].sum() <= 2 < 10 <= inside[-50:].sum()


def test_failed_evaluations_are_survived_and_never_parents():
    toy = two()

    class Failing:
        name, unit, origin, expensive = "accuracy", "%", "simulated", True

        def __call__(self, codes):
            if codes[0, 1] == 3:
                raise MeasurementFailed("the device lost power")
            return np.where(codes[:, 0] == 3, np.nan, codes.sum(axis=1).astype(float))

    problem = Problem(toy.index, [Objective(Failing(), maximize=True), Objective(toy.objectives[1].metric)])
    result = drive(nsga2, problem, seed=0, evaluations=96, options={"mutation": 1e-12})
    failed = result.scores.failed
    assert failed[:16].sum() >= 3 and not failed[32:].any()  # without mutation, a value that fails dies out with those that have it
    assert not failed[result.ranked()].any() and set(result.front()) <= set(result.ranked())


def test_where_every_evaluation_fails_it_goes_on_to_the_end():
    class Broken:
        name, unit, origin, expensive = "accuracy", "%", "simulated", True

        def __call__(self, codes):
            return np.full(len(codes), np.nan)

    result = drive(nsga2, Problem(toy_problem().index, [Objective(Broken())], toy_problem().budgets), seed=0, evaluations=80)
    assert len(result.codes) == 80 and len(result.ranked()) == 0


def test_it_ends_when_it_has_seen_all_that_fits():
    toy = two()
    cost = toy.objectives[1].metric
    few = float(np.sort(cost(EVERYTHING))[29])  # thirty networks
    result = drive(nsga2, Problem(toy.index, toy.objectives, [(Budget("macs", few), cost)]), seed=0, evaluations=500)
    assert result.evaluations == len(result.codes) == (cost(EVERYTHING) <= few).sum() and result.scores.feasible.all()


def test_a_search_for_two_objectives_is_recorded_and_continued(tmp_path):
    whole = drive(nsga2, two(), seed=4, evaluations=90)
    for evaluations in (30, 90):
        with RunDirectory(tmp_path / "run") as run:
            done = []
            result = drive(nsga2, two(), run, seed=4, evaluations=evaluations, progress=lambda spent, best: done.append((spent, best)))  # noqa: B023
    assert np.array_equal(result.codes, whole.codes) and done[-1] == (90, None)  # two objectives have no best value


@pytest.mark.parametrize(("option", "value"), [("population", 1), ("pending", -1), ("crossover", 1.5), ("mutation", -0.1)])
def test_impossible_options_are_refused(option, value):
    with pytest.raises(InputError, match=f"nsga2 needs population >= 2, .* got .*{option}={value}"):
        drive(nsga2, two(), seed=0, evaluations=5, options={option: value})
