"""benchmarks/keeping_a_budget.py: its rules on candidates whose latencies are known."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from published_benchmarks import need

from hwnas import registry

PROGRAM = runpy.run_path(str(Path(__file__).resolve().parents[1] / "benchmarks" / "keeping_a_budget.py"))
CODES = np.arange(5, dtype=np.int16)[:, None]
ACCURACY = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
PREDICTED = np.array([10.0, 9.9, 9.6, 9.3, 5.0])


def test_measured_in_order_the_first_that_fits_is_chosen():
    truth = np.array([11.0, 10.5, 9.9, 12.0, 5.0])
    code, measured = PROGRAM["in_order"](CODES, ACCURACY, PREDICTED, truth, 10.0, 0.05)
    assert code.tolist() == [[2]] and measured == 3
    code, measured = PROGRAM["in_order"](CODES, ACCURACY, PREDICTED, truth + 10, 10.0, 0.05)
    assert len(code) == 0 and measured == 5


@pytest.mark.parametrize(
    ("top", "truth", "chosen", "measured"),
    [
        (1, [9.0, 9.0, 9.0, 9.0, 9.0], 0, 1),  # the first bet fits
        (3, [9.0, 9.0, 9.0, 9.0, 5.0], 0, 3),  # three are measured together: within 10, 9.5 and 9; the most accurate of those that fit
        (1, [10.5, 9.9, 9.9, 9.9, 5.0], 3, 2),  # 5 % above its prediction: what is predicted within 10 / 1.05 comes next, which is the fourth
        (1, [20.0, 20.0, 20.0, 20.0, 5.0], 4, 2),  # twice its prediction: within 5 is the last
        (1, [30.0, 30.0, 30.0, 30.0, 30.0], None, 3),  # predictions never say that one is within 3.3: the fastest are tried, three times at most
    ],
)
def test_verify_is_followed_as_it_chooses_and_corrects(top, truth, chosen, measured):
    code, n = PROGRAM["verified"](top)(CODES, ACCURACY, PREDICTED, np.array(truth), 10.0, 0.05)
    assert (code[0, 0] if len(code) else None) == chosen and n == measured


def test_each_reward_and_rule_has_a_row_and_measuring_never_ends_over_the_budget():
    need("nb201_accuracy.csv.gz", "help_nasbench201_latency_ms.csv.gz")
    made = registry.create("tabular_benchmarks", "nasbench201(device='pixel3')")
    PROGRAM["outcomes"].__globals__["EVALUATIONS"] = 40
    rows = list(PROGRAM["outcomes"](made, 0, set()))
    assert [row["rule"] for row in rows] == PROGRAM["rules"]() and {"absolute alone", "mnasnet_soft alone"} <= {row["rule"] for row in rows}
    for row in rows:
        assert row["used"] is None or row["used"] <= 1 or "alone" in row["rule"] or row["rule"].endswith("error"), row
    assert [row["rule"] for row in PROGRAM["outcomes"](made, 0, {row["rule"] for row in rows})] == []
