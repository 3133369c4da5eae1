import os
import signal
from functools import partial

import numpy as np
import pytest
from skeletons import weight_sharing
from skeletons.weight_sharing import Accuracy, LogisticSupernet, differentiable

from hwnas.blocks import conv_bn_act
from hwnas.budget import Budget
from hwnas.costs import macs
from hwnas.driver import drive
from hwnas.errors import DamagedFile, InputError, MeasurementFailed
from hwnas.executor import InProcess
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.problem import Objective, Problem
from hwnas.run import RunDirectory
from hwnas.searcher import Ask, Train
from hwnas.searchers.random_search import random_search
from hwnas.searchers.regularized_evolution import regularized_evolution
from hwnas.searchers.successive_halving import successive_halving
from hwnas.space import Choice, Layer, SearchSpace

KERNELS = (1, 3, 5)


def small_index(layers=5):
    """Convolutions in a row, each of kernel 1, 3 or 5; the last one is there at depth 2 alone, and its kernel means nothing else."""
    choices = [Choice(f"layer{i}.kernel", KERNELS) for i in range(layers)]
    depth = Choice("depth", (1, 2))
    built = [Layer(c.name, (c,), partial(conv_bn_act, (1, 1 + i, 4, 4), 2 + i)) for i, c in enumerate(choices[:-1])]
    last = Layer(choices[-1].name, (depth, choices[-1]), lambda d, k: conv_bn_act((1, layers, 4, 4), layers, k) if d == 2 else ())
    return BlockIndex(SearchSpace("small", [depth, *choices], [*built, last]))


INDEX = small_index()
MACS = Additive(INDEX, macs(INDEX.blocks), name="macs", unit="MACs")


class Paid:
    """Sum of the active codes; remembers what was evaluated, in order, and can do something at the evaluation of a given number."""

    name, unit, origin, expensive = "gain", "points", "simulated", True

    def __init__(self, at=None, share=1.0, seen=None):
        self.at_number, self.share, self.seen = at or {}, share, [] if seen is None else seen

    def __call__(self, codes):
        values = []
        for code in codes.tolist():
            self.seen.append((*code, self.share))
            action = self.at_number.get(len(self.seen))
            values.append((sum(code[1:-1]) + code[0] * (1 + code[-1]) if action is None else action()) * self.share)
        return np.array(values, float)

    def at(self, fidelity):
        return Paid(self.at_number, fidelity, self.seen)


def problem(metric=None, budget=None):
    budgets = [] if budget is None else [(Budget("macs", budget), MACS)]
    return Problem(INDEX, [Objective(metric or Paid(), maximize=True)], budgets)


def cheap():
    return Problem(INDEX, [Objective(MACS, maximize=True)])


def codes(*rows):
    return np.asfortranarray(rows, np.int16)


def bodies(folder, *kinds, stage="search"):
    with RunDirectory(folder, write=False) as run:
        return [(event.kind, event.body) for event in run.store.events() if not kinds or event.kind.removeprefix(f"{stage}/") in kinds]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


# -- what counts ------------------------------------------------------------------------------------------------------------------


def test_a_search_spends_exactly_what_it_was_given_even_within_a_batch():
    paid = Paid()
    result = drive(random_search, problem(paid), seed=1, evaluations=37, options={"batch": 16})
    assert len(result.codes) == len(paid.seen) == 37 == result.evaluations


def repeating(problem, *, rng):
    """The same three codes for ever, of which two are one subnet."""
    while True:
        yield Ask(codes([0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2], [1, 0, 0, 0, 0, 2]))


