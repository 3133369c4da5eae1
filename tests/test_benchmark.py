"""hwnas/profiling/benchmark.py: intervals from visits, on simulated devices; and real windows with one and several streams."""

import numpy as np
import pytest

from hwnas.device import load_device
from hwnas.errors import InputError
from hwnas.graph import Graph, Node
from hwnas.ops import Conv2d
from hwnas.profiling.benchmark import Estimate, estimate, measure_bench, summarise, visits_needed
from hwnas.profiling.protocol import Visit, is_slow
from hwnas.profiling.runtimes.onnxruntime import onnxruntime
from hwnas.weights import random_weights


def visits_of(latencies_ms, disturbed=(), busy_ms=None):
    return [
        Visit(
            "m", (int(1e6 * latency),), 50_000, 50_000, 0, 10**9, 10**9, int(i in disturbed), 0, 0, busy_ns=None if busy_ms is None else int(1e6 * busy_ms[i])
        )
        for i, latency in enumerate(latencies_ms)
    ]


def rows_of(visits, slow=None, *, quantiles=(0.5,), confidence=0.95, seed=0):
    slow = np.zeros(len(visits), bool) if slow is None else slow
    rows, stride = summarise({0: visits}, slow, quantiles=quantiles, confidence=confidence, seconds=60.0, rng=np.random.default_rng(seed))
    return rows[0], stride


def test_an_interval_is_a_pair_of_ranks():
    """20 values at 2.5 % a side: P(Binomial(20, 1/2) <= 5) = 0.0207, <= 6 = 0.0577, so the 6th; from above the 15th, by symmetry."""
    values = np.arange(1.0, 21.0)
    assert estimate(values, values, 0.5, 0.95) == Estimate(10.0, 6.0, 15.0)


def test_too_few_values_have_no_bound_on_that_side():
    values = np.arange(1.0, 21.0)
    found = estimate(values, values, 0.9, 0.95)
    assert found.high is None and found.low is not None and found.value == 18.0
    # 0.5^n <= 0.025 from n = 6 on, 0.9^n from 36 on; a p10 is a p90 from below
    assert [visits_needed((q,), 0.95) for q in (0.5, 0.9, 0.1)] == [6, 36, 36]


def test_a_disturbed_visit_is_dropped_and_many_are_doubted():
    row, _ = rows_of(visits_of(np.r_[np.full(4, 9.0), np.ones(16)], disturbed=range(4)))
    assert (row.latency_ms[0].value, row.visits, row.dropped, row.doubt) == (1.0, 16, 4, "")
    row, _ = rows_of(visits_of(np.ones(20), disturbed=range(5)))
    assert "another process ran during 25 % of the visits" in row.doubt
    row, _ = rows_of(visits_of(np.ones(20), disturbed=range(20)))
    assert row.latency_ms == () and "100 %" in row.doubt


def test_throughput_is_the_median_of_the_visits_rates():
    """One run a visit, busy for 1, 2, ... 20 ms: 1000, 500, ... 50 a second; the median is that of the 11th slowest."""
    row, _ = rows_of(visits_of(np.full(20, 0.7), busy_ms=np.arange(1.0, 21.0)))
    assert row.runs_per_s.value == pytest.approx(1000 / 11)
    assert row.runs_per_s.low == pytest.approx(1000 / 15) and row.runs_per_s.high == pytest.approx(1000 / 6)


@pytest.mark.parametrize("dwell_s", [0.2, 2.0, 5.0])
@pytest.mark.parametrize("q", [0.5, 0.9])
def test_on_a_device_of_two_speeds_an_interval_misses_no_more_often_than_it_says(dwell_s, q):
    """Slow for 30 % of the time, 1.4 times, in stretches; ranges of the noise do not overlap, so the median is a fast run and the p90 a slow one.

    Fast uniform from 1.0 to 1.1 ms: the median is its quantile 0.5 / 0.7; slow from 1.4 to 1.54 ms: the p90 is its quantile (0.9 - 0.7) / 0.3.
    400 windows of 120 rounds at 90 %: 40 misses are expected at most, 40 + 3 sqrt(36) = 58 tolerated. Windows of too few independent visits
    claim nothing and miss nothing.
    """
    truth = 1.0 + 0.1 * 0.5 / 0.7 if q == 0.5 else 1.4 * (1 + 0.1 * 0.2 / 0.3)
    rng, misses, claims = np.random.default_rng(17), 0, 0
    for _ in range(400):
        moments = (np.arange(120) + rng.random(120)) * 0.5
        dwells = rng.exponential(1, 2000) * np.where(np.arange(2000) % 2 == 0, 1.4, 0.6) * dwell_s
        slow = np.searchsorted(np.cumsum(dwells), moments + rng.random() * 60) % 2 == 1
        values = np.where(slow, 1.4, 1.0) * rng.uniform(1.0, 1.1, 120)
        anchors = np.where(slow, 75.0, 50.0) * rng.normal(1, 0.01, 120)
        row, _ = rows_of(visits_of(values), is_slow(anchors), quantiles=(q,), confidence=0.9, seed=int(rng.integers(2**32)))
        if not row.doubt:
            found = row.latency_ms[0]
            claims += 1
            misses += not found.low <= truth <= found.high
    assert misses <= 58
    assert claims > 300 or dwell_s > 1, "where the state is forgotten at once, nearly every window may claim"


