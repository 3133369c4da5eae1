"""Policies: distributions over the codes of a space with parameters to learn, and derivatives to learn them by.

All speak in one shape, (n, choices, values): the log-probability of every value of each choice, given the choices before it where the
policy looks at them. `values` is the largest number of values; those that a choice does not have are impossible. A slope is a derivative by
the logits, of that shape too, which `gradients` carries on to the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from hwnas.space import Codes, FloatArray, SearchSpace

_IMPOSSIBLE = -1e9  # a logit whose probability is zero


class Policy(Protocol):
    """What a controller samples architectures from."""

    @property
    def parameters(self) -> Mapping[str, FloatArray]:
        """Name -> array. An optimiser changes them in place."""
        ...

    def sample(self, rng: np.random.Generator, n: int) -> Codes:
        """n codes."""
        ...

    def log_probabilities(self, codes: Codes) -> FloatArray:
        """codes (n, choices) -> (n, choices, values)."""
        ...

    def gradients(self, codes: Codes, slopes: FloatArray) -> dict[str, FloatArray]:
        """The derivative by each parameter of what has these slopes, (n, choices, values), summed over the codes."""
        ...

    def likeliest(self) -> Codes:
        """The code that takes the likeliest value of each choice, given those before it, (1, choices)."""
        ...


class Independent:
    """A softmax for each choice, whatever the others are; uniform at first.

    parameters: where some are at hand, `logits` (choices, values).
    """

    def __init__(self, space: SearchSpace, logits: FloatArray | None = None):
        self.possible = _possible(space)
        self.parameters: dict[str, FloatArray] = {"logits": np.zeros(self.possible.shape) if logits is None else logits}

    def sample(self, rng: np.random.Generator, n: int) -> Codes:
        return _drawn(np.broadcast_to(self._logs(), (n, *self.possible.shape)), rng.random((n, len(self.possible))))

    def log_probabilities(self, codes: Codes) -> FloatArray:
        return np.broadcast_to(self._logs(), (len(codes), *self.possible.shape))

    def gradients(self, codes: Codes, slopes: FloatArray) -> dict[str, FloatArray]:
        return {"logits": slopes.sum(axis=0)}

    def likeliest(self) -> Codes:
        return np.asfortranarray(self._logs().argmax(axis=1)[None], np.int16)

    def _logs(self) -> FloatArray:
        return _log_softmax(np.where(self.possible, self.parameters["logits"], _IMPOSSIBLE))


class Recurrent:
    """An LSTM of one layer that decides one choice after the other: it reads the value of the last one, and a softmax of its own for each
    choice says what comes next (NASNet, Zoph et al., 2018, appendix A.2). Gradients are exact, by backpropagation through all choices.

    hidden: units, as many as an embedded value has. All parameters begin uniform between -span and span.
    """

    def __init__(self, space: SearchSpace, rng: np.random.Generator, *, hidden: int = 100, span: float = 0.1):
        self.possible = _possible(space)
        choices, values = self.possible.shape
        shapes = {
            "start": (hidden,),  # what is read before the first choice
            "embedding": (choices, values, hidden),
            "input": (hidden, 4 * hidden),  # gates in the order input, forget, output, candidate
            "recurrent": (hidden, 4 * hidden),
            "bias": (4 * hidden,),
            "head": (choices, hidden, values),
            "head_bias": (choices, values),
        }
        self.parameters: dict[str, FloatArray] = {name: rng.uniform(-span, span, shape) for name, shape in shapes.items()}
        self.hidden = hidden

    def sample(self, rng: np.random.Generator, n: int) -> Codes:
        return self._unrolled(rng.random((n, len(self.possible))))

    def likeliest(self) -> Codes:
        return self._unrolled(None)

    def _unrolled(self, chances: FloatArray | None) -> Codes:
        """Codes as `chances` (n, choices) decide, None for the likeliest one."""
        n = 1 if chances is None else len(chances)
        codes = np.zeros((n, len(self.possible)), np.int16, order="F")
        h, c = np.zeros((n, self.hidden)), np.zeros((n, self.hidden))
        for t in range(len(self.possible)):
            h, c, _ = self._step(self._read(codes, t), h, c)
            logs = self._logs(h, t)
            codes[:, t] = logs.argmax(axis=1) if chances is None else _drawn(logs[:, None], chances[:, t : t + 1])[:, 0]
        return codes

    def log_probabilities(self, codes: Codes) -> FloatArray:
        logs = np.empty((len(codes), *self.possible.shape))
        h, c = np.zeros((len(codes), self.hidden)), np.zeros((len(codes), self.hidden))
        for t in range(len(self.possible)):
            h, c, _ = self._step(self._read(codes, t), h, c)
            logs[:, t] = self._logs(h, t)
        return logs

    def gradients(self, codes: Codes, slopes: FloatArray) -> dict[str, FloatArray]:
        n, p = len(codes), self.parameters
        found = {name: np.zeros_like(array) for name, array in p.items()}
        hs, cs, gates = [np.zeros((n, self.hidden))], [np.zeros((n, self.hidden))], list[FloatArray]()
        for t in range(len(self.possible)):
            h, c, gate = self._step(self._read(codes, t), hs[-1], cs[-1])
            hs.append(h)
            cs.append(c)
            gates.append(gate)
        by_h, by_c = np.zeros((n, self.hidden)), np.zeros((n, self.hidden))
        for t in reversed(range(len(self.possible))):
            slope = np.where(self.possible[t], slopes[:, t], 0.0)
            found["head"][t] = hs[t + 1].T @ slope
            found["head_bias"][t] = slope.sum(axis=0)
            by_h = by_h + slope @ p["head"][t].T
            i, f, o, g = np.split(gates[t], 4, axis=1)
            squashed = np.tanh(cs[t + 1])
            by_c = by_c + by_h * o * (1 - squashed * squashed)
            by_gates = np.concatenate([by_c * g * i * (1 - i), by_c * cs[t] * f * (1 - f), by_h * squashed * o * (1 - o), by_c * i * (1 - g * g)], axis=1)
            read = self._read(codes, t)
            found["input"] += read.T @ by_gates
            found["recurrent"] += hs[t].T @ by_gates
            found["bias"] += by_gates.sum(axis=0)
            by_read = by_gates @ p["input"].T
            if t == 0:
                found["start"] += by_read.sum(axis=0)
            else:
                np.add.at(found["embedding"][t - 1], codes[:, t - 1], by_read)
            by_h, by_c = by_gates @ p["recurrent"].T, by_c * f
        return found

    def _read(self, codes: Codes, t: int) -> FloatArray:
        """What the LSTM reads before choice t, (n, hidden)."""
        if t == 0:
            return np.broadcast_to(self.parameters["start"], (len(codes), self.hidden))
        read: FloatArray = self.parameters["embedding"][t - 1, codes[:, t - 1]]
        return read

    def _step(self, read: FloatArray, h: FloatArray, c: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(output, cell, gates) after reading; gates (n, 4 * hidden)."""
        p, size = self.parameters, self.hidden
        gates = read @ p["input"] + h @ p["recurrent"] + p["bias"]
        gates[:, : 3 * size] = 0.5 * (1 + np.tanh(0.5 * gates[:, : 3 * size]))  # the logistic function, without overflow
        gates[:, 3 * size :] = np.tanh(gates[:, 3 * size :])
        i, f, o, g = np.split(gates, 4, axis=1)
        c = f * c + i * g
        return o * np.tanh(c), c, gates

    def _logs(self, h: FloatArray, t: int) -> FloatArray:
        return _log_softmax(np.where(self.possible[t], h @ self.parameters["head"][t] + self.parameters["head_bias"][t], _IMPOSSIBLE))


