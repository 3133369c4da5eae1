"""ProxylessNAS by gradient and by REINFORCE: what they compute against enumeration, budgets that are kept, resumed searches on real supernets."""

from functools import partial

import numpy as np
import pytest
import torch
from skeletons import weight_sharing
from small_spaces import all_codes, two_blocks

from hwnas.budget import Budget
from hwnas.costs import macs, params
from hwnas.driver import drive
from hwnas.errors import InputError
from hwnas.images import Images
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.problem import Objective, Problem
from hwnas.run import RunDirectory
from hwnas.searcher import Gradient, Train, Validate
from hwnas.searchers import _logits, proxylessnas, proxylessnas_reinforce
from hwnas.spaces.nasbench201 import nasbench201
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.supernet.supernet import Supernet
from hwnas.training.evaluate import SupernetAccuracy
from hwnas.training.search_trainer import SearchTrainer
from hwnas.training.trainer import SupernetTrainer


@pytest.fixture(scope="module")
def index():
    return BlockIndex(two_blocks())


@pytest.fixture(scope="module")
def cost(index):
    return Additive(index, macs(index.blocks), name="macs", unit="MACs")


@pytest.fixture
def logits():
    rng = np.random.default_rng(7)
    return [rng.normal(0, 1, n) for n in (2, 3, 3, 3)]


def chance_of_each(index, logits):
    """(all codes, how likely each is to be drawn), by enumeration."""
    codes, given = all_codes(index.space), [np.exp(each) / np.exp(each).sum() for each in logits]
    return codes, np.prod([each[codes[:, column]] for column, each in enumerate(given)], axis=0)


def slopes_of(function, at, epsilon=1e-5):
    slopes = [np.zeros(len(each)) for each in at]
    for row, each in enumerate(at):
        for i in range(len(each)):
            moved = [[value.copy() for value in at] for _ in range(2)]
            moved[0][row][i] += epsilon
            moved[1][row][i] -= epsilon
            slopes[row][i] = (function(moved[0]) - function(moved[1])) / (2 * epsilon)
    return slopes


# -- against enumeration --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latency", ["budget", "mul#log", "add#linear"])
def test_the_loss_with_the_expected_cost_has_the_gradient_of_enumeration(index, cost, logits, latency):
    task = Problem(index, [Objective(cost)], [(Budget("macs", None, share=0.6), cost)])
    limit, multiplier, loss = task.constraints[0].limit, 0.7, 1.3

    def whole(at):
        codes, chances = chance_of_each(index, at)
        expected = chances @ cost(codes)
        if latency == "budget":
            return loss + multiplier * (expected / limit - 1)
        return loss + 0.1 * (expected - limit) / limit if latency == "add#linear" else 0.2 * loss * (np.log(expected) / np.log(limit)) ** 0.3

    given = _logits.probabilities(logits)
    priced = _logits.expectations(task, given)
    codes, chances = chance_of_each(index, logits)
    assert priced[0].value == pytest.approx(chances @ cost(codes), rel=1e-12)
    factor, weights = proxylessnas._weighed(priced, latency, loss, np.array([multiplier]))
    assert factor == pytest.approx({"mul#log": 0.2 * (np.log(priced[0].value) / np.log(limit)) ** 0.3}.get(latency, 1.0))
    expected = slopes_of(whole, logits)
    for column, each in enumerate(given):
        np.testing.assert_allclose(_logits.through_softmax(weights[0] * priced[0].slopes[column], each), expected[column], rtol=1e-6, atol=1e-10)


def test_the_gradient_of_the_expected_reward_is_that_of_enumeration(index, logits):
    codes, chances = chance_of_each(index, logits)
    rewards = np.random.default_rng(3).normal(0, 1, len(codes))
    expected = slopes_of(lambda at: -chance_of_each(index, at)[1] @ rewards, logits)
    given = _logits.probabilities(logits)
    for baseline in (0.0, 5.0):  # it changes no expectation
        found = [np.zeros(len(each)) for each in logits]
        for code, chance, reward in zip(codes, chances, rewards - baseline, strict=True):
            for total, slope in zip(found, proxylessnas_reinforce._slopes(given, np.asfortranarray(code[None]), np.array([reward])), strict=True):
                total += chance * slope
        for each, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(each, wanted, rtol=1e-6, atol=1e-10)


