"""Optuna's samplers behind the adapter: what they are asked, what they are told, and that any of them is a searcher in three lines."""

import sys
from functools import partial

import numpy as np
import pytest

from hwnas import registry
from hwnas.blocks import conv_bn_act
from hwnas.budget import Budget
from hwnas.driver import drive
from hwnas.errors import InputError, MissingExtra
from hwnas.index import BlockIndex
from hwnas.optuna_search import optuna_search
from hwnas.problem import Objective, Problem
from hwnas.rewards import mnasnet_hard
from hwnas.searcher import Told
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.testing import check_searcher, toy_problem

optuna = pytest.importorskip("optuna", reason="Optuna is not installed; it comes with the extra [optuna]")

SAMPLERS = {
    "random": ("RandomSampler(seed=seed)", "batch=8"),
    "qmc": ("QMCSampler(seed=seed)", "batch=8"),
}


def write(folder, name, sampler, arguments):
    """A plug-in of three lines; its name for check_searcher."""
    (folder / f"{name}.py").write_text(
        "from hwnas.optuna_search import optuna_search\n"
        f"def {name}(problem, *, rng, pending: int = 0):\n"
        f"    yield from optuna_search(problem, lambda samplers, seed: samplers.{sampler}, rng=rng, pending=pending, {arguments})\n"
    )
    return f"{folder / name}.py:{name}"


@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("name", SAMPLERS)
def test_any_sampler_is_a_searcher_in_three_lines(name, objectives, tmp_path):
    check_searcher(write(tmp_path, name, *SAMPLERS[name]), problem=partial(toy_problem, objectives=objectives), seeds=8, evaluations=30)


@pytest.mark.parametrize("name", ["tpe", "nsga3"])
def test_the_shipped_ones_keep_the_contract_with_two_objectives(name):
    check_searcher(name, problem=partial(toy_problem, objectives=2), seeds=8, evaluations=30)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("tpe", {"startup": 0}), ("tpe", {"candidates": 0}), ("tpe", {"pending": -1})),
        *(("gp", {"startup": 1}), ("nsga3", {"population": 1}), ("nsga3", {"divisions": -1})),
    ],
)
def test_impossible_options_of_the_shipped_ones_are_refused(name, options):
    with pytest.raises(InputError, match=f"{name} needs .* got .*{next(iter(options))}={next(iter(options.values()))}"):
        drive(registry.load("searchers", name), toy_problem(), seed=0, evaluations=5, options=options)


def test_nsga3_has_no_more_directions_than_members():
    from hwnas.searchers.nsga3 import _divisions

    # n divisions of 2 axes are n + 1 directions, of 3 axes (n + 1)(n + 2) / 2
    assert [_divisions(2, 16), _divisions(3, 16), _divisions(3, 91), _divisions(1, 16), _divisions(5, 2)] == [15, 4, 12, 1, 1]


def test_a_sampler_without_constraints_is_told_rewards(tmp_path):
    pytest.importorskip("cmaes", reason="cmaes is not installed; CmaEsSampler needs it")
    check_searcher(write(tmp_path, "cma", "CmaEsSampler(seed=seed)", "constrained=False"), seeds=8, evaluations=30)


# -- what a sampler sees ------------------------------------------------------------------------------------------------------------


class Watched(optuna.samplers.RandomSampler):
    """Remembers every trial it was told of: its code, state, values and constraints."""

    def __init__(self, seed):
        super().__init__(seed=seed)
        self.told = []

    def after_trial(self, study, trial, state, values):
        self.told.append((tuple(trial.params.values()), state.name, values, dict(trial.constraints)))


def watched(problem, evaluations, **arguments):
    """The result of a search, and the trials its sampler was told of."""
    samplers = []

    def make(module, seed):
        assert module is optuna.samplers
        samplers.append(Watched(seed))
        return samplers[0]

    def search(problem, *, rng):
        yield from optuna_search(problem, make, rng=rng, **arguments)

    result = drive(search, problem, seed=0, evaluations=evaluations)
    return result, samplers[0].told


class Table:
    """Values by the code's sum; NaN where `fails` says so."""

    unit, origin, expensive = "points", "simulated", True

    def __init__(self, name, fails=lambda code: False):
        self.name, self.fails = name, fails

    def __call__(self, codes):
        return np.array([np.nan if self.fails(code) else float(sum(code)) for code in codes.tolist()])


def test_values_are_told_to_be_minimised_and_budgets_that_cost_an_evaluation_as_violations():
    toy = toy_problem()
    problem = Problem(toy.index, [Objective(Table("gain"), maximize=True)], [(Budget("energy", 8.0), Table("energy"))])
    result, told = watched(problem, 40, batch=4)
    assert len(told) == 40 - 4  # the search ends before the last answer
    for (code, state, values, constraints), row in zip(told, result.codes.tolist(), strict=False):
        assert list(code) == row and state == "COMPLETE" and values == [-sum(row)]
        assert constraints == {"violation": max(sum(row) / 8 - 1, 0)}
    assert any(constraints["violation"] > 0 for *_, constraints in told)