def test_one_subnet_is_paid_for_once_and_every_code_of_it_is_told():
    paid, told = Paid(), []

    def watched(problem, *, rng):
        told.append((yield Ask(codes([0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2], [1, 0, 0, 0, 0, 2]))))
        told.append((yield Ask(codes([0, 0, 0, 0, 0, 1]))))

    result = drive(watched, problem(paid), seed=0, evaluations=10)
    assert len(paid.seen) == 2 == result.evaluations == len(result.codes)
    assert told[0].numbers.tolist() == [0, 1, 2] and told[0].scores.values[:, 0].tolist() == [0, 0, 3]
    assert told[0].codes.tolist() == [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2], [1, 0, 0, 0, 0, 2]]
    assert told[1].numbers.tolist() == [3] and told[1].scores.values.tolist() == [[0]]


def test_a_searcher_that_brings_nothing_new_is_stopped():
    result = drive(repeating, problem(), seed=0, evaluations=100)
    assert result.evaluations == 2


def test_without_expensive_metrics_every_candidate_counts():
    result = drive(repeating, cheap(), seed=0, evaluations=100)
    assert len(result.codes) == 100 == result.evaluations
    assert result.scores.values[:3, 0].tolist() == MACS(result.codes[:3]).tolist()


def test_a_searcher_may_end_by_itself():
    def one(problem, *, rng):
        yield Ask(problem.space.largest())

    result = drive(one, problem(), seed=0, evaluations=100)
    assert result.codes.tolist() == [[1, 2, 2, 2, 2, 2]] and result.evaluations == 1


def test_a_searcher_that_ends_at_once_leaves_an_empty_result():
    def none(problem, *, rng):
        return
        yield

    result = drive(none, problem(), seed=0, evaluations=100)
    assert result.codes.shape == (0, 6) and len(result.ranked()) == len(result.front()) == 0


def test_the_searchers_own_array_may_be_used_again():
    def reuses(problem, *, rng):
        code = problem.space.smallest()
        for i in range(3):
            code[0, 1] = i
            yield Ask(code, pending=2)

    assert drive(reuses, problem(), seed=0, evaluations=9).codes[:, 1].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (Ask(codes([0, 0, 0, 0, 0, 3])), "code 3 of layer4.kernel in row 0 is outside 0..2"),
        (Ask(np.zeros((1, 4), np.int16)), r"shape \(n, 6\)"),
        (Ask(codes([0] * 6), fidelity=0.0), "fidelity 0.0"),
        (Ask(codes([0] * 6), pending=-1), "pending -1"),
        (Ask(np.empty((0, 6), np.int16)), "asked for nothing"),
        (Train(lambda rng: codes([0] * 6), 1), "trains shared weights without saying so"),
        ("codes", "yielded str"),
    ],
)
def test_a_senseless_request_is_one_sentence(request_, sentence):
    def senseless(problem, *, rng):
        yield request_

    with pytest.raises(InputError, match=sentence):
        drive(senseless, problem(), seed=0, evaluations=5)


def test_less_than_one_evaluation_is_refused():
    with pytest.raises(InputError, match="at least 1 evaluation, got 0"):
        drive(random_search, problem(), seed=0, evaluations=0)


def test_progress_tells_what_is_spent_and_the_best_within_the_budget():
    seen = []

    def climbing(problem, *, rng):
        for code in ([0, 0, 0, 0, 0, 0], [0, 2, 2, 2, 2, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]):
            yield Ask(codes(code))

    drive(climbing, problem(budget=1_000.0), seed=0, evaluations=9, progress=lambda done, best: seen.append((done, best)))
    assert seen == [(1, 0.0), (2, 0.0), (3, 1.0)]  # the second is over the budget, the fourth known


def test_progress_within_a_batch_counts_what_is_done():
    seen = []
    drive(random_search, problem(), seed=0, evaluations=20, options={"batch": 8}, progress=lambda done, best: seen.append(done))
    assert seen == list(range(1, 21))


# -- results ----------------------------------------------------------------------------------------------------------------------


