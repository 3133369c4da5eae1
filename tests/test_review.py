"""hwnas/verbs/review.py and reproduce.py: what a report says of a real run beside its certificate, and what a hostile run folder comes to on the page."""

import json
import re

import numpy as np
import pytest
from commands import copied, here

from hwnas.errors import DamagedFile
from hwnas.latency_table import Conditions
from hwnas.profiling.layers import LayerTime
from hwnas.report_data import Operator
from hwnas.run import RunDirectory
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.verbs import report, review
from hwnas.verbs.common import Job
from tests.chromium import chromium

pytest.importorskip("sklearn", reason="the data set cluttered_digits comes with scikit-learn, extra 'demo'")

MARKUP = "\"><img src=x onerror=alert(1)><script>alert('x')</script>"


@pytest.fixture
def run(demo, tmp_path):
    return copied(demo.folder / "run", tmp_path / "run")


def shown(run, *options):
    code, out, error = here("report", run, "--json", *options)
    assert code == 0, error
    return json.loads(out)


def test_operators_get_the_layer_and_the_kind_of_the_node_they_come_from():
    space = ofa_mini()
    graph = space.lower(space.smallest())
    seen = ["stem/0.conv.linear_nchwc (Conv)", "HardSwish_12 (HardSwish)", "stem/1.depthwise_nchwc (Conv)", "ReorderOutput_token_45 (ReorderOutput)"]
    seen += ["stem/1.project_nchwc (Conv)", "stage3.block0/se.pool_nchwc (GlobalAveragePool)", "head/classifier (Gemm)", "no kind"]
    found = review.placed([LayerTime(name, 1.0, 0.125) for name in seen], graph)
    assert [(each.layer, each.kind) for each in found] == [
        ("stem", "convolution 3 x 3"),
        ("stem", "HardSwish"),
        ("stem", "depthwise 3 x 3"),
        ("stem", "ReorderOutput"),
        ("stem", "convolution 1 x 1"),
        ("stage3.block0", "GlobalAveragePool"),
        ("head", "Gemm"),
        ("head", "no kind"),
    ]
    assert review.placed([LayerTime("Cast (Cast)", 1.0, 1.0)], graph) == (Operator("input", "Cast", "Cast", 1.0),)


def test_operators_are_profiled_once_on_the_device_and_stay_in_the_run(run):
    assert shown(run)["profiled"] is None
    first = shown(run, "--layers")["profiled"]
    assert first["runs"] == 50 and first["reason"] == "" and sum(each["share"] for each in first["operators"]) == pytest.approx(1)
    layers = {each["name"] for each in shown(run)["layers"]} - {"(constant)"}
    assert {each["layer"] for each in first["operators"]} <= layers | {"input"}
    assert {"convolution 1 x 1", "Gemm"} <= {each["kind"] for each in first["operators"]}
    assert shown(run)["profiled"] == shown(run, "--layers")["profiled"] == first


def test_precisions_are_what_export_measured_of_the_chosen_network(run, tmp_path):
    rows = {row["name"]: row for row in shown(run)["precisions"]}
    assert list(rows) == ["fp32", "fp16", "int8_u8s8"] and rows["fp32"]["measured_ms"] > 0 and rows["fp32"]["images"] == 4000
    assert rows["int8_u8s8"]["measured_ms"] is None and rows["int8_u8s8"]["about"].startswith("not measured: hwnas export run --to FOLDER --precision int8")
    code, out, error = here("export", run, "--to", tmp_path / "int8", "--precision", "int8_u8s8", "--seconds", 0, "--json")
    assert code == 0, error
    exported = json.loads(out)
    row = {row["name"]: row for row in shown(run)["precisions"]}["int8_u8s8"]
    assert (row["accuracy_pct"], row["images"]) == (exported["accuracy"]["accuracy_pct"], exported["accuracy"]["images"])
    assert row["measured_ms"] is None and row["about"] == "latency not measured" and row["size_bytes"] == exported["size_bytes"]
    with RunDirectory(run) as directory:  # verified again, another network may be chosen
        directory.finish("verify", directory.result("verify"))
    assert {row["name"]: row for row in shown(run)["precisions"]}["int8_u8s8"]["accuracy_pct"] is None


def test_the_best_so_far_rises_to_the_best_point_of_each_stage(run):
    facts = shown(run)
    with RunDirectory(run, write=False) as directory:
        search = directory.result("search")
    bests = {"search": search["points"], **{name: found["points"] for name, found in search["baselines"].items()}}
    for stage, points in facts["best_so_far"].items():
        places, values = zip(*points, strict=True)
        assert list(places) == sorted(places) and list(values) == sorted(values) and values[-1] == bests[stage][0]["accuracy_pct"]
    assert facts["best_so_far"]["search"][-1][0] == search["evaluations"]


def test_networks_of_the_table_are_predicted_without_themselves(run):
    facts = shown(run)
    assert len(facts["known"]) == facts["quality"]["calibrated"]["networks"] >= 8
    errors = [each["predicted_ms"] / each["measured_ms"] - 1 for each in facts["known"]]
    assert np.abs(errors).mean() == pytest.approx(facts["quality"]["calibrated"]["mape"], abs=1e-4)
    assert facts["margin"] is None or facts["margin"] >= sorted(np.exp(np.abs(np.log1p(errors))))[-2]


