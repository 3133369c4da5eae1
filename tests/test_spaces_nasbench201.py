"""hwnas/spaces/nasbench201.py: against the benchmark's own figures, its cells in plain PyTorch, and its files."""

import csv
import gzip
import os
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwnas.backends.onnx import runner, to_onnx
from hwnas.backends.torch import torch as torch_backend
from hwnas.costs import macs, params
from hwnas.errors import InputError
from hwnas.graph import Graph
from hwnas.index import BlockIndex, Count
from hwnas.predictor import Additive
from hwnas.spaces.nasbench201 import EDGES, OPERATIONS, PUBLISHED, nasbench201, values_of
from hwnas.variant import Variant
from hwnas.weights import random_weights


@pytest.fixture(scope="module")
def index():
    return BlockIndex(nasbench201())


def metric(index, cost):
    return Additive(index, cost(index.blocks), name="cost", unit="")


def cell(operations):
    """The benchmark's way to write operations in the order of EDGES."""
    named = dict(zip(EDGES, operations, strict=True))
    return "+".join("|" + "".join(f"{named[source, target]}~{source}|" for source in range(target)) for target in (1, 2, 3))


@pytest.mark.parametrize("name", PUBLISHED)
def test_cells_have_the_parameters_and_flops_of_the_benchmarks_files(index, name):
    written, published = PUBLISHED[name]
    code = index.space.encode(values_of(written))
    assert metric(index, params)(code)[0] == published.params
    # its counter adds one for each bias of the classifier, and rounds to ten
    assert metric(index, macs)(code)[0] + 10 == pytest.approx(published.macs, abs=5)


def test_all_cells_lie_between_the_published_extremes(index):
    # over all 15,625 networks for CIFAR-10: 0.073306 to 1.531546 M parameters, 7.78305 to 220.11969 M FLOPs
    assert [bound.value for bound in metric(index, params).bounds()] == [73_306, 1_531_546]
    assert [bound.value + 10 for bound in metric(index, macs).bounds()] == pytest.approx([7.78305e6, 220.11969e6], abs=5)
    assert index.subnets() == Count(5**6, exact=True)


class Cell(nn.Module):
    """As the paper has it: every edge an operation, every node the sum of its edges."""

    def __init__(self, width, operations):
        super().__init__()
        self.edges = nn.ModuleList(relu_conv_bn(width, width, int(each[-1])) if each.startswith("nor_conv") else nn.Identity() for each in operations)
        self.operations = operations

    def forward(self, x):
        nodes = [x]
        for target in (1, 2, 3):
            values = []
            for (source, end), operation, edge in zip(EDGES, self.operations, self.edges, strict=True):
                if end == target:
                    value = edge(nodes[source])
                    if operation == "none":
                        value = value * 0.0
                    elif operation == "avg_pool_3x3":
                        value = F.avg_pool2d(value, 3, 1, 1, count_include_pad=False)
                    values.append(value)
            nodes.append(sum(values))
        return nodes[3]


class Reduction(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.a, self.b = relu_conv_bn(width, out, 3, 2), relu_conv_bn(out, out, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width, out, 1, bias=False))

    def forward(self, x):
        return self.b(self.a(x)) + self.shortcut(x)


def relu_conv_bn(width, out, kernel, stride=1):
    return nn.Sequential(nn.ReLU(), nn.Conv2d(width, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out))


def plain(operations):
    layers = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)]
    for width in (16, 32, 64):
        layers += [Cell(width, operations) for _ in range(5)]
        layers += [Reduction(width, 2 * width)] if width < 64 else []
    return nn.Sequential(*layers, nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize(
    "operations",
    [
        [*OPERATIONS, "nor_conv_3x3"],
        ["nor_conv_3x3", "none", "skip_connect", "nor_conv_1x1", "avg_pool_3x3", "nor_conv_3x3"],
        ["none", "none", "nor_conv_1x1", "avg_pool_3x3", "skip_connect", "none"],  # a batch norm of nothing but zeros
    ],
)
def test_a_network_computes_what_its_cells_do_in_plain_pytorch(operations):
    rng = np.random.default_rng(0)
    space = nasbench201()
    graph = space.lower(space.encode(values_of(cell(operations))))
    weights, model = random_weights(graph, rng), plain(operations).eval()
    assert sum(each.numel() for each in model.parameters()) == params([tuple(each.node for each in graph.nodes)])[0]
    weighted = iter([each for each in graph.nodes if each.node.parameters])
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) or module is model[-5]:
                each = next(weighted)
                module.weight.copy_(torch.tensor(weights[f"{each.name}.weight"]))
                if module.bias is not None:
                    module.bias.copy_(torch.tensor(weights[f"{each.name}.bias"]))
                if module is model[-5]:
                    module.eps = 0.0  # a scale and a shift: statistics of mean 0 and variance 1
            elif isinstance(module, nn.BatchNorm2d):
                for theirs, ours in (("weight", "weight"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var")):
                    getattr(module, theirs).copy_(torch.tensor(weights[f"{each.name}.norm.{ours}"]))
        assert next(weighted, None) is None
        images = rng.normal(0, 1, graph.input).astype(np.float32)
        expected = model(torch.tensor(images)).numpy()
    assert np.abs(torch_backend(graph, weights)(images) - expected).max() <= 1e-4 * expected.std()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8_u8s8", "int8_s8s8"])
def test_every_block_sums_of_several_inputs_too_can_be_measured_in_every_precision(index, precision):
    rng = np.random.default_rng(0)
    for block in Variant(precision).index(index).blocks:
        if block:
            graph = Graph.of_block(block)
            model = to_onnx(graph, random_weights(graph, rng), real_ends=False)
            onnx.checker.check_model(model, full_check=True)
            runner(model.SerializeToString())  # ONNX Runtime loads it


def test_what_is_no_cell_is_refused():
    for wrong in ("", "|none~0|", "|none~0|+|none~0|none~1|+|none~0|none~1|", cell(["none"] * 6).replace("none~2", "none~1"), cell(["max_pool"] * 6)):
        with pytest.raises(InputError, match=r"is no cell of NAS-Bench-201"):
            values_of(wrong)
    with pytest.raises(InputError, match="resolution must be a multiple of 4"):
        nasbench201(resolution=30)
    assert not nasbench201(classes=100).references


def rows(name):
    file = Path(os.environ.get("HWNAS_DATA") or ".") / name
    if not file.is_file():
        pytest.skip(f"HWNAS_DATA does not name a folder with {name}")
    with gzip.open(file, "rt") as text:
        return list(csv.DictReader(text))


def test_the_benchmarks_files_are_of_the_space_and_its_costs_tell_something_of_both(index):
    accuracy, latency = rows("nb201_accuracy.csv.gz"), rows("help_nasbench201_latency_ms.csv.gz")
    codes = np.asfortranarray(np.concatenate([index.space.encode(values_of(row["arch_str"])) for row in accuracy]))
    assert len(index.distinct(codes)) == 5**6 == len(list(product(OPERATIONS, repeat=6)))
    assert [row["arch_idx"] for row in accuracy] == [row["arch_idx"] for row in latency]

    def ranks(values):
        return np.argsort(np.argsort(values))

    work = metric(index, macs)(codes)
    for measured, least in ((np.array([float(row["raspi4"]) for row in latency]), 0.8), (np.array([float(row["cifar10_test"]) for row in accuracy]), 0.5)):
        assert np.corrcoef(ranks(work), ranks(measured))[0, 1] > least