def test_ranked_and_front_hold_feasible_subnets_once_best_first():
    def fixed(problem, *, rng):
        yield Ask(codes([0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 2, 2, 2, 2, 0], [0, 0, 1, 0, 0, 0], [0, 2, 0, 0, 0, 0]))

    result = drive(fixed, problem(budget=2_000.0), seed=0, evaluations=9)
    # gains 1 0 - 1 2; MACs of layer 1 weigh three times those of layer 0, so [0, 0, 1, ...] is no better than [0, 1, ...] and costs more
    assert result.ranked().tolist() == [4, 0, 3, 1]
    assert result.front(MACS).tolist() == [4, 0, 1]
    assert result.front().tolist() == [4]


def test_with_several_objectives_candidates_are_ranked_front_by_front_the_least_crowded_first():
    def fixed(problem, *, rng):
        yield Ask(codes([0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 2, 2, 2, 2, 0], [0, 1, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0], [0, 2, 0, 0, 0, 2]))

    result = drive(fixed, Problem(INDEX, [Objective(Paid(), maximize=True), Objective(MACS)], [(Budget("macs", 9_000.0), MACS)]), seed=0, evaluations=9)
    # On the front are gains 0, 1, 2 at growing cost (the third row is over the budget); its ends are infinitely far from a neighbour.
    # The first row gains 1 at a higher cost than the fourth and is on the second front; the last is the subnet before it.
    assert result.scores.feasible.tolist() == [True, True, False, True, True]
    assert result.ranked().tolist() == [1, 4, 3, 0]
    assert result.front().tolist() == [4, 3, 1]


def test_cheap_results_list_a_subnet_once():
    result = drive(repeating, cheap(), seed=0, evaluations=9)
    assert result.ranked().tolist() == [2, 0]


# -- fidelity ----------------------------------------------------------------------------------------------------------------------


HALVED = {"start": 8, "rungs": 3, "eta": 2}


def test_shares_of_an_evaluation_cost_their_share_and_only_full_ones_are_ranked(folder):
    paid = Paid()
    with RunDirectory(folder) as run:
        result = drive(successive_halving, problem(paid), run, seed=4, evaluations=6, options=HALVED)
    assert [share for *_, share in paid.seen] == [0.25] * 8 + [0.5] * 4 + [1.0] * 2
    assert result.evaluations == 8 * 0.25 + 4 * 0.5 + 2
    assert result.fidelity[result.ranked()].tolist() == [1.0, 1.0]
    with RunDirectory(folder) as run:
        again = drive(successive_halving, problem(Paid({1: pytest.fail})), run, seed=4, evaluations=6, options=HALVED)
    assert np.array_equal(again.codes, result.codes) and np.array_equal(again.fidelity, result.fidelity)


def test_what_is_left_is_not_overspent():
    result = drive(successive_halving, problem(), seed=4, evaluations=3, options=HALVED)
    assert result.evaluations == 8 * 0.25 + 2 * 0.5


# -- replay -----------------------------------------------------------------------------------------------------------------------


def interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize("searcher", [random_search, regularized_evolution])
@pytest.mark.parametrize("stops", [[1], [2, 3], [24], [25], [17, 30, 40]])
def test_interrupted_and_resumed_is_event_for_event_what_uninterrupted_is(tmp_path, searcher, stops):
    paid = Paid()
    with RunDirectory(tmp_path / "whole") as run:
        whole = drive(searcher, problem(paid, 6_000.0), run, seed=7, evaluations=40)
    seen = []
    for stop in stops:
        with RunDirectory(tmp_path / "parts") as run, pytest.raises(KeyboardInterrupt):
            drive(searcher, problem(Paid({stop: interrupted}, seen=seen), 6_000.0), run, seed=7, evaluations=40)
        seen.pop()  # the one that was not finished
    with RunDirectory(tmp_path / "parts") as run:
        resumed = drive(searcher, problem(Paid(seen=seen), 6_000.0), run, seed=7, evaluations=40)
    assert seen == paid.seen
    assert bodies(tmp_path / "parts") == bodies(tmp_path / "whole")
    assert np.array_equal(resumed.codes, whole.codes) and np.array_equal(resumed.scores.values, whole.scores.values)
    assert len(bodies(tmp_path / "whole", "evaluated")) == 40


