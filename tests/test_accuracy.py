"""`hwnas accuracy`: accuracies of subnets that no kill loses, and predictors of them, compared and searched by."""

import csv
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import copied, environment, here
from simulated_tables import simulated_table

import hwnas
from hwnas.errors import DamagedFile, InputError
from hwnas.run import RunDirectory
from hwnas.verbs.accuracy import measured
from hwnas.verbs.common import Job, cost_metrics

SAMPLES = 20  # of the fixture `built`
KILLED = 6


def kept(run):
    """(code, accuracy) of everything that is recorded, in order."""
    with RunDirectory(run, write=False) as directory:
        return [(tuple(event.body["code"]), event.body["values"][0]) for event in directory.events("accuracy", "evaluated")]


def test_accuracies_are_those_of_the_supernet_of_distinct_subnets_from_the_smallest_to_the_largest(built):
    with RunDirectory(built, write=False) as directory:
        job = Job(directory)
        codes, values = measured(job)
        assert len(codes) == SAMPLES == len(set(job.index.keys(codes)))
        assert (codes[:1] == job.index.space.smallest()).all() and (codes[1:2] == job.index.space.largest()).all()
        ends = job.result("train")["validation_accuracy_pct"]
        assert values[:2].tolist() == [ends["smallest"], ends["largest"]]
        assert values[4:6].tolist() == job.accuracy(codes[4:6]).tolist()


def test_the_file_for_people_says_the_same(built):
    with (built / "accuracies.csv").open() as file:
        rows = list(csv.DictReader(file))
    with RunDirectory(built, write=False) as directory:
        job = Job(directory)
        codes, values = measured(job)
        assert [float(row["accuracy_pct"]) for row in rows] == pytest.approx(values.tolist(), rel=1e-5)
        assert [int(row["macs"]) for row in rows] == cost_metrics(job.index)["macs"](codes).tolist()
        last = {name: str(value) for name, value in job.index.space.decode(codes[-1]).items()}
        assert {name: rows[-1][name] for name in last} == last


def test_more_samples_are_added_and_fewer_take_none_away(built, tmp_path):
    run = copied(built, tmp_path / "run")
    before = kept(run)
    assert hwnas.build_accuracy(run, samples=SAMPLES + 2, threads=1)["subnets"] == SAMPLES + 2
    assert kept(run)[:SAMPLES] == before
    assert hwnas.build_accuracy(run, samples=3, threads=1)["subnets"] == SAMPLES + 2


def test_another_seed_for_the_same_run_is_refused(built, tmp_path):
    with pytest.raises(InputError, match="was begun with accuracy seed = 0, and now it is 1"):
        hwnas.build_accuracy(copied(built, tmp_path / "run"), samples=SAMPLES, seed=1)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is POSIX")
def test_a_kill_loses_no_accuracy_that_was_acknowledged_and_measures_none_again(built, trained, tmp_path):
    run = copied(trained, tmp_path / "run")
    command = [sys.executable, "-m", "hwnas", "accuracy", "build", str(run), "--samples", str(KILLED), "--threads", "1"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and len(kept(run)) < 2:
            time.sleep(0.02)
        process.kill()
    killed = kept(run)
    assert len(killed) >= 2
    assert hwnas.build_accuracy(run, samples=KILLED, threads=1)["subnets"] == KILLED
    assert kept(run)[: len(killed)] == killed and kept(run) == kept(built)[:KILLED]


def test_what_was_not_trained_or_is_not_there_is_refused_with_the_command_to_run(tmp_path):
    with pytest.raises(InputError, match="is no run; begin one with: hwnas train"):
        hwnas.build_accuracy(tmp_path / "nothing")
    with RunDirectory(tmp_path / "begun") as directory:
        directory.append("other", "thing", {})
    with pytest.raises(InputError, match=r"train of .* has not come to its end; run: hwnas train"):
        hwnas.build_accuracy(tmp_path / "begun")
    with pytest.raises(InputError, match="--samples is 0, it must be from 1 to 100,000"):
        hwnas.build_accuracy(tmp_path / "begun", samples=0)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"code": [1, 2], "values": [50.0]}, "are not of ofa_mini"),
        ({"code": [99] * 22, "values": [50.0]}, "are not of ofa_mini"),
        ({"code": "00", "values": [50.0]}, "code is no list"),
        ({"code": [0] * 22, "values": ["50"]}, r"values\[0\] is '50'"),
    ],
)
def test_a_forged_accuracy_is_refused(built, tmp_path, body, words):
    with RunDirectory(copied(built, tmp_path / "run")) as directory:
        directory.append("accuracy", "evaluated", body)
        with pytest.raises(DamagedFile, match=words):
            measured(Job(directory))


