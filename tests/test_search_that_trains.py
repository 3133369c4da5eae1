"""`hwnas search` with a searcher that trains: the weights it ends with, its course, resumed runs, and what goes wrong."""

from dataclasses import replace

import numpy as np
import pytest
from commands import copied, here

import hwnas
from hwnas import registry
from hwnas.errors import InputError, UnknownName
from hwnas.index import BlockIndex
from hwnas.report_plot import course_figures
from hwnas.report_words import course, named
from hwnas.run import RunDirectory
from hwnas.training.search_trainer import SearchTrainer
from hwnas.verbs.common import Job
from hwnas.verbs.resolve import evaluated
from hwnas.verbs.search import search
from tests.simulated_tables import simulated_table
from tests.test_report import REPORT
from tests.test_train import BARS

SPACE = "ofa_mini(resolutions=(16, 24), classes=2)"
ASKED = {"latency": "<= 70% p50", "evaluations": 4, "searcher": "proxylessnas", "options": ("rounds=3", "steps=2"), "threads": 1}


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "bars.py"
    path.write_text(BARS)
    return f"{path}:bars"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    index = BlockIndex(registry.create("spaces", SPACE))
    simulated_table(index, lambda total, layers, activations: 0.01 + 0.8 * total).save(folder)
    return folder


@pytest.fixture(scope="module")
def trained(bars, tmp_path_factory):
    """A supernet with separate paths after a few steps."""
    run = tmp_path_factory.mktemp("trained") / "run"
    hwnas.train(run, space=SPACE, data=bars, batch=16, length=0.2, sharing="paths", threads=1)
    return run


def test_paths_are_trained_one_at_a_time_each_with_its_own_weights(trained):
    with RunDirectory(trained, write=False) as run:
        job = Job(run)
        assert job.options("train")["schedule"] == "single_path" and job.options("train")["sharing"] == "paths" == job.supernet.sharing
        assert job.result("train")["steps"] == round(20 * 0.2 * 3)


@pytest.mark.parametrize("searcher", ["proxylessnas", "proxylessnas_reinforce"])
def test_accuracies_and_later_stages_are_of_the_weights_that_the_search_ended_with(searcher, trained, table, tmp_path):
    run = copied(trained, tmp_path / "run")
    found = search(run, table=table, **ASKED | {"searcher": searcher})
    assert found["weight_steps"] == 6 and found["evaluations"] == 4 and len(found["points"]) == 4
    assert all(point["latency_ms"] <= found["budget_ms"] for point in found["points"])
    assert [point["number"] for point in found["trace"]] == [0, 1, 2]
    assert {"entropy, nats", "expected latency, ms"} <= set(found["trace"][0]["values"])
    with RunDirectory(run, write=False) as directory:
        job = Job(directory)
        best = found["points"][0]
        codes = np.array([best["code"]], np.int16)
        assert job.accuracy(codes)[0] == best["accuracy_pct"]
        uniform = job.latency(job.index.space.sample(np.random.default_rng(0), 999)).mean()
        assert found["trace"][0]["values"]["expected latency, ms"] == pytest.approx(float(uniform), rel=0.05)
    with RunDirectory(trained, write=False) as before, RunDirectory(run, write=False) as after:
        weights = [Job(each).supernet.state() for each in (before, after)]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])
    assert search(run, table=table, **ASKED | {"searcher": searcher}) == found
    hwnas.solve(run, to=tmp_path / "solved", latency="<= 60% p50")
    with RunDirectory(tmp_path / "solved", write=False) as directory:
        job = Job(directory)
        assert all((tensor == weights[1][name]).all() for name, tensor in job.supernet.state().items())
        assert job.result("train")["validation_accuracy_pct"]["largest"] == job.accuracy(job.index.space.largest())[0]


def test_a_search_that_was_interrupted_goes_on_to_the_same_end(trained, table, tmp_path, monkeypatch):
    whole = search(copied(trained, tmp_path / "whole"), table=table, **ASKED)
    run, calls = copied(trained, tmp_path / "run"), []
    gradient = SearchTrainer.gradient

    def interrupted(self, gates, paths):
        calls.append(1)
        if len(calls) in (1, 3):
            raise KeyboardInterrupt
        return gradient(self, gates, paths)

    monkeypatch.setattr(SearchTrainer, "gradient", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search(run, table=table, **ASKED)
    resumed = search(run, table=table, **ASKED)
    assert len(calls) == 5
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0}  # the files, too: they are named by their hashes