def test_a_finished_search_called_again_evaluates_and_records_nothing(folder):
    for metric in (Paid(), Paid({1: pytest.fail})):
        with RunDirectory(folder) as run:
            result = drive(random_search, problem(metric), run, seed=7, evaluations=20)
            count = len(run.store.events())
    assert len(result.codes) == 20 and count == 22  # the problem, 20 evaluations, the mark at the end


def test_a_search_without_run_is_the_same_search(folder):
    with RunDirectory(folder) as run:
        recorded = drive(regularized_evolution, problem(), run, seed=7, evaluations=50)
    assert np.array_equal(recorded.codes, drive(regularized_evolution, problem(), seed=7, evaluations=50).codes)


def test_two_stages_of_one_run_do_not_mix(folder):
    with RunDirectory(folder) as run:
        drive(regularized_evolution, problem(), run, seed=7, evaluations=30)
        drive(random_search, problem(), run, seed=8, evaluations=30, stage="random")
    assert len(bodies(folder, "evaluated")) == len(bodies(folder, "evaluated", stage="random")) == 30


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 8}, "search seed = 7, and now it is 8"),
        ({"searcher": regularized_evolution}, "search searcher = random_search, and now it is regularized_evolution"),
        ({"options": {"batch": 3}}, r"search searcher options = \{'batch': 16, 'pending': 0\}, and now it is \{'batch': 3, 'pending': 0\}"),
        ({"problem": problem(budget=5_000.0)}, r"search budgets = \[\], and now it is \[\['macs', 5000.0, 'p50'\]\]"),
        ({"problem": cheap()}, "search objectives = "),
    ],
)
def test_another_search_in_the_same_folder_is_refused_by_the_first_difference(folder, change, sentence):
    given = {"searcher": random_search, "problem": problem(), "seed": 7, "evaluations": 10}
    with RunDirectory(folder) as run:
        drive(run=run, **given)
        with pytest.raises(InputError, match=sentence):
            drive(run=run, **{**given, **change})


def versions():
    """Two functions of one name and signature that ask for different codes, as two versions of a searcher would."""

    def searcher(problem, *, rng):
        while True:
            yield Ask(problem.space.sample(rng, 4))

    first = searcher

    def searcher(problem, *, rng):
        yield Ask(problem.space.sample(rng, 4))
        while True:
            yield Ask(problem.space.sample(rng, 4)[::-1])

    return first, searcher


def test_another_version_of_the_searcher_is_found_by_what_it_asks(folder):
    first, second = versions()
    with RunDirectory(folder) as run:
        drive(first, problem(), run, seed=7, evaluations=10)
    with RunDirectory(folder) as run, pytest.raises(InputError, match=r"run was written by another searcher, seed or version of hwnas; name another folder"):
        drive(second, problem(Paid({1: pytest.fail})), run, seed=7, evaluations=10)


def test_another_version_is_found_in_a_search_that_records_no_evaluations(folder):
    first, second = versions()
    with RunDirectory(folder) as run:
        drive(first, cheap(), run, seed=7, evaluations=5_000)
    marks = [body["asked"] for _, body in bodies(folder, "asked")]
    assert marks == [1024, 2048, 4096, 5000]
    with RunDirectory(folder) as run:
        drive(first, cheap(), run, seed=7, evaluations=5_000)
        with pytest.raises(InputError, match="another searcher, seed or version"):
            drive(second, cheap(), run, seed=7, evaluations=5_000)
    assert len(bodies(folder)) == 5


def test_a_searcher_that_asks_for_less_than_is_recorded_is_another_version(folder):
    def searcher(problem, *, rng):
        for _ in range(count[0]):
            yield Ask(problem.space.sample(rng, 3))

    count = [4]
    with RunDirectory(folder) as run:
        drive(searcher, problem(), run, seed=7, evaluations=100)
        count[0] = 2
        with pytest.raises(InputError, match="another searcher, seed or version"):
            drive(searcher, problem(), run, seed=7, evaluations=100)


