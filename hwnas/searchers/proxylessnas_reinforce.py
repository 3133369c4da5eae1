"""ProxylessNAS by REINFORCE (Cai, Zhu and Han, 2019, section 3.3.2): weights and architecture parameters by turns, rewards by shared weights."""

from __future__ import annotations

from functools import partial
from math import cos, pi
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.errors import InputError
from hwnas.feasible_set import is_expensive
from hwnas.problem import Problem
from hwnas.searcher import Search, Trace, Train, Validate
from hwnas.searchers._logits import begin, draw, entropy, expectations, likeliest, probabilities, step
from hwnas.space import Codes, FloatArray

FORGETS = 0.99  # of the baseline at each round (official code): it is nearly the mean reward of this round


def proxylessnas_reinforce(
    problem: Problem,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    rounds: int = 200,
    steps: int = 5,
    rate: float = 0.05,
    samples: int = 10,
    exponent: float = 0.1,
) -> Search:
    """Each of `rounds` trains weights for `steps` steps on paths drawn by the probabilities, then draws `samples` architectures and steps the logits, once.

    The reward of an architecture is its accuracy with shared weights on the next validation images, as a share of 1, times (limit / latency)^exponent
    of every cheap budget. Equation 5: the derivative of the expected reward is the mean of reward times that of the log-probability; a baseline is
    taken from the rewards. samples, exponent: of the official code. It works in any space, also where gates do not.

    At the end the likeliest subnet within the budgets is asked for, then others that are drawn. rate: of Adam on the logits.
    """
    if rounds < 1 or steps < 1 or samples < 1 or not rate > 0 or not exponent >= 0:
        given = f"{rounds}, {steps}, {samples}, {rate:g} and {exponent:g}"
        raise InputError(f"proxylessnas_reinforce needs rounds, steps, samples >= 1, rate > 0 and exponent >= 0, got {given}")
    begin(state, problem.space, rng)
    state.setdefault("baseline", 0.0)
    while state["round"] < rounds:
        chances = probabilities(state["logits"])
        yield Train(partial(draw, chances), steps, rate=0.5 * (1 + cos(pi * state["round"] / rounds)))
        codes = draw(chances, rng, samples)
        accuracies = yield Validate(codes)
        rewards = accuracies / 100 * _shares(problem, codes) ** exponent
        state["baseline"] += FORGETS * (float(rewards.mean()) - state["baseline"])
        step(state, _slopes(chances, codes, rewards - state["baseline"]), rate)
        state["round"] += 1
        about = {"reward": float(rewards.mean()), "accuracy of the drawn, %": float(accuracies.mean()), "entropy, nats": entropy(chances)}
        yield Trace(about | {f"expected {each.name}": each.value for each in expectations(problem, chances)})
    yield from likeliest(problem, state["logits"], rng)


def _shares(problem: Problem, codes: Codes) -> FloatArray:
    """The product over cheap budgets of the limit divided by each architecture's value, (n,)."""
    shares = np.ones(len(codes))
    for each in problem.constraints:
        if is_expensive(each.metric):
            continue
        shares = shares * each.limit / np.maximum(each.price(codes), 1e-300)
    return shares


def _slopes(chances: list[FloatArray], codes: Codes, advantages: FloatArray) -> list[FloatArray]:
    """Derivatives, by the logits, of minus the expected reward, estimated from draws: the score of a softmax is one-hot minus probabilities."""
    slopes = []
    for column, given in enumerate(chances):
        taken = np.bincount(codes[:, column], advantages, minlength=len(given)) / len(codes)
        slopes.append(given * advantages.mean() - taken)
    return slopes


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = proxylessnas_reinforce
