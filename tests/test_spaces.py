"""hwnas/spaces/: each family against what its authors published and against the same networks in torchvision and timm."""

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
from hwnas.spaces.mobilenet_v2 import mobilenet_v2
from hwnas.spaces.mobilenet_v3 import mobilenet_v3
from hwnas.spaces.ofa_proxylessnas import ofa_proxylessnas
from hwnas.spaces.proxylessnas import proxylessnas
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
