"""Policies, what controllers learn from, and the searchers made of them: against enumeration, PyTorch and finite differences."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from skeletons import weight_sharing

from hwnas import registry
from hwnas.adam import Adam
from hwnas.blocks import conv_bn_act
from hwnas.budget import Budget
from hwnas.controller import Baseline, Rewards, active, draw
from hwnas.driver import drive
from hwnas.errors import InputError
from hwnas.index import BlockIndex
from hwnas.policies import Independent, Recurrent, chosen, entropy, entropy_slopes, likelihood_slopes
from hwnas.problem import Objective, Problem
from hwnas.rewards import mnasnet_soft
from hwnas.searcher import Ask, Told, Train, Validate
from hwnas.searchers.mnasnet import clipped_objective, mnasnet
from hwnas.searchers.random_search import random_search
from hwnas.searchers.reinforce import reinforce
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.testing import toy_problem

SIZES = (3, 2, 4, 1, 2)
CHOICES = [Choice(f"layer{i}.kernel", tuple(range(1, 2 * n, 2))) for i, n in enumerate(SIZES)]
SPACE = SearchSpace("uneven", CHOICES, [Layer(c.name, (c,), partial(conv_bn_act, (1, 2 + i, 8, 8), 3 + i)) for i, c in enumerate(CHOICES)])
EVERYTHING = np.asfortranarray(list(product(*map(range, SIZES))), np.int16)  # 48 codes
RNG = np.random.default_rng(7)
REWARD = RNG.normal(0.6, 0.2, len(EVERYTHING))


def policies():
    """One of each kind, some way from uniform."""
    independent = Independent(SPACE, np.random.default_rng(3).normal(0, 1, (len(SIZES), max(SIZES))))
    return [independent, Recurrent(SPACE, np.random.default_rng(4), hidden=5, span=1.5)]


KINDS = pytest.mark.parametrize("kind", [0, 1], ids=["independent", "recurrent"])


def probabilities(policy, codes=EVERYTHING):
    """Of whole codes, (n,)."""
    return np.exp(chosen(policy.log_probabilities(codes), codes).sum(axis=1))


def differences(policy, function, step=1e-5):
    """Central differences of function() by each parameter, some entries of large ones: (name, place) -> slope."""
    found, rng = {}, np.random.default_rng(0)
    for name, array in policy.parameters.items():
        for place in rng.choice(array.size, min(array.size, 25), replace=False):
            at, kept = np.unravel_index(place, array.shape), array.flat[place]
            values = []
            for sign in (1, -1):
                array.flat[place] = kept + sign * step
                values.append(function())
            array.flat[place] = kept
            found[name, at] = (values[0] - values[1]) / (2 * step)
    return found


def assert_gradients(policy, gradients, function):
    numeric = differences(policy, function)
    assert len(numeric) >= 20 and max(map(abs, numeric.values())) > 1e-3  # else nothing is compared
    for (name, at), slope in numeric.items():
        assert gradients[name][at] == pytest.approx(slope, rel=1e-6, abs=1e-8), (name, at)


# -- policies -------------------------------------------------------------------------------------------------------------------------


@KINDS
def test_the_probabilities_of_all_codes_sum_to_one(kind):
    policy = policies()[kind]
    assert probabilities(policy).sum() == pytest.approx(1, abs=1e-12)
    logs = policy.log_probabilities(EVERYTHING)
    assert np.allclose(np.exp(logs).sum(axis=2), 1) and not np.exp(logs[:, ~policy.possible]).any()


@KINDS
def test_samples_come_as_often_as_their_probability_says(kind):
    policy = policies()[kind]
    codes = policy.sample(np.random.default_rng(0), 40_000)
    counts = np.bincount(np.ravel_multi_index(tuple(codes.T), SIZES), minlength=len(EVERYTHING))
    expected = 40_000 * probabilities(policy)
    likely = expected > 5
    statistic = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    assert statistic < likely.sum() + 4 * math.sqrt(2 * likely.sum()), statistic  # chi-square, four standard deviations
    assert SPACE.check(codes) is not None and policy.sample(np.random.default_rng(0), 9).tolist() == policy.sample(np.random.default_rng(0), 9).tolist()


@KINDS
def test_the_likeliest_code_takes_the_likeliest_value_at_each_choice(kind):
    policy = policies()[kind]
    logs = policy.log_probabilities(policy.likeliest())
    assert policy.likeliest()[0].tolist() == logs[0].argmax(axis=1).tolist()


@KINDS
def test_gradients_of_any_function_of_the_log_probabilities_equal_finite_differences(kind):
    policy = policies()[kind]
    weights = np.random.default_rng(5).normal(0, 1, EVERYTHING.shape)
    slopes = likelihood_slopes(policy.log_probabilities(EVERYTHING), EVERYTHING, weights) + entropy_slopes(policy.log_probabilities(EVERYTHING))

    def function():
        logs = policy.log_probabilities(EVERYTHING)
        return (weights * chosen(logs, EVERYTHING)).sum() + entropy(logs).sum()

    assert_gradients(policy, policy.gradients(EVERYTHING, slopes), function)


def test_the_lstm_is_that_of_pytorch():
    policy = Recurrent(SPACE, np.random.default_rng(4), hidden=6, span=0.7)
    p, size = policy.parameters, policy.hidden
    cell = torch.nn.LSTM(size, size, batch_first=True).double()
    order = np.r_[0 : 2 * size, 3 * size : 4 * size, 2 * size : 3 * size]  # theirs: input, forget, candidate, output
    with torch.no_grad():
        cell.weight_ih_l0.copy_(torch.from_numpy(p["input"][:, order].T))
        cell.weight_hh_l0.copy_(torch.from_numpy(p["recurrent"][:, order].T))
        cell.bias_ih_l0.copy_(torch.from_numpy(p["bias"][order]))
        cell.bias_hh_l0.zero_()
    read = np.stack([np.tile(p["start"], (len(EVERYTHING), 1)), *(p["embedding"][t, EVERYTHING[:, t]] for t in range(len(SIZES) - 1))], axis=1)
    inputs = torch.from_numpy(read).requires_grad_()
    heads = torch.from_numpy(p["head"])
    outputs, _ = cell(inputs)
    weights = torch.from_numpy(np.random.default_rng(5).normal(0, 1, EVERYTHING.shape))
    total = torch.zeros((), dtype=torch.float64)
    logs = policy.log_probabilities(EVERYTHING)
    for t, values in enumerate(SIZES):
        theirs = torch.log_softmax((outputs[:, t] @ heads[t] + torch.from_numpy(p["head_bias"][t]))[:, :values], dim=1)
        assert np.allclose(logs[:, t, :values], theirs.detach().numpy(), rtol=0, atol=1e-12)
        total = total + (weights[:, t] * theirs.gather(1, torch.from_numpy(EVERYTHING[:, t : t + 1].astype(np.int64)))[:, 0]).sum()
    total.backward()
    ours = policy.gradients(EVERYTHING, likelihood_slopes(logs, EVERYTHING, weights.numpy()))
    assert np.allclose(ours["input"][:, order].T, cell.weight_ih_l0.grad.numpy(), atol=1e-10)
    assert np.allclose(ours["recurrent"][:, order].T, cell.weight_hh_l0.grad.numpy(), atol=1e-10)
    assert np.allclose(ours["bias"][order], cell.bias_ih_l0.grad.numpy(), atol=1e-10)
    assert np.allclose(ours["start"], inputs.grad[:, 0].sum(dim=0).numpy(), atol=1e-10)


def test_the_controller_begins_as_the_paper_says():
    policy = Recurrent(ofa_mini(), np.random.default_rng(0))
    assert policy.parameters["recurrent"].shape == (100, 400)
    for array in policy.parameters.values():
        assert array.min() >= -0.1 and array.max() <= 0.1 and array.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.2)


def test_entropy_is_that_of_the_whole_policy():
    policy = policies()[1]
    p = probabilities(policy)
    exact = -(p * np.log(p)).sum()  # of codes; the mean over codes of the sum over tokens
    assert (p * entropy(policy.log_probabilities(EVERYTHING)).sum(axis=1)).sum() == pytest.approx(exact, abs=1e-12)


# -- what is learned ------------------------------------------------------------------------------------------------------------------


def brute_force(logs, codes, old, advantages, clip, weight):
    """Equations 7 and 9 of Schulman et al., 2017, written out."""
    total = 0.0
    for n, code in enumerate(codes.tolist()):
        for t, value in enumerate(code):
            ratio = math.exp(logs[n, t, value]) / math.exp(old[n, t])
            clipped = min(max(ratio, 1 - clip), 1 + clip)
            total += min(ratio * advantages[n], clipped * advantages[n])
            total += weight * -sum(math.exp(logs[n, t, v]) * logs[n, t, v] for v in range(SIZES[t]))
    return total / len(codes)


@KINDS
def test_the_clipped_objective_equals_brute_force_and_its_gradient_finite_differences(kind):
    policy, before = policies()[kind], policies()[kind]
    for array in before.parameters.values():
        array += np.random.default_rng(8).normal(0, 0.4, array.shape)
    old = chosen(before.log_probabilities(EVERYTHING), EVERYTHING)
    advantages = REWARD - REWARD.mean()

    def ours():
        return clipped_objective(policy.log_probabilities(EVERYTHING), EVERYTHING, old, advantages, 0.2, 0.03)

    value, slopes = ours()
    ratio = np.exp(chosen(policy.log_probabilities(EVERYTHING), EVERYTHING) - old)
    assert (ratio > 1.2).any() and (ratio < 0.8).any() and (abs(ratio - 1) < 0.2).any()  # all branches are met
    assert value == pytest.approx(brute_force(policy.log_probabilities(EVERYTHING), EVERYTHING, old, advantages, 0.2, 0.03), rel=1e-12)
    assert_gradients(policy, policy.gradients(EVERYTHING, slopes), lambda: ours()[0])


@KINDS
def test_before_its_first_step_the_objective_climbs_the_expected_reward(kind):
    """Its gradient, weighted by the probability of each code, is that of the reward's expectation over all of them (MnasNet, equation 5)."""
    policy = policies()[kind]
    logs = policy.log_probabilities(EVERYTHING)
    weighted = probabilities(policy) * REWARD * len(EVERYTHING)
    _, slopes = clipped_objective(logs, EVERYTHING, chosen(logs, EVERYTHING), weighted, 0.2, 0.0)
    assert_gradients(policy, policy.gradients(EVERYTHING, slopes), lambda: float(probabilities(policy) @ REWARD))


