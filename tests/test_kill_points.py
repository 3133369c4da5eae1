"""Profile, training and search killed again and again, fifty times in all, each a moment before or after something is written: nothing acknowledged is
lost or paid for again, and a search or training that is resumed ends event for event as one that was never interrupted."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from itertools import chain, count, islice, repeat
from pathlib import Path

import pytest

from hwnas.latency_table import LatencyTable
from hwnas.store import Store

pytest.importorskip("sklearn", reason="the data set cluttered_digits comes with scikit-learn, extra 'demo'")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children that die are forked, which is POSIX")

SCRIPT = Path(__file__).with_name("killed_main_job.py")
VISITS = 6  # as in the script
MOST_RUNS = 60


@pytest.fixture(scope="module")
def child():
    """A function (stage, folder, point) -> exit code of the stage, negative where a signal ended it."""
    with subprocess.Popen([sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline() == "ready\n"

        def run(stage, folder, point=0):
            process.stdin.write(f"{stage} {folder} {point}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield run
        process.stdin.close()


@pytest.fixture(scope="module")
def golden(child, tmp_path_factory):
    """The whole job, never interrupted."""
    folder = tmp_path_factory.mktemp("golden")
    assert [child(stage, folder) for stage in ("profile", "train", "search")] == [0, 0, 0]
    return folder


def events(path):
    """(kind, body) of all events, without wall times."""
    if not path.exists() or path.stat().st_size == 0:
        return []
    with Store(path, write=False) as store:
        return [(each.kind, _timeless(each.body)) for each in store.events()]


def _timeless(body):
    if not isinstance(body, dict):
        return body
    curve = [{**point, "images_per_s": 0} for point in body.get("curve", [])]
    return {key: value for key, value in body.items() if key != "seconds"} | ({"curve": curve} if curve else {})


def killed_again_and_again(child, stage, folder, log, points):
    """Kills at these points of one run after the other, until it comes to its end; how many. The log after each must continue the log before."""
    kills = 0
    for point in islice(points, MOST_RUNS):
        before = events(log)
        code = child(stage, folder, point)
        after = events(log)
        assert after[: len(before)] == before, f"kill {kills} of {stage} lost what was acknowledged"
        if code == 0:
            return kills
        assert code == -signal.SIGKILL
        kills += 1
    raise AssertionError(f"{stage} does not get on: killed {kills} times")


def test_a_profile_killed_while_it_writes_measures_nothing_twice(child, golden, tmp_path):
    """Killed before the first write, and then after every single one."""
    folder = tmp_path / "job"
    log = folder / "table" / "profile.sqlite"
    kills = killed_again_and_again(child, "profile", folder, log, chain([1, 1], repeat(2)))
    assert kills >= 5
    made = Counter(visit[0] for kind, body in events(log) if kind == "visits" for visit in body["visits"])
    assert all(count == VISITS if item[0] == "n" else VISITS <= count <= 2 * VISITS for item, count in made.items())
    table, whole = LatencyTable.load(folder / "table"), LatencyTable.load(golden / "table")
    assert set(table.entries) == set(whole.entries) and len(table.networks) == len(whole.networks) == 8


def test_a_training_killed_while_it_writes_ends_in_the_same_weights(child, golden, tmp_path):
    """A checkpoint is two blobs and an event; the k-th run dies at point k."""
    folder = tmp_path / "job"
    kills = killed_again_and_again(child, "train", folder, folder / "run" / "run.sqlite", count(1))
    assert kills >= 6
    whole = [event for event in events(golden / "run" / "run.sqlite") if event[0].startswith("train/")]
    assert events(folder / "run" / "run.sqlite") == whole  # the result names the weights by their hash


@pytest.mark.parametrize("point", [2, 3], ids=["after every write", "before every second write"])
def test_a_search_killed_while_it_writes_ends_event_for_event_the_same(child, golden, tmp_path, point):
    """Killed nine times while it keeps its table and its options, then at every evaluation."""
    folder = tmp_path / "job"
    shutil.copytree(golden / "table", folder / "table")
    shutil.copytree(golden / "run" / "blobs", folder / "run" / "blobs")
    with Store(golden / "run" / "run.sqlite", write=False) as store, Store(folder / "run" / "run.sqlite") as copy:
        for event in store.events():
            if event.kind.startswith("train/"):
                copy.append(event.kind, event.body)
    kills = killed_again_and_again(child, "search", folder, folder / "run" / "run.sqlite", chain(range(1, 10), repeat(point)))
    assert kills >= 16
    assert events(folder / "run" / "run.sqlite") == events(golden / "run" / "run.sqlite")
