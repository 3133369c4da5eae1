"""hwnas/verbs/solve.py and resolve.py: new budgets from what a run has evaluated, and what is said of the accuracies."""

import json

import numpy as np
import pytest
from commands import copied, here

import hwnas
from hwnas import registry
from hwnas.budget import Budget
from hwnas.costs import macs, params
from hwnas.errors import DamagedFile, Infeasible, InputError
from hwnas.exact import solve as exact
from hwnas.index import BlockIndex
from hwnas.latency_table import LatencyTable
from hwnas.predictor import Additive
from hwnas.predictors.calibrated import calibrated
from hwnas.run import RunDirectory
from hwnas.verbs.common import Job
from hwnas.verbs.resolve import evaluated, fed, latest_table, solved
from tests.simulated_tables import simulated_table

SPACE = "ofa_mini(resolutions=(24,))"
INDEX = BlockIndex(registry.create("spaces", SPACE))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    simulated_table(INDEX, lambda total, layers, activations: 0.01 + 0.8 * total).save(folder)
    return folder


@pytest.fixture(scope="module")
def slower(tmp_path_factory):
    """Another device: activations cost more there."""
    folder = tmp_path_factory.mktemp("slower")
    simulated_table(INDEX, lambda total, layers, activations: 0.02 + total + activations / 2e5).save(folder)
    return folder


@pytest.fixture(scope="module")
def searched(trained, table, tmp_path_factory):
    """A run whose supernet was trained and searched; copy it before it is written."""
    run = copied(trained, tmp_path_factory.mktemp("searched") / "run")
    hwnas.search(run, table=table, latency="<= 80% p50", evaluations=16, options=("population=4", "tournament=2"), threads=1)
    return run


def test_a_new_budget_is_answered_with_measured_and_predicted_accuracies(searched, tmp_path):
    before = {path: path.read_bytes() for path in searched.rglob("*") if path.is_file() and path.name != "run.lock"}
    found = hwnas.solve(searched, to=tmp_path / "new", latency="<= 60% p50")
    assert {path: path.read_bytes() for path in before} == before  # the run itself is as it was
    origins = {point["accuracy_origin"] for point in found["points"]}
    assert origins == {"measured", "predicted"} and found["accuracy_origin"] == "measured"
    assert all(point["latency_ms"] <= found["budget_ms"] for point in found["points"])
    known = evaluated(Job(RunDirectory(searched, write=False)))
    assert known.origin == "measured" and found["evaluations"] == len(known.codes)
    by_key = dict(zip(INDEX.keys(known.codes), known.accuracy_pct, strict=True))
    measured = [point for point in found["points"] if point["accuracy_origin"] == "measured"]
    assert measured and all(by_key[INDEX.keys(np.asfortranarray([point["code"]], np.int16))[0]] == point["accuracy_pct"] for point in measured)
    predicted = [point for point in found["points"] if point["accuracy_origin"] == "predicted"]
    assert not set(by_key) & set(INDEX.keys(np.asfortranarray([point["code"] for point in predicted], np.int16)))
    assert found["surrogate"]["samples"] == len(known.codes)
    assert hwnas.solve(searched, to=tmp_path / "new", latency="<= 60% p50") == found
    with pytest.raises(InputError, match="was begun with search latency = <= 60% p50, and now it is <= 50% p50"):
        hwnas.solve(searched, to=tmp_path / "new", latency="<= 50% p50")


def test_the_new_run_has_the_weights_and_can_be_solved_again(searched, slower, tmp_path):
    found = hwnas.solve(searched, to=tmp_path / "new", latency="<= 70% p90", table=slower, macs="<= 90%", size="<= 90%")
    assert [each["metric"] for each in found["budgets"]] == ["latency", "macs", "size"] and found["statistic"] == "p90"
    with RunDirectory(tmp_path / "new", write=False) as run, RunDirectory(searched, write=False) as source:
        job, own = Job(run), Job(source)
        assert job.result("train") == own.result("train") and job.table_name == slower.name
        assert all((tmp_path / "new" / "blobs" / digest).is_file() for digest in job.result("train")["files"].values())
        first, second = evaluated(own), evaluated(job)
        assert dict(zip(INDEX.keys(first.codes), first.accuracy_pct, strict=True)) == dict(zip(INDEX.keys(second.codes), second.accuracy_pct, strict=True))
    again = hwnas.solve(tmp_path / "new", to=tmp_path / "newer", latency="<= 60% p50")
    assert again["evaluations"] == found["evaluations"] and again["points"]


