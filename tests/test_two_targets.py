"""benchmarks/two_targets.py: what it does next, and what it says of what was measured."""

import runpy
from pathlib import Path

import pytest

from hwnas import registry
from hwnas.files import write_json, write_whole

PROGRAM = runpy.run_path(str(Path(__file__).resolve().parents[1] / "benchmarks" / "two_targets.py"))
METHOD = "once_for_all"


@pytest.fixture
def pieces(tmp_path):
    return PROGRAM["Pieces"](tmp_path, 60.0, 1.0)


def searched(folder, method, target):
    write_whole(folder / f"{method}-{target}" / "front.csv", "")


def certificate(budget_ms, measured_ms, architecture=None):
    facts = {"upper_bound_ms": 1.01 * measured_ms, "confidence": 0.9983, "test_pct": 80.0}
    return {"budget_ms": budget_ms, "measured_ms": measured_ms, "architecture": architecture, **facts}


def swapped(folder, target, **p50):
    models = [{"latency_ms": {"p50": {"value": ms, "low": 0.9 * ms, "high": None}}} for ms in p50.values()]
    conditions = {"device": target, "processor": "a processor", "runtime": "a runtime", "version": "1"}
    write_json(folder / f"swapped_{target}.json", {"names": [f"{METHOD}-{name}" for name in p50], "models": models, "conditions": conditions, "seconds": 60.0})


def test_pieces_wait_for_what_they_need_and_are_done_once(pieces, tmp_path):
    assert pieces.left("profile") == [("native",), ("browser",)] and pieces.left("train") == [("supernet",)]
    assert not pieces.left("search") and not pieces.left("verify") and not pieces.left("swap")
    write_whole(tmp_path / "browser" / "table.toml", "")
    write_whole(tmp_path / "supernet" / "accuracies.csv", "")
    assert pieces.left("profile") == [("native",)] and not pieces.left("train")
    assert pieces.left("search") == [(method, "browser") for method in PROGRAM["METHODS"]]
    searched(tmp_path, METHOD, "browser")
    assert (METHOD, "browser") not in pieces.left("search") and pieces.left("verify") == [(METHOD, "browser")]
    write_json(tmp_path / "certified.json", {f"{METHOD}-browser": certificate(2.0, 1.9)})
    assert not pieces.left("verify") and pieces.left("swap") == [("native",), ("browser",)]
    swapped(tmp_path, "browser", browser=1.9)
    assert pieces.left("swap") == [("native",)]


def test_a_network_on_the_other_target_stands_beside_its_budget(pieces, tmp_path):
    space = registry.create("spaces", PROGRAM["SPACE"])
    here = space.decode(space.smallest()[0])
    there = {**here, "stage1.block0.kernel": 5, "stage3.block2.kernel": 5}  # the last block is skipped
    found = {f"{METHOD}-native": certificate(1.0, 0.98, here), f"{METHOD}-browser": certificate(4.0, 3.9, there)}
    write_json(tmp_path / "certified.json", found)
    swapped(tmp_path, "native", browser=1.5, native=0.98)
    swapped(tmp_path, "browser", browser=3.9, native=3.8)
    report = pieces.report()
    assert report["budgets_ms"] == {"native": 1.0, "browser": 4.0}
    (native, browser), missing = report["rows"][:2], report["rows"][2:]
    assert browser["p50_ms"]["native"]["value"] == 1.5 and native["p50_ms"]["browser"]["value"] == 3.8 and native["differs_in"] == [["stage1.block0.kernel"]]
    assert all(row["certificate"] is None for row in missing)
    lines = PROGRAM["printed"](report).splitlines()
    (over,) = [line for line in lines if "% over" in line]
    assert f"| {METHOD} | browser |" in over and "1.5 [1.35, -] **50 % over**" in over
    assert sum("not certified" in line for line in lines) == len(missing)
