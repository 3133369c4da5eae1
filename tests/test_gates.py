"""Derivatives by gates are those of the sum that gates define, at one path's cost, and leave weights alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_spaces import two_blocks

from hwnas.blocks import conv_bn_act, mobilenet_head
from hwnas.errors import InputError
from hwnas.graph import IDENTITY
from hwnas.index import BlockIndex
from hwnas.searchers.proxylessnas import binary_gates, by_choice, gated
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.spaces.nasbench201 import nasbench201
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.supernet.gates import gate_gradients, mixed, mixture_gradients
from hwnas.supernet.supernet import Supernet


def in_double(index, sharing="paths"):
    """A supernet in float64, whose weights are not at their start."""
    supernet = Supernet(index, sharing=sharing)
    generator = torch.Generator().manual_seed(4)
    for name, tensor in supernet.tensors.items():
        noise = 0.3 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        supernet.tensors[name] = (tensor.detach().double() + noise).requires_grad_(tensor.requires_grad)
    return supernet


@pytest.fixture(scope="module")
def index():
    return BlockIndex(two_blocks())


X, Y = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])


def loss(logits):
    return F.cross_entropy(logits, Y)


def loss_of(supernet, gates):
    """The loss of the sum that gates define, by running all of it."""
    network = supernet.mixture(mixed(supernet.index, gates)).train()
    network.momentum = 0.0
    with torch.no_grad():
        return float(loss(network(X)))


def slopes_of(function, at, epsilon=1e-5):
    """Central differences."""
    slopes = [np.zeros(len(each)) for each in at]
    for row, each in enumerate(at):
        for i in range(len(each)):
            moved = [[value.copy() for value in at] for _ in range(2)]
            moved[0][row][i] += epsilon
            moved[1][row][i] -= epsilon
            slopes[row][i] = (function(moved[0]) - function(moved[1])) / (2 * epsilon)
    return slopes


def whole_gates(index, code):
    """Binary gates of an architecture, all of its resolution's cells looked at."""
    gates = []
    for layer, table in enumerate(index.tables):
        column = index.columns[layer].index(0)
        same = np.arange(len(table)) // index.strides[layer][column] % 2 == code[0]
        each = np.where(same, 0.0, np.nan)
        each[int(index.cells(code[None], layer)[0])] = 1.0
        gates.append(each)
    return gates


CODES = {"both blocks": [1, 2, 1, 2], "one skipped": [1, 1, 0, 1], "both skipped": [1, 0, 2, 0]}