def test_hashes_and_seeds_are_of_what_the_run_recorded(run):
    facts = shown(run)
    assert facts["hashes"]["chosen file"] == facts["certificate"]["model_sha256"] and facts["seeds"]["search"] == 0
    with RunDirectory(run, write=False) as directory:
        assert facts["hashes"]["latency table"] == directory.recorded_options("search")["table"]
        assert facts["hashes"]["weights of the supernet"] == directory.result("train")["files"]["supernet.safetensors"]
    assert facts["setting"]["runtime"] == "onnxruntime" and facts["setting"]["date"] == facts["certificate"]["date"]


def test_each_device_has_a_row_and_what_was_not_measured_has_its_reason(run):
    with RunDirectory(run) as directory:
        job = Job(directory)
        chosen = next(each for each in job.result("verify")["measured"] if each.get("chosen"))
        here_ = Conditions(**job.result("verify")["certificate"]["conditions"])
        there = {
            "where": "phone",
            "statistic": "p90",
            "budget_ms": 3.0,
            "predicted_ms": 2.0,
            "origin": "predicted",
            "verdict": "predicted",
            "reason": "not named",
        }
        assert review.devices(job, here_, 900.0, chosen) == ()
        rows = review.devices(job, here_, 900.0, {**chosen, "verdict": "partly", "elsewhere": [there]})
    assert [(row.where, row.verdict, row.measured_ms) for row in rows] == [(str(here_), "within", chosen["measured_ms"]), ("phone", "predicted", None)]
    assert rows[1].reason == "not named"


def test_layers_of_a_run_without_a_certificate_are_refused(run):
    with RunDirectory(run) as directory:
        last = directory.result("verify")
        directory.finish("verify", {**last, "certificate": None, "measured": [{**each, "chosen": False} for each in last["measured"]]})
    code, out, error = here("report", run, "--layers")
    assert code == 2 and out == "" and "leave out --layers" in error


@pytest.mark.parametrize("body", [{"model_sha256": 3}, {"model_sha256": "x", "conditions": "", "runs": 1, "operators": [{"name": "a"}], "reason": ""}])
def test_a_profile_that_was_altered_is_refused(run, body):
    with RunDirectory(run) as directory:
        directory.append("report", "profiled", body)
    with pytest.raises(DamagedFile, match="the profile of"):
        report.report(run)


def marked(value):
    """The same with markup in every text and every name of a free mapping."""
    if isinstance(value, dict):
        return {key: marked(each) for key, each in value.items()}
    if isinstance(value, list):
        return [marked(each) for each in value]
    return f"{value} {MARKUP}" if isinstance(value, str) else value


def test_a_hostile_run_folder_runs_nothing_in_a_browser(demo, tmp_path):
    folder = copied(demo.folder / "run", tmp_path / "<img src=x onerror=alert(1)>")
    with RunDirectory(folder) as directory:
        last = directory.result("verify")
        chosen = next(each for each in last["measured"] if each.get("chosen"))
        hostile = {"where": MARKUP, "statistic": MARKUP, "budget_ms": 1.0, "predicted_ms": 1.0, "origin": MARKUP, "verdict": MARKUP, "reason": MARKUP}
        rows = [each | {"role": MARKUP if each["role"] != "candidate" else "candidate", "doubt": MARKUP} for each in last["measured"]]
        rows[last["measured"].index(chosen)] |= {"elsewhere": [hostile]}
        kept = {key: last["certificate"][key] for key in ("model_sha256", "verdict", "origin", "architecture", "conditions")}
        certificate = marked(last["certificate"]) | kept | {"conditions": marked(kept["conditions"]), MARKUP: {MARKUP: MARKUP}}
        beside = {"measured_ms": 1.0, "accuracy_pct": 1.0, "verdict": MARKUP, "name": MARKUP, "accuracy_of": MARKUP}
        certificate["published"] = {"said": MARKUP, "network": beside, "of_the_space": {**beside, "role": MARKUP}}
        directory.finish("verify", {**last, "measured": rows, "certificate": certificate})
        operators = [{"name": f"{MARKUP} ({MARKUP})", "share": 1.0}]
        body = {"model_sha256": chosen["model_sha256"], "conditions": MARKUP, "runs": 1, "operators": operators, "reason": MARKUP}
        directory.append("report", "profiled", body)
        directory.finish("search", {**directory.result("search"), "trace": [{"number": i, "evaluations": i, "values": {MARKUP: i}} for i in range(3)]})
    page = tmp_path / "page.html"
    code, _, error = here("report", folder, "--to", page)
    assert code == 0, error
    assert page.read_text().count("&lt;script&gt;alert(") > 20 and len(re.findall("<script", page.read_text())) == 1
    with chromium() as tab:
        tab.open(page, 360)
        assert tab.value("document.scrollingElement.scrollWidth <= document.scrollingElement.clientWidth")
        assert tab.value("document.querySelectorAll('img, [onerror]').length") == 0 and tab.value("document.querySelectorAll('script').length") == 1
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            tab.mouse(kind, 180, 300, button="left", clickCount=1)
        assert tab.events("Page.javascriptDialogOpening", "Runtime.exceptionThrown", "Log.entryAdded") == []
        assert len(tab.events("Network.requestWillBeSent")) == 1