def test_failed_evaluations_are_no_data(built, tmp_path):
    with RunDirectory(copied(built, tmp_path / "run")) as directory:
        job = Job(directory)
        directory.append("accuracy", "evaluated", {"code": np.zeros(len(job.index.space.choices), int), "values": [None]})
        assert len(measured(job)[0]) == SAMPLES


def test_predictors_are_compared_on_subnets_left_out_beside_macs_and_parameters(built):
    before = kept(built)
    found = hwnas.report_accuracy(built, predictors=["ridge", "gaussian_process"])
    assert {row["predictor"]: row["baseline"] for row in found["predictors"]} == {"ridge": False, "gaussian_process": False, "macs": True, "params": True}
    assert found["subnets"] == SAMPLES and found["best"] in ("ridge", "gaussian_process") and kept(built) == before
    for row in found["predictors"]:
        assert row["subnets"] == SAMPLES and row["mae"]["low"] <= row["mae"]["value"] <= row["mae"]["high"] and 0 <= row["coverage"]["value"] <= 1
    values = [row["kendall"]["value"] for row in found["predictors"]]
    assert values == sorted(values, reverse=True)
    code, out, error = here("accuracy", "report", built, "--predictor", "ridge")
    assert code == 0 and "macs (baseline)" in out and out.endswith("--accuracy-predictor ridge\n"), error


def test_a_predictor_of_ones_own_is_compared_too_and_one_that_is_none_is_refused(built, tmp_path):
    (tmp_path / "mine.py").write_text("from hwnas.accuracy_predictors.macs import macs as mine\n")
    found = hwnas.report_accuracy(built, predictors=[f"{tmp_path}/mine.py:mine"])
    rows = {row["predictor"]: row for row in found["predictors"]}
    assert rows[f"{tmp_path}/mine.py:mine"]["kendall"] == rows["macs"]["kendall"]
    with pytest.raises(InputError, match="no predictor of accuracy named 'rigde'; did you mean 'ridge'"):
        hwnas.report_accuracy(built, predictors=["rigde"])


def test_a_search_by_predictor_measures_what_it_proposes_and_is_compared_at_equal_cost(built, tmp_path):
    run = copied(built, tmp_path / "run")
    with RunDirectory(run, write=False) as directory:
        index = Job(directory).index
    simulated_table(index, lambda total, layers, activations: 0.01 + 0.8 * total).save(tmp_path / "table")
    asked = {"table": tmp_path / "table", "latency": "<= 80% p50", "accuracy_predictor": "additive", "evaluations": 4, "threads": 1}
    found = hwnas.search(run, **asked, searcher="exact", options=["candidates=4"])
    assert found["predictor"] == {"name": "additive", "samples": SAMPLES, "measured": 4, "error_points": found["predictor"]["error_points"]}
    assert found["accuracy_origin"] == "measured" and found["evaluations"] == SAMPLES + 4 == found["baselines"]["random"]["evaluations"]
    assert len(found["points"]) == 4 and all(point["latency_ms"] <= found["budget_ms"] for point in found["points"])
    with RunDirectory(run, write=False) as directory:
        job = Job(directory)
        best = np.asfortranarray([found["points"][0]["code"]], np.int16)
        assert found["points"][0]["accuracy_pct"] == job.accuracy(best)[0]
        assert len(job.run.events("search", "proposed")) == 1
    assert hwnas.search(run, **asked, searcher="exact", options=["candidates=4"]) == found
    with pytest.raises(InputError, match="was begun with search accuracy_predictor = additive, and now it is ridge"):
        hwnas.search(run, **{**asked, "accuracy_predictor": "ridge"}, searcher="exact", options=["candidates=4"])