def test_the_likelihood_of_a_subnet_is_the_sum_over_its_codes(index, logits):
    codes, chances = chance_of_each(index, logits)
    by_subnet = {}
    for key, chance in zip(index.keys(codes), chances, strict=True):
        by_subnet[key] = by_subnet.get(key, 0.0) + chance
    found = np.exp(_logits.likelihood(index, logits)(codes))
    np.testing.assert_allclose(found, [by_subnet[key] for key in index.keys(codes)], rtol=1e-10)
    assert len(by_subnet) < len(codes)  # a skipped block has no kernel


def test_architectures_are_drawn_by_their_probabilities(index, logits):
    codes, chances = chance_of_each(index, logits)
    drawn = _logits.draw(_logits.probabilities(logits), np.random.default_rng(0), 20_000)
    counts = np.array([(drawn == code).all(axis=1).sum() for code in codes])
    chi_square = ((counts - 20_000 * chances) ** 2 / (20_000 * chances)).sum()
    assert chi_square < len(codes) + 4 * np.sqrt(2 * len(codes))
    entropy = -(chances * np.log(chances)).sum()
    assert _logits.entropy(_logits.probabilities(logits)) == pytest.approx(entropy, rel=1e-12)


def test_two_values_are_drawn_without_replacement_and_one_of_them_by_the_two_alone(logits):
    rng, has_gates = np.random.default_rng(0), [False, True, True, True]
    given = _logits.probabilities(logits)[1]
    pairs, taken = np.zeros((3, 3)), np.zeros(3)
    for _ in range(20_000):
        code, looked = proxylessnas._two(logits, has_gates, rng)
        assert len(looked[0]) == 1 and code[1] in looked[1]
        pairs[tuple(looked[1])] += 1
        taken[code[1]] += 1
    expected, chosen = np.zeros((3, 3)), np.zeros(3)
    for i in range(3):
        for j in range(i + 1, 3):
            expected[i, j] = given[i] * given[j] / (1 - given[i]) + given[j] * given[i] / (1 - given[j])
            chosen[[i, j]] += expected[i, j] * given[[i, j]] / (given[i] + given[j])
    np.testing.assert_allclose(pairs / 20_000, expected, atol=0.015)
    np.testing.assert_allclose(taken / 20_000, chosen, atol=0.015)


def test_the_two_path_update_leaves_the_others_as_probable_as_they_were(logits):
    before = [each.copy() for each in logits]
    looked = [np.array([0]), np.array([0, 2]), np.array([1, 2]), np.array([0, 1])]
    for each, values in zip(logits[1:], looked[1:], strict=True):
        each[values] += (0.3, -0.9)
    proxylessnas._keep_mass(logits, before, looked, [False, True, True, True])
    for old, new, rest in zip(_logits.probabilities(before)[1:], _logits.probabilities(logits)[1:], (1, 0, 2), strict=True):
        assert new[rest] == pytest.approx(old[rest], rel=1e-12)


# -- searches in which the truth is known ---------------------------------------------------------------------------------------------


def answered(search, gradient=None, validate=None):
    """What a search asks for at its end, when it is told these losses and accuracies."""
    answer = None
    while True:
        request = search.send(answer)
        if isinstance(request, Train):
            answer = 1.0
        elif isinstance(request, Gradient):
            answer = gradient(request.gates)
        elif isinstance(request, Validate):
            answer = validate(request.codes)
        elif hasattr(request, "codes"):
            return request.codes
        else:
            answer = None


OPTIONS = [{"paths": paths, "latency": latency} for paths in ("all", "two") for latency in ("budget", "mul#log", "add#linear")]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))
def test_by_gradient_it_finds_the_best_within_the_budget_of_a_sum_over_gates(index, cost, options):
    worth = [np.zeros(len(table)) for table in index.tables]
    for layer in (1, 2):  # every block that runs is worth the more the larger its kernel
        worth[layer] = np.array([0.0, 0, 0, *((1, 2, 3) if layer == 1 else (0, 0, 0)), 1, 2, 3] * 2) * 0.1

    def gradient(gates):
        loss = 2.0 - sum(float(np.nansum(gate * value)) for gate, value in zip(gates, worth, strict=True))
        return loss, [np.where(np.isnan(gate), np.nan, -value) for gate, value in zip(gates, worth, strict=True)]

    task = Problem(index, [Objective(cost)], [(Budget("macs", None, share=0.8), cost)])
    search = proxylessnas.proxylessnas(task, rng=np.random.default_rng(1), state={}, rounds=150, rate=0.1, **options)
    found = answered(search, gradient)
    assert len(found) == 1 and task.within(found).all()
    codes = all_codes(index.space)[task.within(all_codes(index.space))]
    value = sum(each[index.cells(codes, layer)] for layer, each in enumerate(worth))
    if options["latency"] == "budget":
        reached = sum(each[index.cells(found, layer)] for layer, each in enumerate(worth))
        assert reached >= 0.8 * value.max()