def chosen(table: FloatArray, codes: Codes) -> FloatArray:
    """The entries of a table (n, choices, values) at these codes, (n, choices)."""
    entries: FloatArray = np.take_along_axis(table, codes[:, :, None].astype(np.intp), axis=2)[:, :, 0]
    return entries


def likelihood_slopes(logs: FloatArray, codes: Codes, weights: FloatArray) -> FloatArray:
    """Slopes of the sum of `weights` (n, choices) times the log-probability of each code's values."""
    slopes = -np.exp(logs) * weights[:, :, None]
    place = codes[:, :, None].astype(np.intp)
    np.put_along_axis(slopes, place, np.take_along_axis(slopes, place, axis=2) + weights[:, :, None], axis=2)
    return slopes


def entropy(logs: FloatArray) -> FloatArray:
    """Entropy of each choice in nats, given those before it, (n, choices)."""
    found: FloatArray = -(np.exp(logs) * logs).sum(axis=2)
    return found


def entropy_slopes(logs: FloatArray) -> FloatArray:
    """Slopes of the sum of these entropies, each code's choices before taken as given."""
    return -np.exp(logs) * (logs + entropy(logs)[:, :, None])


def _possible(space: SearchSpace) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.arange(int(space.cardinalities.max(initial=1)))[None] < space.cardinalities[:, None]


def _log_softmax(logits: FloatArray) -> FloatArray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logs: FloatArray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs


def _drawn(logs: FloatArray, chances: FloatArray) -> Codes:
    """The value of each choice at which the probabilities (n, choices, values) of it and those before reach `chances`, (n, choices)."""
    reached = np.cumsum(np.exp(logs), axis=2)
    last = np.argmax(reached, axis=2)  # the last possible one: from there on the sum stays
    return np.asfortranarray(np.minimum((reached <= chances[:, :, None]).sum(axis=2), last), np.int16)
