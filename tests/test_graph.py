"""hwnas/graph.py: edges that fit, nodes that matter, memory by hand."""

import copy
import pickle

import pytest

from hwnas.errors import InputError
from hwnas.graph import ABSENT, IDENTITY, Graph, Node, block_text, layers_of, parse_block
from hwnas.ops import Add, Conv2d, GlobalPool, Linear, Mul

SHAPE = (1, 4, 8, 8)


def conv(out=4, shape=SHAPE, source="in0", name="conv", **attributes):
    return Node(name, Conv2d(shape, out=out, **attributes), (source,))


RESIDUAL = (conv(), Node("add", Add(SHAPE), ("conv", "in0")))


def test_layers_follow_one_another_by_default():
    graph = Graph([("a", (conv(6),), None), ("b", (conv(2, (1, 6, 8, 8)),), None)])
    assert str(graph) == "a/conv = conv2d.float32 1x4x8x8 out=6 (input)\nb/conv = conv2d.float32 1x6x8x8 out=2 (a/conv)"
    assert (graph.input, graph.output, graph.output_name) == (SHAPE, (1, 2, 8, 8), "b/conv")
    assert list(layers_of(graph)) == ["a", "b"]


def test_a_skipped_layer_passes_its_input_on():
    graph = Graph([("a", (conv(),), None), ("b", IDENTITY, None), ("c", RESIDUAL, None), ("d", IDENTITY, None)])
    assert graph.output_name == "c/add"
    assert graph.nodes[1].inputs == ("a/conv",)


def test_a_shape_that_does_not_fit_names_the_edge():
    with pytest.raises(InputError, match=r"b/conv expects \(1, 3, 8, 8\) but receives \(1, 4, 8, 8\) from a/conv"):
        Graph([("a", (conv(),), None), ("b", (conv(shape=(1, 3, 8, 8)),), None)])


def test_two_readers_of_the_input_must_agree_on_its_shape():
    with pytest.raises(InputError, match=r"b/conv expects \(1, 3, 8, 8\) but receives \(1, 4, 8, 8\) from input"):
        Graph([("a", (conv(),), None), ("b", (conv(shape=(1, 3, 8, 8)),), ("input",))])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "the network is empty"),
        ([("a", IDENTITY, None)], "the network is empty"),
        ([("a", (conv(),), None), ("b", ABSENT, None)], "the network is empty"),
        ([("a", (conv(source="in1"),), None)], "a/conv names the input 'in1', which does not exist"),
        ([("a", (conv(), conv()), None)], "a/conv occurs twice"),
        ([("a", (Node("add", Add(SHAPE), ("in0",)),), None)], "a/add takes 2 inputs but names 1"),
        ([("a", (conv(),), ("z",))], "a follows 'z', which is no earlier layer"),
        ([("a", (conv(),), ("a",))], "a follows 'a', which is no earlier layer"),
        ([("a", (conv(),), None), ("a", (conv(),), None)], "two layers are named 'a'"),
        ([("input", (conv(),), None)], "two layers are named 'input'"),
        ([("a", (conv(),), None), ("b", IDENTITY, ("a", "input"))], "b is the identity, which needs exactly one input, not 2"),
        ([("a", ABSENT, None), ("b", (conv(),), None)], "b/conv names the input 'in0', which does not exist"),
    ],
)
def test_a_network_that_does_not_connect_is_refused(layers, message):
    with pytest.raises(InputError, match=message):
        Graph(layers)


def test_explicit_inputs_make_branches_and_joins():
    join = (Node("add", Add(SHAPE), ("in0", "in1")),)
    graph = Graph([("left", (conv(kernel=3),), ("input",)), ("right", (conv(),), ("input",)), ("join", join, ("left", "right"))])
    assert graph.nodes[2].inputs == ("left/conv", "right/conv")
    assert [each.inputs for each in graph.nodes[:2]] == [("input",), ("input",)]


def test_a_join_refers_only_to_the_inputs_that_exist():
    layers = [("left", ABSENT, ("input",)), ("right", (conv(),), ("input",))]
    graph = Graph([*layers, ("join", (conv(source="in1"),), ("left", "right"))])
    assert graph.nodes[1].inputs == ("right/conv",)
    with pytest.raises(InputError, match="join/conv names the input 'in0', which does not exist"):
        Graph([*layers, ("join", (conv(source="in0"),), ("left", "right"))])


def test_nodes_that_nothing_reads_are_pruned():
    unused = conv(kernel=7, name="unused")
    graph = Graph([("a", (unused, conv()), None), ("dead", (conv(kernel=5),), ("input",)), ("b", (conv(),), ("a",))])
    assert [each.name for each in graph.nodes] == ["a/conv", "b/conv"]


def test_peak_activation_of_a_chain_is_its_largest_neighbours():
    # input 1x4x8x8 = 256; a: 256 -> 512 (768 alive); b: 512 -> 128 (640 alive)
    graph = Graph([("a", (conv(8),), None), ("b", (conv(2, (1, 8, 8, 8)),), None)])
    assert graph.peak_activation_elements() == 768


