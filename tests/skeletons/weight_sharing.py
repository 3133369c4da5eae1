"""Searchers that train shared weights, and a supernet small enough to train in a test. They show `Train`, `Gradient` and `state`."""

from functools import partial

import numpy as np

from hwnas.blocks import conv_bn_act
from hwnas.budget import Budget
from hwnas.costs import macs
from hwnas.expectation import expected
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.problem import Objective, Problem
from hwnas.searcher import Ask, Gradient, Train
from hwnas.space import Choice, Layer, SearchSpace

DATA = np.random.default_rng(11)
X = DATA.normal(0, 1, (120, 5, 3))  # 120 examples; layer i with value c reads feature X[:, i, c]
TRUTH = np.array([[0.2, 1.5, 0.1], [2.0, 0.3, 0.1], [0.1, 0.1, 1.0], [0.5, 0.2, 1.8], [0.0, 0.9, 0.2]])
Y = (np.einsum("nlc,lc->n", X, TRUTH) + DATA.normal(0, 0.5, 120) > 0).astype(float)

CHOICES = [Choice(f"layer{i}.kernel", (1, 3, 5)) for i in range(5)]
INDEX = BlockIndex(SearchSpace("flat", CHOICES, [Layer(c.name, (c,), partial(conv_bn_act, (1, 1 + i, 4, 4), 2 + i)) for i, c in enumerate(CHOICES)]))


class LogisticSupernet:
    """A weight-sharing supernet in numpy: logistic regression with one weight per (layer, value); a subnet uses one value a layer."""

    def __init__(self):
        self.weights, self.rng, self.validation = np.zeros((5, 3)), np.random.default_rng(5), 0
        self.trained = 0

    def _loss(self, gates, rows):
        """Loss and derivatives by the gates and by the weights, on some examples."""
        share = 1 / (1 + np.exp(-np.einsum("nlc,lc->n", X[rows], self.weights * gates)))
        error = (share - Y[rows]) / len(rows)
        loss = -np.log(np.where(Y[rows] > 0, share, 1 - share) + 1e-12).mean()
        by_product = np.einsum("n,nlc->lc", error, X[rows])
        return float(loss), by_product * self.weights, by_product * gates

    def train(self, sampler, steps, rate):
        losses = []
        for _ in range(steps):
            drawn = sampler(self.rng)
            gates = one_hot(drawn)[0] if isinstance(drawn, np.ndarray) else np.nan_to_num(np.stack(drawn))
            loss, _, gradient = self._loss(gates, self.rng.integers(0, 80, 16))
            self.weights -= 0.5 * rate * gradient
            losses.append(loss)
        self.trained += steps
        return float(np.mean(losses))

    def gradient(self, gates, paths):
        looked = np.stack(gates)
        assert paths == "mixture" or (np.nansum(looked, axis=1) == 1).all()
        loss, by_gates, _ = self._loss(np.nan_to_num(looked), self._next_rows())
        return loss, tuple(np.where(np.isnan(looked), np.nan, by_gates))

    def validate(self, codes):
        rows = self._next_rows()
        return np.array([100 * np.mean((np.einsum("nlc,lc->n", X[rows], self.weights * gates) > 0) == Y[rows]) for gates in one_hot(codes)])

    def _next_rows(self):
        self.validation += 10
        return 80 + (self.validation - 10 + np.arange(10)) % 20

    def save(self, folder):
        np.save(folder / "weights.npy", self.weights)
        state = self.rng.bit_generator.state["state"]
        (folder / "progress.txt").write_text(f"{self.validation} {self.trained} {state['state']} {state['inc']}")

    def load(self, folder):
        self.weights = np.load(folder / "weights.npy")
        self.validation, self.trained, state, increment = map(int, (folder / "progress.txt").read_text().split())
        self.rng.bit_generator.state = {"bit_generator": "PCG64", "state": {"state": state, "inc": increment}, "has_uint32": 0, "uinteger": 0}

    def accuracy(self, codes):
        return np.array([100 * np.mean((np.einsum("nlc,lc->n", X[100:], self.weights * gates) > 0) == Y[100:]) for gates in one_hot(codes)])


class Accuracy:
    """Validation accuracy of subnets with the supernet's weights; `stop` is called before each look."""

    name, unit, origin, expensive = "accuracy", "%", "measured", True

    def __init__(self, supernet, stop=None):
        self.supernet, self.stop = supernet, stop or (lambda: None)

    def __call__(self, codes):
        self.stop()
        return self.supernet.accuracy(codes)


def one_hot(codes):
    """codes (n, 5) -> gates (n, 5, 3)."""
    return np.eye(3)[codes]


def budgeted():
    """A new, untrained supernet, and the problem of its most accurate subnet within 60 % of the largest one's MACs."""
    cost = Additive(INDEX, macs(INDEX.blocks), name="macs", unit="MACs")
    return Problem(INDEX, [Objective(Accuracy(LogisticSupernet()), maximize=True)], [(Budget("macs", None, share=0.6), cost)])


def supernet_of(problem):
    """The trainer of such a problem."""
    return problem.objectives[0].metric.supernet


def mixture(probabilities, generator):
    """Gates around these probabilities: every layer is a weighted sum of its cells."""
    return [generator.dirichlet(3 * row + 0.1) for row in probabilities]


def differentiable(problem, *, rng, state, rounds: int = 6, steps: int = 7, rate: float = 2.0, momentum: float = 0.5, pressure: float = 1.0):
    """DARTS in miniature: weights on sampled mixtures, architecture parameters on validation, and a look at the best after each round.

    The expected cost's share of a budget, as far as it is over it, is added to the loss `pressure` times.
    """
    state.setdefault("logits", np.zeros((5, 3)))
    state.setdefault("velocity", np.zeros((5, 3)))
    state.setdefault("round", 0)

    def gates():
        powers = np.exp(state["logits"])
        return powers / powers.sum(axis=1, keepdims=True)

    while state["round"] < rounds:
        yield Train(partial(mixture, gates()), steps)
        here = gates()
        _, slopes = yield Gradient(tuple(here), "mixture")
        slopes = np.stack(slopes)
        for budget, metric in problem.budgets:
            cost, by_gates = expected(metric, list(here))
            if cost > budget.limit:
                slopes = slopes + pressure * np.stack(by_gates) / budget.limit
        by_logits = here * (slopes - (slopes * here).sum(axis=1, keepdims=True))  # the softmax between them
        state["velocity"] = momentum * state["velocity"] - rate * by_logits
        state["logits"] = state["logits"] + state["velocity"]
        drawn = np.stack([rng.choice(3, 16, p=row) for row in gates()], axis=1)
        likely = np.asfortranarray(np.concatenate([np.argmax(gates(), axis=1)[None], drawn]), np.int16)
        yield Ask(np.asfortranarray(np.concatenate([likely[problem.within(likely)][:1], problem.sample_feasible(rng, 1)])))
        state["round"] += 1


def single_path(problem, *, rng, state, rounds: int = 6, steps: int = 7):
    """Single-path one-shot (Guo et al., 2020) with random search: weights on one random subnet a step, then random subnets."""
    state.setdefault("round", 0)
    while state["round"] < rounds:
        yield Train(partial(one_of, problem), steps)
        state["round"] += 1
    while True:
        yield Ask(problem.sample_feasible(rng, 2))


def one_of(problem, generator):
    return problem.space.sample(generator, 1)
