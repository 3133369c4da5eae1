"""hwnas/predictors/gaussian_process.py and hwnas/table_fill.py: prices by formula, some of them kept back."""

from dataclasses import replace

import numpy as np
import pytest
from simulated_tables import prices_ms, simulated_table

from hwnas.errors import InputError
from hwnas.graph import IDENTITY, Node, block_text
from hwnas.index import BlockIndex
from hwnas.latency_table import Failure, LatencyTable, Measurement, Predicted
from hwnas.ops import Conv2d, Linear
from hwnas.predictors.calibrated import calibrated
from hwnas.predictors.gaussian_process import GaussianProcess, Kernel, _negative_log_posterior, gaussian_process
from hwnas.predictors.lookup import lookup
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.table_fill import QUALITY, filled, networks_of


@pytest.fixture(scope="module")
def index():
    return BlockIndex(ofa_mini(resolutions=(32, 64)))


@pytest.fixture(scope="module")
def between():
    return BlockIndex(ofa_mini(resolutions=(32, 48, 64)))


@pytest.fixture(scope="module")
def measured(index):
    return simulated_table(index, lambda table, layers, act: 0.01 + 0.8 * table)


def test_a_resolution_between_two_measured_ones_is_predicted(measured, between):
    process = gaussian_process(measured)
    blocks = [block for block in between.blocks if block and block_text(block) not in measured.entries]
    found = process.predict(blocks)
    assert len(blocks) > 20
    assert np.abs(found.price_ms / prices_ms(blocks) - 1).mean() < 0.02
    assert (found.std_ms > 0).all() and found.is_extrapolated.mean() < 0.2


def test_a_measured_block_is_predicted_better_than_one_unlike_all_others(index, measured):
    process = gaussian_process(measured)
    known = [block for block in index.blocks if block][:5]
    far = (Node("conv", Conv2d((1, 512, 7, 7), out=2048, kernel=5), ("in0",)),)
    near, beyond = process.predict(known), process.predict([far])
    assert not near.is_extrapolated.any() and beyond.is_extrapolated.all()
    assert (near.std_ms / near.price_ms).max() < (beyond.std_ms / beyond.price_ms).min()


def test_another_kind_of_operator_and_blocks_that_are_no_images_have_a_price_and_a_mark(measured):
    found = gaussian_process(measured).predict([(Node("dense", Linear((1, 64), out=64, dtype="float16"), ("in0",)),)])
    assert found.price_ms[0] > 0 and found.is_extrapolated[0]


def test_a_skipped_layer_costs_nothing(measured, index):
    prices = gaussian_process(measured).prices([IDENTITY, *index.blocks[:2]])
    assert prices[0] == 0 and (prices[1:] > 0).all()


def test_the_gradient_is_that_of_differences():
    rng = np.random.default_rng(0)
    features, values, at = rng.normal(size=(20, 3)), rng.normal(size=20), np.array([0.3, 0.9, 1.4, -0.5, -1.5])
    gradient = _negative_log_posterior(at, features, values, 1.0)[1]
    steps = 1e-5 * np.eye(len(at))
    numeric = [(_negative_log_posterior(at + s, features, values, 1.0)[0] - _negative_log_posterior(at - s, features, values, 1.0)[0]) / 2e-5 for s in steps]
    assert gradient == pytest.approx(numeric, abs=1e-6)


def test_blocks_that_look_alike_by_chance_get_a_wider_interval(index):
    """Noise of 30 % that no feature explains: left out, blocks are further off than a fit to all of them says."""
    blocks = [block for block in index.blocks if block][::4]
    prices = prices_ms(blocks) * np.exp(np.random.default_rng(0).normal(0, 0.3, len(blocks)))
    process = GaussianProcess(blocks, prices)
    before = process.predict(blocks[:3]).std_ms
    assert process.left_out().shape == (len(blocks),)
    assert (process.predict(blocks[:3]).std_ms >= before).all()


def test_the_assumed_kernel_says_that_like_blocks_cost_alike(index):
    blocks = [block for block in index.blocks if block]
    kernel = Kernel.assumed(blocks)
    covariance = kernel(kernel.features(blocks), kernel.features(blocks))
    assert np.linalg.eigvalsh(covariance).min() > -1e-9
    assert (covariance <= covariance.diagonal()[:, None] + 1e-12).all()


def test_too_few_blocks_predict_nothing(measured):
    few = replace(measured, entries=dict(list(measured.entries.items())[:7]))
    with pytest.raises(InputError, match="has 7 measured blocks, 10 are needed"):
        gaussian_process(few)


def test_predicted_rows_are_no_data_and_are_predicted_anew(measured, between):
    first = filled(measured, between.blocks)
    wrong = {text: Predicted(99.0, 1.0, 8, False) for text in first.predicted()}
    assert filled(replace(first, entries={**first.entries, **wrong}), []).entries == first.entries


def test_a_filled_table_keeps_what_was_measured_and_what_failed(measured, between, tmp_path):
    text = next(iter(measured.entries))
    table = replace(measured, entries={**measured.entries, text: Failure("no memory")})
    full = filled(table, between.blocks)
    assert full.entries[text] == Failure("no memory") and full.missing(between.blocks) == [text]
    assert all(full.entries[key] == entry for key, entry in table.entries.items())
    assert {entry.blocks for entry in full.entries.values() if isinstance(entry, Predicted)} == {len(table.entries) - 1}
    assert full.quality[QUALITY]["blocks"] == len(table.entries) - 1 and full.quality[QUALITY]["mape"] < 0.1
    full.save(tmp_path)
    loaded = LatencyTable.load(tmp_path)
    assert loaded.predicted() == sorted(full.predicted()) and loaded.entries[full.predicted()[0]].blocks == len(table.entries) - 1
    assert filled(measured, [block for block in between.blocks if block_text(block) in measured.entries]) is measured


def test_networks_measured_for_one_space_calibrate_a_wider_one(measured, index, between):
    full = filled(measured, between.blocks)
    with pytest.raises(InputError, match="has 0 whole networks"):
        calibrated(full, between)
    seen = networks_of(measured, index, between)
    assert len(seen) == len(measured.networks)
    latency = calibrated(replace(full, networks=(*full.networks, *seen)), between)
    codes = between.space.sample(np.random.default_rng(0), 200)
    truth = 0.01 + 0.8 * prices_ms(between.blocks)[between.ids(codes)].sum(axis=1)
    assert latency(codes) == pytest.approx(truth, rel=0.05)
    assert networks_of(measured, between, index) == ()


def test_a_price_that_is_predicted_is_not_called_measured(measured, between):
    real = replace(measured, origin="measured")
    assert lookup(real).origin == "measured" and lookup(filled(real, between.blocks)).origin == "predicted"
    assert all(isinstance(entry, Measurement) for entry in real.entries.values())
