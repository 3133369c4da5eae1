"""hwnas/verbs/bench.py and the command: any ONNX files measured against each other. The statistics: test_benchmark.py."""

import hashlib
import json
import re

import numpy as np
import onnx
import pytest
from commands import here
from onnx import TensorProto, helper, numpy_helper
from test_profiling_agent import without_profiler

import hwnas
from hwnas.errors import InputError
from hwnas.verbs.bench import parse_quantiles


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A convolution with a free batch, and token ids looked up in a table."""
    folder = tmp_path_factory.mktemp("files")
    weights = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
    x, y = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16]), helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 14, 14])
    conv = helper.make_graph([helper.make_node("Conv", ["image", "w"], ["y"])], "g", [x], [y], [weights])
    table = numpy_helper.from_array(np.ones((100, 8), np.float32), "table")
    ids, out = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "length"]), helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    gather = helper.make_graph([helper.make_node("Gather", ["table", "ids"], ["out"])], "g", [ids], [out], [table])
    for name, graph in (("conv", conv), ("tokens", gather)):
        onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), folder / f"{name}.onnx")
    return folder


def test_files_and_batches_are_measured_in_one_window(files, tmp_path):
    to = tmp_path / "found.json"
    found = hwnas.bench(
        [files / "conv.onnx", files / "tokens.onnx"], seconds=1.0, batch=[1, 4], shape=["length=32"], quantiles=["p50"], streams=2, to=to, seed=3
    )
    assert json.loads(to.read_text()) == found
    assert [(each["file"], each["batch"]) for each in found["models"]] == [("conv.onnx", 1), ("conv.onnx", 4), ("tokens.onnx", 1), ("tokens.onnx", 4)]
    assert found["models"][3]["shapes"] == {"ids": [4, 32]}
    assert found["models"][0]["model_sha256"] == hashlib.sha256((files / "conv.onnx").read_bytes()).hexdigest()
    assert found["models"][0]["graph_sha256"] != found["models"][1]["graph_sha256"], "the batch is part of the graph that is measured"
    assert (found["origin"], found["streams"], found["conditions"]["device"]) == ("measured", 2, "localhost")
    for each in found["models"]:
        assert each["facts"]["nodes_elsewhere"] == 0 and each["opset"] == {"": 17}
        assert each["visits"] + each["dropped"] == found["rounds"]
        if each["samples_per_s"] is not None:
            assert each["samples_per_s"]["value"] > 0 and each["latency_ms"]["p50"]["value"] > 0


def test_the_command_prints_a_row_for_each_file(files):
    code, out, error = here("bench", files / "conv.onnx", "--seconds", 0.5, "--quantiles", "p50")
    assert code == 0, error
    assert "conv.onnx" in out and "p50 ms" in out and "0 of 1" in out and "95 % interval" in out
    code, out, error = here("bench", files / "conv.onnx", "--seconds", 0.5, "--quantiles", "p50", "--json")
    assert code == 0 and json.loads(out)["models"][0]["latency_ms"].keys() <= {"p50"}


def test_operators_are_profiled_after_the_timing_and_their_sum_is_called_no_latency(files, tmp_path):
    options = ("--shape", "length=8192", "--seconds", 0.2, "--quantiles", "p50", "--layers")
    code, out, error = here("bench", files / "conv.onnx", files / "tokens.onnx", *options, "--to", tmp_path / "found.json")
    assert code == 0, error
    assert out.count("by the runtime's profiler, 50 runs after the timing") == 2 and out.count("sum of the profile, no latency") == 2
    conv, tokens = (each["layers"] for each in json.loads((tmp_path / "found.json").read_text())["models"])
    assert [each["name"].endswith("(Gather)") for each in tokens["operators"]] == [True]
    for each in (conv, tokens):
        assert each["origin"] == "profile" and each["runs"] == 50
        assert sum(layer["share"] for layer in each["operators"]) == pytest.approx(1) and all(layer["mean_us"] >= 0 for layer in each["operators"])


def device_of(folder, agent):
    path = folder / "other.toml"
    path.write_text(f'description = "another agent"\nprocessor = "cpu"\ntransport = "local"\nruntimes = ["onnxruntime"]\nagent = "{agent}"\n')
    return path


def test_a_runtime_without_a_profiler_is_measured_all_the_same(files, tmp_path):
    (tmp_path / "agent").mkdir()
    device = device_of(tmp_path, without_profiler(tmp_path / "agent"))
    code, out, error = here("bench", files / "conv.onnx", "--device", device, "--seconds", 0.2, "--quantiles", "p50", "--layers")
    assert code == 0, error
    assert "conv.onnx, batch 1: no profile, onnxruntime times no layers here" in out
    assert "\nthe agent cannot tell layers: it has no profiler\n" in out
    code, out, error = here("device", "check", device, "--seconds", 0.1)
    assert code == 0 and re.search(r"not told +layers: it has no profiler", out), out


def test_the_agent_in_cpp_tells_all_that_a_bench_asks_for(files, native_agent, tmp_path):
    options = ("--shape", "length=64", "--seconds", 0.2, "--quantiles", "p50", "--streams", 2, "--layers", "--json")
    code, out, error = here("bench", files / "conv.onnx", files / "tokens.onnx", "--device", device_of(tmp_path, native_agent), *options)
    assert code == 0, error
    for model, operator in zip(json.loads(out)["models"], ("Conv", "Gather"), strict=True):
        assert (model["facts"]["nodes"], model["facts"]["nodes_elsewhere"], model["facts"]["partitions"]) == (1, 0, 1)
        assert [operator in layer["name"] for layer in model["layers"]["operators"]].count(True) == 1


def test_any_runtime_of_the_device_that_loads_onnx_is_measured(files, tmp_path):
    """The device prefers another one, which is refused where it is not replaced."""
    device = tmp_path / "board.toml"
    device.write_text('description = "a board"\nprocessor = "cpu"\ntransport = "local"\nruntimes = ["torch", "onnxruntime"]\n')
    found = hwnas.bench([files / "conv.onnx"], device=str(device), runtime="onnxruntime", seconds=0.2, quantiles=["p50"])
    assert (found["conditions"]["device"], found["conditions"]["runtime"]) == ("board", "onnxruntime")
    with pytest.raises(InputError, match="choose another --runtime or --device"):
        hwnas.bench([files / "conv.onnx"], device=str(device), seconds=0.2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name the ONNX files to measure, or give --zoo"),
        (("tokens.onnx",), "'ids' (1 x length); fix them with --shape 'ids=1xN'"),
        (("conv.onnx", "--shape", "images=1x3x16x16"), "no file has an input or a free dimension 'images'; there are image, n"),
        (("conv.onnx", "--batch", "1,two"), "--batch is '1,two'"),
        (("conv.onnx", "--batch", "0"), "--batch is 0"),
        (("conv.onnx", "--quantiles", "median"), "'median' is no quantile; write p50"),
        (("missing.onnx",), "cannot read"),
        (("conv.onnx", "--budget", "<= 1ms"), "--names and --budget go with --zoo"),
        (("conv.onnx", "--zoo"), "leave out files"),
        (("--zoo", "--layers"), "leave out files, --batch, --shape, --streams and --layers"),
        (("conv.onnx", "--runtime", "torch"), "torch takes models as safetensors, and what is measured here are ONNX files"),
        (("--zoo", "--names", "resnet18", "--runtime", "torch"), "torch takes models as safetensors"),
        (("conv.onnx", "--runtime", "tensorflow"), "localhost has no runtime 'tensorflow'; its file names onnxruntime, torch"),
        (("--zoo", "--names", "resnet19"), "no published network named 'resnet19'; did you mean 'resnet18'?"),
        (("--zoo", "--budget", "<= 50%"), "there is none here; write '<= 20ms p50'"),
    ],
)
def test_wrong_input_is_one_sentence(files, arguments, words, monkeypatch):
    monkeypatch.chdir(files)
    code, out, error = here("bench", *arguments)
    assert (code, out) == (2, "") and words in error and "Traceback" not in error


def test_quantiles_are_read_once_each():
    assert parse_quantiles(["p50", " p99.9", "p50"]) == (0.5, 0.999)
    for text in ("p0", "p100", "50", "pp50", "p-1"):
        with pytest.raises(InputError, match="is no quantile"):
            parse_quantiles([text])