def test_by_rewards_it_finds_a_good_one_within_the_budget(index, cost):
    task = Problem(index, [Objective(cost)], [(Budget("macs", None, share=0.8), cost)])
    gains = np.array([0.0, 10, 20])
    search = proxylessnas_reinforce.proxylessnas_reinforce(task, rng=np.random.default_rng(1), state={}, rounds=150, rate=0.1)
    found = answered(search, validate=lambda codes: 30 + gains[codes[:, 1]] + gains[codes[:, 2]])
    assert task.within(found).all() and found[0, 1] == 2 and found[0, 2] >= 1


def test_the_likeliest_within_several_budgets_is_exact(index, cost, logits):
    size = Additive(index, params(index.blocks), name="params", unit="parameters")
    task = Problem(index, [Objective(cost)], [(Budget("macs", None, share=0.7), cost), (Budget("params", None, share=0.9), size)])
    found = next(_logits.likeliest(task, logits, np.random.default_rng(0))).codes
    codes = all_codes(index.space)
    codes = codes[task.within(codes)]
    metric = _logits.likelihood(index, logits)
    assert task.within(found).all() and metric(found)[0] == pytest.approx(metric(codes).max(), rel=1e-9)


def test_after_the_likeliest_come_others_within_the_budget_each_once(index, cost, logits):
    task = Problem(index, [Objective(cost)], [(Budget("macs", None, share=0.7), cost)])
    asked = np.concatenate([each.codes for each in _logits.likeliest(task, logits, np.random.default_rng(0))])
    inside = all_codes(index.space)[task.within(all_codes(index.space))]
    assert task.within(asked).all() and len(set(index.keys(asked))) == len(asked)
    assert len(asked) > 0.5 * len(index.distinct(np.asfortranarray(inside)))  # and then it ends


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"rounds": 0}, "needs rounds >= 1"), ({"rate": 0.0}, "rate > 0"), ({"latency": "mul#log"}, "takes the logarithm of macs in GMACs")],
)
def test_impossible_options_are_refused(index, options, sentence):
    cost = Additive(index, macs(index.blocks) / 1e9, name="macs", unit="GMACs")
    task = Problem(index, [Objective(cost)], [(Budget("macs", None, share=0.7), cost)])
    with pytest.raises(InputError, match=sentence):
        next(proxylessnas.proxylessnas(task, rng=np.random.default_rng(0), state={}, **options))


def test_a_space_whose_layers_name_their_inputs_is_for_the_other_one():
    cells = BlockIndex(nasbench201(resolution=8))
    cost = Additive(cells, macs(cells.blocks), name="macs", unit="MACs")
    task = Problem(cells, [Objective(cost)])
    with pytest.raises(InputError, match="use proxylessnas_reinforce"):
        next(proxylessnas.proxylessnas(task, rng=np.random.default_rng(0), state={}))
    assert isinstance(next(proxylessnas_reinforce.proxylessnas_reinforce(task, rng=np.random.default_rng(0), state={})), Train)


