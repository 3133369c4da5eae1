"""hwnas/predictors/proxy_device.py and hwnas/grouped_ridge.py: a new device from few networks and what is known of others."""

import numpy as np
import pytest

from hwnas.costs import activations, layers, macs, params
from hwnas.errors import InputError
from hwnas.features import OneHot, tied
from hwnas.grouped_ridge import GroupedRidge, Scaling
from hwnas.index import BlockIndex
from hwnas.predictor import Additive, Peak
from hwnas.predictors.proxy_device import DevicePrior, proxy_device
from hwnas.spaces.ofa_mini import ofa_mini


@pytest.fixture(scope="module")
def index():
    return BlockIndex(ofa_mini())


def device(index, per_mac, per_activation, per_layer, per_param=0.0, constant=0.1):
    """A device whose latency is linear in four costs."""
    blocks = index.blocks
    prices = per_mac * macs(blocks) / 1e7 + per_activation * activations(blocks) / 1e6 + per_layer * layers(blocks) / 1e2 + per_param * params(blocks) / 1e6
    return Additive(index, prices, name="latency", unit="ms", constant=constant)


@pytest.fixture(scope="module")
def known(index):
    return {
        "phone": ("phone", device(index, 3, 1, 0.1)),
        "desktop": ("desktop", device(index, 1, 2, 1)),
        "gpu": ("gpu", device(index, 0.1, 0.5, 5)),
        "gpu, batch 32": ("gpu", device(index, 0.4, 1, 2)),
        "board": ("board", device(index, 5, 6, 0.5, 3)),
    }


def test_a_device_between_known_ones_is_predicted_from_ten_networks(index, known):
    """Twice as slow as half phone and half board: no known device ranks like it, and ten networks tell neither layer by layer."""
    truth = device(index, 8, 7, 0.6, 3, constant=0.3)
    codes = index.space.sample(np.random.default_rng(1), 1_000)
    few, rest = codes[:10], codes[10:]
    predicted = proxy_device(index, known, few, truth(few))
    assert (predicted.name, predicted.unit, predicted.origin) == ("latency", "ms", "predicted")
    assert np.abs(predicted(rest) / truth(rest) - 1).mean() < 0.01
    line = np.polyval(np.polyfit(metric_macs := Additive(index, macs(index.blocks), name="", unit="")(few), truth(few), 1), metric_macs)
    assert np.abs(predicted(few) / truth(few) - 1).mean() < 0.2 * np.abs(line / truth(few) - 1).mean()


def test_devices_of_the_same_hardware_never_predict_each_other(index):
    """The twin of a known device is the same device, so it would make every other table look worthless."""
    codes = index.space.sample(np.random.default_rng(0), 400)
    features = OneHot(index)(codes) @ tied(OneHot(index))
    first, second = device(index, 3, 1, 0.1)(codes), device(index, 0.1, 1, 3)(codes)
    columns = np.stack([first, first, second], axis=1)
    as_twins = DevicePrior(features, columns, ["a", "a", "b"])
    as_strangers = DevicePrior(features, columns, ["a", "c", "b"])
    assert len(as_twins.log_variances) == 3 and len(as_strangers.log_variances) == 4  # one for all, one for each kind of hardware
    trust_in_devices = [prior.log_variances[1, 1] - prior.log_variances[1, 0] for prior in (as_strangers, as_twins)]  # where "a" is predicted
    assert trust_in_devices[0] > trust_in_devices[1] + 1


def test_one_kind_of_hardware_and_what_is_no_sum_over_layers_are_refused(index, known):
    codes = index.space.sample(np.random.default_rng(0), 10)
    only = {name: known[name] for name in ("gpu", "gpu, batch 32")}
    with pytest.raises(InputError, match="two or more kinds of hardware, got 1"):
        proxy_device(index, only, codes, np.ones(10))
    with pytest.raises(InputError, match="sums over layers"):
        proxy_device(index, {**known, "peak": ("x", Peak(index, macs(index.blocks), name="", unit=""))}, codes, np.ones(10))
    with pytest.raises(InputError, match="4 networks were measured, 5 are needed"):
        proxy_device(index, known, codes[:4], np.ones(4))
    with pytest.raises(InputError, match="must be positive numbers"):
        proxy_device(index, known, codes, np.zeros(10))


