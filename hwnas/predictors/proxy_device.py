"""A new device from 5 to 20 measured networks and what is known of other devices: few-shot prediction of latencies.

The latency is linear in features of the architecture and in the latencies of the known devices; how much each of the two tells is what devices differ in.
So each known device in turn plays the unknown one: the variances of the coefficients that predict it best from a few of its networks and from the devices of
other hardware are one setting, those that serve all of them another. On the new device the settings are weighted by how likely they make its measurements:
nothing is tuned there. Compared with HELP (Lee et al., 2021), which trains a meta-learner for hours, this takes seconds and can be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwnas.errors import InputError
from hwnas.features import OneHot, tied
from hwnas.grouped_ridge import GroupedRidge, Linear, Scaling
from hwnas.index import BlockIndex
from hwnas.predictor import Additive, Layerwise, Metric, Origin
from hwnas.space import Codes, FloatArray

_SHOTS = (10, 20)  # networks that a known device is predicted from
_DRAWS = 8  # of them, for each device
_HELD_OUT = 200  # networks that such a prediction is judged by
_PULL = 1e-3  # of log variances towards 0, which decides where data do not
_POPULATION = 2_000  # architectures of a space that known devices are compared on


@dataclass(frozen=True, slots=True)
class Episode:
    """One device, predicted from a few networks: Gram matrices of the features (groups + 1, n, n) and (groups + 1, held out, n), and relative latencies."""

    within: FloatArray
    across: FloatArray
    measured: FloatArray
    held_out: FloatArray


class DevicePrior:
    """What known devices say about a new one.

    features: (N, f) of a population of architectures. known_ms: (N, devices). hardware: of each device; those of one hardware (its other batches or runtimes)
    are never used to predict each other. Raises InputError where fewer than two kinds of hardware are known.
    """

    def __init__(self, features: FloatArray, known_ms: FloatArray, hardware: Sequence[str], *, seed: int = 0):
        known_ms = np.asarray(known_ms, np.float64)
        if len(set(hardware)) < 2:
            raise InputError(f"a new device is predicted from tables of two or more kinds of hardware, got {len(set(hardware))}")
        if len(hardware) != known_ms.shape[1] or len(features) != len(known_ms):
            raise InputError(f"{len(hardware)} devices of {known_ms.shape[1]} columns, {len(features)} features of {len(known_ms)} architectures")
        if not (np.isfinite(known_ms) & (known_ms > 0)).all():
            raise InputError("latencies of known devices must be positive numbers")
        if len(features) < 2 * max(_SHOTS):
            raise InputError(f"known devices are compared on {2 * max(_SHOTS)} architectures or more, got {len(features)}")
        self.scale_ms = known_ms.mean(axis=0)
        self.scaling = Scaling.of([features, known_ms / self.scale_ms])
        rng = np.random.default_rng(seed)
        episodes = {device: self._episodes(features, known_ms, hardware, device, rng) for device in range(len(hardware))}
        kinds = sorted(set(hardware))
        groups = [list(episodes), *([device for device in episodes if hardware[device] == kind] for kind in kinds)]
        #: (settings, 3): log variances of the coefficients of features, of known devices, and of the constant.
        self.log_variances = np.array([_best_setting([each for device in group for each in episodes[device]]) for group in groups])

    def fitted(self, features: FloatArray, known_ms: FloatArray, latency_ms: FloatArray) -> GroupedRidge:
        """features (n, f), known_ms (n, devices) and latency_ms (n,) of the networks measured on the new device."""
        return GroupedRidge(self.scaling, self.groups(features, known_ms), latency_ms, log_variances=self.log_variances)

    def groups(self, features: FloatArray, known_ms: FloatArray) -> list[FloatArray]:
        """As `GroupedRidge` takes them."""
        return [np.asarray(features, np.float64), known_ms / self.scale_ms]

    @staticmethod
    def _episodes(features: FloatArray, known_ms: FloatArray, hardware: Sequence[str], device: int, rng: np.random.Generator) -> list[Episode]:
        others = known_ms[:, [i for i, each in enumerate(hardware) if each != hardware[device]]]
        raw = [features, others / others.mean(axis=0)]
        x = Scaling.of(raw)(raw)
        middle = np.argsort(known_ms[:, device], kind="stable")
        middle = middle[len(middle) // 10 : len(middle) - len(middle) // 10]  # what is extreme on some device decides nothing
        episodes = []
        for shots in _SHOTS:
            for _ in range(_DRAWS):
                rows = rng.permutation(middle)[: shots + _HELD_OUT]
                few, rest = rows[:shots], rows[shots:]
                mean = known_ms[few, device].mean()
                cross = [[each[some] @ each[few].T for each in x] + [np.ones((len(some), shots))] for some in (few, rest)]
                episodes.append(Episode(np.array(cross[0]), np.array(cross[1]), known_ms[few, device] / mean - 1, known_ms[rest, device] / mean - 1))
        return episodes


def proxy_device(index: BlockIndex, known: Mapping[str, tuple[str, Metric]], codes: Codes, latency_ms: FloatArray, *, seed: int = 0) -> Additive:
    """Latency in ms of every architecture on a device of which networks `codes` (n, choices) take `latency_ms` (n,).

    known: name -> (hardware, latency in ms as a sum over layers) of other devices, such as `calibrated` tables. Features are how often each value is chosen
    among choices alike. Raises InputError.
    """
    return fitted_proxy(index, known, codes, latency_ms, seed=seed)[0]


def fitted_proxy(
    index: BlockIndex, known: Mapping[str, tuple[str, Metric]], codes: Codes, latency_ms: FloatArray, *, seed: int = 0
) -> tuple[Additive, GroupedRidge]:
    """What `proxy_device` returns, and the fit behind it, which can leave networks out. Raises InputError."""
    metrics = [metric for _, metric in known.values()]
    if not all(isinstance(metric, Additive) for metric in metrics):
        raise InputError("known devices are sums over layers: use calibrated tables")
    one_hot = OneHot(index)
    ties = tied(one_hot)
    population = index.space.sample(np.random.default_rng(seed), _POPULATION)
    everything, few = ((one_hot(each) @ ties, np.stack([metric(each) for metric in metrics], axis=1)) for each in (population, codes))
    prior = DevicePrior(*everything, [hardware for hardware, _ in known.values()], seed=seed)
    fit = prior.fitted(*few, latency_ms)
    return _additive(one_hot, ties, [metric for metric in metrics if isinstance(metric, Layerwise)], prior, fit.linear), fit


def _additive(one_hot: OneHot, ties: npt.NDArray[np.float64], metrics: Sequence[Layerwise], prior: DevicePrior, linear: Linear) -> Additive:
    """The linear model of features and devices as one sum over layers."""
    cells = one_hot.cells(ties @ linear.coefficients[0])
    constant = linear.constant
    for metric, weight in zip(metrics, linear.coefficients[1] / prior.scale_ms, strict=True):
        cells = [mine + weight * theirs for mine, theirs in zip(cells, metric.cells, strict=True)]
        constant += float(weight) * metric.constant
    origin: Origin = "simulated" if any(metric.origin == "simulated" for metric in metrics) else "predicted"
    return Additive(one_hot.index, cells, name="latency", unit="ms", constant=constant, origin=origin)


def _best_setting(episodes: Sequence[Episode]) -> FloatArray:
    """Log variances (groups + 1,) that predict the held-out networks of these episodes best, in the mean of the logarithms of their squared errors."""
    from scipy.optimize import minimize

    by_shots: dict[int, list[Episode]] = {}
    for each in episodes:
        by_shots.setdefault(len(each.measured), []).append(each)
    batches = [[np.stack([getattr(each, name) for each in some]) for name in ("within", "across", "measured", "held_out")] for some in by_shots.values()]

    def loss(setting: FloatArray) -> tuple[float, FloatArray]:
        variances, value, gradient = np.exp(setting), float(_PULL * setting @ setting), 2 * _PULL * setting
        for within, across, measured, held_out in batches:
            noise = np.square(1 + measured)[:, :, None] * np.eye(measured.shape[1])
            inverse = np.linalg.inv(np.einsum("k,eknm->enm", variances, within) + noise)
            solved = inverse @ measured[..., None]  # (episodes, n, 1)
            cross = np.einsum("k,ekhn->ehn", variances, across)
            error = (cross @ solved)[..., 0] - held_out  # (episodes, held out)
            squares = np.square(error).mean(axis=1)
            value += float(np.log(squares / held_out.var(axis=1)).mean())
            for k, variance in enumerate(variances):
                moved = (across[:, k] - cross @ inverse @ within[:, k]) @ solved  # derivative of the prediction by this variance
                gradient[k] += variance * float((2 * (error * moved[..., 0]).mean(axis=1) / squares).mean())
        return value, gradient

    found = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B", bounds=[(-8.0, 8.0)] * 3)
    return np.asarray(found.x)
