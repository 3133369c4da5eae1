"""MnasNet's search (Tan et al., 2019): a recurrent controller, trained by proximal policy optimisation on accuracy times a power of the latency."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hwnas.adam import Adam
from hwnas.controller import Baseline, Milestones, Rewards, Sampling, course, draw
from hwnas.errors import InputError
from hwnas.policies import Recurrent, chosen, entropy, entropy_slopes, likelihood_slopes
from hwnas.problem import Problem
from hwnas.searcher import Ask, Search, Trace
from hwnas.space import Codes, FloatArray

_BARREN = 20  # batches in a row without a new subnet: the policy has made up its mind


def mnasnet(
    problem: Problem,
    *,
    rng: np.random.Generator,
    batch: int = 10,
    rate: float = 0.002,
    epochs: int = 5,
    clip: float = 0.2,
    entropy_weight: float = 1e-5,
    momentum: float = 0.95,
    hidden: int = 100,
    sampling: Sampling = "within",
    pending: int = 0,
) -> Search:
    """Sample, evaluate, update (section 4.2): the tokens of `batch` networks, their rewards, and `epochs` steps of Adam up the clipped objective.

    The paper takes "the same RNN controller as NASNet" (section 5), which is Zoph et al., 2018, appendix A.2 and A.3: one LSTM of 100 units, weights that begin
    between -0.1 and 0.1, a rate of 0.00035, 20 networks an update, an entropy bonus of 1e-5, and as baseline the moving average of previous rewards with
    weight 0.95. clip: Schulman et al., 2017, equation 7 and table 1. batch, rate: ours, for one or two hundred candidates instead of the papers' 8,000 and
    20,000. epochs: neither paper tells; ours. sampling: `free` is the paper's, the reward alone keeps the budget. The search ends when 20 batches brought
    no new subnet.
    """
    if batch < 1 or epochs < 1 or hidden < 1 or rate <= 0 or clip <= 0 or entropy_weight < 0 or not 0 <= momentum < 1 or pending < 0:
        raise InputError(
            f"mnasnet needs batch, epochs, hidden >= 1, rate, clip > 0, 0 <= momentum < 1, entropy_weight, pending >= 0, "
            f"got {batch=}, {epochs=}, {hidden=}, {rate=}, {clip=}, {momentum=}, {entropy_weight=}, {pending=}"
        )
    policy, rewards, baseline = Recurrent(problem.space, rng, hidden=hidden), Rewards(), Baseline(momentum)
    optimiser = Adam(policy.parameters)
    old: dict[int, FloatArray] = {}  # number of a candidate -> log-probability of each of its tokens when it was sampled
    asked, count, barren, milestones = set[bytes](), 0, 0, Milestones()
    while barren < _BARREN:
        codes = draw(problem, policy, rng, batch, sampling)
        old.update(enumerate(chosen(policy.log_probabilities(codes), codes), start=count))
        count, before = count + len(codes), len(asked)
        asked.update(problem.index.keys(codes))
        barren = 0 if len(asked) > before else barren + 1
        told = yield Ask(codes, pending=pending)
        then = np.array([old.pop(number) for number in told.numbers.tolist()]).reshape(told.codes.shape)
        amounts = rewards.amounts(problem.reward(told.scores))
        if amounts is None:
            continue
        previous = baseline.value if np.isfinite(baseline.value) else amounts.mean()  # before any reward there is but their own mean
        advantages = amounts - previous
        for amount in amounts:
            baseline.add(float(amount))
        for _ in range(epochs):
            objective, slopes = clipped_objective(policy.log_probabilities(told.codes), told.codes, then, advantages, clip, entropy_weight)
            optimiser.ascend(policy.gradients(told.codes, slopes), rate)
        if milestones.passed(count):
            yield Trace({"reward": float(amounts.mean()), "clipped objective": objective} | course(problem, policy, told.codes))


def clipped_objective(logs: FloatArray, codes: Codes, old: FloatArray, advantages: FloatArray, clip: float, entropy_weight: float) -> tuple[float, FloatArray]:
    """(objective, slopes): equation 7 of Schulman et al., 2017, and the entropy bonus of equation 9, mean over codes of the sum over tokens.

    logs: (n, choices, values) of the policy now; old: (n, choices), log-probabilities of the tokens of `codes` when they were sampled;
    advantages: (n,), the same for each token of a code, since the reward comes at the end. slopes: (n, choices, values).
    """
    ratio = np.exp(chosen(logs, codes) - old)
    advantage = advantages[:, None]
    gain = np.minimum(ratio * advantage, np.clip(ratio, 1 - clip, 1 + clip) * advantage)
    unclipped = np.where(advantage > 0, ratio < 1 + clip, ratio > 1 - clip)
    weights = np.where(unclipped, ratio * advantage, 0.0) / len(codes)
    objective = float((gain + entropy_weight * entropy(logs)).sum() / len(codes))
    return objective, likelihood_slopes(logs, codes, weights) + entropy_weight / len(codes) * entropy_slopes(logs)


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = mnasnet
