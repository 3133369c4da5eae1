"""hwnas/table_merge.py: what may be united and what may not; the figures by hand."""

from dataclasses import replace

import pytest

from hwnas.architecture import Architecture
from hwnas.errors import InputError
from hwnas.graph import Node, block_text
from hwnas.latency_table import Conditions, Failure, Imported, LatencyTable, Measurement, NetworkMeasurement, Predicted
from hwnas.ops import Conv2d
from hwnas.table_merge import difference, merged, other_conditions

A, B, C, D = (block_text((Node("conv", Conv2d((1, 3, 8, 8), out=out), ("in0",)),)) for out in (4, 8, 16, 32))
CONDITIONS = Conditions("phone", "A76", "onnxruntime", "1.30.0", 2, "warm", {"denormals": "zero"})
ANCHOR = {"block": A, "best_us": 50.0}
PROTOCOL = {"visits": 8, "seed": 0, "space": "ab" * 32, "block_warmups": 3, "anchor_tolerance": 0.1}
PROVENANCE = {"by": "hwnas 0.1.0", "agent_sha256": "cd" * 32}


def row(ms, accepted=8):
    return Measurement(ms, ms, ms, ms, 8, accepted, 80)


def network(resolution, ms, visits=16, fingerprint="ab" * 32):
    return NetworkMeasurement(Architecture("mini", {"resolution": resolution}), fingerprint, ms, ms, ms, visits, 0)


def table(entries, networks=(), **changes):
    return replace(LatencyTable(CONDITIONS, entries, networks, "measured", PROTOCOL, PROVENANCE, ANCHOR, {"calibrated": {"mape": 0.01}}), **changes)


def test_how_far_tables_are_apart():
    """B -10 %, C 0 %, D +50 %: median 0; without their signs 0, 10, 50: median 10 %, p90 at 1.8 of 2 steps, 10 + 0.8 * 40 = 42 %."""
    found = difference(table({A: row(1.0), B: row(1.0), C: row(2.0), D: row(4.0)}), table({B: row(0.9), C: row(2.0), D: row(6.0), A: Failure("no")}))
    assert (found.only_first, found.only_second, found.networks, found.conditions) == ((A,), (), None, {})
    common = found.common
    assert common.n == 3 and (common.worst, common.worst_first_ms, common.worst_second_ms) == (D, 4.0, 6.0)
    assert (common.median, common.median_absolute, common.p90_absolute, common.worst_relative) == pytest.approx((0.0, 0.1, 0.42, 0.5))


def test_half_as_long_is_further_off_than_half_as_long_again():
    found = difference(table({A: row(2.0), B: row(2.0)}), table({A: row(1.0), B: row(3.0)}))
    assert found.common.worst == A and found.common.worst_relative == -0.5


def test_networks_are_compared_where_space_and_architecture_are_the_same():
    first = table({A: row(1.0)}, (network(32, 1.0), network(48, 2.0), network(64, 3.0)))
    second = table({B: row(1.0)}, (network(32, 9.0, fingerprint="cd" * 32), network(48, 2.5), network(128, 4.0)))
    found = difference(first, second)
    assert found.common is None
    assert (found.networks.n, found.networks.worst, found.networks.worst_relative) == (1, {"resolution": 48}, 0.25)


def test_a_prediction_gives_way_to_a_measurement_and_to_a_failure_whichever_table_has_it():
    guess = Predicted(3.0, 0.1, 900, False)
    first, second = table({A: guess, B: row(2.0, accepted=0), C: guess, D: guess}), table({A: row(2.0, accepted=0), B: guess, C: Failure("no"), D: guess})
    for pair in ((first, second), (second, first)):
        union, how = merged(*pair)
        assert dict(union.entries) == {A: row(2.0, accepted=0), B: row(2.0, accepted=0), C: Failure("no"), D: guess}
        assert (how["blocks"], how["predicted"], how["common_blocks"]) == (4, 1, 0)


def test_predictions_are_no_common_rows_but_are_set_beside_what_the_other_table_measured():
    """A: 2.0 predicted in the first, 1.0 measured; B: 4.0 predicted in the second, 5.0 measured: -50 and +25 %."""
    found = difference(table({A: Predicted(2.0, 0.1, 9, True), B: row(5.0), C: row(1.0)}), table({A: row(1.0), B: Predicted(4.0, 0.1, 9, False), C: row(1.0)}))
    assert (found.common.n, found.predicted_first, found.predicted_second) == (1, 1, 1)
    assert (found.only_first, found.only_second) == ((B,), (A,))
    assert (found.predictions.n, found.predictions.worst, found.predictions.worst_relative) == (2, A, -0.5)
    assert found.predictions.median == pytest.approx(-0.125)


