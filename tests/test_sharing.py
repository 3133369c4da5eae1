"""Weight sharing other than Once-for-All's, mixtures of blocks and warm-up, against brute force on a space of two layers."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from hwnas import registry
from hwnas.backends.torch import static
from hwnas.blocks import conv_bn_act, mbconv, pooled_head
from hwnas.errors import InputError
from hwnas.graph import IDENTITY, Graph
from hwnas.index import BlockIndex
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.supernet.gates import mixed
from hwnas.supernet.supernet import Supernet
from hwnas.warm_up import decisions, warm_up, warm_up_chance

OPERATIONS = {"zero": None, "k3": (3, 2), "k5": (5, 2), "k3 wide": (3, 4)}


def block(side, operation):
    return IDENTITY if OPERATIONS[operation] is None else mbconv((1, 8, side, side), 8, *OPERATIONS[operation])


def space(resolutions=(4,)):
    """Two layers that choose among nothing and three inverted residuals."""
    resolution = Choice("resolution", resolutions)
    choices = [resolution, *(Choice(f"layer{i}.op", tuple(OPERATIONS)) for i in (1, 2))]
    layers = [
        Layer("stem", (resolution,), lambda side: conv_bn_act((1, 3, side, side), 8)),
        *(Layer(f"layer{i}", (resolution, choices[i]), block) for i in (1, 2)),
        Layer("head", (resolution,), lambda side: pooled_head((1, 8, side, side), 8, 3)),
    ]
    return SearchSpace("two_layers", choices, layers)


@pytest.fixture(scope="module")
def index():
    return BlockIndex(space())


def lively(supernet):
    with torch.no_grad():
        for name, tensor in supernet.tensors.items():
            if "norm." in name:
                tensor.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    return supernet


def code(index, first, second):
    return index.space.encode({"resolution": index.space.choices[0].values[-1], "layer1.op": first, "layer2.op": second})[0]


def alone(supernet, layer, operation, x):
    """What a layer with this operation makes of x: its own small network with extracted weights, in evaluation mode."""
    if operation == "zero":
        return x
    name = f"layer{layer}"
    choices = ("zero", operation) if layer == 2 else (operation, "zero")
    graph = Graph([(name, block(4, operation), None)])
    weights = supernet.extract(code(supernet.index, *choices))
    return static(graph, {key: value for key, value in weights.items() if key.startswith(name)}).eval()(x)


def test_paths_have_nothing_in_common_but_what_no_choice_separates(index):
    supernet = Supernet(index, sharing="paths")
    layer = [name for name in supernet.tensors if name.startswith("layer1")]
    assert {name.partition("/")[0] for name in layer} == {"layer1@0", "layer1@1", "layer1@2"}
    assert supernet.shapes["layer1@0/depthwise.weight"] == (16, 1, 3, 3)
    assert supernet.shapes["layer1@1/depthwise.weight"] == (16, 1, 5, 5)
    assert supernet.shapes["layer1@2/project.weight"] == (8, 32, 1, 1)
    assert "stem@0/conv.weight" in supernet.tensors


def test_one_path_is_trained_and_the_others_stay(index):
    """The weight step of ProxylessNAS: one sampled path, and no gradient for any other candidate."""
    supernet = Supernet(index, sharing="paths")
    network = supernet.subnet(code(index, "k5", "zero")).train()
    network(torch.randn(4, 3, 4, 4)).square().sum().backward()
    supernet.merge()
    trained = {name.partition("/")[0] for name, tensor in supernet.tensors.items() if tensor.grad is not None}
    assert trained == {"stem@0", "layer1@1", "head@0"}


def test_paths_do_not_depend_on_the_resolution():
    supernet = Supernet(BlockIndex(space((4, 8))), sharing="paths")
    assert supernet.fingerprint == Supernet(BlockIndex(space((4,))), sharing="paths").fingerprint


def test_kernels_are_separate_where_operators_are_collapsed(index):
    supernet = Supernet(index, sharing="kernels")
    assert supernet.shapes["layer1/depthwise@3.weight"] == (32, 1, 3, 3)
    assert supernet.shapes["layer1/depthwise@5.weight"] == (16, 1, 5, 5)
    assert supernet.shapes["layer1/expand.weight"] == (32, 8, 1, 1)
    assert "layer1/depthwise.weight" not in supernet.tensors and not any("to" in name.rpartition(".")[2] for name in supernet.trained)
    supernet.subnet(code(index, "k5", "zero")).train()(torch.randn(4, 3, 4, 4)).sum().backward()
    supernet.merge()
    assert supernet.tensors["layer1/depthwise@3.weight"].grad is None
    assert supernet.tensors["layer1/depthwise@5.weight"].grad is not None
    assert not supernet.tensors["layer1/expand.weight"].grad[16:].any()


@pytest.mark.parametrize("sharing", ["slices", "kernels", "paths"])
def test_extracted_subnets_compute_what_the_supernet_does(index, sharing):
    supernet, x = lively(Supernet(index, sharing=sharing)), torch.randn(2, 3, 4, 4)
    for first, second in product(OPERATIONS, repeat=2):
        row = code(index, first, second)
        own = static(index.space.lower(row), supernet.extract(row)).eval()
        with torch.no_grad():
            torch.testing.assert_close(supernet.subnet(row).eval()(x), own(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sharing", ["slices", "kernels", "paths"])
def test_a_mixture_is_the_weighted_sum_of_each_layers_blocks(index, sharing):
    supernet, x = lively(Supernet(index, sharing=sharing)), torch.randn(2, 3, 4, 4)
    gates = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.0, 0.5, 0.1]])
    mixture = [{int(index.tables[0][0]): 1.0}, *({int(index.tables[i][cell]): row[cell] for cell in range(4)} for i, row in ((1, gates[0]), (2, gates[1])))]
    mixture.append({int(index.tables[3][0]): 1.0})
    with torch.no_grad():
        stem = static(Graph([("stem", index.blocks[index.tables[0][0]], None)]), supernet.extract(code(index, "zero", "zero"))).eval()
        value = stem(x)
        for layer in (1, 2):
            value = sum(gate * alone(supernet, layer, operation, value) for gate, operation in zip(gates[layer - 1], OPERATIONS, strict=True))
        head = static(Graph([("head", index.blocks[index.tables[3][0]], None)]), supernet.extract(code(index, "zero", "zero"))).eval()
        torch.testing.assert_close(supernet.mixture(mixture).eval()(x), head(value), rtol=1e-5, atol=1e-6)


def test_a_mixture_of_one_block_each_is_the_subnet(index):
    supernet, x = lively(Supernet(index)), torch.randn(2, 3, 4, 4)
    for row in index.space.sample(np.random.default_rng(0), 6):
        mixture = [{int(block): 1.0} for block in index.ids(row[None])[0]]
        with torch.no_grad():
            torch.testing.assert_close(supernet.mixture(mixture).eval()(x), supernet.subnet(row).eval()(x))


def test_gates_receive_the_derivative_of_the_loss_by_each_blocks_weight(index):
    """Against differences of the loss, in float64."""
    supernet = lively(Supernet(index, sharing="paths"))
    supernet.tensors = {name: tensor.detach().double().requires_grad_(tensor.requires_grad) for name, tensor in supernet.tensors.items()}
    x = torch.randn((2, 3, 4, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(gates):
        ids = [int(each) for each in index.tables[1]]
        ends = [{int(index.tables[i][0]): 1.0} for i in (0, 2, 3)]
        return supernet.mixture([ends[0], dict(zip(ids, gates, strict=True)), ends[1], ends[2]]).eval()(x).square().mean()

    gates = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64, requires_grad=True)
    loss(list(gates)).backward()
    step = 1e-6
    for i in range(4):
        ahead, behind = (gates.detach() + sign * step * torch.eye(4, dtype=torch.float64)[i] for sign in (1, -1))
        with torch.no_grad():
            slope = (loss(ahead.tolist()) - loss(behind.tolist())) / (2 * step)
        torch.testing.assert_close(gates.grad[i], slope, rtol=1e-6, atol=1e-9)


def test_training_a_mixture_trains_every_block_by_its_weight(index):
    supernet = Supernet(index, sharing="paths")
    x = torch.randn(4, 3, 4, 4)
    mixture = mixed(index, warm_up(index, code(index, "zero", "zero"), average=("op",)))
    supernet.mixture(mixture).train()(x).square().sum().backward()
    supernet.merge()
    assert all(tensor.grad is not None for tensor in supernet.parameters())
    with pytest.raises(InputError, match="no architecture"):
        supernet.mixture(mixture).graph  # noqa: B018


def test_warm_up_averages_operators_and_takes_the_largest_filters():
    kernel, expand, depth = Choice("b0.kernel", (3, 5, 7)), Choice("b0.expand", (2, 4)), Choice("depth", (1, 2))
    layers = [
        Layer("first", (kernel, expand), partial(mbconv, (1, 8, 4, 4), 8)),
        Layer("second", (depth, kernel), lambda depth, kernel: mbconv((1, 8, 4, 4), 8, kernel, 2) if depth == 2 else IDENTITY),
    ]
    index = BlockIndex(SearchSpace("warm", [kernel, expand, depth], layers))
    first, second = (list(table) for table in index.tables)
    row = np.array([1, 0, 0], np.int16)

    def mixture(**which):
        return mixed(index, warm_up(index, row, **which))

    assert mixture(average=(), largest=()) == [{first[2]: 1.0}, {second[1]: 1.0}]  # kernel 5, expand 2; depth 1
    both = mixture(average=("kernel", "depth"), largest=("expand",))
    assert both[0] == {first[1]: 1 / 3, first[3]: 1 / 3, first[5]: 1 / 3}  # each kernel at expand 4
    assert both[1] == pytest.approx({second[0]: 1 / 2, second[3]: 1 / 6, second[4]: 1 / 6, second[5]: 1 / 6})  # half of the depths leave it out
    one = warm_up(index, row, average=("b0.kernel",))  # by its whole name, too
    assert [np.isnan(each).tolist() for each in one] == [[False, True] * 3, [False] * 3 + [True] * 3] and np.nansum(one[0]) == pytest.approx(1)


def test_what_has_one_shape_is_averaged_and_filters_are_not():
    def of(name):
        index = BlockIndex(registry.create("spaces", name))
        return [sorted({index.space.choices[column].name.rpartition(".")[2] for column in columns}) for columns in decisions(index)]

    assert of("ofa_mini") == [["depth", "kernel"], ["expand", "resolution"]]
    assert of("mnasnet") == [["kernel", "layers", "op", "se", "skip"], ["filters"]]
    assert of("nasbench201") == [[], []]  # its layers name their inputs


def test_the_chance_of_a_warm_up_falls_to_zero_in_the_first_quarter():
    assert [warm_up_chance(progress) for progress in (0, 0.125, 0.25, 0.9)] == [1.0, 0.5, 0.0, 0.0]


def test_mixtures_that_are_not_defined_are_refused(index):
    supernet = Supernet(index)
    whole = [{int(table[0]): 1.0} for table in index.tables]
    for change, word in (
        (whole[:-1], "one mapping for each of 4 layers"),
        ([*whole[:-1], {}], "of no block"),
        ([{10_000: 1.0}, *whole[1:]], "none of its blocks"),
    ):
        with pytest.raises(InputError, match=word):
            supernet.mixture(change)
    wider = Choice("out", (8, 16))
    varied = BlockIndex(SearchSpace("varied", [wider], [Layer("conv", (wider,), lambda out: conv_bn_act((1, 3, 4, 4), out))]))
    with pytest.raises(InputError, match="cannot be mixed: their outputs are of the shapes"):
        Supernet(varied).mixture([{0: 0.5, 1: 0.5}])
    with pytest.raises(InputError, match="there is no weight sharing 'all'"):
        Supernet(index, sharing="all")