def test_the_command_says_what_was_trained_and_how_the_search_went(trained, table, tmp_path):
    run = copied(trained, tmp_path / "run")
    asked = ("--latency", "<= 70% p50", "--searcher", "proxylessnas", "--set", "rounds=2", "--set", "steps=1", "--evaluations", 2)
    code, out, error = here("search", run, "--table", table, *asked, "--no-baselines", "--threads", 1)
    assert code == 0, error
    assert "trained for 2 more steps" in out and "course of the search, 2 points: validation loss" in out and "nats" in out


def test_subnets_that_were_measured_before_such_a_search_are_not_mixed_with_later_ones(trained, table, tmp_path):
    run = copied(trained, tmp_path / "run")
    hwnas.build_accuracy(run, samples=3, threads=1)
    search(run, table=table, baselines=False, **ASKED | {"evaluations": 1})
    assert hwnas.build_accuracy(run, samples=3, threads=1)["subnets"] == 3  # nothing is left to measure
    with pytest.raises(InputError, match="has trained the supernet on since"):
        hwnas.build_accuracy(run, samples=4, threads=1)
    with RunDirectory(run, write=False) as directory:
        known = evaluated(Job(directory))
        assert len(known.codes) == 1 and known.accuracy_pct[0] == Job(directory).accuracy(known.codes)[0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"device": "tpu"}, "must be cpu or cuda"),
        ({"accuracy_predictor": "best"}, "trains shared weights"),
        ({"options": ("rounds=0",)}, "rounds >= 1"),
    ],
)
def test_what_cannot_be_searched_is_refused(change, sentence, trained, table, tmp_path):
    with pytest.raises(InputError, match=sentence):
        search(copied(trained, tmp_path / "run"), table=table, **ASKED | change)


def test_without_a_supernet_there_is_nothing_to_train_and_no_folder(table, tmp_path):
    with pytest.raises(InputError, match="trains shared weights"):
        search(tmp_path / "run", table=table, space=SPACE, accuracy="my.py:f", **ASKED)
    assert not (tmp_path / "run").exists()


def test_sharings_that_do_not_go_together_are_refused(trained, bars, tmp_path):
    with pytest.raises(InputError, match="shared by paths; leave it out"):
        hwnas.train(tmp_path / "run", data=bars, init=trained, sharing="slices")
    with pytest.raises(UnknownName, match="no weight sharing named 'path'"):
        hwnas.train(tmp_path / "run", space=SPACE, data=bars, sharing="path")
    with pytest.raises(InputError, match="sorts channels"):
        hwnas.train(tmp_path / "run", space=SPACE, data=bars, sharing="paths", schedule="ofa")
    assert not (tmp_path / "run").exists()


TRACE = tuple(
    {"number": i, "evaluations": i, "best": None if i < 2 else 60.0 + i, "values": {"loss": 2.0 - i / 10, "entropy, nats": 9.0 - i}} for i in range(4)
)


def test_the_course_is_told_with_its_units_and_drawn_to_scale():
    assert named("expected latency, ms") == ("expected latency", "ms") and named("loss") == ("loss", "")
    assert course(TRACE) == "course of the search, 4 points: loss 2.00 to 1.70; entropy 9.00 to 6.00 nats; best so far 62.00 to 63.00 %"
    figures = course_figures(replace(REPORT, trace=TRACE), 320, 210)
    assert [(each.label, each.unit, each.last) for each in figures] == [("loss", "", 1.7), ("entropy", "nats", 6.0), ("best so far", "%", 63.0)]
    points = [tuple(map(float, each.split())) for each in figures[0].courses[0].line[1:].split("L")]
    assert len(points) == 4 and [x for x, _ in points] == [figures[0].x(i) for i in range(4)] and points[0][1] < points[-1][1]  # pixels grow downwards
