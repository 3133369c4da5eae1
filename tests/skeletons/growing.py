"""Searchers whose space grows: they morph networks, add what comes out, and ask for its row number."""

import numpy as np

from hwnas.blocks import chain, conv_bn_act
from hwnas.budget import Budget
from hwnas.costs import macs
from hwnas.growing import GrowingIndex, GrowingSpace, Priced
from hwnas.problem import Objective, Problem
from hwnas.searcher import Ask

INPUT = (1, 3, 12, 12)
FIRST = ((4, 1),)  # a network as a program: (channels, kernel) of each convolution, without end


def network(program):
    """The block of a program."""
    blocks, shape = [], INPUT
    for channels, kernel in program:
        blocks.append(conv_bn_act(shape, channels, kernel))
        shape = (1, channels, *INPUT[2:])
    return chain(*blocks)


class Sight:
    """What a network might be good for: how far it sees and how much it keeps, with diminishing returns. Looks at the network alone."""

    name, unit, origin, expensive = "sight", "points", "simulated", True

    def __init__(self, space):
        self.space = space

    def __call__(self, codes):
        values = []
        for row in codes[:, 0]:
            convolutions = [node.op for node in self.space.networks[row]]
            field, width = 1 + sum(each.kernel - 1 for each in convolutions), min(each.out for each in convolutions)
            values.append(100 * (1 - np.exp(-field / 8)) * (1 - np.exp(-width / 8)))
        return np.array(values)


def morphs():
    """A new space of networks, and the problem of the one with most sight within 200,000 MACs."""
    space = GrowingSpace("morphs", [network(FIRST)], capacity=1_000)
    return Problem(GrowingIndex(space), [Objective(Sight(space), maximize=True)], [(Budget("macs", 200_000.0), Priced(space, macs, name="macs", unit="MACs"))])


def morphed(program, rng):
    """One step: a convolution more, or one of another width or another kernel."""
    at, (channels, kernel) = (i := int(rng.integers(len(program)))), program[i]
    kind = rng.integers(3)
    if kind == 0:
        return (*program[: at + 1], (channels, 3), *program[at + 1 :])
    changed = (max(1, channels + int(rng.integers(-2, 5))), kernel) if kind == 1 else (channels, int(rng.choice([1, 3, 5])))
    return (*program[:at], changed, *program[at + 1 :])


def grown(problem, rng, children, choose):
    """From FIRST on, `children` morphs a round of the program that `choose` picks by its row among the rewards of all."""
    space = problem.space
    programs, rewards = {}, {}

    def learn(told):
        rewards.update(zip(told.codes[:, 0].tolist(), problem.reward(told.scores), strict=True))

    codes = space.begin()
    programs[int(codes[0, 0])] = FIRST
    learn((yield Ask(codes)))
    while True:
        parent = programs[choose(rewards)]
        tried = [morphed(parent, rng) for _ in range(children)]
        codes = space.add([network(program) for program in tried])
        programs.update(zip(codes[:, 0].tolist(), tried, strict=True))
        inside = codes[problem.within(codes)]
        if len(inside):
            learn((yield Ask(inside)))


def hill_climbing(problem, *, rng, children: int = 4, tournament: int = 4):
    """Morphs the best of a few (as Elsken et al., 2017, do)."""
    yield from grown(problem, rng, children, lambda rewards: max(rng.choice(list(rewards), tournament).tolist(), key=rewards.__getitem__))


def random_growth(problem, *, rng, children: int = 4):
    """Morphs any: what random search is in a space without end."""
    yield from grown(problem, rng, children, lambda rewards: int(rng.choice(list(rewards))))
