"""hwnas/zoo.py and hwnas/verbs/zoo.py: published networks, what is measured again and what is not, and the best within a budget."""

import json
from dataclasses import asdict, replace
from importlib.util import find_spec

import onnx
import pytest

import hwnas
from hwnas import zoo
from hwnas.errors import DamagedFile, InputError, MeasurementFailed, MissingExtra, UnknownName
from hwnas.latency_table import Conditions
from hwnas.verbs.zoo import baseline, best_within, front, load_table, table_path

SMALL = "shufflenet_v2_x0_5"
CONDITIONS = Conditions("localhost", "a processor", "onnxruntime", "1.32.0", 1, "warm", {"provider": "CPU"})


def test_what_is_published_is_what_torchvision_states():
    """From the weights' page in torchvision's documentation: 67.668 %, 2,542,856 parameters, 0.06 GFLOPS, which are MACs."""
    about = zoo.published("mobilenet_v3_small")
    assert (about.accuracy_pct, about.params, about.input_size, about.weights) == (67.668, 2_542_856, 224, "IMAGENET1K_V1")
    assert about.macs == pytest.approx(57e6)
    names = zoo.names()
    assert len(names) >= 80 and names[0] == SMALL and names.index("resnet18") < names.index("vgg16")


def test_unknown_networks_are_refused():
    with pytest.raises(UnknownName, match="did you mean 'resnet50'"):
        zoo.published("resnet5O")
    if find_spec("timm") is None:
        with pytest.raises(MissingExtra, match=r"pip install 'hwnas\[timm\]'"):
            zoo.published("timm/resnet18")
    else:
        about = zoo.published("timm/resnet18")
        assert (about.params, about.input_size, about.accuracy_pct) == (11_689_512, 224, None), "the same network as torchvision's; timm states no accuracy"


def test_a_network_is_the_same_file_every_time_with_its_batch():
    raw = zoo.onnx_file(SMALL)
    assert raw == zoo.onnx_file(SMALL)
    model = onnx.load_model_from_string(zoo.onnx_file(SMALL, batch=2))
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 224, 224]
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}, "it is folded"


def test_a_network_too_large_for_a_device_is_said_before_it_is_built():
    with pytest.raises(MeasurementFailed, match="633 M parameters do not fit"):
        zoo.onnx_file("vit_h_14")


def row(name, ms, accuracy, **more):
    latency = {} if ms is None else {"p50": {"value": ms, "low": 0.9 * ms, "high": 1.1 * ms}}
    return {**asdict(zoo.Published(name, "torchvision 0", "W", accuracy, 224, 1e6, 2e6)), "latency_ms": latency, "versions": {}, "error": None, **more}


ROWS = [row("slow", 9.0, 80.0), row("fast", 1.0, 60.0), row("worse", 5.0, 59.0), row("good", 4.0, 70.0), row("unknown", 2.0, None), row("failed", None, 90.0)]


def test_the_best_within_a_budget_is_the_most_accurate_that_was_measured_within_it():
    assert best_within(ROWS, "p50", 5.0)["name"] == "good"
    assert best_within(ROWS, "p50", 9.0)["name"] == "slow"
    assert best_within(ROWS, "p50", 0.5) is None and best_within(ROWS, "p90", 9.0) is None
    twin = row("twin", 3.0, 70.0)
    assert best_within([*ROWS, twin], "p50", 5.0) is twin


def test_the_front_has_the_faster_one_of_equals():
    assert [each["name"] for each in front([*ROWS, row("twin", 4.5, 70.0)], "p50")] == ["fast", "good", "slow"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    return tmp_path


def write(conditions, rows):
    path = table_path(conditions)
    path.parent.mkdir(parents=True, exist_ok=True)
    top = {"format": "hwnas.zoo/1", "origin": "measured", "date": "2026-11-25T00:00:00Z", "hwnas": "0", "confidence": 0.95, "system": {}}
    path.write_text(json.dumps({**top, "conditions": asdict(conditions), "rows": rows}))
    return path


def test_a_report_finds_the_networks_of_its_own_conditions_only(cache):
    write(CONDITIONS, ROWS)
    found = baseline(CONDITIONS, "p50", 5.0)
    assert (found.measured, found.best.name, found.best.measured_ms, found.fastest.name) == (6, "good", 4.0, "fast")
    for others in (replace(CONDITIONS, threads=2), replace(CONDITIONS, processor="another"), replace(CONDITIONS, options={"provider": "GPU"})):
        found = baseline(others, "p50", 5.0)
        assert found.measured == 0 and found.best is None
    assert found.command == "hwnas bench --zoo --device localhost --runtime onnxruntime --threads 1 --budget '<= 5ms p50'"
    assert baseline(CONDITIONS, "p90", 5.0).fastest is None and baseline(CONDITIONS, "p50", 0.1).best is None


@pytest.mark.parametrize("change", [{"rows": 7}, {"format": "hwnas.zoo/9"}, {"confidence": "high"}, {"rows": [{"name": "x"}]}])
def test_a_table_that_was_altered_is_refused_with_what_to_do(cache, change):
    path = write(CONDITIONS, ROWS)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DamagedFile, match="remove it, and measure again"):
        load_table(path)


def test_networks_are_measured_once_and_failures_are_rows(tmp_path):
    first = hwnas.bench_zoo(names=[SMALL, "vit_h_14"], seconds=0.5, to=tmp_path)
    assert [each["name"] for each in first["networks"]] == [SMALL, "vit_h_14"]
    measured, failed = first["networks"]
    assert "do not fit into a model of 1 GiB" in failed["error"] and failed["latency_ms"] == {}
    assert measured["facts"]["nodes"] > 100 and measured["facts"]["nodes_elsewhere"] == 0
    assert load_table(next(tmp_path.glob("*.json")))["rows"] == sorted(first["networks"], key=lambda each: each["name"])
    again = hwnas.bench_zoo(names=[SMALL, "vit_h_14"], seconds=0.5, to=tmp_path)
    if not measured["doubt"]:  # what is in doubt is measured again
        assert again == first
    with pytest.raises(InputError, match=r"measured with --confidence 0.95, and now it is 0.9: name another folder"):
        hwnas.bench_zoo(names=[SMALL], seconds=0.5, confidence=0.9, to=tmp_path)


def test_what_is_far_beyond_the_budget_is_not_measured_until_the_budget_allows(tmp_path):
    tight = hwnas.bench_zoo(names=[SMALL], budget="<= 1us", seconds=0.5, to=tmp_path)
    assert tight["networks"][0]["error"].startswith("too slow") and tight["best"] is None and tight["networks"][0]["over_ms"] == pytest.approx(2e-3)
    wide = hwnas.bench_zoo(names=[SMALL], budget="<= 10s", seconds=0.5, to=tmp_path)
    assert wide["networks"][0]["error"] is None or "another process" in wide["networks"][0]["error"]
    assert wide["best"] in (SMALL, None)
    with pytest.raises(InputError, match="there is none here"):
        hwnas.bench_zoo(names=[SMALL], budget="<= 50%", to=tmp_path)
