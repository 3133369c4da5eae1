"""hwnas/profiling/selection.py and time_limit.py: which blocks, and how long."""

import time
from functools import partial

import numpy as np
import pytest
from simulated_tables import prices_ms

from hwnas.device import load_device
from hwnas.errors import InputError, MeasurementFailed
from hwnas.graph import block_text
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable, Measurement, Predicted
from hwnas.profiling.plan import make_plan
from hwnas.profiling.record import FILE, Record
from hwnas.profiling.selection import FIRST, Cost, first_blocks, more_blocks, usage
from hwnas.profiling.session import profile
from hwnas.profiling.time_limit import OutOfTime, TimeLimit
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.store import Store

COST = Cost(load_s=0.01, fixed_s=0.01, runs=100)


@pytest.fixture(scope="module")
def plan():
    return make_plan(BlockIndex(ofa_mini()), visits=8, networks=8, seed=0)


def tried(plan):
    return {i: float(prices_ms([plan.blocks[i]])[0]) for i in first_blocks(plan)}


def test_the_first_blocks_are_different_and_the_same_every_time(plan):
    first = first_blocks(plan)
    assert len(set(first)) == FIRST and first == first_blocks(plan)
    small = make_plan(BlockIndex(ofa_mini(resolutions=(32,))), visits=1, networks=0, seed=0)
    assert len(first_blocks(small)) == min(FIRST, len(small.blocks))


def test_all_are_measured_where_there_is_time_and_those_tried_where_there_is_none(plan):
    assert more_blocks(plan, tried(plan), COST, 1e6) == list(range(len(plan.blocks)))
    assert more_blocks(plan, tried(plan), COST, -1.0) == sorted(tried(plan))


def test_what_is_chosen_keeps_the_time_and_more_time_means_more_blocks(plan):
    known = tried(plan)
    price_ms = prices_ms(plan.blocks)
    counts = []
    for seconds in (1.0, 1.5):
        chosen = more_blocks(plan, known, COST, seconds)
        assert set(known) <= set(chosen)
        assert COST.of(price_ms[chosen]).sum() - len(known) * COST.load_s <= 1.1 * seconds
        counts.append(len(chosen))
    assert len(known) < counts[0] < counts[1] < len(plan.blocks)


def test_usage_counts_the_layers_of_a_subnet(plan):
    """The stem and the head of each of three resolutions run in a third of the subnets."""
    found = usage(plan)
    ids = plan.index.ids(plan.index.space.sample(np.random.default_rng(5), 2000))
    computing = np.array([bool(block) for block in plan.index.blocks])
    assert found.sum() == pytest.approx(computing[ids].sum(axis=1).mean(), rel=0.02)
    stems = {block_text(plan.index.blocks[i]) for i in plan.index.tables[0]}
    shares = [found[i] for i, block in enumerate(plan.blocks) if block_text(block) in stems]
    assert sum(shares) == pytest.approx(1.0)


def test_time_that_an_earlier_call_took_counts(tmp_path):
    with Store(tmp_path / FILE) as store:
        record = Record(store)
        record.add_time(50.0)
        record.choose([3, 5])
    with Store(tmp_path / FILE) as store:
        record = Record(store)
        assert record.chosen == [3, 5]
        now = time.monotonic()
        assert TimeLimit(record, None, begun_s=now).left_s == float("inf")
        assert TimeLimit(record, 1.0, begun_s=now).left_s < 10
        with pytest.raises(OutOfTime):
            TimeLimit(record, 0.8, begun_s=now).checking(lambda: None)()


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_refused(tmp_path, minutes):
    with Store(tmp_path / FILE) as store, pytest.raises(InputError, match="--budget-minutes is"):
        TimeLimit(Record(store), minutes, begun_s=0.0)


def test_blocks_that_were_not_chosen_are_predicted_and_the_choice_is_kept_by_the_same_command(tmp_path):
    index, device = BlockIndex(ofa_mini(resolutions=(32, 48))), load_device("localhost")
    run = partial(profile, index, device, tmp_path, visits=1, networks=8, budget_minutes=60.0)

    def stop(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(progress=stop)
    with Store(tmp_path / FILE) as store:
        Record(store).choose(range(20))
    with pytest.raises(InputError, match=r"was profiled with budget_minutes = 60.0, and now it is nothing"):
        profile(index, device, tmp_path, visits=1, networks=8)
    table, plan = run(), make_plan(index, visits=1, networks=8, seed=0)
    kinds = [type(table.entries[block_text(block)]) for block in plan.blocks]
    assert kinds == [Measurement] * 20 + [Predicted] * (len(plan.blocks) - 20)
    assert table.quality["predicted_blocks"]["blocks"] == 20 and table.protocol["budget_minutes"] == 60.0
    assert {entry.blocks for entry in table.entries.values() if isinstance(entry, Predicted)} == {20}
    assert LatencyTable.load(tmp_path) == run()
    with pytest.raises(InputError, match=r"was profiled with budget_minutes = 60.0, and now it is 30.0"):
        run(budget_minutes=30.0)


def test_where_there_is_time_everything_is_measured(tmp_path):
    index = BlockIndex(ofa_mini(resolutions=(32,)))
    table = profile(index, load_device("localhost"), tmp_path, visits=1, networks=8, budget_minutes=60.0)
    assert not table.missing(index.blocks) and not table.predicted() and "predicted_blocks" not in table.quality


def test_a_time_that_was_up_before_anything_was_measured_is_a_sentence(tmp_path):
    with Store(tmp_path / FILE) as store:
        Record(store).add_time(3600.0)
    with pytest.raises(MeasurementFailed, match="nothing could be measured: the 60 minutes of --budget-minutes were over before"):
        profile(BlockIndex(ofa_mini(resolutions=(32,))), load_device("localhost"), tmp_path, visits=1, networks=8, budget_minutes=60.0)