def test_a_record_that_is_not_ours_is_named_as_damage(folder):
    with RunDirectory(folder) as run:
        drive(random_search, problem(), run, seed=7, evaluations=2)
        run.append("other", "evaluated", {})
    with RunDirectory(folder) as run:
        run.append("search", "evaluated", {"number": "one"})
        with pytest.raises(DamagedFile, match="a record of search that is not as hwnas writes it"):
            drive(random_search, problem(), run, seed=7, evaluations=5)


def failed():
    raise MeasurementFailed("the device lost power")


def test_a_failed_evaluation_is_a_recorded_outcome_and_is_not_repeated(folder):
    with RunDirectory(folder) as run:
        result = drive(random_search, problem(Paid({2: failed, 3: lambda: float("nan")})), run, seed=7, evaluations=5)
    assert np.isnan(result.scores.values[:, 0]).tolist() == [False, True, True, False, False]
    assert result.scores.feasible.tolist() == [True, False, False, True, True] and not {1, 2} & set(result.ranked().tolist())
    recorded = [body for _, body in bodies(folder, "evaluated")]
    assert recorded[1]["values"] == recorded[2]["values"] == [None]
    assert recorded[1]["error"] == "the device lost power" and "error" not in recorded[2]
    with RunDirectory(folder) as run:
        again = drive(random_search, problem(Paid({1: pytest.fail})), run, seed=7, evaluations=5)
    assert np.array_equal(again.scores.values, result.scores.values, equal_nan=True)


def test_an_error_of_the_evaluator_is_not_swallowed(folder):
    def bug():
        raise ZeroDivisionError("in the user's metric")

    with RunDirectory(folder) as run, pytest.raises(ZeroDivisionError):
        drive(random_search, problem(Paid({3: bug})), run, seed=7, evaluations=5)
    assert len(bodies(folder, "evaluated")) == 2


# -- Ctrl-C -----------------------------------------------------------------------------------------------------------------------


def pressed(times):
    def press():
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):  # the handler runs between two instructions
                pass
        return 5.0

    return press


def test_ctrl_c_finishes_and_records_the_evaluation_in_progress(folder):
    before = signal.getsignal(signal.SIGINT)
    with RunDirectory(folder) as run, pytest.raises(KeyboardInterrupt):
        drive(random_search, problem(Paid({3: pressed(1)})), run, seed=7, evaluations=10)
    assert [body["values"] for _, body in bodies(folder, "evaluated")][2] == [5.0]
    assert signal.getsignal(signal.SIGINT) is before
    with RunDirectory(folder) as run:
        assert len(drive(random_search, problem(), run, seed=7, evaluations=10).codes) == 10


def test_a_second_ctrl_c_does_not_wait(folder):
    before = signal.getsignal(signal.SIGINT)
    with RunDirectory(folder) as run, pytest.raises(KeyboardInterrupt):
        drive(random_search, problem(Paid({3: pressed(2)})), run, seed=7, evaluations=10)
    assert len(bodies(folder, "evaluated")) == 2
    assert signal.getsignal(signal.SIGINT) is before


# -- pending ----------------------------------------------------------------------------------------------------------------------


class LastFirst(InProcess):
    """Two workers of which the one that started last is done first."""

    def wait(self):
        self._queue.rotate(1)
        return super().wait()


completed: list[int] = []


def one_by_one(problem, *, rng, workers: int = 3):
    """Keeps every worker busy; remembers in which order the answers came."""
    for i in range(12):
        code = problem.space.smallest()
        code[0, 1], code[0, 2], code[0, 3] = i % 3, i // 3 % 3, i // 9
        told = yield Ask(code, pending=workers - 1)
        completed.extend(told.numbers.tolist())
        for number, row in zip(told.numbers, told.codes, strict=True):
            assert row[1] == number % 3  # every answer names its question
    told = yield Ask(np.empty((0, 6), np.int16))
    completed.extend(told.numbers.tolist())


