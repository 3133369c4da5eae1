"""hwnas/profiling/protocol.py and tabulate.py: what a visit yields and when it counts."""

from dataclasses import replace

import numpy as np
import pytest

from hwnas.architecture import Architecture
from hwnas.errors import InputError
from hwnas.profiling.protocol import (
    REGIMES,
    TIMING,
    Burst,
    SpeedState,
    Visit,
    drawn_ms,
    is_disturbed,
    is_slow,
    runs_per_burst,
    speed_states,
    timing_of,
)
from hwnas.profiling.tabulate import is_accepted, is_settled, measurement, network_measurement, steadiness


def visit(ns=(1_000_000,), anchor=100, after=None, *, wall=1_000_000, cpu=1_000_000, involuntary=0, psi=0, steal=0):
    return Visit("item", tuple(ns), anchor, after or anchor, 0, wall, cpu, involuntary, psi, steal)


@pytest.mark.parametrize(
    ("report", "disturbed"),
    [
        ({}, False),
        ({"involuntary": 1}, True),
        ({"psi": 500}, False),  # others waited for a CPU, this burst had one all the time
        ({"psi": 500, "cpu": 970_000}, True),
        ({"steal": 10, "cpu": 970_000}, True),
        ({"cpu": 970_000}, False),  # nobody else is known to have run
        ({"psi": 500, "cpu": 990_000}, False),  # 1 % is the clock's own cost
        ({"involuntary": None, "psi": None, "steal": None, "cpu": 500_000}, False),  # the system does not tell
        ({"anchor": 150}, False),  # a slow state of the device is its own
    ],
)
def test_a_visit_is_disturbed_where_another_process_demonstrably_ran(report, disturbed):
    assert is_disturbed(visit(**report)) is disturbed


@pytest.mark.parametrize(("run_ns", "runs"), [(5_000, 200), (3_000, 250), (100_000, 10), (5_000_000, 8), (0, 250)])
def test_a_burst_lasts_a_millisecond_within_limits(run_ns, runs):
    assert runs_per_burst(run_ns) == runs


def test_slow_is_what_is_over_the_tolerance_above_the_best():
    assert is_slow([100, 110, 111, 140]).tolist() == [False, False, True, True]


def test_speed_states_are_medians_relative_to_the_best():
    assert speed_states([100, 102, 104, 140]) == (SpeedState(1.02, 0.75), SpeedState(1.4, 0.25))
    assert speed_states([100, 100]) == (SpeedState(1.0, 1.0),)


def test_one_run_of_each_visit_is_drawn():
    visits = [visit(ns=(1_000_000, 2_000_000)), visit(ns=(3_000_000,))] * 500
    values = drawn_ms(visits, np.random.default_rng(0))
    assert values.shape == (1000,)
    assert set(values[::2]) == {1.0, 2.0} and set(values[1::2]) == {3.0}
    assert 200 < (values[::2] == 1.0).sum() < 300


def test_a_block_is_priced_by_the_25th_percentile_of_the_best_runs_of_accepted_visits():
    """Best runs 1, 2, 3, 4 us at full speed: the 25th percentile is the first; the slow visit counts for p10, p50, p90 alone."""
    visits = [visit(ns=(k * 1000, 9000)) for k in (4, 3, 2, 1)] + [visit(ns=(100, 9000), anchor=100, after=111)]
    found = measurement(visits, best_anchor_ns=100)
    assert (found.price_ms, found.visits, found.accepted, found.runs) == (0.001, 5, 4, 10)
    assert (found.p10_ms, found.p50_ms, found.p90_ms) == (0.0001, 0.004, 0.009)
    assert found.mean_ms == pytest.approx((0.0001 + 0.001 + 0.002 + 0.003 + 0.004 + 5 * 0.009) / 10)


def test_the_standard_deviation_is_that_of_all_runs():
    """1 and 3 ms: 2 ms on average, each 1 ms from it."""
    found = measurement([visit(ns=(1_000_000, 3_000_000))], best_anchor_ns=100)
    assert (found.mean_ms, found.std_ms) == (2.0, 1.0)