def test_a_search_that_was_killed_measures_the_proposal_that_it_had_recorded(built, tmp_path):
    run = copied(built, tmp_path / "run")
    with RunDirectory(run) as directory:
        index = Job(directory).index
        proposal = np.concatenate([index.space.smallest(), index.space.sample(np.random.default_rng(5), 2)])
        directory.append("search", "proposed", {"predictor": "ridge", "samples": SAMPLES, "codes": proposal, "predicted_pct": [10.0, 20.0, 30.0]})
    simulated_table(index, lambda total, layers, activations: 0.01 + 0.8 * total).save(tmp_path / "table")
    found = hwnas.search(run, table=tmp_path / "table", latency="<= 900ms p50", accuracy_predictor="ridge", evaluations=3, baselines=False, threads=1)
    assert sorted(point["code"] for point in found["points"]) == sorted(proposal.tolist())
    measured_pct = {tuple(point["code"]): point["accuracy_pct"] for point in found["points"]}
    off = [abs(measured_pct[tuple(code)] - said) for code, said in zip(proposal.tolist(), (10.0, 20.0, 30.0), strict=True)]
    assert found["predictor"]["error_points"] == pytest.approx(np.mean(off))


@pytest.mark.parametrize(
    ("codes", "predicted", "words"),
    [([[1, 2]], [50.0], "are not of ofa_mini"), ([], [], "are 0, with 0 predictions"), ([[0] * 22], [50.0, 60.0], "are 1, with 2 predictions")],
)
def test_a_forged_proposal_is_refused(built, tmp_path, codes, predicted, words):
    run = copied(built, tmp_path / "run")
    with RunDirectory(run) as directory:
        index = Job(directory).index
        assert len(index.space.choices) == 22
        directory.append("search", "proposed", {"predictor": "ridge", "samples": SAMPLES, "codes": codes, "predicted_pct": predicted})
    simulated_table(index, lambda total, layers, activations: 0.01 + 0.8 * total).save(tmp_path / "table")
    with pytest.raises(DamagedFile, match=words):
        hwnas.search(run, table=tmp_path / "table", latency="<= 900ms p50", accuracy_predictor="ridge", evaluations=3, baselines=False, threads=1)


def test_a_search_by_predictor_without_data_is_refused_and_records_nothing(trained, tmp_path):
    run = copied(trained, tmp_path / "run")
    with RunDirectory(run, write=False) as directory:
        index = Job(directory).index
    simulated_table(index, lambda total, layers, activations: 0.01 + 0.8 * total).save(tmp_path / "table")
    asked = {"table": tmp_path / "table", "latency": "<= 80% p50"}
    with pytest.raises(InputError, match="got 0; measure some with: hwnas accuracy build"):
        hwnas.search(run, **asked, accuracy_predictor="best")
    with pytest.raises(InputError, match="no predictor of accuracy named 'nonsense'"):
        hwnas.search(run, **asked, accuracy_predictor="nonsense")
    with pytest.raises(InputError, match="name one of them"):
        hwnas.search(run, **asked, accuracy_predictor="ridge", space="ofa_mini", accuracy="accuracy_mlp(file='x')")
    with RunDirectory(run, write=False) as directory:
        assert directory.recorded_options("search") is None
