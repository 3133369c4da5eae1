"""Candidates evaluated by processes of this machine: the same search whoever evaluates, whatever dies meanwhile."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from commands import copied
from simulated_tables import simulated_table
from worked_search import EVALUATIONS, Prepared, lines, search, text_of

import hwnas
from hwnas import registry
from hwnas.costs import macs
from hwnas.errors import CheckFailed, InputError
from hwnas.executor import InProcess
from hwnas.executors.processes import processes
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.run import RunDirectory
from hwnas.testing import check_executor

SCRIPT = Path(__file__).with_name("worked_search.py")

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is POSIX")


def equal(first, second):
    return np.array_equal(first.codes, second.codes) and np.array_equal(first.scores.values, second.scores.values, equal_nan=True)


def recorded(folder):
    """Bodies of the recorded evaluations by number; each is there once."""
    with RunDirectory(folder, write=False) as run:
        bodies = [event.body for event in run.events("search", "evaluated")]
    by_number = {body["number"]: body for body in bodies}
    assert len(by_number) == len(bodies)
    return by_number


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """What the search finds in one process, without answers that are waited for, and with some: (result, records) by `pending`."""
    folder, found = tmp_path_factory.mktemp("golden"), {}
    for pending in (0, 3):
        with RunDirectory(folder / f"run{pending}") as run:
            result = search(Prepared(folder / "side", delay_s=0), run, pending=pending)
        found[pending] = result, recorded(folder / f"run{pending}")
    return found


@pytest.mark.parametrize("pending", [0, 3])
def test_four_processes_find_what_one_finds(golden, tmp_path, pending):
    prepared = Prepared(tmp_path / "side")
    with closing(processes(prepared, 4)) as executor, RunDirectory(tmp_path / "run") as run:
        result = search(prepared, run, executor, pending=pending)
    whole, records = golden[pending]
    assert equal(result, whole) and recorded(tmp_path / "run") == records
    workers = {process for process, _ in lines(prepared.side)}
    assert len(workers) == 4 and str(os.getpid()) not in workers
    assert len(lines(prepared.side)) == EVALUATIONS


def test_a_killed_workers_candidate_is_evaluated_again_and_counted_once(golden, tmp_path):
    prepared, (whole, records) = Prepared(tmp_path / "side"), golden[3]
    doomed = [text_of(whole.codes[i].tolist()) for i in (0, 7, 30)]
    for code in doomed:
        (tmp_path / f"side.kill-{code}").touch()
    with closing(processes(prepared, 2)) as executor, RunDirectory(tmp_path / "run") as run:
        result = search(prepared, run, executor, pending=3)
    assert equal(result, whole) and recorded(tmp_path / "run") == records and result.evaluations == EVALUATIONS
    begun = Counter(code for _, code in lines(prepared.side))
    assert {code for code, n in begun.items() if n == 2} == set(doomed) and sum(begun.values()) == EVALUATIONS + len(doomed)


def test_a_candidate_that_every_worker_dies_over_has_failed_and_the_search_goes_on(golden, tmp_path):
    prepared, (whole, _) = Prepared(tmp_path / "side"), golden[0]
    doomed = text_of(whole.codes[2].tolist())
    (tmp_path / f"side.always-{doomed}").touch()
    with closing(processes(prepared, 2)) as executor, RunDirectory(tmp_path / "run") as run:
        result = search(prepared, run, executor)
    failed = [body for body in recorded(tmp_path / "run").values() if body.get("error")]
    assert [(text_of(body["code"]), body["values"]) for body in failed] == [(doomed, [None])]
    assert failed[0]["error"] == "3 workers died over this candidate, the last one by signal 9"
    assert sum(code == doomed for _, code in lines(prepared.side)) == 3
    assert result.evaluations == EVALUATIONS and result.scores.failed.sum() == 1


def test_what_a_worker_may_raise(tmp_path):
    prepared = Prepared(tmp_path / "side", fails="measurement")
    with closing(processes(prepared, 2)) as executor:
        result = search(prepared, executor=executor, evaluations=8)
    assert np.array_equal(result.scores.failed, result.codes[:, 0] == 0) and result.scores.failed.any()
    for fails, error, words in (("input", InputError, "has no such thing"), ("bug", RuntimeError, "ZeroDivisionError: a bug")):
        prepared = Prepared(tmp_path / "side", fails=fails)
        with closing(processes(prepared, 2)) as executor, pytest.raises(error, match=words):
            search(prepared, executor=executor, evaluations=8)


def test_what_cannot_be_taken_to_a_worker_is_refused():
    with closing(processes(lambda: None, 1)) as executor, pytest.raises(InputError, match=r"a worker cannot be started: .* named by a module"):
        search(Prepared(Path(os.devnull)), executor=executor, evaluations=4)


def test_executors_are_named_like_other_things():
    assert {"processes", "ray"} <= set(registry.names("executors"))
    with closing(registry.create("executors", "processes", Prepared(Path(os.devnull)), 2)) as executor:
        assert not isinstance(executor, InProcess)


def test_processes_keep_the_contract_of_executors(tmp_path):
    check_executor("processes")
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    with pytest.raises(CheckFailed, match="with pending=0 a search ends elsewhere than in one process"):
        check_executor(f"{tmp_path / 'forgetful.py'}:forgetful")


FORGETFUL = """
from hwnas.executor import Completion, InProcess


