"""hwnas/spaces/: each family against what its authors published and against the same networks in torchvision and timm."""

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from hwnas import registry
from hwnas.backends.torch import torch as torch_backend
from hwnas.costs import macs, params
from hwnas.errors import InputError
from hwnas.index import BlockIndex
from hwnas.predictor import Additive
from hwnas.spaces.efficientnet import efficientnet
from hwnas.spaces.fbnet import HW_NAS_BENCH, OPERATIONS, fbnet
from hwnas.spaces.mobilenet_v2 import mobilenet_v2
from hwnas.spaces.mobilenet_v3 import mobilenet_v3
from hwnas.spaces.ofa_proxylessnas import ofa_proxylessnas
from hwnas.spaces.ofa_resnet50 import ofa_resnet50
from hwnas.spaces.proxylessnas import proxylessnas
from hwnas.spaces.resnet import resnet
from hwnas.verbs.space import show_space
from hwnas.weights import random_weights


def ends(space, cost, resolution=224):
    """Least and greatest cost of a space's networks at a resolution."""
    index = BlockIndex(space)
    hold = {"resolution": space.choices[space.column["resolution"]].values.index(resolution)}
    return tuple(bound.value for bound in Additive(index, cost(index.blocks), name="cost", unit="").bounds(hold))


def costs(space, name):
    """MACs and parameters of a reference, from its lowered network."""
    block = tuple(each.node for each in space.lower(space.encode(space.references[name])).nodes)
    return macs([block])[0], params([block])[0]


def test_a_reference_is_shown_beside_what_was_published():
    (shown,) = show_space("proxylessnas")["references"]
    assert shown["name"] == "proxyless_mobile" and shown["architecture"]["stage1.block2"] == "zero"
    assert (shown["macs"], shown["params"]) == costs(proxylessnas(), "proxyless_mobile")
    assert (shown["macs_published"], shown["params_published"]) == (320e6, 4_080_512)
    assert shown["macs_difference_pct"] == pytest.approx(100 * (shown["macs"] / 320e6 - 1)) and "README" in shown["source"]


# -- Once-for-All -----------------------------------------------------------------------------------------------------------------


def test_the_ends_of_ofa_proxylessnas_are_those_of_the_official_code():
    # 265 M to 1005 M MACs; the supernet's 7,956,882 parameters hold two kernel transforms in each of 21 blocks, 25^2 + 9^2
    space = ofa_proxylessnas()
    low, high = ends(space, macs)
    assert (low, high) == (pytest.approx(265e6, abs=1e6), pytest.approx(1005e6, abs=1e6))
    assert ends(space, params)[1] == 7_956_882 - 21 * (25**2 + 9**2)


def test_the_sixth_stage_of_ofa_proxylessnas_has_one_block_and_no_depth():
    space = ofa_proxylessnas()
    assert [choice.name for choice in space.choices if choice.name.startswith("stage6")] == ["stage6.block0.kernel", "stage6.block0.expand"]
    assert BlockIndex(space).encodings().n == 9 * 7371**5


# -- ProxylessNAS -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "parameters"),
    [("mobile", 4_080_512), ("mobile_14", 6_857_568), ("cpu", 4_361_648), ("gpu", 7_119_848)],  # as pytorchcv checks its copies of the released networks
)
def test_released_proxyless_networks_have_their_parameters_to_the_last_one(widths, parameters):
    assert costs(proxylessnas(widths), f"proxyless_{widths}")[1] == parameters


@pytest.mark.parametrize(("widths", "published"), [("mobile", 320), ("mobile_14", 581)])
def test_released_proxyless_networks_have_the_published_macs(widths, published):
    assert round(costs(proxylessnas(widths), f"proxyless_{widths}")[0] / 1e6) == published


def test_proxylessnas_skips_where_the_shape_stays_and_nowhere_else():
    space = proxylessnas()
    fixed = [choice.name for choice in space.choices[1:] if "zero" not in choice.values]
    assert fixed == [f"stage{s}.block0" for s in range(1, 7)] and len(space.choices) == 22
    assert BlockIndex(space).encodings().n == 6**6 * 7**15