def test_values_of_choices_alike_are_counted_together(index):
    """Every kernel and every expand choice of the space has its own columns in one-hot; tied they are as many as there are different values."""
    one_hot = OneHot(index)
    largest = index.space.sample(np.random.default_rng(0), 5)
    counts = one_hot(largest) @ tied(one_hot)
    assert counts.sum(axis=1) == pytest.approx(one_hot(largest).sum(axis=1))
    alike = {repr(index.space.choices[i].values) for i in one_hot.choices}
    assert counts.shape[1] == sum(len(values) for values in {repr(c.values): c.values for c in index.space.choices if repr(c.values) in alike}.values())


def groups_of(rng, n):
    return [rng.normal(size=(n, 3)), rng.normal(size=(n, 40))]


def test_the_group_that_explains_nothing_is_left_out():
    """30 networks, 43 features, of which the three of the first group decide: a common penalty could not tell."""
    rng = np.random.default_rng(0)
    groups = groups_of(rng, 430)
    latency = 10 + groups[0] @ [1, 2, -1.5] + rng.normal(0, 0.02, 430)
    few = [each[:30] for each in groups]
    fit = GroupedRidge(Scaling.of(groups), few, latency[:30])
    predicted = fit.linear([each[30:] for each in groups])
    assert np.abs(predicted / latency[30:] - 1).mean() < 0.005
    assert fit.log_variances[0, 0] > fit.log_variances[0, 1] + 5


def test_what_is_left_out_is_predicted_as_by_a_fit_without_it():
    rng = np.random.default_rng(1)
    groups = groups_of(rng, 12)
    latency = 10 + groups[0] @ [1, 2, -1.5] + rng.normal(0, 0.02, 12)
    settings = np.array([[2.0, -3.0, 1.0], [0.0, 0.0, 0.0]])
    scaling = Scaling.of(groups)
    whole = GroupedRidge(scaling, groups, latency, log_variances=settings)
    assert whole.weights.sum() == pytest.approx(1)
    # Relative errors depend on the mean latency, which a fit without one network would take anew: hold it where it is by hand.
    target, noise, rest = latency / latency.mean() - 1, np.square(latency / latency.mean()), np.arange(1, 12)
    x = scaling(groups)
    values, evidences = [], []
    for setting in settings:
        gram = sum(np.exp(v) * each @ each.T for v, each in zip(setting, [*x, np.ones((12, 1))], strict=True))
        inverse = np.linalg.inv((gram + np.diag(noise + 1e-9))[np.ix_(rest, rest)])
        values.append(gram[0, rest] @ inverse @ target[rest])
        evidences.append(0.5 * np.linalg.slogdet(inverse)[1] - 5.5 * np.log(target[rest] @ inverse @ target[rest]))
    weights = np.exp(evidences - np.max(evidences))
    assert whole.left_out()[0] == pytest.approx(latency.mean() * (1 + weights @ values / weights.sum()), rel=1e-6)


def test_standard_deviations_cover_what_they_say():
    rng = np.random.default_rng(2)
    groups = groups_of(rng, 2_060)
    latency = 10 + groups[0] @ [1, 2, -1.5] + groups[1] @ rng.normal(0, 0.1, 40) + rng.normal(0, 0.1, 2_060)
    fit = GroupedRidge(Scaling.of(groups), [each[:60] for each in groups], latency[:60])
    rest = [each[60:] for each in groups]
    within = np.abs(fit.linear(rest) - latency[60:]) <= 1.645 * fit.std(rest)
    assert 0.8 < within.mean() < 0.97


def test_left_out_networks_are_no_better_predicted_than_unseen_ones():
    """Variances that had seen them would make them look 20 % better, and intervals too narrow."""
    ratios = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        groups = groups_of(rng, 320)
        latency = 10 + groups[0] @ [1, 2, -1.5] + groups[1] @ rng.normal(0, 0.1, 40) + rng.normal(0, 0.1, 320)
        fit = GroupedRidge(Scaling.of(groups), [each[:20] for each in groups], latency[:20])
        left_out = np.abs(np.log(fit.left_out() / latency[:20]))
        unseen = np.abs(np.log(fit.linear([each[20:] for each in groups]) / latency[20:]))
        ratios.append(left_out.mean() / unseen.mean())
    assert 0.93 < np.mean(ratios) < 1.3