@pytest.mark.parametrize("sharing", ["paths", "slices", "kernels"])
@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_derivatives_by_all_gates_are_those_of_the_sum(index, code, sharing):
    supernet, gates = in_double(index, sharing), whole_gates(index, np.array(code))
    expected = slopes_of(lambda at: loss_of(supernet, at), gates)
    value, slopes = gate_gradients(supernet, gates, X, loss)
    assert value == pytest.approx(loss_of(supernet, gates), rel=1e-12)
    for layer in (1, 2):  # stem and head have one cell at this resolution
        looked = ~np.isnan(gates[layer])
        assert looked.sum() == 9
        np.testing.assert_allclose(slopes[layer][looked], expected[layer][looked], rtol=1e-6, atol=1e-9)
        skip = index.tables[layer].tolist().index(index.blocks.index(IDENTITY))
        assert slopes[layer][skip + 9] != 0  # the same cell at the other resolution: a zero edge has a derivative
        assert np.isnan(slopes[layer][~looked]).all()


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_derivatives_by_the_values_of_choices_are_those_of_products_of_gates(index, code):
    supernet, code = in_double(index), np.array(code, np.int16)
    assert gated(index) == [False, True, True, True]
    for values in ([code[:1], np.arange(3), np.arange(3), np.arange(3)], [code[:1], *(np.sort([value, (value + 1) % 3]) for value in code[1:])]):
        _, slopes = gate_gradients(supernet, binary_gates(index, code, values), X, loss)
        found = by_choice(index, code, values, slopes)

        def of_choices(at):
            gates = []
            for layer, table in enumerate(index.tables):
                cells = [np.arange(len(table)) // stride % len(at[column]) for column, stride in zip(index.columns[layer], index.strides[layer], strict=True)]
                gates.append(np.prod([at[column][cell] for column, cell in zip(index.columns[layer], cells, strict=True)], axis=0))
            return loss_of(supernet, gates)

        expected = slopes_of(of_choices, [np.eye(n)[value] for n, value in zip((2, 3, 3, 3), code, strict=True)])
        for column in (1, 2, 3):
            np.testing.assert_allclose(found[column], expected[column][values[column]], rtol=1e-6, atol=1e-9)


def test_derivatives_of_a_mixture_are_those_of_the_sum(index):
    rng = np.random.default_rng(0)
    supernet, gates = in_double(index), [rng.dirichlet(np.ones(len(table))) for table in index.tables]
    gates[0] = np.array([0.3, 0.7])
    value, slopes = mixture_gradients(supernet, gates, X, loss)
    assert value == pytest.approx(loss_of(supernet, gates), rel=1e-12)
    for found, expected in zip(slopes, slopes_of(lambda at: loss_of(supernet, at), gates), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sharing", ["paths", "slices"])
def test_weights_and_running_statistics_stay_bit_for_bit(sharing):
    index = BlockIndex(ofa_mini(resolutions=(16,)))
    supernet = Supernet(index, sharing=sharing)
    before = {name: tensor.detach().clone() for name, tensor in supernet.tensors.items()}
    code = index.space.sample(np.random.default_rng(0))[0]
    values = [np.arange(int(n)) for n in index.space.cardinalities]
    _, slopes = gate_gradients(supernet, binary_gates(index, code, values), torch.randn(4, 1, 16, 16), lambda logits: F.cross_entropy(logits, Y[:4]))
    assert sum(np.isfinite(each).sum() for each in slopes) > 40
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.tensors.items())
    assert all(tensor.requires_grad and tensor.grad is None for tensor in supernet.parameters())
    network = supernet.subnet(code).train()  # and weights are trained afterwards as before
    network(torch.randn(4, 1, 16, 16)).sum().backward()
    supernet.merge()
    assert supernet.tensors["head/classifier.weight" if sharing == "slices" else "head@0/classifier.weight"].grad is not None


def test_one_path_is_kept_for_the_backward_pass(index):
    supernet, kept = in_double(index), []
    code = np.array([1, 2, 1, 2], np.int16)

    def bytes_kept(values):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
            gate_gradients(supernet, binary_gates(index, code, values), X, loss)
        return sum(kept)

    everything = bytes_kept([code[:1], np.arange(3), np.arange(3), np.arange(3)])
    assert everything == bytes_kept([code[:1], np.array([1, 2]), np.array([0, 1]), np.array([1, 2])])


def test_what_has_no_gates_is_refused(index):
    supernet, gates = in_double(index), whole_gates(index, np.array(CODES["both blocks"]))
    with pytest.raises(InputError, match="must be binary"):
        gate_gradients(supernet, [each * 0.5 for each in gates], X, loss)
    with pytest.raises(InputError, match="one array for each of 4 layers"):
        gate_gradients(supernet, gates[:2], X, loss)
    cell = BlockIndex(nasbench201(resolution=8))
    with pytest.raises(InputError, match="name their inputs"):
        gate_gradients(Supernet(cell), [np.eye(len(table))[0] for table in cell.tables], torch.randn(2, 3, 8, 8), loss)
    widths = Choice("width", (4, 8))
    wide = SearchSpace("wide", [widths], [Layer("conv", (widths,), lambda width: conv_bn_act((1, 1, 8, 8), width)), Layer("head", (widths,), _head)])
    assert gated(BlockIndex(wide)) == [False]
    with pytest.raises(InputError, match=r"conv put out different shapes, \(2, 4, 8, 8\) and \(2, 8, 8, 8\)"):
        gate_gradients(Supernet(BlockIndex(wide)), [np.array([1.0, 0.0])] * 2, torch.randn(2, 1, 8, 8), lambda logits: logits.sum())


def _head(width):
    return mobilenet_head((1, width, 8, 8), 8, 8, 3)
