"""hwnas/tensorrt_parser.py and `hwnas check-tensorrt`: a parser check in a process of its own, by the wheel of TensorRT for RTX, without a GPU."""

import json
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas import cli, registry, tensorrt_parser
from hwnas.backends.onnx import to_onnx
from hwnas.errors import CheckFailed, DamagedFile, InputError, MissingExtra, UnknownName
from hwnas.graph import Graph, Node
from hwnas.ops import Conv2d
from hwnas.tensorrt_parser import check_parser, parser_is_there
from hwnas.verbs.parser_check import check_tensorrt
from hwnas.weights import random_weights

needs_rtx = pytest.mark.skipif(not parser_is_there(), reason="TensorRT for RTX is not installed: pip install 'hwnas[tensorrt-rtx]'")


def conv_model():
    graph = Graph.of_block((Node("conv", Conv2d((1, 3, 16, 16), out=4, kernel=3, act="hswish"), ("in0",)),))
    return to_onnx(graph, random_weights(graph, np.random.default_rng(0))).SerializeToString()


def model_of(*nodes, shape=(1, 3, 8, 8), initializers=()):
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], list(initializers))
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


UNKNOWN = model_of(
    helper.make_node("Nonsense", ["x"], ["a"], "first"), helper.make_node("Relu", ["a"], ["b"], "between"), helper.make_node("Det", ["b"], ["y"], "last")
)


@needs_rtx
def test_a_model_that_can_be_read_is_built_without_a_gpu():
    found = check_parser(conv_model())
    assert found.passed and found.layers >= 2 and found.plan_bytes and found.version.startswith("1.") and found.unsupported == ()
    assert check_parser(conv_model(), build=False).plan_bytes is None


@needs_rtx
@pytest.mark.parametrize("name", registry.names("spaces"))
def test_the_ends_of_every_shipped_space_can_be_read(name):
    found = check_tensorrt(name, build=False)
    assert found["passed"] and [each["name"] for each in found["models"]] == [f"{end} subnet of {name}" for end in ("smallest", "largest")]
    smallest, largest = (each["layers"] for each in found["models"])
    assert 0 < smallest <= largest  # spaces of widths alone have as many layers at both ends


@needs_rtx
def test_unsupported_operators_are_named_all_of_them():
    found = check_parser(UNKNOWN)
    assert found.unsupported == ("Det", "Nonsense") and not found.passed
    assert {each.node for each in found.problems} == {"first", "last"}


@needs_rtx
def test_a_supported_operator_that_is_used_as_it_must_not_be_has_its_reason():
    scale, zero = numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(7), "z")
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "back")]
    (problem,) = check_parser(model_of(*nodes, initializers=[scale, zero])).problems
    assert (problem.operator, problem.node) == ("QuantizeLinear", "quantize") and "zero point" in problem.reason


@needs_rtx
def test_a_model_that_can_be_read_and_not_built_says_why():
    found = check_parser(model_of(helper.make_node("Relu", ["x"], ["y"], "relu"), shape=("n", 3)))
    assert not found.problems and not found.passed and "only fixed shapes" in found.build_error and found.plan_bytes is None


@needs_rtx
@pytest.mark.parametrize("model", [b"this is no model", b"", conv_model()[:-20]], ids=["bytes", "nothing", "cut short"])
def test_what_is_no_model_is_a_problem_of_no_operator(model):
    found = check_parser(model)
    assert not found.passed and [each.operator for each in found.problems] == [""]


@needs_rtx
def test_external_data_is_refused_unread():
    weights = numpy_helper.from_array(np.ones(4, np.float32), "w")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../secret")
    weights.ClearField("raw_data")
    with pytest.raises(InputError, match="external data files, which are refused"):
        check_parser(model_of(helper.make_node("Add", ["x", "w"], ["y"]), shape=(4,), initializers=[weights]))


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended with SIGSEGV"),
        ("import sys; sys.exit('out of memory')", "ended with exit code 1: out of memory"),
        ("pass", "ended with exit code 0"),
        ("import time; time.sleep(60)", "did not end within 2 s"),
    ],
)
def test_a_parser_that_crashes_or_hangs_is_one_sentence(tmp_path, monkeypatch, program, words):
    """Foreign models may bring native code down; the program that parses is another one here."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "tensorrt_check.py").write_text(program)
    monkeypatch.setattr(tensorrt_parser, "shipped", lambda name: tmp_path)
    monkeypatch.setattr(tensorrt_parser, "parser_is_there", lambda: True)
    with pytest.raises(CheckFailed, match=words):
        check_parser(b"", seconds=2)


def test_without_the_wheel_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(tensorrt_parser, "_MODULES", ("no_such_module", "tensorrt_rtx_bindings_of_nobody"))
    with pytest.raises(MissingExtra, match=r"pip install 'hwnas\[tensorrt-rtx\]'"):
        check_parser(conv_model())


def test_what_is_neither_a_file_nor_a_space_is_refused(tmp_path):
    with pytest.raises(DamagedFile, match=r"nothing\.onnx is no file"):
        check_tensorrt(str(tmp_path / "nothing.onnx"))
    with pytest.raises(UnknownName, match="did you mean 'ofa_mini'"):
        check_tensorrt("ofa_mni")


@needs_rtx
def test_the_command_fails_where_a_model_cannot_be_read(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hwnas", "check-tensorrt", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr()

    (tmp_path / "good.onnx").write_bytes(conv_model())
    (tmp_path / "bad.onnx").write_bytes(UNKNOWN)
    code, said = run(str(tmp_path / "good.onnx"))
    assert code == 0 and "nothing was run, no latency was measured" in said.out
    code, said = run(str(tmp_path / "bad.onnx"))
    assert code == 1 and "operators: Det, Nonsense" in said.err and "Traceback" not in said.err
    code, said = run(str(tmp_path / "bad.onnx"), "--json")
    assert code == 1 and json.loads(said.out)["kind"] == "parser check" and json.loads(said.out)["models"][0]["unsupported"] == ["Det", "Nonsense"]