@KINDS
def test_candidates_within_the_budget_alone_climb_the_expected_reward_given_the_budget(kind):
    """What conditioning adds to the gradient vanishes where the mean advantage is zero: it may be left out, as `draw` says."""
    policy = policies()[kind]
    inside = np.arange(len(EVERYTHING)) % 3 > 0
    codes = np.asfortranarray(EVERYTHING[inside])

    def expected():
        p = probabilities(policy, codes)
        return float(p @ REWARD[inside] / p.sum())

    p = probabilities(policy, codes)
    weights = np.repeat((p / p.sum() * (REWARD[inside] - expected()))[:, None], len(SIZES), axis=1)
    assert_gradients(policy, policy.gradients(codes, likelihood_slopes(policy.log_probabilities(codes), codes, weights)), expected)


def test_adam_takes_the_steps_of_pytorch():
    ours, theirs = {"x": np.array([0.3, -2.0, 0.0])}, torch.tensor([0.3, -2.0, 0.0], dtype=torch.float64, requires_grad=True)
    memory = {}
    reference = torch.optim.Adam([theirs], lr=0.05, betas=(0.4, 0.9), maximize=True)
    for step in range(6):
        gradient = np.sin(np.arange(3) + step)
        theirs.grad = torch.from_numpy(gradient)
        reference.step()
        Adam(ours, memory, betas=(0.4, 0.9)).ascend({"x": gradient}, 0.05)  # made anew each time: all it knows is in the memory
    assert np.allclose(ours["x"], theirs.detach().numpy(), rtol=0, atol=1e-12) and memory["steps"] == 6


