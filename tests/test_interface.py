"""hwnas/interface.py: what is put around a network computes what it should, and leaves the network as it is."""

import json

import numpy as np
import onnx
import pytest

from hwnas.backends.onnx import runner, to_onnx
from hwnas.errors import InputError
from hwnas.graph import Graph, Node
from hwnas.images import centre, resized
from hwnas.interface import Interface, Preprocessing, facts_of, logits_to_compare, outputs_to_logits, with_interface
from hwnas.ops import Conv2d
from hwnas.spaces.nas_bench_macro import nas_bench_macro
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.variant import Variant
from hwnas.weights import random_weights

GREY = Preprocessing((0.13,), (0.24,))


@pytest.fixture(scope="module")
def network():
    graph = ofa_mini().lower(ofa_mini().smallest())
    return to_onnx(graph, random_weights(graph, np.random.default_rng(0))), graph


def dressed(network, face, how=GREY, **facts):
    model, graph = network
    made = with_interface(model, face, side=graph.input[2], preprocessing=how, facts=facts)
    onnx.checker.check_model(made, full_check=True)
    return made


def run(model, x):
    return runner(model.SerializeToString())(x)


def pixels(*shape):
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def prepared(images, how=GREY, side=32):
    """uint8 (n, h, w, c) as training prepares them."""
    import torch

    planes = torch.from_numpy(images).permute(0, 3, 1, 2)
    x = torch.cat([resized(centre(each, how.crop)[None].float(), side) for each in planes]).numpy() / 255
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (how.mean, how.std))
    return ((x - mean) / std).astype(np.float32)


def test_a_plain_interface_changes_nothing(network):
    assert dressed(network, Interface()).SerializeToString(deterministic=True) == network[0].SerializeToString(deterministic=True)


def test_the_network_inside_is_the_same_node_by_node(network):
    made = dressed(network, Interface("image", softmax=True, free_batch=True, input_name="photo", output_name="shares"))
    inside = [node for node in made.graph.node if not node.name.startswith(("preprocessing/", "probabilities/"))]
    assert [node.name for node in inside] == [node.name for node in network[0].graph.node]
    assert [node.attribute for node in inside] == [node.attribute for node in network[0].graph.node]
    own = {each.name: each for each in network[0].graph.initializer}
    assert own == {each.name: each for each in made.graph.initializer if each.name in own}


def test_softmax_gives_probabilities_whose_logarithms_are_the_logits(network):
    x, face = np.random.default_rng(2).standard_normal((1, 1, 32, 32)).astype(np.float32), Interface(softmax=True)
    shares, logits = run(dressed(network, face), x), run(network[0], x)
    assert shares.sum() == pytest.approx(1, abs=1e-6) and (shares >= 0).all()
    np.testing.assert_allclose(outputs_to_logits(shares, face), logits_to_compare(logits, face), atol=1e-4)
    np.testing.assert_array_equal(outputs_to_logits(logits, Interface()), logits)


def test_a_free_batch_takes_any_number_of_images(network):
    x = np.random.default_rng(3).standard_normal((5, 1, 32, 32)).astype(np.float32)
    free = dressed(network, Interface(free_batch=True))
    one_by_one = np.concatenate([run(network[0], each[None]) for each in x])
    np.testing.assert_allclose(run(free, x), one_by_one, atol=1e-5)
    with pytest.raises(InputError, match="cannot run the model on an input of shape"):
        run(network[0], x)


def test_channel_shuffles_take_a_free_batch_too():
    graph = nas_bench_macro().lower(nas_bench_macro().sample(np.random.default_rng(0)))
    model = to_onnx(graph, random_weights(graph, np.random.default_rng(0)))
    x = np.random.default_rng(4).standard_normal((3, *graph.input[1:])).astype(np.float32)
    free = with_interface(model, Interface(free_batch=True), side=graph.input[2], preprocessing=None)
    np.testing.assert_allclose(run(free, x), np.concatenate([run(model, each[None]) for each in x]), rtol=1e-3, atol=1e-4)


def test_pixels_are_normalised_inside(network):
    images = pixels(1, 32, 32, 1)
    np.testing.assert_allclose(run(dressed(network, Interface("pixels")), images), run(network[0], prepared(images)), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 48, 80, 1), (1, 32, 32, 1), (1, 20, 31, 1), (1, 200, 33, 1)])