def test_proxylessnas_refuses_widths_it_does_not_know():
    with pytest.raises(InputError, match="widths must be one of search, mobile, mobile_14, cpu, gpu, got 'tpu'"):
        proxylessnas("tpu")


def test_the_released_networks_are_of_224_pixels():
    assert not proxylessnas(resolutions=(96, 128)).references and not proxylessnas("search").references
    assert list(registry.create("spaces", "proxylessnas(resolutions=(192, 224))").references) == ["proxyless_mobile"]


# -- the same networks in torchvision and timm ---------------------------------------------------------------------------------------


def counted(model, side):
    """MACs and parameters of somebody else's network, and its convolutions and matrix products in the order in which they run."""
    found, ran = [0], []

    def count(module, inputs, output):
        ran.append(module)
        per_output = module.weight.shape[1:].numel()
        found[0] += output.numel() * per_output

    hooks = [each.register_forward_hook(count) for each in model.modules() if isinstance(each, torch.nn.Conv2d | torch.nn.Linear)]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return found[0], sum(each.numel() for each in model.parameters()), ran


def assert_same_network(graph, model):
    """MACs and parameters are equal, and with the same random weights the logits to 1e-4 of their spread."""
    side = graph.input[-1]
    block = tuple(each.node for each in graph.nodes)
    *theirs, ran = counted(model, side)
    assert (macs([block])[0], params([block])[0]) == tuple(theirs)
    rng = np.random.default_rng(0)
    weights = random_weights(graph, rng)
    norms = iter([each for each in model.modules() if isinstance(each, torch.nn.BatchNorm2d)])
    weighted = [each for each in graph.nodes if each.node.parameters]
    assert len(weighted) == len(ran)
    with torch.no_grad():
        for each, module in zip(weighted, ran, strict=True):
            module.weight.copy_(torch.tensor(weights[f"{each.name}.weight"]).reshape(module.weight.shape))
            assert (module.bias is not None) == (f"{each.name}.bias" in weights), each.name
            if module.bias is not None:
                module.bias.copy_(torch.tensor(weights[f"{each.name}.bias"]))
            if each.node.norm is not None:
                norm = next(norms)
                for theirs_name, ours in (("weight", "weight"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var")):
                    getattr(norm, theirs_name).copy_(torch.tensor(weights[f"{each.name}.norm.{ours}"]))
                norm.eps = each.node.norm  # ports keep their library's default where the authors have 1e-3
        assert next(norms, None) is None
        images = torch.tensor(rng.normal(0, 1, graph.input).astype(np.float32))
        expected = model.eval()(images).numpy()
    logits = torch_backend(graph, weights)(images.numpy())
    assert expected.std() > 1e-3 and np.abs(logits - expected).max() <= 1e-4 * expected.std()


def lowered(space, name, resolution):
    """A reference at another resolution than its own."""
    return space.lower(space.encode({**space.references[name], "resolution": resolution}))


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.4])
def test_mobilenet_v2_is_torchvisions(width):
    graph = lowered(mobilenet_v2(), f"mobilenet_v2_{width}_224", 96 if width != 1.0 else 224)
    assert_same_network(graph, torchvision.models.mobilenet_v2(width_mult=width))


@pytest.mark.parametrize("variant", ["large", "small"])
def test_mobilenet_v3_is_torchvisions(variant):
    space = mobilenet_v3()
    assert_same_network(space.lower(space.encode(space.references[f"mobilenet_v3_{variant}_1.0"])), getattr(torchvision.models, f"mobilenet_v3_{variant}")())


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("large_0.75", "mobilenetv3_large_075"),
        ("small_0.75", "mobilenetv3_small_075"),
        ("large_minimalistic_1.0", "tf_mobilenetv3_large_minimal_100"),
        ("small_minimalistic_1.0", "tf_mobilenetv3_small_minimal_100"),
    ],
)
def test_mobilenet_v3_is_timms(reference, name):
    timm = pytest.importorskip("timm", reason="timm comes with the extra 'timm'")
    if "075" in name:
        space = mobilenet_v3(resolutions=(64, 224))
        assert_same_network(lowered(space, f"mobilenet_v3_{reference}", 64), timm.create_model(name))
    else:  # timm has the minimalistic ones with TensorFlow's padding alone, which gives other logits
        found, parameters, _ = counted(timm.create_model(name), 224)
        assert costs(mobilenet_v3(), f"mobilenet_v3_{reference}") == (found, parameters)