def test_the_baseline_is_the_weighted_mean_of_what_it_was_given():
    baseline = Baseline(0.9)
    assert math.isnan(baseline.value)
    rewards = [3.0, 1.0, 4.0]
    values = [baseline.add(each) for each in rewards]
    for n in range(1, 4):
        weights = [0.9 ** (n - 1 - i) for i in range(n)]
        assert values[n - 1] == pytest.approx(sum(w * r for w, r in zip(weights, rewards[:n], strict=True)) / sum(weights))


def test_what_cannot_be_averaged_counts_as_the_worst_seen():
    rewards = Rewards()
    assert rewards.amounts(np.array([-1e300, -np.inf])) is None and rewards.amounts(np.empty(0)) is None
    assert rewards.amounts(np.array([0.5, -2e300, 0.3, np.nan])).tolist() == [0.5, 0.3, 0.3, 0.3]
    assert rewards.amounts(np.array([-np.inf])).tolist() == [0.3] and rewards.amounts(np.array([0.1, -np.inf])).tolist() == [0.1, 0.1]


def test_choices_of_what_is_not_there_do_not_matter():
    index = BlockIndex(ofa_mini())
    codes = index.space.sample(np.random.default_rng(0), 40)
    found = active(index, codes)
    for n, code in enumerate(codes):
        for column, size in enumerate(index.space.cardinalities):
            others = np.repeat(code[None], size, axis=0)
            others[:, column] = np.arange(size)
            assert found[n, column] == (len(set(index.keys(np.asfortranarray(others)))) > 1)
    assert found.any() and not found.all()


