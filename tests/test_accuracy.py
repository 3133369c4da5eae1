"""`hwnas accuracy`: accuracies of subnets that no kill loses."""

import csv
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import copied, environment, here

import hwnas
from hwnas.errors import DamagedFile, InputError
from hwnas.run import RunDirectory
from hwnas.verbs.accuracy import measured
from hwnas.verbs.common import Job, cost_metrics

SAMPLES = 8


def kept(run):
    """(code, accuracy) of everything that is recorded, in order."""
    with RunDirectory(run, write=False) as directory:
        return [(tuple(event.body["code"]), event.body["values"][0]) for event in directory.events("accuracy", "evaluated")]


@pytest.fixture(scope="module")
def built(trained, tmp_path_factory):
    run = copied(trained, tmp_path_factory.mktemp("built") / "run")
    code, out, error = here("accuracy", "build", run, "--samples", SAMPLES, "--threads", 1)
    assert code == 0, error
    assert f"{SAMPLES} subnets measured" in out
    return run


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
    command = [sys.executable, "-m", "hwnas", "accuracy", "build", str(run), "--samples", str(SAMPLES), "--threads", "1"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and len(kept(run)) < 2:
            time.sleep(0.02)
        process.kill()
    killed = kept(run)
    assert len(killed) >= 2
    assert hwnas.build_accuracy(run, samples=SAMPLES, threads=1)["subnets"] == SAMPLES
    assert kept(run)[: len(killed)] == killed and kept(run) == kept(built)


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
        ({"code": [99] * 28, "values": [50.0]}, "are not of ofa_mini"),
        ({"code": "00", "values": [50.0]}, "code is no list"),
        ({"code": [0] * 28, "values": ["50"]}, r"values\[0\] is '50'"),
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
