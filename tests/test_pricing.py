"""The pricing benchmark at a size that takes no time; rates are printed, never asserted."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "pricing.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(BENCHMARK), *arguments], capture_output=True, text=True)


def test_gathered_prices_equal_lowering_and_the_report_says_what_was_measured():
    done = run("--space", "ofa_mini", "--population", "3000", "--repeats", "2", "--lowered", "20", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["space"] == "ofa_mini" and report["population"] == 3000 and report["lowered"] == 20
    assert report["largest_relative_difference"] == 0.0
    assert report["per_second"] == max(report["per_second_all"]) and len(report["per_second_all"]) == 2


def test_an_unknown_space_is_one_sentence():
    done = run("--space", "ofa_minii")
    assert done.returncode == 1 and "did you mean 'ofa_mini'" in done.stderr and "Traceback" not in done.stderr
