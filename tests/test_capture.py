"""hwnas/capture.py: a search space of an ordinary module that takes its choices as a dictionary."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hwnas.backends.torch import torch as torch_backend
from hwnas.blocks import mbconv
from hwnas.capture import capture
from hwnas.costs import params
from hwnas.errors import InputError
from hwnas.graph import IDENTITY
from hwnas.index import BlockIndex
from hwnas.ops import Add, AvgPool, ChannelShuffle, Conv2d, Flatten, GlobalPool, Linear, MaxPool, Mul
from hwnas.supernet.supernet import Supernet
from hwnas.testing import check_space
from hwnas.verbs.space import show_space
from hwnas.weights import random_weights

SHAPE = (1, 3, 8, 8)


class Block(nn.Module):
    """An inverted residual as anybody writes it."""

    def __init__(self, width, out, kernel, ratio, stride=1):
        super().__init__()
        middle = width * ratio
        self.expand = nn.Sequential(nn.Conv2d(width, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(inplace=True))
        depthwise = nn.Conv2d(middle, middle, kernel, stride, kernel // 2, groups=middle, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(middle), nn.ReLU(inplace=True))
        self.project, self.norm = nn.Conv2d(middle, out, 1, bias=False), nn.BatchNorm2d(out)
        self.shortcut = stride == 1 and width == out

    def forward(self, x):
        y = self.norm(self.project(self.depthwise(self.expand(x))))
        return x + y if self.shortcut else y


class Net(nn.Module):
    """Elastic kernel, depth and width."""

    def __init__(self, choices):
        super().__init__()
        width = choices["width"]
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        blocks = [Block(8, width, choices["kernel0"], 2, stride=2)]
        if choices["depth"] > 1:
            blocks.append(Block(width, width, choices["kernel1"], 2))
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(width, 5)

    def forward(self, x):
        x = self.blocks(F.hardswish(self.stem(x)))
        return self.classifier(self.dropout(x.mean((2, 3))))


CHOICES = {"kernel0": (3, 5), "depth": (1, 2), "kernel1": (3, 5), "width": (8, 16)}


def captured(make=Net, choices=CHOICES, shape=SHAPE, **options):
    return capture("net", make, choices, shape, **options)


def test_a_module_with_elastic_kernel_depth_and_width_is_a_search_space():
    space = captured()
    check_space(space)
    assert {layer.name: tuple(choice.name for choice in layer.reads) for layer in space.layers} == {
        "stem": (),
        "blocks.0": ("kernel0", "width"),
        "blocks.1": ("depth", "kernel1", "width"),
        "global_pool": ("width",),
        "classifier": ("width",),
    }
    index = BlockIndex(space)
    assert index.encodings().n == 2 * (1 + 2) * 2  # without a second block its kernel is nothing
    assert space.layers[2].build(1, 3, 8) is IDENTITY


def test_a_captured_block_is_the_one_that_would_be_written():
    built = captured().layers[2].build(2, 5, 16)
    written = mbconv((1, 16, 2, 2), 16, 5, 2)
    assert [(node.op, node.norm) for node in built] == [(node.op, node.norm) for node in written]
    assert [node.name for node in built] == ["expand.0", "depthwise.0", "project", "add"]


def test_what_is_captured_computes_what_the_module_computes():
    space = captured()
    for code in space.sample(np.random.default_rng(0), 4):
        graph = space.lower(code)
        module = Net(space.decode(code)).eval()
        weights = random_weights(graph, np.random.default_rng(1))
        assert params([tuple(each.node for each in graph.nodes)])[0] == sum(each.numel() for each in module.parameters())
        parts = iter([each for each in module.modules() if isinstance(each, nn.Conv2d | nn.Linear | nn.BatchNorm2d)])
        with torch.no_grad():
            for each in graph.nodes:
                if not each.node.parameters:
                    continue
                part = next(parts)
                part.weight.copy_(torch.tensor(weights[f"{each.name}.weight"]))
                if part.bias is not None:
                    part.bias.copy_(torch.tensor(weights[f"{each.name}.bias"]))
                if each.node.norm is not None:
                    part = next(parts)
                    for theirs, ours in (("weight", "weight"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var")):
                        getattr(part, theirs).copy_(torch.tensor(weights[f"{each.name}.norm.{ours}"]))
            images = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
            np.testing.assert_allclose(torch_backend(graph, weights)(images.numpy()), module(images).numpy(), rtol=1e-4, atol=1e-5)


def test_a_captured_space_has_a_supernet():
    space = captured()
    supernet = Supernet(BlockIndex(space))
    assert tuple(supernet.tensors["blocks.1/depthwise.0.weight"].shape) == (32, 1, 5, 5)
    assert supernet.subnet(space.smallest())(torch.zeros(SHAPE)).shape == (1, 5)


def test_a_file_with_a_module_is_a_space_of_the_command_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\nfrom hwnas.capture import capture\n\n"
        "def mine(out=4):\n"
        "    return capture('mine', lambda choices: nn.Conv2d(3, out, choices['kernel'], padding='same'), {'kernel': (1, 3)}, (1, 3, 5, 5))\n"
    )
    facts = show_space(f"{path}(out=6)")
    assert (facts["encodings"], facts["macs"]) == (2, {"min": 25 * 3 * 6, "max": 25 * 3 * 6 * 9})


def test_a_choice_of_resolution_gives_the_shape_of_the_input():
    space = captured(choices={**CHOICES, "resolution": (8, 12)}, shape=lambda values: (1, 3, values["resolution"], values["resolution"]))
    check_space(space, samples=5)
    assert all("resolution" in [choice.name for choice in layer.reads] for layer in space.layers[:-1])
    assert space.lower(space.largest()).input == (1, 3, 12, 12)


class Elastic(nn.Module):
    """Weights of all choices in one module, whose forward takes them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.middle = Middle()
        self.classifier = nn.Parameter(torch.zeros(5, 8))

    def forward(self, x, choices):
        x = self.middle(self.stem(x), choices)
        return F.linear(x.mean((2, 3)), self.classifier[:, : choices["width"]])