# -- on a real supernet ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bars():
    """Two classes that a network can tell apart: a bright bar on the left or on the right."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 2
    pixels = torch.randint(0, 60, (96, 1, 16, 16), generator=generator)
    pixels[labels == 0, :, :, :6] += 150
    pixels[labels == 1, :, :, 10:] += 150
    return Images("bars", pixels.to(torch.uint8), labels, torch.arange(96), ("left", "right"), (0.3,), (0.2,))


class Stops(SearchTrainer):
    """Interrupts before the call of that number."""

    calls, stop = 0, -1

    def _count(self):
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt

    def train(self, *given):
        self._count()
        return super().train(*given)

    def gradient(self, *given):
        self._count()
        return super().gradient(*given)

    def validate(self, *given):
        self._count()
        return super().validate(*given)


def on_bars(bars, sharing):
    index = BlockIndex(ofa_mini(resolutions=(16, 24), classes=2))
    supernet = Supernet(index, sharing=sharing, seed=3)
    trainer = Stops(SupernetTrainer(supernet, bars, batch=16, seed=1), bars, rate=2e-3)
    cost = Additive(index, macs(index.blocks), name="macs", unit="MACs")
    task = Problem(index, [Objective(SupernetAccuracy(supernet, bars, bars, calibration=48), maximize=True)], [(Budget("macs", None, share=0.5), cost)])
    return task, trainer


def outcome(result, trainer):
    weights = {name: tensor.clone() for name, tensor in trainer.trainer.supernet.state().items()}
    return result.codes.tolist(), result.scores.values.tolist(), [point["values"] for point in result.trace], weights


SEARCHES = [
    (proxylessnas.proxylessnas, {"paths": "all"}, "paths"),
    (proxylessnas.proxylessnas, {"paths": "two", "latency": "add#linear"}, "slices"),
    (proxylessnas_reinforce.proxylessnas_reinforce, {"samples": 3}, "kernels"),
]


@pytest.mark.parametrize(("searcher", "options", "sharing"), SEARCHES, ids=["all", "two", "reinforce"])
def test_interrupted_and_resumed_it_ends_bit_for_bit_where_it_would_have(searcher, options, sharing, bars, tmp_path):
    search = partial(drive, searcher, seed=5, evaluations=3, options={**options, "rounds": 3, "steps": 2})
    task, trainer = on_bars(bars, sharing)
    whole = outcome(search(problem=task, trainer=trainer), trainer)
    assert task.within(np.asfortranarray(whole[0], np.int16)).all() and len(whole[0]) == 3 and len(whole[2]) == 3
    assert {"entropy, nats", "expected macs, MACs"} <= set(whole[2][0])
    with RunDirectory(tmp_path / "run") as run:
        for stop in (2, 3, -1):
            task, trainer = on_bars(bars, sharing)  # another process
            trainer.stop = stop
            try:
                result = search(problem=task, trainer=trainer, run=run)
            except KeyboardInterrupt:
                continue
        assert [event.body["number"] for event in run.events("search", "trace")] == [0, 1, 2]
    resumed = outcome(result, trainer)
    assert resumed[:3] == whole[:3]
    assert all(torch.equal(whole[3][name], tensor) for name, tensor in resumed[3].items())


def test_weights_are_trained_on_codes_and_on_mixtures(bars):
    task, trainer = on_bars(bars, "paths")
    before = {name: tensor.clone() for name, tensor in trainer.trainer.supernet.state().items()}
    uniform = [np.full(len(table), 1 / len(table)) for table in task.index.tables]
    assert np.isfinite(trainer.train(lambda rng: uniform, 1, 1.0)) and np.isfinite(trainer.train(lambda rng: task.space.sample(rng), 1, 0.5))
    changed = [name for name, tensor in trainer.trainer.supernet.state().items() if not torch.equal(before[name], tensor)]
    assert len(changed) > 0.9 * len(before)  # a mixture trains all paths
    _, slopes = trainer.gradient(uniform, "mixture")
    assert all(np.isfinite(each).all() for each in slopes)
    with pytest.raises(InputError, match="at a share in"):
        trainer.train(lambda rng: task.space.sample(rng), 1, 1.5)


def test_looks_at_validation_images_change_nothing_and_are_equal_for_all(bars):
    task, trainer = on_bars(bars, "slices")
    before = {name: tensor.clone() for name, tensor in trainer.trainer.supernet.state().items()}
    code = task.space.sample(np.random.default_rng(0))
    first = trainer.validate(np.asfortranarray(np.concatenate([code, code, task.space.smallest()])))
    assert first[0] == first[1] and first.shape == (3,) and ((first >= 0) & (first <= 100)).all() and trainer.looks == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.trainer.supernet.state().items())


def test_the_skeleton_is_told_derivatives_of_binary_gates():
    supernet = weight_sharing.LogisticSupernet()
    gates = [np.array([1.0, 0.0, np.nan])] * 5
    _, slopes = supernet.gradient(gates, "two")
    assert all(np.isnan(each).tolist() == [False, False, True] for each in slopes)