def test_peak_activation_keeps_what_a_shortcut_still_needs():
    # input 256 stays alive for the sum: expand 256 + 1024, project 256 + 1024 + 256, add 256 + 256 + 256
    block = (conv(16, name="expand"), conv(4, (1, 16, 8, 8), "expand", "project"), Node("add", Add(SHAPE), ("project", "in0")))
    assert Graph.of_block(block).peak_activation_elements() == 256 + 1024 + 256
    # without the shortcut the input is gone when project runs
    assert Graph.of_block(block[:2]).peak_activation_elements() == 256 + 1024


def test_peak_activation_counts_an_input_read_twice_once():
    # square: 256 in, 256 out; then 256 + 64 (pool of 4 channels is 4): freed only once
    graph = Graph.of_block((Node("double", Add(SHAPE), ("in0", "in0")), Node("pool", GlobalPool(SHAPE), ("double",))))
    assert graph.peak_activation_elements() == 512


def test_absent_and_identity_differ_although_both_are_empty():
    assert not ABSENT and not IDENTITY
    assert ABSENT != IDENTITY and IDENTITY != ABSENT and ABSENT == ABSENT
    assert len({ABSENT, IDENTITY}) == 2
    assert (block_text(ABSENT), block_text(IDENTITY)) == ("absent", "identity")
    assert parse_block("absent") is ABSENT and parse_block("identity") == IDENTITY


def test_a_copied_or_pickled_absent_block_is_still_absent():
    assert copy.deepcopy(ABSENT) is ABSENT
    assert pickle.loads(pickle.dumps((ABSENT, IDENTITY)))[0] is ABSENT


def test_a_block_survives_its_text_without_batch_norms():
    block = (Node("conv", Conv2d(SHAPE, out=4, kernel=3, act="relu6"), ("in0",), 1e-5), Node("add", Add(SHAPE), ("conv", "in0")))
    text = "conv = conv2d.float32 1x4x8x8 out=4 k=3 act=relu6 (in0); add = add.float32 1x4x8x8 (conv in0)"
    assert block_text(block) == text
    assert parse_block(text) == (Node("conv", block[0].op, ("in0",)), block[1])


def test_a_block_that_joins_two_layers_survives_its_text():
    block = (Node("gate", Mul(SHAPE), ("in0", "in1")), Node("add", Add(SHAPE), ("gate", "in2")))
    assert parse_block(block_text(block)) == block


@pytest.mark.parametrize(
    "text",
    [
        "",
        "conv2d.float32 1x4x8x8 out=4",
        "a = conv2d.float32 1x4x8x8 out=4",
        "a = conv2d.float32 1x4x8x8 out=4 (in0); a = conv2d.float32 1x4x8x8 out=4 (in0)",
        "a = conv2d.float32 1x4x8x8 out=4 (b)",
        "a = conv2d.float32 1x4x8x8 out=4 (in0 in1)",
        "a = add.float32 1x4x8x8 (in0)",
        "a = conv2d.float32 1x4x8x8 out=3 (in0); b = conv2d.float32 1x4x8x8 out=4 (a)",
        "a = conv2d.float32 1x4x8x8 out=4 (in0); b = conv2d.float32 1x3x8x8 out=4 (in0)",
        "a = conv2d.float32 1x4x8x8 out=4 ( in0)",
        "a = __import__ (in0)",
    ],
)
def test_a_text_that_is_no_block_is_refused(text):
    with pytest.raises(InputError):
        parse_block(text)


def test_batch_norm_brings_its_scale_and_shift_instead_of_the_bias():
    node = Node("conv", Conv2d((1, 3, 8, 8), out=4, kernel=3), ("in0",), 1e-5)
    assert node.parameters == {"weight": (4, 3, 3, 3), "norm.weight": (4,), "norm.bias": (4,)}
    assert node.buffers == {"norm.mean": (4,), "norm.var": (4,)}
    assert Node("linear", Linear((1, 3), out=4), ("in0",)).buffers == {}


def test_batch_norm_needs_weights_to_be_folded_into():
    with pytest.raises(InputError, match="pool: a batch norm can only follow an operator with weights, not global_pool"):
        Node("pool", GlobalPool(SHAPE), ("in0",), 1e-5)


def test_a_block_of_several_inputs_is_a_network_with_one_image_for_all():
    graph = Graph.of_block((Node("a", Add((1, 2, 3, 3)), ("in0", "in1")), Node("b", Add((1, 2, 3, 3)), ("a", "in2"))))
    assert [each.inputs for each in graph.nodes] == [("input", "input"), ("block/a", "input")] and graph.input == (1, 2, 3, 3)
    with pytest.raises(InputError, match="expects"):
        Graph.of_block((Node("gate", Mul((1, 2, 3, 3)), ("in0", "in1")),))
