"""The supernet: subnets are views of its tensors, and everything that follows from that."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hwnas.backends.torch import Network, static
from hwnas.blocks import chain, conv_bn_act, mbconv
from hwnas.errors import DamagedFile
from hwnas.graph import Graph
from hwnas.index import BlockIndex
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.spaces.ofa_mobilenet_v3 import ofa_mobilenet_v3
from hwnas.supernet.recalibrate import recalibrated
from hwnas.supernet.sharing import transformed, window
from hwnas.supernet.supernet import Supernet
from hwnas.weights import random_weights


@pytest.fixture(scope="module")
def index():
    return BlockIndex(ofa_mini(resolutions=(16, 24)))


def noisy(index, seed=0):
    """A supernet whose transforms are not the identity and whose statistics are not trivial."""
    supernet = Supernet(index, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in supernet.tensors.items():
            noise = torch.rand(tensor.shape, generator=generator)
            if name.endswith(("norm.var", "norm.weight")):
                tensor.copy_(0.5 + noise)
            elif "to" in name.rpartition(".")[2]:
                tensor.add_(0.1 * noise)
    return supernet


def test_it_holds_the_largest_shape_of_every_tensor():
    supernet = Supernet(BlockIndex(ofa_mobilenet_v3(resolutions=(224,))), transforms=False)
    assert sum(tensor.numel() for tensor in supernet.parameters()) == 7_664_760  # the largest subnet of w1.0
    assert supernet.shapes["stage2.block1/depthwise.weight"] == (240, 1, 7, 7)


def test_transforms_add_one_matrix_per_step_and_layer():
    supernet = Supernet(BlockIndex(ofa_mobilenet_v3(resolutions=(224,))))
    matrices = [name for name in supernet.trained if "to" in name.rpartition(".")[2]]
    assert len(matrices) == 40  # 20 layers: 7 to 5 and 5 to 3
    assert supernet.tensors["stage1.block0/depthwise.7to5"].shape == (25, 25)
    assert torch.equal(supernet.tensors["stage1.block0/depthwise.5to3"], torch.eye(9))


def test_a_window_takes_leading_channels_and_the_centre_of_the_kernel():
    assert window((8, 1, 7, 7), (3, 1, 3, 3)) == (slice(0, 3), slice(0, 1), slice(2, 5), slice(2, 5))
    assert window((8,), (5,)) == (slice(0, 5),)


def test_identity_transforms_are_centre_crops():
    weight = torch.randn(4, 1, 7, 7)
    small = transformed(weight, 3, [(5, torch.eye(25)), (3, torch.eye(9))])
    assert torch.equal(small, weight[:, :, 2:5, 2:5])


def test_the_second_transform_works_on_the_result_of_the_first():
    weight = torch.randn(2, 1, 7, 7)
    first, second = torch.randn(25, 25), torch.randn(9, 9)
    five = (weight[:, :, 1:6, 1:6].reshape(2, 25) @ first.T).reshape(2, 1, 5, 5)
    three = (five[:, :, 1:4, 1:4].reshape(2, 9) @ second.T).reshape(2, 1, 3, 3)
    torch.testing.assert_close(transformed(weight, 5, [(5, first), (3, second)]), five)
    torch.testing.assert_close(transformed(weight, 3, [(5, first), (3, second)]), three)


def test_an_extracted_subnet_computes_what_the_supernet_computes(index):
    supernet = noisy(index)
    x = {side: torch.randn(2, 1, side, side) for side in (16, 24)}
    for code in index.space.sample(np.random.default_rng(0), 12):
        shared, own = supernet.subnet(code).eval(), static(index.space.lower(code), supernet.extract(code)).eval()
        with torch.no_grad():
            side = shared.graph.input[2]
            torch.testing.assert_close(shared(x[side]), own(x[side]), rtol=0, atol=1e-6)


def test_training_a_subnet_trains_the_supernet(index):
    supernet = noisy(index)
    before = supernet.tensors["stage1.block0/expand.weight"].detach().clone()
    network = supernet.subnet(index.space.smallest()[0]).train()
    network(torch.randn(4, 1, 16, 16)).sum().backward()
    supernet.merge()
    torch.optim.SGD(supernet.parameters(), lr=0.1).step()
    after = supernet.tensors["stage1.block0/expand.weight"].detach()
    used = network.tensors["stage1.block0/expand.weight"].shape[0]
    assert used < len(before)
    assert not torch.equal(before[:used], after[:used])
    assert torch.equal(before[used:], after[used:])


def test_gradients_are_those_of_the_extracted_network_summed_over_subnets(index):
    supernet = Supernet(index, transforms=False)
    x, y = torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 3])
    codes = index.space.sample(np.random.default_rng(1), 3)
    codes[:, 0] = 0
    expected = {name: torch.zeros_like(supernet.tensors[name]) for name in supernet.trained}
    for code in codes:
        own = static(index.space.lower(code), supernet.extract(code)).train()
        F.cross_entropy(own(x), y).backward()
        for name, tensor in own.parameters_by_name().items():
            expected[name][window(tuple(expected[name].shape), tuple(tensor.shape))] += tensor.grad
        F.cross_entropy(supernet.subnet(code).train()(x), y).backward()
    supernet.merge()
    for name in supernet.trained:
        gradient = supernet.tensors[name].grad
        torch.testing.assert_close(torch.zeros_like(expected[name]) if gradient is None else gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_tensors_that_no_subnet_used_have_no_gradient(index):
    supernet = Supernet(index)
    supernet.subnet(index.space.smallest()[0]).train()(torch.randn(2, 1, 16, 16)).sum().backward()
    supernet.merge()
    assert supernet.tensors["stage1.block2/expand.weight"].grad is None
    assert supernet.tensors["stage1.block0/expand.weight"].grad is not None


def test_weights_of_another_space_or_with_holes_are_refused(index):
    supernet = Supernet(index)
    state = {name: tensor.clone() for name, tensor in supernet.state().items()}
    name = "head/classifier.weight"
    for change, word in (({name: state[name][:5]}, "shape"), ({name: torch.full_like(state[name], float("nan"))}, "finite"), ({"x": state[name]}, "unknown")):
        with pytest.raises(DamagedFile, match=word):
            supernet.load(state | change)
    with pytest.raises(DamagedFile, match="missing"):
        supernet.load({key: value for key, value in state.items() if key != name})
    assert Supernet(index, seed=3).fingerprint == supernet.fingerprint
    assert Supernet(BlockIndex(ofa_mini(resolutions=(48,)))).fingerprint == supernet.fingerprint  # weights fit at every resolution
    assert Supernet(BlockIndex(ofa_mini(classes=11))).fingerprint != supernet.fingerprint


def test_recalibrated_statistics_are_weighted_means_and_biased_variances():
    graph = Graph([("layer", conv_bn_act((1, 2, 6, 6), 3), None)])
    network = static(graph, random_weights(graph, np.random.default_rng(0)))
    before = network.tensors["layer/conv.norm.mean"].clone()
    batches = [torch.randn(4, 2, 6, 6), torch.randn(2, 2, 6, 6)]
    own = recalibrated(network, batches)
    weight = network.tensors["layer/conv.weight"].detach()
    outputs = [F.conv2d(batch, weight, padding=1) for batch in batches]
    mean = sum(len(out) * out.mean((0, 2, 3)) for out in outputs) / 6
    variance = sum(len(out) * out.var((0, 2, 3), unbiased=False) for out in outputs) / 6
    torch.testing.assert_close(own.tensors["layer/conv.norm.mean"], mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own.tensors["layer/conv.norm.var"], variance, rtol=1e-5, atol=1e-6)
    assert torch.equal(network.tensors["layer/conv.norm.mean"], before)
    assert own.tensors["layer/conv.weight"] is network.tensors["layer/conv.weight"]


def test_recalibration_leaves_the_supernet_alone(index):
    supernet = noisy(index)
    before = {name: tensor.detach().clone() for name, tensor in supernet.tensors.items()}
    recalibrated(supernet.subnet(index.space.smallest()[0]), [torch.randn(8, 1, 16, 16)])
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.tensors.items())


def test_a_network_takes_any_batch_and_both_layouts():
    block = chain(conv_bn_act((1, 3, 8, 8), 8, act="hswish"), mbconv((1, 8, 8, 8), 8, 3, 2, se=True))
    graph = Graph.of_block(block)
    network = static(graph, random_weights(graph, np.random.default_rng(0))).eval()
    assert isinstance(network, Network)
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(x.contiguous(memory_format=torch.channels_last)))
        torch.testing.assert_close(network(x)[2:3], network(x[2:3]), rtol=1e-4, atol=1e-5)


def test_a_subnet_follows_the_weights_after_every_step(index):
    """Slices of columns and transformed kernels are tensors of their own; a network may be kept over many steps, and be met in inference mode first."""
    supernet = noisy(index)
    code, x = index.space.smallest()[0], torch.randn(4, 1, 16, 16)
    network = supernet.subnet(code)
    with torch.inference_mode():
        network.eval()(x)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1)
    for _ in range(3):
        network.train()(x).square().sum().backward()
        supernet.merge()
        optimizer.step()
        optimizer.zero_grad()
        own = static(index.space.lower(code), {name: array.copy() for name, array in network.weights().items()}).eval()
        with torch.no_grad():
            torch.testing.assert_close(network.eval()(x), own(x), rtol=0, atol=1e-6)
            full = supernet.tensors["stage1.block0/project.weight"]
            assert torch.equal(
                torch.from_numpy(network.weights()["stage1.block0/project.weight"]), full[:, : own.tensors["stage1.block0/project.weight"].shape[1]]
            )


def test_gradients_of_transformed_kernels_are_those_of_autograd(index):
    """Of a kernel 3 made of a kernel 5: both the large kernel and the matrix learn."""
    supernet = noisy(index)
    code, x = index.space.smallest()[0], torch.randn(4, 1, 16, 16)
    name, matrix = "stage1.block0/depthwise.weight", "stage1.block0/depthwise.5to3"
    large, step = (supernet.tensors[key].detach().clone().requires_grad_() for key in (name, matrix))
    own = static(index.space.lower(code), supernet.extract(code))
    channels = own.tensors[name].shape[0]
    own = Network(own.graph, own.tensors, {name: lambda: transformed(large[:channels], 3, [(3, step)])}).train()
    own(x).square().sum().backward()
    supernet.subnet(code).train()(x).square().sum().backward()
    supernet.merge()
    torch.testing.assert_close(supernet.tensors[name].grad, large.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(supernet.tensors[matrix].grad, step.grad, rtol=1e-4, atol=1e-4)