def test_published_mobilenets_are_met_up_to_their_rounding():
    for name in ("mobilenet_v2", "mobilenet_v3"):
        for shown in show_space(name)["references"]:
            if name == "mobilenet_v2":  # its authors leave out fractions of a million MACs, and the shifts of batch norms; more is a bug
                assert 0 <= shown["macs"] - shown["macs_published"] < 1e6, shown["name"]
                assert shown["params_difference_pct"] == pytest.approx(1, abs=0.2), shown["name"]


# -- EfficientNet ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"b{i}" for i in range(8)])
def test_efficientnet_is_torchvisions(name):
    space = efficientnet()
    values = space.references[f"efficientnet_{name}"]
    model = getattr(torchvision.models, f"efficientnet_{name}")()
    assert costs(space, f"efficientnet_{name}")[1] == sum(each.numel() for each in model.parameters())
    small = efficientnet(resolutions=(32,))
    assert_same_network(small.lower(small.encode({**values, "resolution": 32})), model)


def test_efficientnet_scales_width_depth_and_resolution_for_themselves():
    space = efficientnet()
    assert space.size == 8 * 7 * 8 and len(space.references) == 8
    deeper = space.lower(space.encode({"resolution": 224, "width": 1.0, "depth": 3.1}))
    blocks = [len({each.layer for each in deeper.nodes if each.layer.startswith(f"stage{s}")}) for s in range(1, 8)]
    assert blocks == [4, 7, 7, 10, 10, 13, 4]  # 1, 2, 2, 3, 3, 4 and 1 times 3.1, rounded up


# -- ResNet -----------------------------------------------------------------------------------------------------------------------


def test_resnet50_is_torchvisions():
    assert_same_network(lowered(resnet(resolutions=(64, 224)), "resnet50", 64), torchvision.models.resnet50())


def test_published_resnets_are_met_to_the_last_parameter():
    space = resnet()
    for shown in show_space("resnet")["references"]:
        meta = torchvision.models.get_model_weights(shown["name"]).DEFAULT.meta
        assert shown["params"] == shown["params_published"] == meta["num_params"]
        assert shown["macs_published"] == pytest.approx(1e9 * meta["_ops"], rel=1e-9) and abs(shown["macs"] - shown["macs_published"]) < 0.5e6
    assert len(space.references) == 5


def test_ofa_resnet50_has_the_networks_of_the_official_code():
    space = ofa_resnet50(resolutions=(224,))
    stage, longer = 3 * (3**2 + 3**3 + 3**4), 3 * (3**4 + 3**5 + 3**6)
    assert BlockIndex(space).encodings().n == 3 * 2 * 3 * stage**3 * longer == 2_458_914_796_962
    # the official code's smallest and largest network; the largest has the supernet's parameters
    assert (ends(space, macs), ends(space, params)) == ((962_192_128, 7_491_643_904), (6_539_280, 48_105_992))


def test_a_subnet_of_ofa_resnet50_costs_what_the_official_one_costs():
    # OFAResNets.set_active_subnet(d=[0, 1, 0, 2, 1], e=[0.2, 0.25, 0.35] * 6, w=[0, 1, 2, 1, 0, 2]), at 132 pixels: 33, 17, 9 and 5 on the way down
    depths, widths, ratios = (1, 0, 2, 1), (1.0, 0.8, 0.65, 1.0), iter([0.2, 0.25, 0.35] * 6)
    values = {"resolution": 132, "stem.residual": "skip", "stem.middle": 0.65, "stem.width": 0.8}
    for s, (depth, base, width) in enumerate(zip(depths, (2, 2, 4, 2), widths, strict=True), start=1):
        values |= {f"stage{s}.depth": base + depth, f"stage{s}.width": width} | {f"stage{s}.block{b}.expand": next(ratios) for b in range(base + 2)}
    space = ofa_resnet50(resolutions=(132,))
    block = tuple(each.node for each in space.lower(space.encode(values)).nodes)
    assert (macs([block])[0], params([block])[0]) == (1_205_746_656, 21_958_784)