class Middle(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 8, 5, 5))

    def forward(self, x, choices):
        rim = (5 - choices["kernel"]) // 2
        return F.relu(F.conv2d(x, self.weight[: choices["width"], :, rim : 5 - rim, rim : 5 - rim], padding=choices["kernel"] // 2))


def test_an_elastic_module_takes_its_choices_beside_the_image():
    module = Elastic()
    space = captured(module, {"kernel": (3, 5), "width": (4, 8)})
    check_space(space, samples=4)
    assert space.layers[1].name == "middle" and space.layers[1].build(3, 4)[0].op == Conv2d((1, 8, 8, 8), out=4, kernel=3, bias=False, act="relu")
    assert not module.middle.weight.is_meta


def test_a_dependence_that_shows_in_few_architectures_is_found():
    class Rare(nn.Module):
        def __init__(self, choices):
            super().__init__()
            both = choices["a"] == 1 and choices["b"] == 1 and choices["c"] == 1  # from neither end does one choice alone show it
            self.conv = nn.Conv2d(3, 6 if both else 4, 1)

        def forward(self, x):
            return self.conv(x)

    space = captured(Rare, dict.fromkeys("abc", (0, 1, 2)), samples=200)
    assert [choice.name for choice in space.layers[0].reads] == ["a", "b", "c"]


def test_code_that_needs_data_to_make_its_modules_is_made_with_data():
    class Rates(nn.Module):
        def __init__(self, choices):
            super().__init__()
            rates = [each.item() for each in torch.linspace(0, 0.1, choices["depth"])]  # cannot be asked of a tensor on meta
            self.layers = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(rate)) for rate in rates])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    space = captured(Rates, {"depth": (1, 2, 3)})
    assert [layer.name for layer in space.layers] == ["layers.0.0", "layers.1.0", "layers.2.0"]


def test_a_module_that_somebody_keeps_keeps_its_weights():
    kept = nn.Conv2d(3, 4, 1)
    captured(lambda choices: kept, {"a": (1, 2)})
    assert not kept.weight.is_meta


class Forward(nn.Module):
    """Computes what it is given, between two convolutions."""

    def __init__(self, compute, **parts):
        super().__init__()
        self.first, self.compute, self.last = nn.Conv2d(3, 4, 1), compute, nn.Conv2d(4, 4, 1)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.compute(self, self.first(x))


def one(compute, **parts):
    """The operators of a single architecture."""
    space = captured(lambda choices: Forward(compute, **parts), {"a": (1,)})
    return [each.op for each in space.lower(space.smallest()).nodes]


IMAGE = (1, 4, 8, 8)
FIRST = Conv2d(SHAPE, out=4)


@pytest.mark.parametrize(
    ("compute", "ops"),
    [
        (lambda net, x: nn.MaxPool2d(3, 2, 1)(x), [MaxPool(IMAGE, 3, 2, 1)]),
        (lambda net, x: F.avg_pool2d(x, 2, ceil_mode=True), [AvgPool(IMAGE, 2, 2, 0, True)]),
        (lambda net, x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), [AvgPool(IMAGE, 3, 1, 1)]),
        (lambda net, x: nn.AdaptiveAvgPool2d(1)(x).flatten(1), [GlobalPool(IMAGE), Flatten((1, 4, 1, 1))]),
        (lambda net, x: torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1), [GlobalPool(IMAGE), Flatten((1, 4, 1, 1))]),
        (lambda net, x: x.mean([-1, -2], keepdim=True), [GlobalPool(IMAGE)]),
        (lambda net, x: x.view(x.size(0), -1), [Flatten(IMAGE)]),
        (lambda net, x: F.relu(net.last(x) + x), [Conv2d(IMAGE, out=4), Add(IMAGE, act="relu")]),
        (lambda net, x: F.channel_shuffle(x, 2), [ChannelShuffle(IMAGE, 2)]),
    ],
)
def test_functions_become_operators(compute, ops):
    assert one(compute) == [FIRST, *ops]