def test_rows_and_networks_are_united():
    first = table({A: row(1.0), B: Failure("out of memory")}, (network(32, 1.0),))
    second = table({B: row(2.0), C: Failure("no")}, (network(48, 2.0),), protocol={**PROTOCOL, "seed": 1, "visits": 4, "space": "cd" * 32})
    union, how = merged(first, second)
    assert dict(union.entries) == {A: row(1.0), B: row(2.0), C: Failure("no")}
    assert union.networks == (*first.networks, *second.networks)
    assert (how["blocks"], how["networks"], how["common_blocks"], how["taken_from_second"], how["common"]) == (3, 2, 0, 1, None)
    assert union.protocol == {"block_warmups": 3, "anchor_tolerance": 0.1}, "what differs is of neither"
    assert union.quality == {} and union.conditions == CONDITIONS and union.origin == "measured"


def test_a_row_of_both_is_the_one_with_more_accepted_visits_and_the_first_where_equal():
    first = table({A: row(1.0, accepted=5), B: row(1.0), C: row(1.0)}, (network(32, 1.0), network(48, 1.0, visits=30)))
    second = table({A: row(1.04, accepted=6), B: row(1.01), C: row(1.02, accepted=3)}, (network(32, 1.1, visits=17), network(48, 1.1)))
    union, how = merged(first, second)
    assert {text: entry.price_ms for text, entry in union.entries.items()} == {A: 1.04, B: 1.0, C: 1.0}
    assert [each.p50_ms for each in union.networks] == [1.1, 1.0]
    assert how["taken_from_second"] == 1 and how["common"]["n"] == 3 and how["common_networks"]["n"] == 2


def test_imported_rows_are_chosen_by_their_runs():
    first, second = (table({A: Imported(ms, 0.1, runs)}, origin="imported", anchor={}) for ms, runs in ((1.0, 38), (1.01, 500)))
    assert dict(merged(first, second)[0].entries) == {A: Imported(1.01, 0.1, 500)}
    assert dict(merged(second, first)[0].entries) == {A: Imported(1.01, 0.1, 500)}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"origin": "simulated"}, "origin is 'measured' in the first and 'simulated' in the second"),
        ({"conditions": replace(CONDITIONS, device="tablet")}, "device is 'phone' in the first and 'tablet'"),
        ({"conditions": replace(CONDITIONS, processor="A78")}, "processor is 'A76'"),
        ({"conditions": replace(CONDITIONS, runtime="openvino")}, "runtime is"),
        ({"conditions": replace(CONDITIONS, version="1.31.0")}, "version is '1.30.0' in the first and '1.31.0'"),
        ({"conditions": replace(CONDITIONS, threads=1)}, "threads is '2' in the first and '1'"),
        ({"conditions": replace(CONDITIONS, regime="cold")}, "regime is 'warm'"),
        ({"conditions": replace(CONDITIONS, options={"denormals": "kept"})}, "options.denormals is 'zero'"),
        ({"conditions": replace(CONDITIONS, options={"denormals": "zero", "affinity": "0"})}, "options.affinity is not said in the first and '0'"),
        ({"protocol": {**PROTOCOL, "block_warmups": 1}}, "protocol.block_warmups is '3' in the first and '1'"),
        ({"protocol": {**PROTOCOL, "denoised": True}}, "protocol.denoised is not said in the first"),
        ({"provenance": {**PROVENANCE, "agent_sha256": "ef" * 32}}, "agent_sha256 is"),
        ({"conditions": replace(CONDITIONS, device="tablet", threads=1)}, "device is"),
    ],
)
def test_tables_of_different_conditions_are_refused_by_the_first_that_differs(change, name):
    first, second = table({A: row(1.0)}), table({B: row(1.0)}, **change)
    for pair in ((first, second), (second, first)):
        assert other_conditions(*pair)
        with pytest.raises(InputError, match="tables of different conditions are not merged: "):
            merged(*pair)
    with pytest.raises(InputError, match=name):
        merged(first, second)


def test_when_and_how_much_was_measured_may_differ():
    changed = {"visits": 16, "networks": 0, "seed": 7, "space": "00" * 32}
    assert not other_conditions(table({}), table({}, protocol={**PROTOCOL, **changed}, provenance={**PROVENANCE, "date": "2030-01-01"}))


def test_a_device_that_ran_at_another_speed_is_refused_by_its_anchor():
    first = table({A: row(1.0)})
    assert merged(first, table({B: row(1.0)}, anchor={"block": A, "best_us": 54.9}))[0].anchor == ANCHOR, "that of the faster one"
    with pytest.raises(InputError, match=r"anchor took 50 us at best in the first table and 55.5 us in the second, over 10 % apart"):
        merged(first, table({B: row(1.0)}, anchor={"block": A, "best_us": 55.5}))
    for anchor in ({"block": B, "best_us": 99.0}, {"block": A, "best_us": "?"}, {}):
        merged(first, table({B: row(1.0)}, anchor=anchor))


def test_a_device_that_ran_at_another_speed_is_refused_by_the_common_rows():
    first = table({A: row(1.0), B: row(1.0), C: row(1.0)})
    assert merged(first, table({A: row(1.0), B: row(1.049), C: row(3.0)}))[1]["common"]["worst"] == C, "one row that is far off is told"
    with pytest.raises(InputError, match=r"the 3 blocks that both tables hold take \+6.0 % in the second"):
        merged(first, table({A: row(1.0), B: row(1.06), C: row(1.07)}))