class Residual(torch.nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return x + self.body(x)


def test_resnet50d_is_timms_with_a_residual_in_its_stem():
    timm = pytest.importorskip("timm", reason="timm comes with the extra 'timm'")
    model = timm.create_model("resnet50d")
    model.conv1 = torch.nn.Sequential(*model.conv1[:3], Residual(model.conv1[3:6]), model.conv1[6])
    space = ofa_resnet50(resolutions=(100, 224))  # of odd sizes on the way down, where windows of the shortcuts reach beyond the image
    assert_same_network(lowered(space, "resnet50d", 100), model)


# -- FBNet ------------------------------------------------------------------------------------------------------------------------


def test_fbnet_c_is_timms():
    timm = pytest.importorskip("timm", reason="timm comes with the extra 'timm'")
    assert_same_network(lowered(fbnet(resolutions=(64, 224)), "fbnet_c", 64), timm.create_model("fbnetc_100"))


@pytest.mark.parametrize(("name", "features"), [("fbnet_a", 1504), ("fbnet_b", 1984), ("fbnet_c", 1984)])
def test_released_fbnets_have_the_published_macs_and_parameters(name, features):
    space = fbnet(features=features, expand_always=False)
    graph = space.lower(space.encode(space.references[name]))
    weights = sum(np.prod(shape) for each in graph.nodes for tensor, shape in each.node.parameters.items() if tensor == "weight")
    # published are the additions of the last pooling too, and parameters but for biases and batch norms, to ten
    assert costs(space, name)[0] + 7 * 7 * features == space.published[name].macs
    assert weights == pytest.approx(space.published[name].params, abs=5)


def test_groups_of_fbnet_share_no_weights_with_what_has_none():
    space = fbnet()
    for layer in ("layer2", "layer5"):
        build = space.layers[int(layer[5:]) + 1].build
        grouped, plain = ({node.name: node.op for node in build(224, operation)} for operation in ("k3_e1_g2", "k3_e1"))
        assert set(grouped) & set(plain) <= {"depthwise", "add"}
        assert grouped["group_expand"].weights["weight"][1] * 2 == plain["expand"].weights["weight"][1]


def fbnet_rows(name):
    """The rows of a file of measured data."""
    folder = os.environ.get("HWNAS_DATA")
    if not folder or not Path(folder, name).is_file():
        pytest.skip("set HWNAS_DATA to the folder of measured latencies")
    with gzip.open(Path(folder, name), "rt") as file:
        yield from csv.DictReader(file)


@pytest.mark.parametrize("device", ["raspi4", "pixel3"])
def test_the_table_of_hw_nas_bench_prices_fbnet(device):
    space = fbnet()
    index = BlockIndex(space)
    rest, cells = 0.0, [np.zeros(len(table)) for table in index.tables]
    by_block = {}
    for row in fbnet_rows("fbnet_lut_recovered_ms.csv.gz"):
        if row["device"] != device:
            continue
        layer, ms = int(row["layer"]), float(row["delta_ms_vs_skip"])
        if layer < 0:
            rest = ms
            continue
        operation = HW_NAS_BENCH[int(row["op_idx"])]
        cell = list(OPERATIONS).index(operation)
        cells[layer + 1][cell] = ms
        skip = int(index.tables[layer + 1][0])
        by_block.setdefault((skip, int(index.tables[layer + 1][cell])), set()).add(ms)
    # layers that run the same block here had the same row there
    assert len(by_block) < 22 * 9 and all(max(each) - min(each) < 2e-5 * max(1, max(each)) for each in by_block.values())
    metric = Additive(index, cells, name="latency", unit="ms")
    rows = list(fbnet_rows("help_fbnet_latency_ms.csv.gz"))[:500]
    names = [[HW_NAS_BENCH[int(each)] for each in row["op_idx"].split()] for row in rows]
    codes = np.concatenate([space.encode({"resolution": 224} | {f"layer{i}": name for i, name in enumerate(each)}) for each in names])
    np.testing.assert_allclose(metric(codes) + rest, [float(row[device]) for row in rows], rtol=2e-5)