def test_a_failed_candidate_is_told_as_infinitely_bad():
    toy = toy_problem()
    problem = Problem(toy.index, [Objective(Table("gain", fails=lambda code: code[0] == 3), maximize=True)], [(Budget("energy", 8.0), Table("energy"))])
    _, told = watched(problem, 40, batch=4)
    failed = [(values, constraints) for code, _, values, constraints in told if code[0] == 3]
    assert failed and all(values == [np.inf] and constraints == {"violation": np.inf} for values, constraints in failed)


def test_without_a_budget_there_is_no_constraint():
    _, told = watched(Problem(toy_problem().index, [Objective(Table("gain"))]), 8, batch=4)
    assert [constraints for *_, constraints in told] == [{}] * 4


def test_another_rule_than_feasible_first_is_told_as_what_it_makes_of_the_budget():
    toy = toy_problem()
    problem = Problem(toy.index, [Objective(Table("gain"), maximize=True)], [(Budget("energy", 8.0), Table("energy"))], rule=mnasnet_hard)
    _, told = watched(problem, 40, batch=4)
    for code, _, values, constraints in told:
        assert values == [pytest.approx(-sum(code) / max(sum(code) / 8, 1))] and constraints == {}


def test_proposals_over_the_budget_are_refused_and_what_is_taken_instead_is_told():
    toy = toy_problem()
    cost = toy.budgets[0][1]
    tight = Problem(toy.index, toy.objectives, [(Budget("macs", None, share=0.1), cost)])
    assert 0 < tight.feasible_share(np.random.default_rng(0)) < 0.03  # 16 proposals seldom suffice
    result, told = watched(tight, 30, batch=5)
    complete = [code for code, state, *_ in told if state == "COMPLETE"]
    refused = [code for code, state, *_ in told if state == "FAIL"]
    assert result.scores.feasible.all() and len({tuple(code) for code in result.codes.tolist()}) == len(result.codes)
    assert complete == [tuple(code) for code in result.codes.tolist()][: len(complete)]
    assert len(refused) > len(complete) and not tight.within(np.asfortranarray(refused, np.int16)).all()
    assert len(told) <= 17 * len(result.codes) + 17 * 5  # the effort is bounded


def test_the_first_candidates_are_uniform_within_the_budget_and_told_as_well():
    problem = toy_problem()
    result, told = watched(problem, 25, start=20, batch=5)
    assert [code for code, state, *_ in told][:20] == [tuple(code) for code in result.codes[:20].tolist()]
    assert {state for _, state, *_ in told[:20]} == {"COMPLETE"}


def test_numbers_are_ordered_parameters_and_texts_categories():
    kernel, act, only = Choice("kernel", (1, 3, 5)), Choice("act", ("relu", "hswish")), Choice("only", (3,))
    layers = [Layer("conv", (kernel, act, only), lambda k, a, o: conv_bn_act((1, o, 4, 4), 2, k, act=a))]
    seen = {}

    class Asked(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, name, distribution):
            seen[name] = distribution
            return super().sample_independent(study, trial, name, distribution)

    def search(problem, *, rng):
        yield from optuna_search(problem, lambda samplers, seed: Asked(seed=seed), rng=rng)

    result = drive(search, Problem(BlockIndex(SearchSpace("mixed", [kernel, act, only], layers)), [Objective(Table("gain"))]), seed=0, evaluations=99)
    # one value needs no sampler
    assert seen == {"kernel": optuna.distributions.IntDistribution(0, 2), "act": optuna.distributions.CategoricalDistribution((0, 1))}
    assert sorted(result.codes.tolist()) == [[k, a, 0] for k in range(3) for a in range(2)]  # and it ends when it has seen all six


def test_with_pending_answers_as_many_are_asked_for_as_came_back():
    problem = toy_problem()
    search = optuna_search(problem, lambda samplers, seed: samplers.RandomSampler(seed=seed), rng=np.random.default_rng(0), start=6, batch=4, pending=3)

    def answer(codes, *numbers):
        return search.send(Told(codes, problem.evaluate(codes), np.array(numbers)))

    first = next(search)
    assert len(first.codes) == 6 and first.pending == 3
    second = answer(first.codes[[5, 1, 3]], 5, 1, 3)
    assert len(second.codes) == 3 and second.pending == 3
    third = answer(np.concatenate([first.codes[[0, 2, 4]], second.codes[:2]]), 0, 2, 4, 6, 7)
    assert len(third.codes) == 4  # five came back, and a batch is four
    assert len(answer(third.codes[:0]).codes) == 1


def test_optuna_stays_as_talkative_as_it_was_and_says_nothing(capfd):
    before = optuna.logging.get_verbosity()
    watched(toy_problem(), 20, start=4)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"this searcher needs 'optuna', which is not installed; install it with: pip install 'hwnas\[optuna\]'"):
        watched(toy_problem(), 5)


def test_an_optuna_that_is_too_old_is_named_as_missing(monkeypatch):
    for trial in optuna.Trial.__mro__:
        monkeypatch.delattr(trial, "set_constraint", raising=False)
    with pytest.raises(MissingExtra, match=r"needs 'optuna>=5'"):
        watched(toy_problem(), 5)