@pytest.mark.parametrize("executor", [InProcess, LastFirst])
def test_answers_come_in_the_order_asked_as_soon_as_all_but_the_last_few_are_scored_whoever_was_faster(executor):
    completed.clear()
    result = drive(one_by_one, problem(), seed=0, evaluations=99, executor=executor())
    assert completed == list(range(12))
    assert result.codes[:, 1].tolist() == [i % 3 for i in range(12)]


def test_what_was_done_out_of_order_is_recorded_when_it_is_done_and_never_done_again(folder):
    first, second = Paid({6: interrupted}), Paid()
    completed.clear()
    with RunDirectory(folder) as run, pytest.raises(KeyboardInterrupt):
        drive(one_by_one, problem(first), run, seed=0, evaluations=99, executor=LastFirst())
    assert [body["number"] for _, body in bodies(folder, "evaluated")] == [2, 1, 0, 5, 4]
    completed.clear()
    with RunDirectory(folder) as run:
        result = drive(one_by_one, problem(second), run, seed=0, evaluations=99)
    assert completed == list(range(12)) and len(second.seen) == 7 and not set(first.seen[:5]) & set(second.seen)
    uninterrupted = drive(one_by_one, problem(), seed=0, evaluations=99)
    assert np.array_equal(result.codes, uninterrupted.codes) and np.array_equal(result.scores.values, uninterrupted.scores.values)
    with RunDirectory(folder) as run:
        drive(one_by_one, problem(Paid({1: pytest.fail})), run, seed=0, evaluations=99)


def test_a_run_that_holds_an_answer_twice_is_refused(folder):
    with RunDirectory(folder) as run:
        drive(one_by_one, problem(), run, seed=0, evaluations=99)
        run.append("search", "evaluated", run.events("search", "evaluated")[3].body)
    with RunDirectory(folder) as run, pytest.raises(DamagedFile, match="a record of search that is not as hwnas writes it"):
        drive(one_by_one, problem(), run, seed=0, evaluations=99)


def test_a_subnet_asked_again_while_it_is_in_flight_is_told_with_it():
    told = []

    def twice(problem, *, rng):
        told.append((yield Ask(codes([0, 1, 0, 0, 0, 0]), pending=5)))
        told.append((yield Ask(codes([0, 1, 0, 0, 0, 2], [0, 2, 0, 0, 0, 0]), pending=1)))
        told.append((yield Ask(np.empty((0, 6), np.int16))))

    paid = Paid()
    drive(twice, problem(paid), seed=0, evaluations=9)
    assert [each.numbers.tolist() for each in told] == [[], [0, 1], [2]]
    assert told[1].codes.tolist() == [[0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 2]] and len(paid.seen) == 2


# -- searchers that train -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


class Killer:
    """Raises Killed at the call of that number."""

    def __init__(self, at=-1):
        self.calls, self.at = 0, at

    def __call__(self):
        self.calls += 1
        if self.calls == self.at:
            raise Killed


class Watched(LogisticSupernet):
    """The same trainer, which counts how often it trains and can be killed at the start and at the end of it, and at a gradient."""

    def __init__(self, kill):
        super().__init__()
        self.kill, self.trainings = kill, 0

    def train(self, sampler, steps, rate):
        self.kill()
        self.trainings += 1
        loss = super().train(sampler, steps, rate)
        self.kill()
        return loss

    def gradient(self, gates, paths):
        self.kill()
        return super().gradient(gates, paths)


def trained_run(folder, kill):
    supernet = Watched(kill)
    task = Problem(weight_sharing.INDEX, [Objective(Accuracy(supernet, kill), maximize=True)])
    with RunDirectory(folder) as run:
        result = drive(differentiable, task, run, seed=2, evaluations=100, trainer=supernet)
        blobs = sorted(path.name for path in run.store.blobs.iterdir())
    return result, supernet, blobs


