"""hwnas/exporter.py and hwnas/exporters/: files that compute what the network computes."""

import hashlib
from pathlib import Path

import numpy as np
import onnx as onnx_library
import pytest

from hwnas import registry
from hwnas.errors import InputError
from hwnas.exporter import PARITY_LIMIT, Exported, compare, parity
from hwnas.exporters.onnx import onnx, write_model
from hwnas.graph import Graph, Node
from hwnas.ops import Conv2d
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.weights import random_weights


@pytest.fixture(scope="module")
def network():
    space = ofa_mini(batch=2)
    graph = space.lower(space.sample(np.random.default_rng(3)))
    return graph, random_weights(graph, np.random.default_rng(4))


@pytest.mark.parametrize("name", registry.names("exporters"))
def test_every_exporter_says_what_it_wrote(name, network, tmp_path):
    exported = registry.load("exporters", name)(*network, tmp_path / "deep" / "model")
    data = exported.path.read_bytes()
    assert isinstance(exported, Exported)
    assert (exported.sha256, exported.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))


def test_an_onnx_file_holds_the_stated_versions_nodes_and_metadata(network, tmp_path):
    exported = onnx(*network, tmp_path / "model.onnx", metadata={"space": "ofa_mini"})
    model = onnx_library.load(exported.path)
    assert (model.opset_import[0].version, model.ir_version) == (exported.opset, exported.ir_version) == (17, 8)
    assert len(model.graph.node) == exported.nodes
    assert {each.key: each.value for each in model.metadata_props} == {"space": "ofa_mini"}
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # no external data, no temporary file


def test_the_same_network_gives_the_same_file(network, tmp_path):
    assert onnx(*network, tmp_path / "a.onnx").sha256 == onnx(*network, tmp_path / "b.onnx").sha256


def test_a_refused_network_leaves_the_earlier_file_alone(network, tmp_path):
    path = onnx(*network, tmp_path / "model.onnx").path
    before = path.read_bytes()
    half = Graph([("a", (Node("conv", Conv2d((1, 3, 8, 8), out=4, dtype="float16"), ("in0",)),), None)])
    weights = random_weights(half, np.random.default_rng(0)) | {"a/conv.bias": np.full(4, 1e6, np.float32)}
    with pytest.raises(InputError, match=r"'a/conv.bias' has the value 1e\+06, .* float16 ends at 65,504"):
        onnx(half, weights, path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_what_pytorch_runs_is_not_exported_as_onnx(network, tmp_path):
    model = registry.create("profiling.runtimes", "torch").build(*network)
    with pytest.raises(InputError, match="what was certified is no ONNX model"):
        write_model(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_parity_compares_the_file_with_the_reference_batch_by_batch(network, tmp_path):
    graph, weights = network
    inputs = np.random.default_rng(1).normal(0, 1, (6, *graph.input[1:])).astype(np.float32)
    found = parity(graph, weights, onnx(graph, weights, tmp_path / "m.onnx").path, inputs)
    assert found.passed and found.inputs == 6 and 0 < found.ratio < 1e-4


def test_parity_fails_for_the_file_of_another_network(network, tmp_path):
    graph, weights = network
    other = dict(weights) | {"head/classifier.bias": weights["head/classifier.bias"] + 1}
    inputs = np.random.default_rng(1).normal(0, 1, graph.input).astype(np.float32)
    found = parity(graph, weights, onnx(graph, other, tmp_path / "m.onnx").path, inputs)
    assert not found.passed
    assert found.max_abs_difference == pytest.approx(1, abs=1e-4)


def test_parity_takes_a_given_reference(network, tmp_path):
    graph, weights = network
    inputs = np.zeros(graph.input, np.float32)
    path = onnx(graph, weights, tmp_path / "m.onnx").path
    assert not parity(graph, weights, path, inputs, reference=lambda x: np.tile(np.arange(10, dtype=np.float32), (len(x), 1))).passed


def test_parity_is_the_largest_difference_over_the_references_standard_deviation():
    expected = np.array([[-1, 1], [-1, 1]], np.float32)  # standard deviation 1
    found = compare(expected + np.array([[0, 0.0005], [0, -0.002]], np.float32), expected)
    assert found.ratio == pytest.approx(0.002, rel=1e-4)
    assert not found.passed
    assert compare(expected * np.float32(1 + PARITY_LIMIT / 2), expected).passed


def test_parity_never_passes_on_nan_or_on_constant_logits():
    expected = np.array([[0, 1]], np.float32)
    assert not compare(np.array([[np.nan, 1]], np.float32), expected).passed
    assert not compare(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32)).passed


def test_parity_refuses_inputs_and_files_that_do_not_fit(network, tmp_path):
    graph, weights = network
    path = onnx(graph, weights, tmp_path / "m.onnx").path
    with pytest.raises(InputError, match="m a multiple of 2"):
        parity(graph, weights, path, np.zeros((3, *graph.input[1:]), np.float32))
    Path(tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cannot load .*cut.onnx"):
        parity(graph, weights, tmp_path / "cut.onnx", np.zeros(graph.input, np.float32))
    with pytest.raises(InputError, match="cannot be compared"):
        compare(np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32))
