"""hwnas/executors/ray.py on a real local cluster of two workers: the same search, workers that are killed, devices that are leased.

Ray is started once for the whole session, which took 9 to 11 s on two busy cores; that is why all of its tests are in this file.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from worked_search import EVALUATIONS, Prepared, lines, search, text_of

from hwnas import registry
from hwnas.device import load_device
from hwnas.errors import InputError, MeasurementFailed
from hwnas.executors import ray as module
from hwnas.executors.ray import ray as ray_executor
from hwnas.index import BlockIndex
from hwnas.measured_latency import MeasuredLatency
from hwnas.profiling.meter import DeviceMeter
from hwnas.profiling.runtimes.onnxruntime import onnxruntime
from hwnas.run import RunDirectory
from hwnas.testing import check_executor
from hwnas.weights import random_weights

ray = pytest.importorskip("ray", reason="Ray is not installed, extra 'ray'")


@pytest.fixture(scope="session")
def cluster():
    """Two CPUs, and one device that nobody has."""
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])  # workers import what tests name
    began = time.monotonic()
    ray.init(address="local", num_cpus=2, resources={"device:board": 1}, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    print(f"Ray was started in {time.monotonic() - began:.1f} s")
    yield
    ray.shutdown()


@pytest.fixture
def executor(cluster):
    return lambda prepared: closing(ray_executor(prepared, 2))


def equal(first, second):
    return np.array_equal(first.codes, second.codes) and np.array_equal(first.scores.values, second.scores.values, equal_nan=True)


def test_ray_finds_what_one_process_finds_and_the_driver_alone_records(executor, tmp_path):
    prepared = Prepared(tmp_path / "side")
    with RunDirectory(tmp_path / "one") as run:
        whole = search(Prepared(tmp_path / "here", delay_s=0), run, pending=3)
    with executor(prepared) as made, RunDirectory(tmp_path / "run") as run:
        result = search(prepared, run, made, pending=3)
        bodies = sorted((event.body for event in run.events("search", "evaluated")), key=lambda body: body["number"])
    with RunDirectory(tmp_path / "one", write=False) as run:
        assert bodies == [event.body for event in run.events("search", "evaluated")]
    assert equal(result, whole) and len(lines(prepared.side)) == EVALUATIONS
    workers = {process for process, _ in lines(prepared.side)}
    assert len(workers) == 2 and str(os.getpid()) not in workers


def test_a_killed_workers_candidate_is_evaluated_again_by_ray_and_counted_once(executor, tmp_path):
    prepared, whole = Prepared(tmp_path / "side"), search(Prepared(tmp_path / "here", delay_s=0))
    doomed = text_of(whole.codes[3].tolist())
    (tmp_path / f"side.kill-{doomed}").touch()
    with executor(prepared) as made, RunDirectory(tmp_path / "run") as run:
        result = search(prepared, run, made, evaluations=24)
        bodies = [event.body for event in run.events("search", "evaluated")]
    begun = Counter(code for _, code in lines(prepared.side))
    assert {code: n for code, n in begun.items() if n > 1} == {doomed: 2} and sum(begun.values()) == 25
    assert sorted(body["number"] for body in bodies) == list(range(24)) and result.evaluations == 24
    assert np.array_equal(result.codes, whole.codes[:24]) and np.array_equal(result.scores.values, whole.scores.values[:24])


@pytest.mark.slow  # Ray starts three workers one after the other
def test_a_candidate_that_every_worker_of_ray_dies_over_has_failed(executor, tmp_path):
    prepared, whole = Prepared(tmp_path / "side"), search(Prepared(tmp_path / "here", delay_s=0), evaluations=16)
    doomed = text_of(whole.codes[9].tolist())
    (tmp_path / f"side.always-{doomed}").touch()
    with executor(prepared) as made, RunDirectory(tmp_path / "run") as run:
        result = search(prepared, run, made, evaluations=16)  # the first population
        bodies = [event.body for event in run.events("search", "evaluated")]
    assert [text_of(body["code"]) for body in bodies if body.get("error", "").startswith("3 workers died over this candidate")] == [doomed]
    assert sum(code == doomed for _, code in lines(prepared.side)) == 3 and len(bodies) == 16
    assert result.scores.failed.tolist() == [i == 9 for i in range(16)]


def test_what_an_evaluation_raises_in_a_worker_of_ray_is_raised_here(executor, tmp_path):
    prepared = Prepared(tmp_path / "side", fails="input")
    with executor(prepared) as made, pytest.raises(InputError, match="has no such thing"):
        search(prepared, executor=made, evaluations=4)


class Watch:
    """Stands on the node of a device: notes when it is used, and refuses where it is told to."""

    def __init__(self, side):
        self.side = side

    def use(self, who):
        with self.side.open("a") as file:
            file.write(f"{who} begins\n")
        time.sleep(0.2)
        with self.side.open("a") as file:
            file.write(f"{who} ends\n")
        return who

    def refuse(self):
        raise InputError("not this one")


def test_a_device_is_leased_to_one_at_a_time(cluster, tmp_path):
    side, answers = tmp_path / "side", []

    def measure(who):
        with closing(ray_executor(Prepared(tmp_path / "none"), 1)) as made:
            watch = made.lease("board", partial(Watch, side))
            answers.extend([watch.use(who), watch.use(who)])

    threads = [threading.Thread(target=measure, args=(who,)) for who in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    first, second = answers[0], answers[-1]
    assert {first, second} == {"a", "b"}
    assert side.read_text().split("\n")[:-1] == [f"{who} {what}" for who in (first, first, second, second) for what in ("begins", "ends")]


def test_what_a_leased_device_raises_is_raised_here_and_one_that_is_nowhere_is_refused(cluster, tmp_path):
    with closing(ray_executor(Prepared(tmp_path / "none"), 1)) as made:
        with pytest.raises(MeasurementFailed, match=r"what measures on board cannot be started there: .*KeyError"):
            made.lease("board", partial({}.__getitem__, "nothing"))
        with pytest.raises(InputError, match="not this one"):
            made.lease("board", partial(Watch, tmp_path / "side")).refuse()
        with pytest.raises(InputError, match=r"no node of this Ray cluster has the device pixel6; .* --resources='\{\"device:pixel6\": 1\}'"):
            made.lease("pixel6", partial(Watch, tmp_path / "side"))


def test_real_networks_are_measured_in_onnx_runtime_where_the_device_is(cluster, tmp_path):
    index, device = BlockIndex(registry.create("spaces", "ofa_mini")), replace(load_device("localhost"), name="board")
    space = index.space

    def build(code):
        graph = space.lower(code[0])
        return onnxruntime().build(graph, random_weights(graph, np.random.default_rng(0))), graph

    with closing(ray_executor(Prepared(tmp_path / "none"), 1)) as made:
        assert made.has("board") and not made.has("pixel6")
        meter = partial(made.lease, "board", partial(DeviceMeter, device, "onnxruntime", threads=1, seconds=0.3))
        metric = MeasuredLatency(index, build, meter)
        small, large = metric(np.asfortranarray(np.concatenate([space.smallest(), space.largest()])))
        assert 0 < small < large and metric.summary()["where"].startswith("board/onnxruntime-")
        metric.close()


def test_ray_keeps_the_contract_of_executors(cluster):
    check_executor("ray")


def test_a_device_that_is_leased_to_others_for_too_long_is_held(cluster, tmp_path, monkeypatch):
    with closing(ray_executor(Prepared(tmp_path / "none"), 1)) as holder, closing(ray_executor(Prepared(tmp_path / "none"), 1)) as made:
        holder.lease("board", partial(Watch, tmp_path / "side"))
        monkeypatch.setattr(module, "_LEASE_S", 1.0)
        with pytest.raises(InputError, match="board was leased to others for 1 s"):
            made.lease("board", partial(Watch, tmp_path / "side"))


def test_arguments_that_cannot_be(cluster):
    with pytest.raises(InputError, match="cpus >= 1, got 0"):
        ray_executor(Prepared(Path(os.devnull)), 1, cpus=0)


def with_mark(mark):
    """Processes that inherited the environment of whoever was started with this mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"HWNAS_MARK={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


@pytest.mark.slow  # starts a cluster of its own
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_ctrl_c_ends_a_cluster_that_the_search_has_started_and_leaves_no_process(tmp_path):
    script, side, mark = Path(__file__).with_name("worked_search.py"), tmp_path / "side", uuid4().hex
    command = [sys.executable, str(script), str(tmp_path / "run"), str(side), "2", "ray"]
    environment = {**os.environ, "HWNAS_MARK": mark, "PYTHONPATH": os.pathsep.join([str(script.parent), str(script.parents[1])])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        end = time.monotonic() + 120
        while len(lines(side)) < 12 and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert len(with_mark(mark)) > 3  # Ray's own, and two workers
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=120)
        assert process.returncode == 130
    end = time.monotonic() + 30
    while with_mark(mark) and time.monotonic() < end:
        time.sleep(0.05)
    assert with_mark(mark) == []
    with RunDirectory(tmp_path / "run") as run:
        assert 0 < len(run.events("search", "evaluated")) < EVALUATIONS
        resumed = search(Prepared(tmp_path / "here", delay_s=0), run, pending=3)
    assert equal(resumed, search(Prepared(tmp_path / "here", delay_s=0), pending=3))