class Forgetful(InProcess):
    def wait(self):
        completion = super().wait()
        return Completion(completion.number, None if completion.number % 5 == 4 else completion.values)


def forgetful(prepare, workers):
    return Forgetful()
"""


# -- processes that are left --------------------------------------------------------------------------------------------------------


def started(tmp_path, workers=3):
    command = [sys.executable, str(SCRIPT), str(tmp_path / "run"), str(tmp_path / "side"), str(workers)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def is_gone(group):
    """Whether no process of that group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("how", ["to the terminal", "to the command"])
def test_ctrl_c_leaves_no_process_and_the_same_command_goes_on(golden, tmp_path, how):
    with started(tmp_path) as process:
        until(lambda: len({worker for worker, _ in lines(tmp_path / "side")}) == 3 and len(lines(tmp_path / "side")) > 12)
        (os.killpg if how == "to the terminal" else os.kill)(process.pid, signal.SIGINT)
        assert process.wait(60) == 130 and process.stderr.read() == ""
        until(lambda: is_gone(process.pid))
    before = recorded(tmp_path / "run")
    assert 0 < len(before) < EVALUATIONS
    prepared = Prepared(tmp_path / "side2")
    with RunDirectory(tmp_path / "run") as run:
        result = search(prepared, run, pending=3)  # by this process
    assert equal(result, golden[3][0]) and recorded(tmp_path / "run") == golden[3][1]
    assert len(lines(prepared.side)) == EVALUATIONS - len(before)


def test_workers_end_with_a_command_that_is_killed(tmp_path):
    with started(tmp_path) as process:
        until(lambda: len({worker for worker, _ in lines(tmp_path / "side")}) == 3)
        process.kill()
        process.wait()
        until(lambda: is_gone(process.pid))


# -- a supernet -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # each worker imports PyTorch, reads the images, and re-calibrates
def test_two_processes_find_of_a_supernet_what_one_finds(trained, demo, tmp_path):
    asked = {"table": demo.folder / "table", "latency": "<= 900ms p50", "evaluations": 8, "options": ["population=4", "tournament=2"], "threads": 1}
    found = [hwnas.search(copied(trained, tmp_path / str(workers)), **asked, workers=workers) for workers in (1, 2)]
    assert found[0]["points"] == found[1]["points"] and found[0]["baselines"] == found[1]["baselines"]
    assert recorded(tmp_path / "1") == recorded(tmp_path / "2")
    with pytest.raises(InputError, match="trains the weights that it evaluates by"):
        hwnas.search(copied(trained, tmp_path / "3"), **asked | {"options": [], "searcher": "proxylessnas"}, workers=2)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"workers": 0}, "--workers is 0, it must be from 1 to 1,024"), ({"executor": "nowhere"}, "no executor named 'nowhere'")],
)
def test_workers_that_cannot_be(tmp_path, given, words):
    with pytest.raises(InputError, match=words):
        hwnas.search(tmp_path / "run", table=tmp_path, latency="<= 1ms", **given)


def test_workers_are_refused_where_there_is_nothing_for_them(tmp_path):
    index = BlockIndex(registry.create("spaces", "ofa_mini"))
    simulated_table(index, lambda total, layers, activations: 0.01 + 0.8 * total).save(tmp_path / "table")
    asked = {"table": tmp_path / "table", "latency": "<= 60% p50", "space": "ofa_mini", "workers": 2}
    cheap = Additive(index, macs(index.blocks), name="accuracy", unit="%")
    with pytest.raises(InputError, match="this accuracy is predicted here at once; leave them out"):
        hwnas.search(tmp_path / "run", **asked, accuracy=cheap)
    cheap.expensive = True
    with pytest.raises(InputError, match=r"name it as 'path\.py:function' to evaluate it in workers"):
        hwnas.search(tmp_path / "run2", **asked, accuracy=cheap)
    assert not (tmp_path / "run").exists() and not (tmp_path / "run2").exists()
