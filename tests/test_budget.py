"""hwnas/budget.py: what a budget may say, and what it means."""

import pytest

from hwnas.budget import Budget
from hwnas.errors import InputError


@pytest.mark.parametrize(
    ("metric", "text", "limit", "quantile"),
    [
        ("latency", "<= 12ms p50", 12, 0.5),
        ("latency", "<=12ms", 12, 0.5),
        ("latency", " <=  0.9 ms  p90 ", 0.9, 0.9),
        ("latency", "<= 900us p99", 0.9, 0.99),
        ("latency", "<= .5s p99.9", 500, 0.999),
        ("latency", "<= 12MS", 12, 0.5),
        ("macs", "<= 300M", 300e6, 0.5),
        ("macs", "<= 1.5g", 1.5e9, 0.5),
        ("params", "<= 4000000", 4e6, 0.5),
        ("params", "<= 500k", 5e5, 0.5),
        ("memory", "<= 512kB", 512e3, 0.5),
        ("memory", "<= 0.5 MiB", 524_288, 0.5),
        ("memory", "<= 64 kib", 65_536, 0.5),
        ("memory", "<= 1.5MB", 1.5e6, 0.5),
        ("memory", "<= 2GB", 2e9, 0.5),
        ("memory", "<= 1GiB", 2**30, 0.5),
        ("memory", "<= 4096B", 4096, 0.5),
    ],
)
def test_a_budget_is_a_limit_in_ms_macs_parameters_or_bytes(metric, text, limit, quantile):
    budget = Budget.parse(metric, text)
    assert budget.metric == metric and budget.share is None
    assert budget.limit == pytest.approx(limit) and budget.quantile == pytest.approx(quantile)


def test_a_share_becomes_a_limit_once_the_largest_subnet_is_known():
    budget = Budget.parse("latency", "<= 55% p90")
    assert (budget.limit, budget.share, budget.statistic) == (None, pytest.approx(0.55), "p90")
    resolved = budget.resolved(20.0)
    assert resolved.limit == pytest.approx(11) and resolved.quantile == budget.quantile
    assert Budget.parse("latency", "<= 3ms").resolved(20.0).limit == 3
    assert Budget.parse("memory", "<= 50%").resolved(1_000.0).limit == Budget.parse("params", "<= 50%").resolved(1_000.0).limit == 500


@pytest.mark.parametrize(
    ("metric", "text", "message"),
    [
        ("latency", "12ms", "'12ms' is no budget on latency; write '<= 12ms p50'"),
        ("latency", ">= 12ms", "is no budget on latency"),
        ("latency", "<= ms", "is no budget on latency"),
        ("latency", "<= -3ms", "is no budget on latency"),
        ("latency", "<= 0ms", "must be positive"),
        ("latency", "<= 12ms p0", "must be positive"),
        ("latency", "<= 12ms p100", "is no budget on latency"),
        ("latency", "<= nanms", "is no budget on latency"),
        ("latency", "<= 12", "has the unit ''; latency takes us, ms, s or %"),
        ("latency", "<= 12M", "has the unit 'M'"),
        ("macs", "<= 300ms", "has the unit 'ms'; macs takes none, k, m, g or %"),
        ("macs", "<= 300M p50", "is no budget on macs; write '<= 300M'"),
        ("memory", "<= 512", "has the unit ''; memory takes B, kB, MB, GB, KiB, MiB, GiB or %, as in '<= 512kB'"),
        ("memory", "<= 512kB p50", "is no budget on memory; write '<= 512kB'"),
        ("params", "4M", "'4M' is no budget on params; write '<= 4M'"),
        ("macs", "<= " + "9" * 400, "is no budget on macs: the limit is out of range"),
        ("energy", "<= 3", "no budget on 'energy'; budgets are on latency, macs, params, memory"),
        ("latency", "", "is no budget on latency"),
    ],
)
def test_a_budget_that_says_something_else_is_refused(metric, text, message):
    with pytest.raises(InputError) as error:
        Budget.parse(metric, text)
    assert message in str(error.value)


def test_a_budget_reads_back_with_its_unit_and_statistic():
    assert str(Budget.parse("latency", "<= 900us p99.5")) == "latency <= 0.9 ms p99.5"
    assert str(Budget.parse("macs", "<= 300M")) == "macs <= 3e+08"
    assert str(Budget.parse("memory", "<= 64 KiB")) == "memory <= 65.536 kB"
    assert str(Budget.parse("memory", "<= 55%")) == "memory <= 55% of the largest subnet"
    assert str(Budget.parse("latency", "<= 55%")) == "latency <= 55% of the largest subnet"