def test_a_block_never_seen_at_full_speed_is_priced_but_marked():
    found = measurement([visit(ns=(2000,), anchor=150)], best_anchor_ns=100)
    assert (found.price_ms, found.accepted) == (0.002, 0)


def test_a_network_keeps_slow_visits_and_drops_disturbed_ones():
    architecture = Architecture("mini", {"depth": 1})
    visits = [visit(ns=(1_000_000,)), visit(ns=(2_000_000,), anchor=150), visit(ns=(9_000_000,), involuntary=2)]
    found = network_measurement(architecture, "ab" * 32, visits)
    assert (found.p50_ms, found.p90_ms, found.visits, found.dropped) == (1.0, 2.0, 2, 1)
    assert network_measurement(architecture, "ab" * 32, visits[2:]) is None


def test_the_protocol_is_written_with_its_units():
    assert TIMING.describe()["block_burst_ms"] == 1.0


def test_a_regime_is_found_by_its_name_and_by_what_tables_say():
    for name, timing in REGIMES.items():
        assert timing_of(name) is timing and timing_of(timing.regime) is timing
    with pytest.raises(InputError, match="unknown regime 'hot'; there are: warm, steady, first-run, cold-start, sustained"):
        timing_of("hot")


def test_first_runs_and_cold_starts_are_single_runs_without_warm_ups():
    assert REGIMES["first-run"].block_burst(1_000) == Burst(0, 1) and REGIMES["first-run"].network_burst == Burst(0, 1)
    assert REGIMES["cold-start"].block_burst() == Burst(0, 1, cold=True) and REGIMES["cold-start"].network_burst.cold


def test_a_visit_of_a_crowded_machine_is_not_accepted():
    calm, crowded = visit(ns=(1_000_000,), anchor=100), replace(visit(ns=(3_000_000,), anchor=100), crowding_pct=80)
    assert is_accepted(calm, 100) and not is_accepted(crowded, 100) and is_accepted(replace(crowded, crowding_pct=25), 100)
    found = measurement([crowded, calm], best_anchor_ns=100)
    assert (found.price_ms, found.accepted, found.visits) == (1.0, 1, 2)
    assert measurement([crowded], best_anchor_ns=100).accepted == 0, "the mark of a disturbed row"


def test_an_item_is_settled_once_the_interval_of_its_price_is_narrow():
    """Of 8 visits the 25th percentile lies between the first and the fourth with 75 %."""
    near = [visit(ns=(1_000_000 + 4_000 * i,), anchor=100) for i in range(8)]
    assert is_settled(near, 100, network=False) and not is_settled(near[:7], 100, network=False)
    far = [visit(ns=(1_000_000 + 7_000 * i,), anchor=100) for i in range(8)]
    assert not is_settled(far, 100, network=False) and is_settled(far, 100, network=True), "a network's tolerance is wider"
    slow = [*near[:7], visit(ns=(1_000_000,), anchor=150)]
    assert not is_settled(slow, 100, network=False), "a visit in a slow state does not count"


def test_how_even_a_measurement_was_is_told():
    rising = [visit(ns=(int(1e6 * (1 + i / 50)),), anchor=100) for i in range(16)]
    two = [visit(ns=(1_000_000 if i % 3 else 1_400_000,), anchor=100) for i in range(16)]
    crowded = [replace(visit(ns=(1_000_000,), anchor=100), crowding_pct=99)] * 16
    found = steadiness({"rising": rising, "two": two, "even": [visit(ns=(1_000_000,), anchor=100)] * 16, "crowded": crowded}, 100)
    assert found["crowded_share"] == 0.25 and found["slow_share"] == 0.0 and found["disturbed_blocks"] == 1 and found["unsettled_blocks"] == 2
    assert found["uneven_blocks"] == 2 and found["most_uneven"] == ["has a second speed, +40.0%: two", "drifts by +15.0%: rising"]