def test_a_run_without_weights_is_solved_with_predicted_accuracies_only(table, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from hwnas.costs import params\nfrom hwnas.predictor import Additive\n\n\n"
        "def size(index):\n    return Additive(index, params(index.blocks) / 1e3, name='size', unit='%')\n"
    )
    asked = {"table": table, "space": SPACE, "accuracy": f"{tmp_path / 'mine.py'}:size", "evaluations": 200, "baselines": False}
    hwnas.search(tmp_path / "run", latency="<= 90% p50", options=["population=20"], **asked)
    found = hwnas.solve(tmp_path / "run", to=tmp_path / "new", latency="<= 60% p50", also=[f"{table} <= 55% p90"])
    assert {point["accuracy_origin"] for point in found["points"]} == {"predicted"} == {found["accuracy_origin"]}
    assert [each["metric"] for each in found["budgets"]] == ["latency", "latency"] and all(each["where"] for each in found["budgets"])
    assert all(point["also_ms"][0] <= found["budgets"][1]["limit"] for point in found["points"])
    assert hwnas.solve(tmp_path / "new", to=tmp_path / "newer", latency="<= 70% p50")["points"]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"latency": "<= 0.001ms"}, Infeasible, "cannot be met: every architecture of ofa_mini takes at least"),
        ({"latency": "12"}, InputError, "'12' is no budget on latency"),
        ({"also": ["<= 30ms"]}, InputError, "'<= 30ms' is no budget on another device; write 'TABLE <= 30ms p50'"),
        ({"also": ["nowhere <= 30ms"]}, DamagedFile, "nowhere holds no latency table"),
        ({"table": "nowhere"}, DamagedFile, "nowhere holds no latency table"),
    ],
)
def test_what_cannot_be_solved_writes_nothing(searched, tmp_path, monkeypatch, change, kind, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as error:
        hwnas.solve(searched, **{"to": tmp_path / "new", "latency": "<= 60% p50", **change})
    assert words in str(error.value) and not (tmp_path / "new").exists()


def test_a_run_that_evaluated_nothing_is_told_what_to_do(trained, table, tmp_path):
    with pytest.raises(InputError, match="has evaluated no network; first run: hwnas search"):
        hwnas.solve(trained, to=tmp_path / "new", latency="<= 60% p50", table=table)
    with pytest.raises(InputError, match="is no run"):
        hwnas.solve(tmp_path / "nothing", to=tmp_path / "new", latency="<= 60% p50")


def test_the_command_says_which_accuracies_are_which(searched, tmp_path):
    code, out, error = here("solve", searched, "--latency", "<= 60% p50", "--to", tmp_path / "new")
    assert code == 0, error
    assert " % measured" in out and " % predicted" in out and f"next: hwnas verify {tmp_path / 'new'}" in out
    code, out, _ = here("solve", searched, "--latency", "<= 60% p50", "--to", tmp_path / "new", "--json")
    assert code == 0 and json.loads(out)["points"]


# -- the exact part -------------------------------------------------------------------------------------------------------------------


def metric(price, name, scale=1.0):
    return Additive(INDEX, scale * price(INDEX.blocks), name=name, unit="")


@pytest.mark.parametrize("several", [False, True])
def test_each_share_of_the_limit_has_its_exact_optimum(table, several):
    latency, accuracy = calibrated(LatencyTable.load(table), INDEX), metric(params, "accuracy")
    limit = 0.7 * latency.bounds()[1].value
    work = metric(macs, "macs")
    others = [(Budget("macs", 0.8 * work.bounds()[1].value), work)] if several else []
    found = solved(INDEX, accuracy, [(Budget("latency", limit), latency), *others], (1.0, 0.9, 0.8))
    expected = [exact(accuracy, [(Budget("latency", share * limit), latency), *others]).value for share in (1.0, 0.9, 0.8)]
    assert accuracy(found).tolist() == pytest.approx(list(dict.fromkeys(expected)))


def test_what_was_measured_takes_the_place_of_an_earlier_measurement(table):
    loaded = LatencyTable.load(table)
    one = loaded.networks[3]
    again = type(one)(one.architecture, one.fingerprint, 1.0, 2.0, 3.0, 20, 1)
    learned = fed(fed(loaded, [again], {"date": "then"}), [loaded.networks[4]], {"date": "later"})
    assert len(learned.networks) == len(loaded.networks) and learned.networks[3].p50_ms == 2.0
    windows = learned.provenance["verified"]
    assert [each["date"] for each in windows] == ["then", "later"] and windows[0]["networks"] == [dict(one.architecture.values)]


def test_a_table_that_has_learned_is_saved_and_read_again(table, tmp_path):
    loaded = LatencyTable.load(table)
    learned = fed(loaded, loaded.networks[:2], {"date": "2026-12-01", "window_s": 60.0})
    learned.save(tmp_path / "learned")
    assert LatencyTable.load(tmp_path / "learned").provenance["verified"] == learned.provenance["verified"]
    assert latest_table  # what `verify` keeps is read back in tests/test_verify.py
