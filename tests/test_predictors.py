"""hwnas/predictors/: the table's prices, and the line that makes their sum a network's latency."""

from dataclasses import replace

import numpy as np
import pytest

from hwnas.errors import InputError, MissingLatency
from hwnas.graph import IDENTITY, block_text
from hwnas.index import BlockIndex
from hwnas.latency_table import Failure
from hwnas.predictors.calibrated import assess, calibrated
from hwnas.predictors.lookup import lookup
from hwnas.spaces.ofa_mini import ofa_mini
from tests.simulated_tables import prices_ms, simulated_table
from tests.small_spaces import block_prices


@pytest.fixture(scope="module")
def index():
    return BlockIndex(ofa_mini())


@pytest.fixture(scope="module")
def codes(index):
    return index.space.sample(np.random.default_rng(1), 200)


def features(index, codes):
    """(n, 3): sum of the table's prices, computing layers, activations."""
    from hwnas.costs import activations, layers

    return np.stack([price(index.blocks)[index.ids(codes)].sum(axis=1) for price in (prices_ms, layers, activations)], axis=1)


def test_lookup_gives_the_rows_of_the_table_and_nothing_for_skipped_layers(index):
    found = lookup(simulated_table(index, lambda table, layers, act: table))
    blocks = [index.blocks[3], IDENTITY, index.blocks[5]]
    assert found.prices(blocks).tolist() == prices_ms(blocks).tolist()
    assert (found.unit, found.origin) == ("ms", "simulated")


def test_a_missing_block_is_named_with_the_command_that_measures_it(index):
    table = simulated_table(index, lambda table, layers, act: table)
    texts = sorted(table.entries)
    gone, failed = texts[4], texts[9]
    entries = {text: entry for text, entry in table.entries.items() if text != gone} | {failed: Failure("out of memory")}
    with pytest.raises(MissingLatency) as caught:
        lookup(replace(table, entries=entries), "ofa_mini").prices(sorted(index.blocks, key=block_text))
    n_blocks = sum(map(bool, index.blocks))
    assert f"2 of {n_blocks} blocks of ofa_mini have no latency in the table of simulated_phone/simulated-1-1thread: {gone} and 1 more" in str(caught.value)
    assert "hwnas profile simulated_phone --space ofa_mini --to FOLDER" in str(caught.value)


@pytest.mark.parametrize(
    "truth",
    [
        pytest.param(lambda table, layers, act: 0.7 * table + 0.5, id="line"),
        pytest.param(lambda table, layers, act: 0.9 * table + 0.01 * layers + 0.2, id="layers"),
        pytest.param(lambda table, layers, act: 1.1 * table - 1e-7 * act + 0.001 * layers + 0.1, id="activations"),
    ],
)
def test_an_exact_relation_is_found_and_holds_for_networks_that_were_not_measured(index, codes, truth):
    latency = calibrated(simulated_table(index, truth), index)
    assert (latency.name, latency.unit, latency.origin) == ("latency", "ms", "simulated")
    assert latency(codes) == pytest.approx(truth(*features(index, codes).T), rel=1e-6)


def test_weights_that_come_from_memory_are_paid_for(index, codes):
    """Alone, a block finds its weights in the cache; in the network each parameter costs 10 ps more."""
    from hwnas.costs import params

    def truth(codes):
        return 0.95 * features(index, codes)[:, 0] + 1e-8 * params(index.blocks)[index.ids(codes)].sum(axis=1) + 0.1

    table = simulated_table(index, lambda table, layers, act: table)
    networks = []
    for each in table.networks:
        p50 = float(truth(each.architecture.code(index.space))[0])
        networks.append(replace(each, p50_ms=p50))
    assert calibrated(replace(table, networks=tuple(networks)), index)(codes) == pytest.approx(truth(codes), rel=1e-6)


def test_the_prediction_is_additive_over_the_layers(index, codes):
    latency = calibrated(simulated_table(index, lambda table, layers, act: 0.9 * table + 0.01 * layers + 0.2), index)
    assert latency(codes) == pytest.approx(latency.layers(codes).sum(axis=1) + latency.constant)


def test_terms_that_only_fit_noise_are_left_out(index):
    """With 1 % noise on 24 networks the line predicts left-out networks best; so the price of every block is twice its row."""
    rng = np.random.default_rng(2)
    table = simulated_table(index, lambda table, layers, act: (2 * table + 0.1) * rng.normal(1, 0.01))
    latency = calibrated(table, index)
    assert block_prices(latency) == pytest.approx(2 * prices_ms(index.blocks), rel=0.15, abs=1e-4)


def test_measured_tables_give_predicted_latencies(index):
    table = replace(simulated_table(index, lambda table, layers, act: table + 1), origin="measured")
    assert lookup(table).origin == "measured"
    assert calibrated(table, index).origin == "predicted"


def test_p90_is_calibrated_on_p90(index, codes):
    table = simulated_table(index, lambda table, layers, act: table + 1)
    assert calibrated(table, index, 0.9)(codes) == pytest.approx(2 * calibrated(table, index)(codes))
    with pytest.raises(InputError, match="calibrates p50 and p90, not p99"):
        calibrated(table, index, 0.99)


def test_a_table_with_fewer_than_eight_networks_of_this_very_space_prices_no_budget(index):
    table = simulated_table(index, lambda table, layers, act: table, networks=7)
    with pytest.raises(InputError, match="has 7 whole networks of this ofa_mini, 8 are needed: a table without them prices no budget"):
        calibrated(table, index)
    table = simulated_table(index, lambda table, layers, act: table)
    with pytest.raises(InputError, match="has 0 whole networks"):
        calibrated(table, BlockIndex(ofa_mini(resolutions=(32,))))


def test_a_table_against_which_networks_get_faster_is_refused(index):
    with pytest.raises(InputError, match="do not get slower where its blocks do"):
        calibrated(simulated_table(index, lambda table, layers, act: 10 - table), index)


def test_no_block_makes_a_network_faster(index):
    """Were the three terms fitted freely, the small blocks' price would be negative: 8 us a layer are taken off 2 us blocks."""
    latency = calibrated(simulated_table(index, lambda table, layers, act: 1.5 * table - 0.008 * layers + 0.5), index)
    assert block_prices(latency).min() >= 0


def test_the_assessment_tells_the_calibrated_table_from_its_plain_sum_and_from_macs(index):
    """The truth is half the sum, so the sum is 100 % too high; MACs alone miss activations and layers."""
    found = assess(simulated_table(index, lambda table, layers, act: 0.5 * table), index)
    assert found["calibrated"]["mape"] == 0.0 and found["calibrated"]["within_5pct"] == 1.0
    assert (found["table_sum"]["mape"], found["table_sum"]["bias"], found["table_sum"]["within_10pct"]) == (1.0, 1.0, 0.0)
    assert found["macs_line"]["mape"] > 0.01
    assert found["macs_line"]["networks"] == 24
    assert found["calibrated"]["within_group_spearman"] == 1.0


def test_the_assessment_predicts_each_network_without_itself(index):
    """One network is 60 % off: a fit that saw it would bend towards it; left out, it is missed by the whole difference."""
    table = simulated_table(index, lambda table, layers, act: table + 0.1)
    off = replace(table.networks[-1], p50_ms=1.6 * table.networks[-1].p50_ms)
    found = assess(replace(table, networks=(*table.networks[:-1], off)), index)
    assert found["calibrated"]["mape"] >= 0.9 * (1 - 1 / 1.6) / 24