def test_a_searcher_that_trains_is_served_weights_and_gradients():
    supernet = LogisticSupernet()
    result = drive(differentiable, Problem(weight_sharing.INDEX, [Objective(Accuracy(supernet), maximize=True)]), seed=2, evaluations=100, trainer=supernet)
    assert supernet.trained == 6 * 7 and supernet.validation == 6 * 10
    untrained = LogisticSupernet().accuracy(result.codes[-2:-1])
    assert result.scores.values[-2, 0] > untrained[0] + 15  # what the search ended with, against chance


def test_the_same_subnet_is_evaluated_again_after_the_weights_have_changed():
    supernet = LogisticSupernet()

    def looks(problem, *, rng, state):
        for _ in range(3):
            yield Train(lambda generator: [np.ones(3)] * 5, 2)
            yield Ask(problem.space.smallest())
            yield Ask(problem.space.smallest())

    result = drive(looks, Problem(weight_sharing.INDEX, [Objective(Accuracy(supernet), maximize=True)]), seed=2, evaluations=100, trainer=supernet)
    assert result.evaluations == 3


def test_killed_anywhere_a_training_search_resumes_to_the_same_end_and_repeats_no_kept_training(tmp_path):
    count = Killer()
    golden, trained, blobs = trained_run(tmp_path / "golden", count)
    assert count.calls == 6 * 5 and trained.trainings == 6 == len(bodies(tmp_path / "golden", "trained"))
    assert len(blobs) == 2  # the files of the last checkpoint alone
    for at in range(1, count.calls + 1):
        folder = tmp_path / f"killed{at}"
        with pytest.raises(Killed):
            trained_run(folder, Killer(at))
        kept = len(bodies(folder, "trained"))
        resumed, supernet, left = trained_run(folder, Killer())
        assert np.array_equal(resumed.codes, golden.codes) and np.array_equal(resumed.scores.values, golden.scores.values), at
        assert np.array_equal(supernet.weights, trained.weights) and supernet.trained == trained.trained and left == blobs
        assert bodies(folder) == bodies(tmp_path / "golden")
        assert supernet.trainings == 6 - kept


def test_a_search_killed_many_times_at_its_training_points_still_ends_the_same(tmp_path):
    golden, _, _ = trained_run(tmp_path / "golden", Killer())
    for _ in range(30):
        try:
            resumed, _, _ = trained_run(tmp_path / "killed", Killer(4))
            break
        except Killed:
            continue
    assert np.array_equal(resumed.codes, golden.codes) and np.array_equal(resumed.scores.values, golden.scores.values)


def test_a_searcher_that_trains_needs_a_trainer():
    with pytest.raises(InputError, match="differentiable trains shared weights and needs a trainer"):
        drive(differentiable, Problem(weight_sharing.INDEX, [Objective(MACS)]), seed=2, evaluations=100)


def test_training_waits_for_every_score():
    def hasty(problem, *, rng, state):
        yield Ask(problem.space.sample(rng, 3), pending=2)
        yield Train(lambda generator: [np.ones(3)] * 5, 1)

    supernet = LogisticSupernet()
    with pytest.raises(InputError, match="wants to train while candidates are unscored"):
        drive(hasty, Problem(weight_sharing.INDEX, [Objective(Accuracy(supernet), maximize=True)]), seed=2, evaluations=100, trainer=supernet)


def test_a_training_search_with_other_steps_is_another_version(tmp_path):
    def trained_for(steps):
        def searcher(problem, *, rng, state):
            while True:
                yield Train(lambda generator: [np.ones(3)] * 5, steps)
                yield Ask(problem.space.sample(rng, 1))

        supernet = LogisticSupernet()
        task = Problem(weight_sharing.INDEX, [Objective(Accuracy(supernet), maximize=True)])
        with RunDirectory(tmp_path / "run") as run:
            drive(searcher, task, run, seed=2, evaluations=4, trainer=supernet)

    trained_for(2)
    with pytest.raises(InputError, match="another searcher, seed or version"):
        trained_for(3)
