import numpy as np
import pytest

from hwnas.blocks import conv_bn_act
from hwnas.budget import Budget
from hwnas.costs import macs
from hwnas.driver import drive
from hwnas.errors import InputError
from hwnas.graph import block_text, parse_block
from hwnas.growing import GrowingIndex, GrowingSpace, Priced
from hwnas.problem import Objective, Problem
from hwnas.run import RunDirectory
from hwnas.searcher import Ask, Train

SHAPE = (1, 2, 4, 4)


def network(channels, kernel=1):
    return conv_bn_act(SHAPE, channels, kernel)


def small(capacity=20):
    return GrowingSpace("small", [network(1), network(2)], capacity)


def test_equal_networks_have_one_row_and_rows_are_numbered_as_they_come():
    space = small()
    assert space.add([network(3), network(2), network(3), network(4)]).tolist() == [[2], [1], [2], [3]]
    assert space.size == 4 and space.largest().tolist() == [[3]]
    assert space.lower([2]).ops == (network(3)[0].op,)


def test_what_has_not_been_added_does_not_exist():
    space = small()
    assert set(space.sample(np.random.default_rng(0), 100)[:, 0]) == {0, 1}
    assert set(space.mutate(np.zeros((50, 1), np.int16), np.random.default_rng(0))[:, 0]) == {1}
    with pytest.raises(InputError, match=r"code 2 of row in row 0 is outside 0\.\.1"):
        space.check(np.array([[2]]))
    space.add([network(3)])
    assert space.check(np.array([[2]])).tolist() == [[2]]


def test_a_search_begins_with_the_first_networks_alone():
    space = small()
    space.add([network(7)])
    assert space.begin().tolist() == [[0], [1]] and space.size == 2
    assert space.add([network(5)]).tolist() == [[2]]


def test_the_index_grows_with_the_space_and_its_fingerprint_does_not():
    space = small()
    index = GrowingIndex(space)
    before = index.fingerprint
    codes = space.add([network(3), network(1)])
    assert index.ids(codes).tolist() == [[2], [0]] and len(index.blocks) == 3 == index.subnets().n
    assert index.distinct(np.array([[2], [0], [2]], np.int16)).tolist() == [[2], [0]]
    assert index.fingerprint == before != GrowingIndex(GrowingSpace("small", [network(1)])).fingerprint


def test_prices_are_those_of_the_networks_there_are_now():
    space = small()
    cost = Priced(space, macs, name="macs", unit="MACs")
    codes = space.add([network(3, kernel=3), network(1), network(3, kernel=3)])
    assert cost(codes).tolist() == [16 * 2 * 3 * 9, 16 * 2, 16 * 2 * 3 * 9]
    problem = Problem(GrowingIndex(space), [Objective(cost)], [(Budget("macs", 100.0), cost)])
    assert problem.within(np.array([[0], [1], [2]], np.int16)).tolist() == [True, True, False]  # 32, 64 and 864 MACs
    assert set(problem.sample_feasible(np.random.default_rng(0), 40)[:, 0]) == {0, 1}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GrowingSpace("none", []), "none: a space that grows needs at least one network"),
        (lambda: GrowingSpace("huge", [network(1)], 40_000), "holds 1 to 32,767 networks, not 40,000"),
        (lambda: small(capacity=2).add([network(3)]), "small holds 2 networks and has no room for more"),
        (lambda: small().add([()]), "the network is empty"),
        (lambda: small().add([network(1) + network(1)]), "occurs twice"),
    ],
)
def test_what_cannot_be_added_is_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


class Counter:
    """A trainer whose weights are one number."""

    def __init__(self):
        self.steps = 0

    def train(self, sampler, steps, rate):
        self.steps += steps
        return 0.0

    def save(self, folder):
        (folder / "steps.txt").write_text(str(self.steps))

    def load(self, folder):
        self.steps = int((folder / "steps.txt").read_text())


def grows_and_trains(problem, *, rng, state):
    """Keeps the texts of its networks in `state`, and adds them again when it starts."""
    space = problem.space
    space.begin()
    state.setdefault("networks", [block_text(each) for each in space.networks])
    space.add([parse_block(text) for text in state["networks"]])
    while len(state["networks"]) < 9:
        yield Train(lambda generator: space.begin(), 1)
        more = parse_block(block_text(network(len(state["networks"]) + 1)))
        yield Ask(space.add([more, *[space.networks[i] for i in rng.integers(0, len(space.networks), 2)]]))
        state["networks"] = [*state["networks"], block_text(more)]


@pytest.mark.parametrize("stop", range(1, 18, 4))
def test_a_space_that_grows_and_shared_weights_go_together_and_resume(tmp_path, stop):
    first = [parse_block(block_text(network(1))), parse_block(block_text(network(2)))]

    def search(folder, stop=-1):
        space, trainer, looks = GrowingSpace("small", first), Counter(), []

        class Wide:
            name, unit, origin, expensive = "width", "channels", "simulated", True

            def __call__(self, codes):
                looks.append(codes)
                if len(looks) == stop:
                    raise KeyboardInterrupt
                return np.array([space.networks[row][0].op.out + trainer.steps / 100 for row in codes[:, 0]])

        with RunDirectory(folder) as run:
            return drive(grows_and_trains, Problem(GrowingIndex(space), [Objective(Wide())]), run, seed=3, evaluations=50, trainer=trainer)

    whole = search(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "parts", stop)
    resumed = search(tmp_path / "parts")
    assert np.array_equal(resumed.codes, whole.codes) and np.array_equal(resumed.scores.values, whole.scores.values)
