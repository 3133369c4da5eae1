"""TuNAS (Bender et al., 2020): one set of weights for all networks, trained while a softmax for each decision learns which of them to train."""

from __future__ import annotations

from functools import partial
from math import cos, pi
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.adam import Adam
from hwnas.controller import Baseline, Rewards, Sampling, active, course, draw
from hwnas.errors import InputError
from hwnas.policies import Independent, likelihood_slopes
from hwnas.problem import Problem
from hwnas.searcher import Gates, Search, Trace, Train, Validate
from hwnas.searchers._logits import likeliest
from hwnas.space import Codes, FloatArray
from hwnas.warm_up import decisions, warm_up, warm_up_chance


def tunas(
    problem: Problem,
    *,
    rng: np.random.Generator,
    state: dict[str, Any],
    rounds: int = 40,
    steps: int = 25,
    rate: float = 0.025,
    growth: float = 10.0,
    momentum: float = 0.95,
    warmup: float = 0.25,
    delay: float = 0.25,
    sampling: Sampling = "within",
) -> Search:
    """`rounds` times: `steps` weight steps, each on a network that the policy draws, then `steps` REINFORCE steps, each on one's accuracy on validation images.

    What follows is from its code, `tunas/mobile_architecture_search.py` and `tunas/controller.py`. The policy: independent softmaxes that begin uniform;
    only decisions that matter count in a network's likelihood. The baseline: an average of rewards with momentum 0.95 and without the bias of its start, the
    reward in it. Adam with betas 0 and 0.999, whose rate grows tenfold (growth) while it learns, after a delay of a quarter of the search in which it does
    not. Warm-up: of each decision by itself, with a chance that falls to zero over the first quarter (warmup). Weights: a rate that rises over the first
    2.5 % and falls along a cosine.

    rate: ours. Theirs is 0.0048 for 21,000 steps; noise then moves logits as far as 0.025 does in 750. Theirs alternates step by step; rounds are ours, each is
    a checkpoint. The reward is the problem's: the paper's is `absolute`, with sampling = free. In the end candidates are evaluated, the likeliest network
    within the budgets first.
    """
    if rounds < 1 or steps < 1 or rate <= 0 or growth < 1 or not 0 <= momentum < 1 or not 0 <= warmup <= delay < 1:
        raise InputError(
            f"tunas needs rounds, steps >= 1, rate > 0, growth >= 1, 0 <= momentum < 1 and 0 <= warmup <= delay < 1, "
            f"got {rounds=}, {steps=}, {rate=}, {growth=}, {momentum=}, {warmup=}, {delay=}"
        )
    metric = problem.objectives[0].metric
    if len(problem.objectives) != 1 or not (len(problem.expensive) == 1 and problem.expensive[0] is metric and metric.unit == "%"):
        raise InputError("tunas needs one objective, the accuracy of a supernet in %, and budgets that cost nothing to look up; use another searcher")
    policy = Independent(problem.space, state.get("logits"))
    state["logits"] = policy.parameters["logits"]
    optimiser = Adam(policy.parameters, state.setdefault("moments", {}), betas=(0.0, 0.999))
    rewards, baseline = Rewards(state.setdefault("rewards", {})), Baseline(momentum, state.setdefault("baseline", {}))
    state.setdefault("round", 0)
    warming = decisions(problem.index)
    while state["round"] < rounds:
        progress = (state["round"] + 0.5) / rounds
        share = min(progress / 0.025, 1.0) * 0.5 * (1 + cos(pi * progress))
        loss = yield Train(partial(_trained, problem, warming, state["logits"].copy(), warm_up_chance(progress, warmup), sampling), steps, share)
        facts = {"training loss, nats": float(loss)}
        learned = max(0.0, (progress - delay) / (1 - delay))
        gained, ratios = list[float](), list[float]()
        for _ in range(steps if learned > 0 else 0):
            codes = draw(problem, policy, rng, 1, sampling)
            accuracy = yield Validate(codes)
            scores = problem.scores(codes, np.asarray(accuracy, np.float64)[:, None])
            amounts = rewards.amounts(problem.reward(scores))
            if amounts is None:
                continue
            gained.append(float(amounts[0]))
            ratios.append(float(scores.ratio[0]))
            advantage = gained[-1] - baseline.add(gained[-1])
            slopes = likelihood_slopes(policy.log_probabilities(codes), codes, advantage * active(problem.index, codes).astype(np.float64))
            optimiser.ascend(policy.gradients(codes, slopes), rate * growth**learned)
        if gained:
            facts |= {"reward": float(np.mean(gained)), "share of the budget of the drawn": float(np.mean(ratios))}
        yield Trace(facts | course(problem, policy))
        state["round"] += 1
    yield from likeliest(problem, [row[:size] for row, size in zip(state["logits"], problem.space.cardinalities, strict=True)], rng)


def _trained(
    problem: Problem, warming: tuple[list[int], list[int]], logits: FloatArray, chance: float, sampling: Sampling, rng: np.random.Generator
) -> Codes | Gates:
    """What a weight step trains: a network of the policy, or the mixture of its warm-up. warming: columns to be averaged, and to be the largest."""
    code = draw(problem, Independent(problem.space, logits), rng, 1, sampling)
    averaged, largest = ([column for column in columns if rng.random() < chance] for columns in warming)
    code[:, largest] = problem.space.largest()[:, largest]
    return warm_up(problem.index, code, average=[problem.space.choices[column].name for column in averaged]) if averaged else code


if TYPE_CHECKING:
    from hwnas.searcher import Searcher

    _is_a_searcher: Searcher = tunas
