"""hwnas/verbs/verify.py: which candidates are measured, and what is said where none fits. The whole command: test_main_job.py."""

import pytest

from hwnas.device import load_device
from hwnas.errors import InputError
from hwnas.verbs.verify import _runtime, closest, equal, pick


def point(accuracy_pct, latency_ms):
    return {"accuracy_pct": accuracy_pct, "latency_ms": latency_ms}


def test_candidates_are_spread_over_the_margin():
    # limits 10, 9 and 8 ms: the best within each, none twice
    points = [point(95, 10.5), point(93, 9.9), point(92, 9.8), point(90, 8.9), point(88, 7.0), point(80, 3.0)]
    assert pick(points, 3, 10.0, 0.1) == [points[1], points[3], points[4]]


def test_a_point_is_picked_once_and_the_next_takes_its_turn():
    points = [point(93, 5.0), point(92, 4.0)]
    assert pick(points, 3, 10.0, 0.1) == points


def test_among_equally_accurate_points_the_faster_is_picked():
    points = [point(90, 9.0), point(90, 6.0)]
    assert pick(points, 1, 10.0, 0.1) == [points[1]]


def test_where_all_exceed_the_limit_the_fastest_is_the_last_resort():
    points = [point(95, 12.0), point(90, 11.0)]
    assert pick(points, 3, 10.0, 0.1) == [points[1]] and pick([], 3, 10.0, 0.1) == []


def test_the_equal_of_a_baseline_is_its_most_accurate_network_that_is_no_slower():
    found = {"baselines": {"random": {"points": [point(94, 8.0), point(91, 6.0), point(90, 5.0)]}}}
    assert equal(found, "random", 6.0) == point(91, 6.0)
    assert equal(found, "random", 4.9) is None and equal(found, "uniform", 9.0) is None and equal({}, "random", 9.0) is None


def measured(role, measured_ms, upper_bound_ms, doubt=""):
    return {"role": role, "measured_ms": measured_ms, "upper_bound_ms": upper_bound_ms, "doubt": doubt}


def test_the_closest_candidate_is_the_one_of_the_least_bound_and_its_doubt_is_told():
    rows = [measured("candidate", 10.1, 10.4), measured("candidate", 10.3, 10.35, "too few visits"), measured("largest", 1.0, 1.0)]
    said = closest({"budget_ms": 10.0, "measured": rows})
    assert said == "none of 2 measured candidates is certified within 10 ms: the closest took 10.3 ms, upper bound 10.35 ms (too few visits)"
    assert "upper bound unknown" in closest({"budget_ms": 10.0, "measured": [measured("candidate", 9.0, None)]})
    assert closest({"budget_ms": 10.0, "measured": []}) == "the search found no candidate"


def test_candidates_are_measured_with_the_runtime_of_the_table():
    assert _runtime(load_device("localhost"), "torch") == "torch" and _runtime(load_device("localhost"), "onnxruntime") == "onnxruntime"
    with pytest.raises(InputError, match="the table was measured with the runtime 'torch', and browser has onnxruntime_web"):
        _runtime(load_device("browser"), "torch")
