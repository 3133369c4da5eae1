"""`search` without a supernet: accuracy by a predictor, from its file or a function of the user's; and predictors/accuracy_mlp.py."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save

import hwnas
from hwnas import registry
from hwnas.errors import DamagedFile, Infeasible, InputError
from hwnas.features import OneHot
from hwnas.index import BlockIndex
from hwnas.memory import peak_memory
from hwnas.predictors.accuracy_mlp import AccuracyMlp, accuracy_mlp
from hwnas.variant import Variant
from tests.simulated_tables import simulated_table

SPACE = "ofa_mini"


@pytest.fixture(scope="module")
def index():
    return BlockIndex(registry.create("spaces", SPACE))


@pytest.fixture(scope="module")
def mlp(index):
    rng = np.random.default_rng(0)
    width = OneHot(index).width
    layers = [(rng.normal(0, (2 / n) ** 0.5, (n, m)), rng.normal(0, 0.1, m)) for n, m in ((width, 16), (16, 16), (16, 1))]
    return AccuracyMlp(index, layers)


@pytest.fixture
def table(index, tmp_path):
    simulated_table(index, lambda total, layers, activations: 0.01 + 0.8 * total).save(tmp_path / "table")
    return tmp_path / "table"


def test_the_perceptron_is_that_of_its_layers(index, mlp):
    codes = index.space.sample(np.random.default_rng(1), 50)
    x = OneHot(index)(codes).astype(np.float64)
    for weight, bias in mlp.layers[:-1]:
        x = np.maximum(x @ weight + bias, 0)
    np.testing.assert_allclose(mlp(codes), (x @ mlp.layers[-1][0] + mlp.layers[-1][1])[:, 0], rtol=1e-4, atol=1e-5)


def test_a_file_gives_the_same_predictor_back(index, mlp, tmp_path):
    mlp.save(tmp_path / "mlp.safetensors")
    again = accuracy_mlp(index, file=str(tmp_path / "mlp.safetensors"))
    codes = index.space.sample(np.random.default_rng(1), 50)
    assert again(codes).tolist() == mlp(codes).tolist() and again.fingerprint == mlp.fingerprint


def test_a_file_of_another_space_format_or_shape_is_refused(index, mlp, tmp_path):
    path = tmp_path / "mlp.safetensors"
    mlp.save(path)
    other = BlockIndex(registry.create("spaces", "nas_bench_macro"))
    with pytest.raises(DamagedFile, match="was fitted to another space than nas_bench_macro"):
        accuracy_mlp(other, file=str(path))
    path.write_bytes(save({"0.weight": np.zeros((3, 1), np.float32)}))
    with pytest.raises(DamagedFile, match=r"has the format 'None', a predictor of accuracy has 'hwnas.accuracy_mlp/1'"):
        accuracy_mlp(index, file=str(path))
    with pytest.raises(DamagedFile, match=r"layer 0 of the predictor has shapes \(3, 1\) and \(1,\); it receives"):
        AccuracyMlp(index, [(np.zeros((3, 1)), np.zeros(1))])
    with pytest.raises(DamagedFile, match="is not a readable predictor"):
        accuracy_mlp(index, file=str(tmp_path / "none.safetensors"))


def test_a_search_by_predictor_finds_its_best_within_the_budget_and_states_the_gap(index, mlp, table, tmp_path):
    asked = {"table": table, "latency": "<= 55% p50", "space": SPACE, "accuracy": mlp, "evaluations": 2_000, "options": ["population=50", "children=50"]}
    found = hwnas.search(tmp_path / "run", **asked)
    points = found["points"]
    assert found["accuracy_origin"] == "predicted" and len(points) >= 1_000 and all(p["latency_ms"] <= found["budget_ms"] for p in points)
    assert points[0]["accuracy_pct"] == max(p["accuracy_pct"] for p in points) > found["baselines"]["random"]["points"][0]["accuracy_pct"]
    code = np.asfortranarray([points[0]["code"]], np.int16)
    assert points[0]["accuracy_pct"] == pytest.approx(float(mlp(code)[0]))
    gap = found["surrogate"]
    assert gap["gap_points"] == pytest.approx(gap["optimum_pct"] - gap["best_found_pct"], abs=1e-9) and gap["samples"] >= 1_000
    assert hwnas.search(tmp_path / "run", **asked) == found
    with pytest.raises(InputError, match=r"was searched by the predictor '.*': its architectures have no weights"):
        hwnas.verify(tmp_path / "run")


def test_a_shipped_table_is_searched_by_its_name(mlp, tmp_path):
    name = "browser/onnxruntime_web-1.30.0-1thread"
    mlp.save(tmp_path / "mlp.safetensors")
    result = hwnas.search(
        tmp_path / "run", table=name, latency="<= 70% p50", space=SPACE, accuracy=f"accuracy_mlp(file='{tmp_path}/mlp.safetensors')", evaluations=20
    )
    assert 0 < result["points"][0]["latency_ms"] <= result["budget_ms"]
    assert hwnas.show_space(SPACE, table=name, latency="<= 70% p50")["feasibility"]["budgets"][0]["limit"] == pytest.approx(result["budget_ms"])


def test_another_predictor_for_the_same_run_is_refused(index, mlp, table, tmp_path):
    asked = {"table": table, "latency": "<= 55% p50", "space": SPACE, "evaluations": 50, "baselines": False}
    hwnas.search(tmp_path / "run", accuracy=mlp, **asked)
    other = AccuracyMlp(index, [(weight + 1, bias) for weight, bias in mlp.layers])
    with pytest.raises(InputError, match=r"was begun with search accuracy = accuracy \(AccuracyMlp\)"):
        hwnas.search(tmp_path / "run", accuracy=other, **asked)


@pytest.mark.parametrize("given", [{"space": SPACE}, {"accuracy": "accuracy_mlp(file='x')"}])
def test_space_and_accuracy_go_together(given, table, tmp_path):
    with pytest.raises(InputError, match="--space and --accuracy go together"):
        hwnas.search(tmp_path / "run", table=table, latency="<= 55% p50", **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"latency": "<= 0.00001ms"}, Infeasible, "cannot be met"),
        ({"latency": "<= 900ms", "macs": "<= 1"}, Infeasible, "cannot be met"),
        ({"table": "nowhere"}, InputError, "holds no latency table"),
        ({"space": "ofa_mini(resolutions=(24,))"}, InputError, "31 of 38 blocks of ofa_mini have no latency"),
        ({"accuracy": "accuracy_mlp(file='nowhere.safetensors')"}, InputError, "is not a readable predictor"),
        ({"accuracy": "accuracy_mpl(file='x')"}, InputError, "did you mean 'accuracy_mlp'"),
    ],
)
def test_what_is_refused_leaves_no_folder(mlp, table, tmp_path, change, error, words):
    asked = {"table": table, "latency": "<= 55% p50", "space": SPACE, "accuracy": mlp, "evaluations": 20, "baselines": False}
    with pytest.raises(error, match=words):
        hwnas.search(tmp_path / "run", **asked | change)
    assert not (tmp_path / "run").exists()


def test_on_the_command_line_with_a_function_of_the_users_own(table, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from hwnas.costs import params\nfrom hwnas.predictor import Additive\n\n\ndef size(index, scale=1.0):\n"
        "    return Additive(index, scale * params(index.blocks), name='size', unit='params')\n"
    )
    command = [sys.executable, "-m", "hwnas", "search", "run", "--table", str(table), "--latency", "<= 55% p50", "--space", SPACE, "--json"]
    done = subprocess.run(
        [*command, "--accuracy", "mine.py:size(scale=1e-3)", "--searcher", "exact", "--no-baselines"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["points"]) == 1 and found["points"][0]["latency_ms"] <= found["budget_ms"]
    wrong = subprocess.run([*command, "--accuracy", "mine.py:nothing"], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2 and "mine.py has no function 'nothing'" in wrong.stderr and "Traceback" not in wrong.stderr


def test_a_search_follows_the_tables_precision_and_names_what_another_one_lacks(index, mlp, tmp_path):
    variant = Variant("fp16", 8)
    simulated_table(variant.index(index), lambda total, layers, activations: 0.01 + 0.8 * total).save(tmp_path / "half")
    asked = {"table": tmp_path / "half", "space": SPACE, "accuracy": mlp, "evaluations": 20, "baselines": False, "options": ("population=10", "tournament=3")}
    with pytest.raises(InputError, match=r"conv2d\.int8_u8s8 8x.* --precision int8_u8s8 --batch 8 --to FOLDER"):
        hwnas.search(tmp_path / "other", latency="<= 60% p50", precision="int8_u8s8", batch=8, **asked)
    assert not (tmp_path / "other").exists()
    found = hwnas.search(tmp_path / "run", latency="<= 60% p50", memory="<= 90%", **asked)
    memory = next(each for each in found["budgets"] if each["metric"] == "memory")
    assert memory["max"] == 4 * peak_memory(index).bounds()[1].value  # two bytes instead of four, of eight images
    assert all(point["latency_ms"] <= found["budget_ms"] for point in found["points"])
