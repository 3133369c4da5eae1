"""hwnas/profiling/model_file.py: ONNX files of other people, with free dimensions, weights elsewhere, or nothing in them."""

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.errors import DamagedFile, InputError
from hwnas.profiling.model_file import parse_shapes, read_model


def convolution(path, dims, *, seed=0, kernel=3):
    """x -> Conv -> Relu -> y, 3 to 2 channels, written to `path`."""
    weights = numpy_helper.from_array(np.random.default_rng(seed).normal(size=(2, 3, kernel, kernel)).astype(np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], pads=[kernel // 2] * 4), helper.make_node("Relu", ["h"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None if dims is None else [dims[0], 2, *dims[2:]])
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y], [weights]), ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def inputs_of(data):
    return {each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim] for each in onnx.load_model_from_string(data).graph.input}


def test_a_file_of_fixed_shapes_is_measured_as_it_is(tmp_path):
    path = convolution(tmp_path / "a.onnx", [4, 3, 8, 8])
    model = read_model(path)
    assert model.data == path.read_bytes() and model.sha256 == hashlib.sha256(model.data).hexdigest()
    assert (model.name, model.shapes, model.batch, model.nodes, model.opset) == ("a.onnx", {"x": (4, 3, 8, 8)}, 4, 2, {"": 17})


def test_free_dimensions_are_fixed_on_a_copy(tmp_path):
    path = convolution(tmp_path / "a.onnx", ["n", 3, "height", "width"])
    before = path.read_bytes()
    by_shape = read_model(path, parse_shapes(["x=2x3x16x8"]))
    by_name = read_model(path, parse_shapes(["height=16", "width=8"]), batch=2)
    assert inputs_of(by_shape.data) == {"x": [2, 3, 16, 8]} and by_shape.data == by_name.data
    assert by_shape.names == {"x", "n", "height", "width"}
    assert path.read_bytes() == before


def test_a_free_first_dimension_is_the_batch_and_one_by_default(tmp_path):
    path = convolution(tmp_path / "a.onnx", ["n", 3, 8, 8])
    assert [read_model(path, batch=batch).batch for batch in (None, 1, 8)] == [1, 1, 8]


def test_an_input_of_unknown_rank_takes_the_shape_that_is_given(tmp_path):
    path = convolution(tmp_path / "a.onnx", None)
    with pytest.raises(InputError, match="'x' \\(of unknown rank\\)"):
        read_model(path)
    assert inputs_of(read_model(path, {"x": (1, 3, 8, 8)}).data) == {"x": [1, 3, 8, 8]}


@pytest.mark.parametrize(
    ("dims", "shapes", "batch", "words"),
    [
        (["n", 3, "height", "width"], {}, None, "free dimensions: 'x' (1 x 3 x height x width); fix them with --shape 'x=1x3xNxN'"),
        ([1, 3, 8, 8], {}, 4, "has a batch of 1, not 4: export it with a free first dimension"),
        ([1, 3, 8, 8], {"x": (1, 3, 9, 8)}, None, "has the shape 1 x 3 x 8 x 8, which 1x3x9x8 does not fit"),
        (["n", 3, 8, 8], {"x": (1, 3, 8)}, None, "has the shape n x 3 x 8 x 8, which 1x3x8 does not fit"),
        ([1, 3, "side", "side"], {"x": (1, 3, 8, 9)}, None, "'side' of a.onnx is both 8 and 9"),
    ],
)
def test_what_does_not_fit_is_said_with_the_dimensions(tmp_path, dims, shapes, batch, words):
    with pytest.raises(InputError) as refused:
        read_model(convolution(tmp_path / "a.onnx", dims), shapes, batch)
    assert words in str(refused.value)


@pytest.mark.parametrize("text", ["x", "x=", "=1x3", "x=1x-3", "x=1x0x2", "x=axb", "x=99999999999999999999999", "x=1.5"])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(InputError, match="is no shape; write input=1x3x224x224"):
        parse_shapes([text])


def test_weights_in_other_files_are_refused_with_what_to_do(tmp_path):
    path = convolution(tmp_path / "a.onnx", [1, 3, 8, 8], kernel=31)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="a.bin", size_threshold=0)
    (tmp_path / "a.bin").unlink()  # it is not even looked for
    with pytest.raises(InputError, match=r"keeps weights in another file \(a.bin\), which is not read; write all into one"):
        read_model(path)


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x08"])
def test_what_is_no_model_is_a_damaged_file(tmp_path, content):
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="is no ONNX model"):
        read_model(path)
    with pytest.raises(DamagedFile, match="cannot read"):
        read_model(tmp_path / "missing.onnx")


def test_networks_that_differ_in_weights_share_the_hash_of_the_graph(tmp_path):
    one, other, wider = (convolution(tmp_path / f"{i}.onnx", [1, 3, 8, 8], seed=i, kernel=kernel) for i, kernel in enumerate((3, 3, 5)))
    models = [read_model(path) for path in (one, other, wider)]
    assert models[0].sha256 != models[1].sha256
    assert models[0].graph_sha256 == models[1].graph_sha256 != models[2].graph_sha256


def test_whole_numbers_that_decide_shapes_are_part_of_the_graph(tmp_path):
    digests = []
    for shape in ([2, 6], [3, 4]):
        target = numpy_helper.from_array(np.array(shape, np.int64), "shape")
        x, y = helper.make_tensor_value_info("x", TensorProto.FLOAT, [12]), helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
        graph = helper.make_graph([helper.make_node("Reshape", ["x", "shape"], ["y"])], "g", [x], [y], [target])
        path = tmp_path / "a.onnx"
        onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
        digests.append(read_model(path).graph_sha256)
    assert digests[0] != digests[1]
