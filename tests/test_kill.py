"""Searches killed with SIGKILL and resumed: nothing that was acknowledged is lost or paid for again, and the end is the same."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hwnas.run import RunDirectory
from hwnas.store import Store

SCRIPT = Path(__file__).with_name("killed_search.py")
EVALUATIONS = 60

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is POSIX")


def started(folder, side, *death):
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder), str(side), *map(str, death)], stderr=subprocess.PIPE, text=True)


def lines(side):
    return side.read_text().split() if side.exists() else []


def recorded(folder):
    """Codes of the acknowledged evaluations, in order."""
    if not (folder / "run.sqlite").exists():
        return []
    with RunDirectory(folder, write=False) as run:
        return ["".join(map(str, event.body["code"])) for event in run.events("search", "evaluated")]


def whole_log(folder):
    with Store(folder / "run.sqlite", write=False) as store:
        return store.events()


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    with started(folder / "run", folder / "side") as process:
        assert process.wait() == 0, process.stderr.read()
    assert len(lines(folder / "side")) == EVALUATIONS == len(set(lines(folder / "side")))
    assert recorded(folder / "run") == lines(folder / "side")
    return whole_log(folder / "run")


def test_killed_at_chosen_points_every_candidate_is_paid_for_once_but_those_in_flight(golden, tmp_path):
    """A kill costs the evaluation that was running or not yet recorded, and nothing else."""
    folder, side = tmp_path / "run", tmp_path / "side"
    lost = 0
    for where, count, in_flight in (("evaluating", 1, 1), ("recorded", 9, 0), ("evaluated", 12, 1), ("recorded", 2, 0), ("evaluating", 20, 1)):
        with started(folder, side, where, count) as process:
            assert process.wait() == -signal.SIGKILL, process.stderr.read()
        lost += in_flight
        assert len(lines(side)) == len(recorded(folder)) + lost
    with started(folder, side) as process:
        assert process.wait() == 0, process.stderr.read()
    assert whole_log(folder) == golden
    paid = Counter(lines(side))
    assert len(paid) == EVALUATIONS and sum(paid.values()) == EVALUATIONS + lost


def test_killed_at_random_moments_the_log_ends_as_if_nothing_had_happened(golden, tmp_path):
    folder, side = tmp_path / "run", tmp_path / "side"
    rng = np.random.default_rng()
    kills = 0
    for _ in range(6):
        before, acknowledged = len(lines(side)), set(recorded(folder))
        with started(folder, side) as process:
            while process.poll() is None and len(lines(side)) < before + 3:
                time.sleep(0.002)
            time.sleep(float(rng.uniform(0, 0.03)))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        assert not acknowledged & set(lines(side)[before:])  # what was acknowledged before is not paid for again
    assert kills >= 3
    with started(folder, side) as process:
        assert process.wait() == 0, process.stderr.read()
    assert whole_log(folder) == golden
    assert len(set(lines(side))) == EVALUATIONS and len(lines(side)) <= EVALUATIONS + kills