@pytest.mark.parametrize(
    ("module", "act"),
    [
        *((nn.ReLU(), "relu"), (nn.ReLU6(True), "relu6"), (nn.Hardswish(), "hswish")),
        *((nn.SiLU(), "swish"), (nn.Hardsigmoid(), "hsigmoid"), (nn.Sigmoid(), "sigmoid")),
    ],
)
def test_activations_belong_to_what_is_before_them(module, act):
    assert one(lambda net, x: net.act(x), act=module) == [Conv2d(SHAPE, out=4, act=act)]


def test_a_gate_is_a_product_channel_by_channel():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return torch.sigmoid(self.conv(x.mean((2, 3), keepdim=True))) * x

    assert one(lambda net, x: net.gate(x), gate=Gate()) == [FIRST, GlobalPool(IMAGE), Conv2d((1, 4, 1, 1), out=4, act="sigmoid"), Mul(IMAGE)]


def test_a_matrix_product_is_one():
    assert one(lambda net, x: net.fc(x.mean((2, 3))), fc=nn.Linear(4, 2, bias=False))[-1] == Linear((1, 4), out=2, bias=False)


@pytest.mark.parametrize(
    ("compute", "parts", "message"),
    [
        (lambda net, x: net.act(x), {"act": nn.GELU()}, r"net: the module act \(GELU\) calls gelu, which hwnas has no operator for"),
        (lambda net, x: torch.cat([x, x], 1), {}, r"the forward of Forward calls cat, which hwnas has no operator for"),
        (lambda net, x: x.chunk(2, 1)[0], {}, "calls chunk"),
        (lambda net, x: net.conv(x), {"conv": nn.Conv2d(4, 4, 3)}, r"module conv \(Conv2d\) calls conv2d in .* padding is 0, of a kernel of 3 it must be 1"),
        (lambda net, x: net.conv(x), {"conv": nn.Conv2d(4, 4, (3, 1), 1, (1, 0))}, r"kernel is \(3, 1\), it must be the same in both directions"),
        (lambda net, x: net.norm(net.first(x[:, :3])), {"norm": nn.BatchNorm2d(4)}, "calls getitem"),
        (lambda net, x: net.norm(x), {"norm": nn.BatchNorm2d(4)}, "before a batch norm a bias changes nothing: make what is before it with bias=False"),
        (lambda net, x: net.norm(F.max_pool2d(x, 2)), {"norm": nn.BatchNorm2d(4)}, "has a batch norm behind max_pool.float32 .*behind conv2d, linear alone"),
        (lambda net, x: F.relu(F.relu6(x)), {}, "has relu behind conv2d.float32 .* act=relu6"),
        (lambda net, x: net.last(x) + F.relu(x), {}, "has relu behind a value that is read without it, too"),
        (lambda net, x: F.relu(x) + x, {}, "reads a value before its batch norm or activation"),
        (
            lambda net, x: net.norm(net.b(net.norm(net.a(x)))),
            {"a": nn.Conv2d(4, 4, 1, bias=False), "b": nn.Conv2d(4, 4, 1, bias=False), "norm": nn.BatchNorm2d(4)},
            r"the module norm \(BatchNorm2d\) runs a second time with the same weights",
        ),
        (lambda net, x: net.last(net.last(x)), {}, r"the module last \(Conv2d\) runs a second time with the same weights"),
        (lambda net, x: x * 2, {}, "combines a value with int"),
        (lambda net, x: (x, x), {}, "must return one tensor, that which it computes last, and returns tuple"),
        (lambda net, x: net.conv(net.last(x)) + x, {"conv": nn.Conv2d(4, 4, 1)}, "conv reads what first computes, which is not the layer before it"),
        (lambda net, x: net.missing(x), {}, "with a=1 the module cannot be run: AttributeError"),
        (lambda net, x: F.avg_pool2d(x, 3, 1, 1), {}, "count_include_pad=False"),
    ],
)
def test_what_hwnas_has_no_form_of_is_named_in_one_sentence(compute, parts, message):
    with pytest.raises(InputError, match=message) as error:
        one(compute, **parts)
    assert "\n" not in str(error.value)


def test_what_is_no_module_is_refused():
    with pytest.raises(InputError, match=r"must be a torch\.nn\.Module, got dict"):
        captured(lambda choices: choices, {"a": (1,)})
    with pytest.raises(InputError, match="at least one choice"):
        captured(Net, {})