@pytest.mark.parametrize("crop", [None, 0.875, 0.5])
def test_images_of_any_size_are_cut_and_resized_inside_as_in_training(network, shape, crop):
    images, how = pixels(*shape), Preprocessing((0.13,), (0.24,), crop=crop)
    np.testing.assert_allclose(run(dressed(network, Interface("image"), how), images), run(network[0], prepared(images, how)), atol=2e-4)


def test_each_channel_has_its_own_mean_and_range():
    graph = Graph([("a", (Node("conv", Conv2d((1, 3, 8, 8), out=2), ("in0",)),), None)])
    model = to_onnx(graph, random_weights(graph, np.random.default_rng(0)))
    how = Preprocessing((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), range=(-1.0, 1.0))
    images = pixels(1, 8, 8, 3)
    x = ((images.transpose(0, 3, 1, 2) / 255 * 2 - 1 - np.array(how.mean)[:, None, None]) / np.array(how.std)[:, None, None]).astype(np.float32)
    np.testing.assert_allclose(run(with_interface(model, Interface("pixels"), side=8, preprocessing=how), images), run(model, x), atol=1e-5)


@pytest.mark.parametrize("opset", [14, 17, 18, 21, 23, 26])
def test_the_opset_is_the_one_asked_for(network, opset):
    made = dressed(network, Interface(opset=opset))
    x = np.zeros((1, 1, 32, 32), np.float32)
    assert made.opset_import[0].version == opset
    np.testing.assert_allclose(run(made, x), run(network[0], x), atol=1e-5)


def test_images_of_any_size_bring_the_opset_they_need(network):
    assert dressed(network, Interface("image")).opset_import[0].version == 18 and dressed(network, Interface("pixels")).opset_import[0].version == 17


def test_names_labels_and_preprocessing_are_in_the_file(network):
    made = dressed(network, Interface(input_name="photo", output_name="scores"), **facts_of(GREY, ["a", "ß"], 32))
    known = {each.key: json.loads(each.value) for each in made.metadata_props}
    assert known["hwnas.labels"] == ["a", "ß"] and known["hwnas.preprocessing"]["std"] == [0.24] and known["hwnas.preprocessing"]["resolution"] == [32, 32]
    assert (made.graph.input[0].name, made.graph.output[0].name) == ("photo", "scores")


def test_equal_arguments_give_equal_bytes(network):
    face = Interface("image", softmax=True, free_batch=True)
    first, second = (dressed(network, face, labels=["a"]).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": "photo"}, "one of tensor, pixels, image, not 'photo'"),
        ({"opset": 13}, "opset 13 cannot be written; there are 14 to 26"),
        ({"opset": 27}, "opset 27 cannot be written"),
        ({"input": "image", "opset": 17}, "14 to 26, and for images of any size 18 at least"),
        ({"input_name": ""}, "'' cannot name an input or output"),
        ({"input_name": "a\nb"}, "cannot name an input or output"),
        ({"input_name": "x", "output_name": "x"}, "cannot both be named 'x'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(arguments, message):
    with pytest.raises(InputError, match=message):
        Interface(**arguments)


def test_a_name_inside_of_the_network_is_taken(network):
    inner = network[0].graph.node[0].output[0]
    with pytest.raises(InputError, match=f"'{inner}' is the name of a value inside of the network; give the input another one"):
        dressed(network, Interface(input_name=inner))


def test_interfaces_that_do_not_fit_a_network_are_refused(network):
    block = Graph([("a", (Node("conv", Conv2d((1, 3, 8, 8), out=2), ("in0",)),), None)])
    model = to_onnx(block, random_weights(block, np.random.default_rng(0)))
    with pytest.raises(InputError, match=r"softmax goes behind logits \(n, classes\)"):
        with_interface(model, Interface(softmax=True), side=8, preprocessing=None)
    with pytest.raises(InputError, match="a mean and a positive std for each of 3 channels"):
        with_interface(model, Interface("pixels"), side=8, preprocessing=GREY)
    with pytest.raises(InputError, match="needs to know how the network's images are prepared"):
        with_interface(model, Interface("pixels"), side=8, preprocessing=None)
    half = Variant("bf16").space(ofa_mini()).lower(ofa_mini().smallest())
    with pytest.raises(InputError, match="opset 18 cannot hold this network, whose precision needs 22 or later"):
        with_interface(to_onnx(half, random_weights(half, np.random.default_rng(0))), Interface(opset=18), side=32, preprocessing=None)