def test_runs_in_a_row_would_miss_most_of_the_time():
    """What the visits are for: 120 runs in a row see one state, and a p90 from them is that state's."""
    rng, misses = np.random.default_rng(18), 0
    for _ in range(200):
        values = np.full(120, 1.4 if rng.random() < 0.3 else 1.0) * rng.uniform(1.0, 1.1, 120)
        found = estimate(values, values, 0.9, 0.9)
        misses += not found.low <= 1.4 * (1 + 0.1 * 0.2 / 0.3) <= found.high
    assert misses > 100


@pytest.fixture(scope="module")
def models():
    made = []
    for out in (4, 16):
        graph = Graph.of_block((Node("conv", Conv2d((1, 3, 16, 16), out=out, kernel=3), ("in0",)),))
        made.append(onnxruntime().build(graph, random_weights(graph, np.random.default_rng(0))))
    return made


def test_a_real_window_has_intervals_and_what_ran_where(models):
    found = measure_bench(models, load_device("localhost"), quantiles=(0.5, 0.9), seconds=1.0)
    assert found.rounds == 90 and set(found.rows) == {0, 1} and not found.left_out  # twice 36, and a fifth of 90 may be dropped
    for row in found.rows.values():
        assert row.visits + row.dropped == 90 and row.runs_per_s is None
        assert dict(row.facts) == {"provider": "CPUExecutionProvider", "nodes": 1, "nodes_elsewhere": 0, "partitions": 1}
        if row.latency_ms:
            assert 0 < row.latency_ms[0].value <= row.latency_ms[1].value
            assert all(each.low is None or each.low <= each.value for each in row.latency_ms)


def test_several_streams_have_a_rate_and_a_latency_under_load(models):
    found = measure_bench(models[:1], load_device("localhost"), quantiles=(0.5,), seconds=1.0, streams=2)
    (row,) = found.rows.values()
    assert found.streams == 2 and row.runs % (2 * found.rounds) == 0 and row.runs >= 2 * 5 * found.rounds
    assert row.runs_per_s is None or row.runs_per_s.value > 0
    assert row.runs_per_s is not None or "another process" in row.doubt


def test_a_cold_start_takes_longer_than_a_warm_run(models):
    found = {regime: measure_bench(models[:1], load_device("localhost"), quantiles=(0.5,), seconds=0.5, regime=regime) for regime in ("warm", "cold-start")}
    assert "cold start" in found["cold-start"].conditions.regime
    if all(each.rows[0].latency_ms for each in found.values()):
        assert found["cold-start"].rows[0].latency_ms[0].value > found["warm"].rows[0].latency_ms[0].value
    assert found["cold-start"].rows[0].runs == found["cold-start"].rounds, "one run a visit"


def test_a_model_that_cannot_be_run_is_left_out_where_that_is_wanted(models):
    found = measure_bench([b"no model", models[0]], load_device("localhost"), quantiles=(0.5,), seconds=0.5, tolerant=True)
    assert set(found.rows) == {1} and "INVALID_PROTOBUF" in found.left_out[0]


def test_a_model_over_the_limit_is_left_out_before_the_window(models):
    found = measure_bench(models, load_device("localhost"), quantiles=(0.5,), seconds=0.5, most_ms=1e-6, tolerant=True)
    assert not found.rows and found.rounds == 0
    assert all(reason.startswith("too slow: its fastest run took") for reason in found.left_out.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"streams": 65}, "--streams"),
        ({"streams": 2, "regime": "cold-start"}, "there is no throughput"),
        ({"regime": "icy"}, "unknown regime"),
        ({"confidence": 1.0}, "--confidence"),
        ({"seconds": 0.0}, "--seconds"),
        ({"quantiles": ()}, "no quantile"),
    ],
)
def test_options_out_of_range_are_refused(models, options, words):
    with pytest.raises(InputError, match=words):
        measure_bench(models, load_device("localhost"), **options)