# -- candidates -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.7, 0.3, 0.05])
def test_every_candidate_is_within_the_budget_however_tight(share):
    toy = toy_problem()
    problem = Problem(toy.index, toy.objectives, [(Budget("macs", None, share=share), toy.budgets[0][1])])
    for policy in (Independent(toy.space), Recurrent(toy.space, np.random.default_rng(0), hidden=8)):
        codes = draw(problem, policy, np.random.default_rng(1), 30, "within")
        assert codes.shape == (30, 6) and problem.within(codes).all()
    free = draw(problem, Independent(toy.space), np.random.default_rng(1), 30, "free")
    assert free.tolist() == Independent(toy.space).sample(np.random.default_rng(1), 30).tolist() and not problem.within(free).all()


@pytest.mark.parametrize("searcher", [reinforce, mnasnet])
def test_by_the_papers_soft_reward_candidates_leave_the_budget_and_what_is_found_does_not(searcher):
    toy = toy_problem()
    problem = Problem(toy.index, toy.objectives, toy.budgets, mnasnet_soft)
    result = drive(searcher, problem, seed=0, evaluations=60, options={"sampling": "free"})
    assert not result.scores.feasible.all() and result.scores.feasible[result.ranked()].all() and len(result.ranked()) > 0
    best = result.scores.values[result.ranked(), 0]
    assert best.tolist() == sorted(best.tolist(), reverse=True)  # by the objective, not by the reward
    within = drive(searcher, problem, seed=0, evaluations=60)
    assert within.scores.feasible.all()


@pytest.mark.parametrize(("searcher", "options"), [(reinforce, {}), (mnasnet, {"hidden": 30, "rate": 0.005})])
def test_controllers_learn(searcher, options):
    """The mean reward of the last twenty new candidates is above that of the first twenty, and of random ones, with most seeds."""
    better = above = 0
    for seed in range(10):
        values = drive(searcher, toy_problem(), seed=seed, evaluations=150, options=options).scores.values[:, 0]
        random = drive(random_search, toy_problem(), seed=seed, evaluations=150).scores.values[:, 0]
        better += values[-20:].mean() > values[:20].mean()
        above += values[-20:].mean() > random.mean()
    assert better >= 9 and above >= 9, (better, above)


@pytest.mark.parametrize("searcher", [reinforce, mnasnet])
def test_a_controller_that_sees_nothing_but_failures_learns_nothing_and_goes_on(searcher):
    class Broken:
        name, unit, origin, expensive = "accuracy", "%", "measured", True

        def __call__(self, codes):
            return np.full(len(codes), np.nan)

    result = drive(searcher, Problem(toy_problem().index, [Objective(Broken(), maximize=True)]), seed=0, evaluations=30)
    assert len(result.codes) == 30 and len(result.ranked()) == 0


def test_a_first_step_of_reinforce_is_that_of_its_formula():
    problem = toy_problem()
    search = reinforce(problem, rng=np.random.default_rng(0), batch=4, rate=0.1)
    request = next(search)
    told = Told(request.codes, problem.evaluate(request.codes), np.arange(4))
    rewards, mean, baselines = problem.reward(told.scores), 0.0, []
    total = weight = 0.0
    for reward in rewards:
        total, weight = 0.9 * total + 0.1 * reward, 0.9 * weight + 0.1
        baselines.append(total / weight)
    gradient = np.zeros((6, 4))
    for code, reward, mean in zip(told.codes, rewards, baselines, strict=True):
        for column, value in enumerate(code):
            gradient[column] += (reward - mean) / 4 * (np.eye(4)[value] - 0.25)
    logits = 0.1 * gradient / (np.abs(gradient) + 1e-8)  # Adam's first step
    second = search.send(told)
    assert isinstance(second, Ask)
    rng = np.random.default_rng(0)
    draw(problem, Independent(problem.space), rng, 4, "within")
    assert second.codes.tolist() == draw(problem, Independent(problem.space, logits), rng, 4, "within").tolist()


