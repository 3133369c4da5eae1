"""REINFORCE (Williams, 1992) with a softmax for each choice: the light controller that searchers by reinforcement learning have to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hwnas.adam import Adam
from hwnas.controller import Baseline, Milestones, Rewards, Sampling, course, draw
from hwnas.errors import InputError
from hwnas.policies import Independent, likelihood_slopes
from hwnas.problem import Problem
from hwnas.searcher import Ask, Search, Trace

_BARREN = 20  # batches in a row without a new subnet: the policy has made up its mind


def reinforce(
    problem: Problem,
    *,
    rng: np.random.Generator,
    batch: int = 1,
    rate: float = 0.1,
    momentum: float = 0.9,
    sampling: Sampling = "within",
    pending: int = 0,
) -> Search:
    """Policy gradient on independent logits, as NAS-Bench-201 (Dong and Yang, 2020) and NAS-Bench-101 (Ying et al., 2019) run it.

    batch: candidates an update; one, as both do. momentum: of the baseline, 0.9 as in both; each reward counts in it before it is compared
    with it, as in their code. rate: of Adam. Dong and Yang's code is called with 0.01, for runs of many hundred candidates; 0.1 is ours, for a hundred or two.
    sampling: `free` lets the reward alone keep the budget. The search ends when 20 batches brought no new subnet.
    """
    if batch < 1 or rate <= 0 or pending < 0 or not 0 <= momentum < 1:
        raise InputError(f"reinforce needs batch >= 1, rate > 0, 0 <= momentum < 1 and pending >= 0, got {batch=}, {rate=}, {momentum=}, {pending=}")
    policy, rewards, baseline = Independent(problem.space), Rewards(), Baseline(momentum)
    optimiser = Adam(policy.parameters)
    asked, count, barren, milestones = set[bytes](), 0, 0, Milestones()
    while barren < _BARREN:
        codes = draw(problem, policy, rng, batch, sampling)
        before = len(asked)
        asked.update(problem.index.keys(codes))
        barren = 0 if len(asked) > before else barren + 1
        told = yield Ask(codes, pending=pending)
        amounts = rewards.amounts(problem.reward(told.scores))
        if amounts is None:
            continue
        advantages = np.array([amount - baseline.add(float(amount)) for amount in amounts])
        weights = np.repeat(advantages[:, None] / len(amounts), len(problem.space.choices), axis=1)
        slopes = likelihood_slopes(policy.log_probabilities(told.codes), told.codes, weights)
        optimiser.ascend(policy.gradients(told.codes, slopes), rate)
        count += len(amounts)
        if milestones.passed(count):
            yield Trace({"reward, moving average": baseline.value} | course(problem, policy))


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = reinforce
