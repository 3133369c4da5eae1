import numpy as np
import pytest

from hwnas.budget import Budget
from hwnas.driver import drive
from hwnas.errors import InputError
from hwnas.problem import Objective, Problem
from hwnas.searcher import Told
from hwnas.searchers.local_search import local_search, neighbours
from hwnas.searchers.random_search import random_search
from hwnas.testing import toy_problem

EVERYTHING = np.asfortranarray(np.indices((4,) * 6).reshape(6, -1).T, np.int16)


def played(problem, n, **options):
    """The first n answers of the search: (codes, rewards) each."""
    search = local_search(problem, rng=np.random.default_rng(0), **options)
    request, answers = next(search), []
    for _ in range(n):
        scores = problem.evaluate(request.codes)
        answers.append((request.codes, problem.reward(scores)))
        request = search.send(Told(request.codes, scores, np.arange(len(request.codes))))
    return answers


def test_neighbours_differ_in_one_choice_and_all_of_them_are_there():
    problem = toy_problem()
    code = np.array([0, 1, 2, 3, 0, 1], np.int16)
    around = neighbours(problem.space, code)
    assert ((around != code).sum(axis=1) == 1).all() and len(np.unique(around, axis=0)) == len(around) == 6 * 3
    assert around.dtype == np.int16 and around.flags.f_contiguous


@pytest.mark.parametrize("move", ["first", "best"])
def test_every_step_is_a_neighbour_of_the_best_so_far_until_a_new_start(move):
    (starts, rewards), *rest = played(toy_problem(), 60, move=move, initial=2)
    assert len(starts) == 2
    here, height, pending = starts[np.argmax(rewards)], rewards.max(), (None, -np.inf)
    moves = 0
    for codes, rewards in rest:
        if len(codes) > 1:
            break  # the climb is over: two random ones
        assert len(codes) == 1
        if move == "best" and (codes[0] != here).sum() != 1:
            here, height, pending = *pending, (None, -np.inf)
            moves += 1
        assert (codes[0] != here).sum() == 1
        if move == "first" and rewards[0] > height:
            here, height, moves = codes[0], rewards[0], moves + 1
        if rewards[0] > max(height, pending[1]):
            pending = codes[0], rewards[0]
    assert moves >= 2


def test_a_local_optimum_is_left_only_when_no_feasible_neighbour_is_better():
    problem = toy_problem()
    answers = played(problem, 200, batch=100, initial=3, move="best")
    sizes = [len(codes) for codes, _ in answers]
    assert max(sizes) <= 18  # neighbours of one architecture
    known = {tuple(code): reward for codes, rewards in answers for code, reward in zip(codes.tolist(), rewards, strict=True)}
    assert sum(sizes) == len(known)  # none is asked for twice
    best = np.array(max(known, key=known.get), np.int16)
    around = neighbours(problem.space, best)
    inside = around[problem.within(around)]
    assert all(known[tuple(code)] <= known[tuple(best.tolist())] for code in inside.tolist())  # each was asked for, and none is better


def test_it_ends_when_it_has_seen_all_that_fits():
    toy = toy_problem()
    cost = toy.budgets[0][1]
    few = float(np.sort(cost(EVERYTHING))[29])  # thirty networks
    result = drive(local_search, Problem(toy.index, toy.objectives, [(Budget("macs", few), cost)]), seed=0, evaluations=500)
    assert result.evaluations == len(result.codes) == (cost(EVERYTHING) <= few).sum()
    assert result.scores.feasible.all()


def test_it_finds_better_networks_than_random_search_on_a_smooth_landscape():
    def best(searcher, seed):
        return drive(searcher, toy_problem(), seed=seed, evaluations=200).scores.values.max()

    pairs = [(best(local_search, seed), best(random_search, seed)) for seed in range(10)]
    assert sum(a > b for a, b in pairs) > sum(a < b for a, b in pairs)


def test_failed_neighbours_are_never_moved_to():
    class Failing:
        name, unit, origin = "accuracy", "%", "simulated"

        def __call__(self, codes):
            return np.where(codes[:, 0] == 3, np.nan, codes.sum(axis=1).astype(float))

    toy = toy_problem()
    problem = Problem(toy.index, [Objective(Failing(), maximize=True)])
    result = drive(local_search, problem, seed=0, evaluations=150)
    assert result.codes[result.ranked()[0]].tolist() == [2, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("options", [{"initial": 0}, {"batch": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError, match="local_search needs initial >= 1 and batch >= 1"):
        drive(local_search, toy_problem(), seed=0, evaluations=5, options=options)
