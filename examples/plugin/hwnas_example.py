"""A search space and a searcher that come with this distribution and not with hwnas."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import exp

import numpy as np

from hwnas.blocks import conv_bn_act
from hwnas.errors import InputError
from hwnas.graph import IDENTITY, Block, Node
from hwnas.ops import Flatten, GlobalPool, Linear
from hwnas.problem import Problem
from hwnas.searcher import Ask, Search
from hwnas.space import Choice, Layer, SearchSpace

WIDTHS = (8, 16, 32)  # of the stages; each halves the resolution
TRIES = 16  # changes of an architecture, of which one should be within the budget


def plain_cnn(resolutions: Sequence[int] = (32, 40, 48), classes: int = 10, channels: int = 1) -> SearchSpace:
    """Convolutions without shortcuts in three stages (after VGG, Simonyan & Zisserman, 2015): kernel and depth of each, and the resolution."""
    resolution = Choice("resolution", tuple(resolutions))
    choices, layers, width = [resolution], [], channels
    for i, out in enumerate(WIDTHS):
        kernel, depth = Choice(f"stage{i}.kernel", (3, 5)), Choice(f"stage{i}.depth", (1, 2))
        choices += [kernel, depth]
        layers.append(Layer(f"stage{i}.down", (resolution, kernel), partial(down, width, out, 2**i)))
        layers.append(Layer(f"stage{i}.same", (resolution, kernel, depth), partial(same, out, 2 ** (i + 1))))
        width = out
    layers.append(Layer("head", (resolution,), partial(head, width, 2 ** len(WIDTHS), classes)))
    return SearchSpace("plain_cnn", choices, layers)


def down(channels: int, out: int, reduction: int, resolution: int, kernel: int) -> Block:
    """The convolution that begins a stage and halves its resolution."""
    side = -(-resolution // reduction)  # every stride of 2 rounds up
    return conv_bn_act((1, channels, side, side), out, kernel, stride=2)


def same(channels: int, reduction: int, resolution: int, kernel: int, depth: int) -> Block:
    """The second convolution of a stage, where it has one."""
    side = -(-resolution // reduction)
    return conv_bn_act((1, channels, side, side), channels, kernel) if depth == 2 else IDENTITY


def head(channels: int, reduction: int, classes: int, resolution: int) -> Block:
    """Global mean and classifier."""
    side = -(-resolution // reduction)
    return (
        Node("pool", GlobalPool((1, channels, side, side)), ("in0",)),
        Node("flatten", Flatten((1, channels, 1, 1)), ("pool",)),
        Node("classifier", Linear((1, channels), out=classes), ("flatten",)),
    )


def simulated_annealing(problem: Problem, *, rng: np.random.Generator, initial: int = 8, cooling: float = 0.9) -> Search:
    """Goes on from a changed architecture when it is better, and when it is worse by d with probability exp(-d / T) (Kirkpatrick et al., 1983).

    It starts at the best of `initial` random candidates, with T the standard deviation of their rewards; T is multiplied by `cooling` at each step.
    """
    if initial < 2 or not 0 < cooling < 1:
        raise InputError(f"simulated_annealing needs initial >= 2 and 0 < cooling < 1, got {initial} and {cooling:g}")
    told = yield Ask(problem.sample_feasible(rng, initial))
    rewards = problem.reward(told.scores)
    row = int(np.argmax(rewards))
    here, height = told.codes[row : row + 1], float(rewards[row])
    spread = float(rewards[told.scores.feasible].std()) if told.scores.feasible.any() else 0.0
    temperature = spread or 1.0
    while True:
        near = problem.space.mutate(np.repeat(here, TRIES, axis=0), rng, 0.0)  # one choice of each
        near = near[problem.within(near)][:1]
        told = yield Ask(near if len(near) else problem.sample_feasible(rng, 1))
        reward = float(problem.reward(told.scores)[0])
        if reward >= height or rng.random() < exp((reward - height) / temperature):
            here, height = told.codes, reward
        temperature = max(temperature * cooling, 1e-9)
