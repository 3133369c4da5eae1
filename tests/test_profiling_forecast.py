"""hwnas/profiling/forecast.py and `profile --plan`: what will be measured, and how long that may take. No test says how long anything took."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from commands import here
from simulated_tables import CONDITIONS, prices_ms

from hwnas.cli import show
from hwnas.costs import macs
from hwnas.device import load_device
from hwnas.errors import InputError, MeasurementFailed
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.profiling.agent import Agent
from hwnas.profiling.forecast import Pace, forecast, predicted_run_s, tried_networks
from hwnas.profiling.plan import make_plan
from hwnas.profiling.protocol import REGIMES, TIMING, Burst
from hwnas.profiling.record import FILE, Record
from hwnas.profiling.selection import first_blocks
from hwnas.profiling.session import plan_profile, profile
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.store import Store

DEVICE = load_device("localhost")
SPACE = "ofa_mini(resolutions=(24,))"


@pytest.fixture(scope="module")
def index():
    return BlockIndex(ofa_mini(resolutions=(24,)))


def names_of(plan):
    return [f"e{i}" for i in range(len(plan.blocks))] + [f"n{i}" for i in range(len(plan.networks))]


def told(plan, pace, names=None, **more):
    given = {"conditions": CONDITIONS, "loaded": set(), "bursts": {}, "made": {}, "tried_s": 1.0, **more}
    return forecast(plan, names_of(plan) if names is None else names, pace, **given)


def test_where_all_was_tried_the_time_is_a_sum(index):
    """Blocks run for 1 ms: 3 warm-ups and 8 runs, the fewest; networks for 10 ms: 4 warm-ups and 3 runs; 2 ms lie between visits."""
    plan = make_plan(index, visits=16, networks=8, seed=0, timing=replace(TIMING, least_span_s=1000.0))
    n = len(plan.blocks)
    pace = Pace({name: 1e6 if name[0] == "e" else 1e7 for name in names_of(plan)}, load_block_s=0.01, load_network_s=0.1, between_s=0.002)
    found = told(plan, pace)
    once = n * (0.002 + 11 * 0.001) + 8 * (0.002 + 7 * 0.01)
    assert (found.blocks, found.predicted, found.networks, found.least_visits, found.most_visits) == (n, 0, 8, 8 * (n + 8), 16 * (n + 8))
    load = 0.01 * n + 0.1 * 8
    assert found.least_s == found.most_s == pytest.approx(load + 1000.0), "the visits are spread over so long"
    found = told(replace(plan, timing=replace(TIMING, least_span_s=0.0)), pace)
    assert found.least_s == pytest.approx(load + 8 * once) and found.most_s == pytest.approx(load + 16 * once)
    assert found.disturbed_s == pytest.approx(load + 2.5 * 16 * once + 20.0)
    assert (found.tried_blocks, found.tried_networks) == (n, 8)


def test_what_is_loaded_on_record_or_not_chosen_costs_nothing_more(index):
    plan = make_plan(index, visits=8, networks=0, seed=0, timing=replace(TIMING, least_span_s=0.0))
    pace = Pace({f"e{i}": 1e6 for i in range(len(plan.blocks))}, 0.5, 0.0, 0.0)
    some = ["e0", "e1", "e2"]
    assert told(plan, pace, some).least_s == pytest.approx(3 * (0.5 + 8 * 0.011))
    found = told(plan, pace, some, loaded={"e0", "e1"}, made={"e0": 8, "e1": 5}, bursts={"e2": Burst(0, 100)})
    assert found.most_s == pytest.approx(0.5 + 3 * 0.011 + 8 * 0.1)
    assert (found.blocks, found.predicted, found.made, found.least_visits, found.most_visits) == (3, len(plan.blocks) - 3, 13, 11, 11)


def test_heating_is_part_of_the_time(index):
    plan = make_plan(index, visits=8, networks=0, seed=0)
    pace = Pace({"e0": 1e6}, 0.0, 0.0, 0.0)
    hot = replace(plan, timing=REGIMES["sustained"])
    assert told(hot, pace).most_s == pytest.approx(told(plan, pace).most_s + 300.0)


def test_blocks_that_were_not_tried_are_predicted_from_those_that_were():
    """The truth is a formula; a third of the blocks is tried, and the sum over all is met to a tenth."""
    plan = make_plan(BlockIndex(ofa_mini()), visits=8, networks=8, seed=0)
    truth = prices_ms(plan.blocks) / 1e3
    tried = first_blocks(plan)
    assert len(tried) < len(plan.blocks) / 3
    blocks, _ = predicted_run_s(plan, {f"e{i}": 1e9 * truth[i] for i in tried})
    assert blocks[tried] == pytest.approx(truth[tried]) and blocks.sum() == pytest.approx(truth.sum(), rel=0.1)


def test_networks_lie_on_a_line_through_their_macs_or_in_proportion(index):
    plan = make_plan(index, visits=8, networks=12, seed=0)
    work = Additive(index, macs(index.blocks), name="macs", unit="MACs")(plan.networks)
    numbers = tried_networks(plan)
    assert len(numbers) == 4 and {int(np.argmin(work)), int(np.argmax(work))} <= set(numbers)
    line = 0.001 + 1e-9 * work
    _, networks = predicted_run_s(plan, {f"n{i}": 1e9 * line[i] for i in numbers})
    assert networks == pytest.approx(line)
    _, networks = predicted_run_s(plan, {"n3": 1e9 * 2e-9 * work[3]})
    assert networks == pytest.approx(2e-9 * work)
    few = make_plan(index, visits=8, networks=0, seed=0)
    assert tried_networks(few) == [] and len(predicted_run_s(few, {"e0": 5.0})[1]) == 0


def test_a_plan_is_told_before_the_rest_is_loaded_and_what_was_tried_is_not_done_twice(index, tmp_path, monkeypatch):
    loads, seen, load = Counter(), [], Agent.load
    monkeypatch.setattr(Agent, "load", lambda self, item, model: loads.update([item]) or load(self, item, model))
    table = profile(index, DEVICE, tmp_path, visits=1, networks=8, planned=lambda found: seen.append((found, len(loads))))
    ((found, loaded),) = seen
    assert (found.blocks, found.networks, found.predicted, found.made) == (len(table.entries), 8, 0, 0)
    assert 1 + found.tried_blocks + found.tried_networks == loaded < len(loads) == 1 + found.blocks + 8, "the anchor, and each item"
    assert set(loads.values()) == {1}
    assert 0 < found.least_s <= found.most_s < found.disturbed_s


def test_a_plan_writes_nothing_and_counts_what_an_unfinished_profile_has(index, tmp_path):
    folder = tmp_path / "table"
    found = plan_profile(index, DEVICE, folder, visits=2, networks=8)
    assert not folder.exists() and found.made == 0 and found.conditions.device == "localhost"

    def stop(stage, done, total):
        if stage == "measure" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(index, DEVICE, folder, visits=2, networks=8, progress=stop)
    with Store(folder / FILE, write=False) as store:
        made = len(Record(store).visits)
    again = plan_profile(index, DEVICE, folder, visits=2, networks=8)
    assert again.made == made > 0 and again.most_visits == found.most_visits - made
    with pytest.raises(InputError, match="was profiled with visits = 2, and now it is 3"):
        plan_profile(index, DEVICE, folder, visits=3, networks=8)
    profile(index, DEVICE, folder, visits=2, networks=8)
    with pytest.raises(InputError, match="holds a complete table"):
        plan_profile(index, DEVICE, folder, visits=2, networks=8)


def test_with_little_time_the_plan_says_what_is_predicted(index):
    wide = BlockIndex(ofa_mini())
    with pytest.raises(MeasurementFailed, match="minutes of --budget-minutes were over before"):
        plan_profile(wide, DEVICE, networks=8, budget_minutes=1e-5)
    often = replace(TIMING, least_visits=1000)  # no machine has time for so many
    found = plan_profile(wide, DEVICE, networks=8, visits=1000, budget_minutes=1, timing=often)
    assert found.blocks + found.predicted == len(make_plan(wide, visits=1, networks=0, seed=0).blocks) and found.predicted > 0


def test_the_command_shows_the_plan_alone_or_before_it_measures(tmp_path):
    code, out, error = here("profile", "localhost", "--space", SPACE, "--plan", "--networks", 8)
    assert code == 0, error
    assert "blocks and 8 networks in " in out and "localhost/onnxruntime-" in out and "estimated from " in out and "that were tried for" in out
    code, out, error = here("profile", "localhost", "--space", SPACE, "--plan", "--networks", 8, "--json", "--budget-minutes", 5)
    assert code == 0 and json.loads(out)["networks"] == 8 and json.loads(out)["conditions"]["device"] == "localhost"
    code, out, error = here("profile", "localhost", "--space", SPACE, "--to", tmp_path / "table", "--visits", 1, "--networks", 0)
    assert code == 0 and error.index("to measure: ") < error.index("time: ") < error.index("measure: 0/")
    code, out, error = here("profile", "localhost", "--space", SPACE)
    assert (code, out) == (2, "") and "name the folder of the table with --to" in error


def test_a_log_says_now_and_then_how_much_time_remains(capsys, monkeypatch):
    monkeypatch.setattr(show, "_SAID_EVERY_S", 0.0)
    with show.progress_bar() as progress:
        for done in (0, 50, 100):
            progress("measure", done, 100)
        progress.note("a word")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "measure: 0/100" and lines[1].startswith("measure: 50/100, about ") and lines[1].endswith(" more")
    assert lines[2].startswith("measure: 100/100 in ") and lines[3] == "a word"


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.1 s"), (4.21, "4.2 s"), (48.2, "48 s"), (210, "3.5 min"), (7560, "2.1 h")])
def test_durations_are_read_by_people(seconds, text):
    assert show.duration(seconds) == text