@pytest.mark.parametrize("searcher", [reinforce, mnasnet])
def test_the_search_ends_when_the_policy_has_made_up_its_mind(searcher):
    toy = toy_problem()
    cost = toy.budgets[0][1]
    few = np.sort(cost(np.asfortranarray(np.indices((4,) * 6).reshape(6, -1).T, np.int16)))[4]  # five networks
    result = drive(searcher, Problem(toy.index, toy.objectives, [(Budget("macs", float(few)), cost)]), seed=0, evaluations=500)
    assert 1 <= result.evaluations <= 5


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("reinforce", "batch", 0),
        ("reinforce", "rate", 0.0),
        ("reinforce", "momentum", 1.0),
        ("mnasnet", "epochs", 0),
        ("mnasnet", "clip", 0.0),
        ("mnasnet", "entropy_weight", -1.0),
        ("mnasnet", "pending", -1),
    ],
)
def test_impossible_options_are_refused(name, option, value):
    with pytest.raises(InputError, match=f"{name} needs .* got"):
        drive(registry.load("searchers", name), toy_problem(), seed=0, evaluations=5, options={option: value})


# -- TuNAS ----------------------------------------------------------------------------------------------------------------------------


def requests_of(problem, **options):
    """What tunas yields, answered by the trainer of a small supernet, and what its weight steps were on."""
    trainer, rng, answer, requests, trained = weight_sharing.supernet_of(problem), np.random.default_rng(2), None, [], []
    search = registry.load("searchers", "tunas")(problem, rng=rng, state={}, **options)
    while True:
        request = search.send(answer)
        requests.append(request)
        if isinstance(request, Train):
            trained.append([request.sampler(np.random.default_rng(seed)) for seed in range(20)])
            answer = trainer.train(request.sampler, request.steps, request.rate)
        elif isinstance(request, Validate):
            answer = trainer.validate(request.codes)
        elif isinstance(request, Ask):
            return requests, trained
        else:
            answer = None


def test_tunas_warms_up_then_learns_and_asks_within_the_budget():
    problem = weight_sharing.budgeted()
    requests, trained = requests_of(problem, rounds=8, steps=3)
    kinds = [type(each).__name__ for each in requests]
    assert kinds == ["Train", "Trace"] * 2 + ["Train", "Validate", "Validate", "Validate", "Trace"] * 6 + ["Ask"]  # no learning in the first quarter
    mixtures = [sum(not isinstance(each, np.ndarray) for each in drawn) for drawn in trained]
    assert mixtures[0] == 20 and mixtures[2:] == [0] * 6  # chance 3/4 of each of five choices, then 1/4, then none
    gates = trained[0][0]
    assert all(np.nansum(each) == pytest.approx(1) and (np.nanmax(each) in (pytest.approx(1), pytest.approx(1 / 3))) for each in gates)
    validated = [each.codes for each in requests if isinstance(each, Validate)]
    assert problem.within(np.asfortranarray(np.concatenate(validated))).all() and problem.within(requests[-1].codes).all()
    rates = [each.rate for each in requests if isinstance(each, Train)]
    assert rates == sorted(rates, reverse=True) and 0 < rates[-1] < 0.05
    free = [each.codes for each in requests_of(problem, rounds=8, steps=3, sampling="free")[0] if isinstance(each, Validate)]
    assert not problem.within(np.asfortranarray(np.concatenate(free))).all()


def test_tunas_refuses_what_it_cannot_learn_from():
    with pytest.raises(InputError, match="the accuracy of a supernet in %"):
        next(registry.load("searchers", "tunas")(toy_problem(), rng=np.random.default_rng(0), state={}))
    with pytest.raises(InputError, match=r"0 <= warmup <= delay < 1, got .*delay=0\.1"):
        next(registry.load("searchers", "tunas")(weight_sharing.budgeted(), rng=np.random.default_rng(0), state={}, delay=0.1))
