"""Weights from elsewhere: three published namings, our own files, torchvision's networks, and files that are not what they should be."""

import io
import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from hwnas.backends.torch import static
from hwnas.blocks import chain, conv_bn_act, mbconv, pooled_head
from hwnas.errors import DamagedFile, InputError, UnknownName
from hwnas.graph import Graph
from hwnas.index import BlockIndex
from hwnas.spaces.mobilenet_v2 import mobilenet_v2
from hwnas.spaces.mobilenet_v3 import mobilenet_v3
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.spaces.ofa_mobilenet_v3 import ofa_mobilenet_v3
from hwnas.spaces.ofa_proxylessnas import ofa_proxylessnas
from hwnas.supernet.checkpoints import canonical, load_checkpoint, load_torchvision, published_names, weights_of
from hwnas.supernet.supernet import Supernet


@pytest.fixture(scope="module")
def index():
    return BlockIndex(ofa_mobilenet_v3(width=0.1, resolutions=(32,), classes=3))


@pytest.fixture(scope="module")
def mini():
    return BlockIndex(ofa_mini(resolutions=(24,)))


#: A name of each kind, as the official supernet, its static networks and the files of 2019 write it, and ours.
NAMES = (
    ("first_conv.bn.running_mean", "first_conv.bn.running_mean", "first_conv.bn.running_mean", "stem/0.conv.norm.mean"),
    (
        "blocks.0.conv.depth_conv.conv.weight",
        "blocks.0.conv.depth_conv.conv.weight",
        "blocks.0.mobile_inverted_conv.depth_conv.conv.weight",
        "stem/1.depthwise.weight",
    ),
    (
        "blocks.5.conv.inverted_bottleneck.conv.conv.weight",
        "blocks.5.conv.inverted_bottleneck.conv.weight",
        "blocks.5.mobile_inverted_conv.inverted_bottleneck.conv.conv.weight",
        "stage2.block0/expand.weight",
    ),
    (
        "blocks.5.conv.inverted_bottleneck.bn.bn.running_var",
        "blocks.5.conv.inverted_bottleneck.bn.running_var",
        "blocks.5.mobile_inverted_conv.inverted_bottleneck.bn.bn.running_var",
        "stage2.block0/expand.norm.var",
    ),
    (
        "blocks.8.conv.depth_conv.se.fc.reduce.bias",
        "blocks.8.conv.depth_conv.se.fc.reduce.bias",
        "blocks.8.mobile_inverted_conv.depth_conv.se.fc.reduce.bias",
        "stage2.block3/se.reduce.bias",
    ),
    (
        "blocks.20.conv.depth_conv.conv.7to5_matrix",
        "blocks.20.conv.depth_conv.conv.7to5_matrix",
        "blocks.20.mobile_inverted_conv.depth_conv.conv.7to5_matrix",
        "stage5.block3/depthwise.7to5",
    ),
    ("feature_mix_layer.conv.weight", "feature_mix_layer.conv.weight", "feature_mix_layer.conv.weight", "head/mix.weight"),
    ("classifier.linear.bias", "classifier.linear.bias", "classifier.linear.bias", "head/classifier.bias"),
)


def random_state(index, seed=0):
    """A supernet's tensors with values of their own."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(tensor.shape, generator=generator) for name, tensor in Supernet(index).tensors.items()}


def elastic(name):
    """A static published name as the elastic supernet has it."""
    if not re.match(r"blocks\.([1-9]|\d\d)\.", name) or name.endswith("_matrix") or ".se." in name:
        return name
    return re.sub(r"\.(conv)\.weight$", r".conv.conv.weight", re.sub(r"\.bn\.", ".bn.bn.", name))


NAMINGS = {
    "elastic": elastic,
    "static": str,
    "of 2019": lambda name: re.sub(r"^(blocks\.\d+)\.conv\.", r"\1.mobile_inverted_conv.", elastic(name)),
    "of a parallel training": lambda name: f"module.{elastic(name)}",
}


def published(index, state, rename=str):
    names = published_names(index.space.checkpoint_names, {name: tuple(tensor.shape) for name, tensor in state.items()})
    return {rename(names[name]): tensor for name, tensor in state.items()}


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[3])
def test_a_tensor_has_one_name_under_all_namings(index, names):
    *theirs, ours = names
    shapes = {name: tuple(tensor.shape) for name, tensor in Supernet(index).tensors.items()}
    assert {canonical(name) for name in theirs} == {published_names(index.space.checkpoint_names, shapes)[ours]}


def test_doubled_parts_are_written_once_in_residual_stems_too():
    assert canonical("input_stem.1.conv.conv.conv.weight") == canonical("input_stem.1.conv.conv.weight") == "input_stem.1.conv.weight"
    assert canonical("input_stem.1.conv.bn.bn.bias") == canonical("input_stem.1.conv.bn.bias") == "input_stem.1.conv.bn.bias"
    assert canonical("classifier.linear.linear.weight") == "classifier.linear.weight"
    assert canonical("first_conv.conv.weight") == "first_conv.conv.weight"


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("space", [ofa_mobilenet_v3, ofa_proxylessnas], ids=lambda space: space.__name__)
def test_published_checkpoints_load_whole(space, naming, tmp_path):
    index = BlockIndex(space(width=0.1, resolutions=(32,), classes=3))
    state = random_state(index)
    saved = published(index, state, NAMINGS[naming]) | {"blocks.1.conv.depth_conv.bn.bn.num_batches_tracked": torch.tensor(7)}
    torch.save({"state_dict": saved, "epoch": 3, "best_acc": 0.5}, tmp_path / "net.pth", _use_new_zipfile_serialization=naming != "of 2019")
    tensors, unmatched = load_checkpoint(tmp_path / "net.pth", index)
    assert not unmatched and str(unmatched) == "all tensors matched"
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_a_plain_largest_network_initialises_a_supernet(index, tmp_path):
    """Its small kernels are then centre crops, and what the file does not have is said."""
    state = {name: tensor for name, tensor in random_state(index).items() if "to" not in name.rpartition(".")[2]}
    torch.save(published(index, state), tmp_path / "net.pth")
    tensors, unmatched = load_checkpoint(tmp_path / "net.pth", index)
    assert not unmatched.unknown and not unmatched.misshapen and len(unmatched.missing) == 40
    assert "40 tensors are not in the file (stage1.block0/depthwise.7to5" in str(unmatched)
    supernet = Supernet(index, seed=1)
    supernet.initialise(tensors)
    assert torch.equal(supernet.tensors["stage2.block1/expand.weight"], state["stage2.block1/expand.weight"])
    small = supernet.extract(index.space.smallest()[0])["stage2.block1/depthwise.weight"]
    assert np.array_equal(small, state["stage2.block1/depthwise.weight"][: len(small), :, 2:5, 2:5].numpy())


def test_our_own_files_load_too(mini, tmp_path):
    supernet = Supernet(mini)
    save_file(supernet.state(), tmp_path / "supernet.safetensors")
    assert not load_checkpoint(tmp_path / "supernet.safetensors", mini).unmatched
    save_file({name: torch.from_numpy(array) for name, array in supernet.extract(mini.space.largest()[0]).items()}, tmp_path / "largest.safetensors")
    tensors, unmatched = load_checkpoint(tmp_path / "largest.safetensors", mini)
    assert all("5to3" in name for name in unmatched.missing) and len(tensors) == len(supernet.shapes)


def test_what_does_not_fit_is_reported_and_not_loaded(mini, tmp_path):
    state = dict(Supernet(mini).state())
    del state["stage1.block0/expand.weight"]
    state["head/classifier.bias"] = torch.zeros(7)
    state["stage1.block0/project.weight"] = state["stage1.block0/project.weight"].int()
    torch.save(state | {"something.else": torch.zeros(1)}, tmp_path / "net.pth")
    tensors, unmatched = load_checkpoint(tmp_path / "net.pth", mini)
    assert unmatched.unknown == ("something.else",)
    assert unmatched.missing == ("stage1.block0/expand.weight",)
    assert unmatched.misshapen[1] == "head/classifier.bias: torch.float32 (7,), expected (10,)" and "torch.int32" in unmatched.misshapen[0]
    assert len(tensors) == len(state) - 2
    assert "1 keys of the file have no counterpart (something.else)" in str(unmatched)


def test_half_precision_is_read_as_float32(mini, tmp_path):
    state = Supernet(mini).state()
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "net.pth")
    tensors, _ = load_checkpoint(tmp_path / "net.pth", mini)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    torch.testing.assert_close(tensors["head/classifier.weight"], state["head/classifier.weight"], rtol=1e-3, atol=1e-4)


class Code:
    """What unpickling would run."""

    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("old", [False, True], ids=["archive", "older format"])
def test_code_in_a_file_is_never_run(mini, tmp_path, capsys, old):
    path = tmp_path / "net.pth"
    torch.save({"state_dict": Supernet(mini).state(), "hook": Code()}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(DamagedFile, match="cannot be read as tensors alone"):
        load_checkpoint(path, mini)
    path.write_bytes(pickle.dumps({"state_dict": Code()}))
    with pytest.raises(DamagedFile):
        load_checkpoint(path, mini)
    assert capsys.readouterr().out == ""


def test_damaged_and_foreign_files_are_one_sentence(mini, tmp_path):
    state, path = Supernet(mini).state(), tmp_path / "net.pth"
    name = "head/classifier.bias"
    for held, word in (
        ({name: torch.full((10,), float("nan"))}, "not finite"),
        ([1, 2], "holds no weights"),
        ({"state_dict": {"a": 1}}, "holds no weights"),
        ({}, "holds no weights"),
        ({"a": torch.zeros(2)}, "no tensor for ofa_mini: none of its 1 keys, such as 'a'"),
    ):
        torch.save(held, path)
        with pytest.raises(InputError, match=word):
            load_checkpoint(path, mini)
    whole = io.BytesIO()
    torch.save(state, whole)
    for cut in (0, 3, 100, len(whole.getvalue()) // 2, len(whole.getvalue()) - 1):
        path.write_bytes(whole.getvalue()[:cut])
        with pytest.raises(DamagedFile):
            load_checkpoint(path, mini)
    with pytest.raises(DamagedFile, match="cannot read"):
        load_checkpoint(tmp_path, mini)
    with pytest.raises(DamagedFile, match="cannot read"):
        load_checkpoint(tmp_path / "none.pth", mini)


def test_one_tensor_under_two_names_is_refused(index, tmp_path):
    state = published(index, random_state(index))
    key = "blocks.1.conv.depth_conv.conv.weight"
    torch.save(state | {elastic(key): state[key]}, tmp_path / "net.pth")
    with pytest.raises(DamagedFile, match=r"holds 'stage1.block0/depthwise.weight' twice, the second time as 'blocks.1.conv.depth_conv.conv.conv.weight'"):
        load_checkpoint(tmp_path / "net.pth", index)


def test_a_tensor_that_only_claims_to_be_large_is_not_touched(mini, tmp_path):
    torch.save(
        {"head/classifier.bias": torch.zeros(1).expand(1 << 50), "head/classifier.weight": Supernet(mini).state()["head/classifier.weight"]},
        tmp_path / "net.pth",
    )
    tensors, unmatched = load_checkpoint(tmp_path / "net.pth", mini)
    assert list(tensors) == ["head/classifier.weight"] and len(unmatched.misshapen) == 1


def test_initialising_with_unknown_or_too_large_tensors_is_refused(mini):
    supernet = Supernet(mini)
    for tensors, word in (({"x": torch.zeros(1)}, "no tensor 'x'"), ({"head/classifier.bias": torch.zeros(11)}, "holds \\(10,\\)")):
        with pytest.raises(InputError, match=word):
            supernet.initialise(tensors)


# -- torchvision ----------------------------------------------------------------------------------------------------------------------


def lively(module, seed=0):
    """The module with batch norms that are not trivial."""
    torch.manual_seed(seed)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.running_mean, -0.1, 0.1)
            for tensor in (each.running_var, each.weight):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return module.eval()


@pytest.mark.parametrize(
    "name, space, architecture", [("mobilenet_v2", mobilenet_v2, "mobilenet_v2_1.0_96"), ("mobilenet_v3_large", mobilenet_v3, "mobilenet_v3_large_1.0")]
)
def test_torchvision_weights_initialise_the_network_they_fit(name, space, architecture, tmp_path):
    """One epsilon of the two differs from ours; one network is not the largest of its space."""
    index = BlockIndex(space(resolutions=(96,) if space is mobilenet_v2 else (224,)))
    theirs = lively(models.get_model(name, weights=None))
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    code, tensors = load_torchvision(name, index, tmp_path / "net.pth")
    assert index.space.decode(code[0]) == dict(index.space.references[architecture])
    graph = index.space.lower(code[0])
    x = torch.randn(2, *graph.input[1:])
    with torch.no_grad():
        expected, found = theirs(x), static(graph, {key: tensor.numpy() for key, tensor in tensors.items()}).eval()(x)
    assert float((found - expected).abs().max() / expected.std()) < 1e-4
    if name == "mobilenet_v2":
        supernet = Supernet(index)
        supernet.initialise(tensors)
        with torch.no_grad():
            assert float((supernet.subnet(code[0]).eval()(x) - expected).abs().max() / expected.std()) < 1e-4


def test_torchvision_networks_that_do_not_fit_say_where(mini, tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'mobilenet_v2'"):
        load_torchvision("mobilenet_v22", mini)
    with pytest.raises(InputError, match="none of the 1 networks that ofa_mini names; its largest: the module does not run"):
        load_torchvision("mobilenet_v2", mini)
    torch.save({"a": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(DamagedFile, match="is not torchvision's mobilenet_v2"):
        load_torchvision("mobilenet_v2", mini, tmp_path / "net.pth")


def block_and_module(act=None, **changes):
    """A small network, and the same as a module of PyTorch."""
    shape = (1, 3, 8, 8)
    block = chain(conv_bn_act(shape, 8, act="relu"), mbconv((1, 8, 8, 8), 8, 3, 2), pooled_head((1, 8, 8, 8), 16, 4))
    sizes = {"expand": 16, "bias": False} | changes

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Sequential(nn.Conv2d(sizes["expand"], 8, 1, bias=False), nn.BatchNorm2d(8))  # registered before it is run
            self.expand = nn.Sequential(nn.Conv2d(8, sizes["expand"], 1, bias=sizes["bias"]), nn.BatchNorm2d(sizes["expand"], eps=1e-2), nn.ReLU(inplace=True))
            self.depthwise = nn.Sequential(
                nn.Conv2d(sizes["expand"], sizes["expand"], 3, 1, 1, groups=sizes["expand"], bias=False), nn.BatchNorm2d(sizes["expand"]), nn.ReLU()
            )

        def forward(self, x):
            return x + self.project(self.depthwise(self.expand(x)))

    def conv(i, o, k):
        return nn.Sequential(nn.Conv2d(i, o, k, 1, k // 2, bias=False), nn.BatchNorm2d(o), (act or nn.ReLU)())

    module = nn.Sequential(conv(3, 8, 3), Residual(), conv(8, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    return Graph([("net", block, None)]), lively(module)


def test_modules_are_paired_as_they_run_not_as_they_are_registered():
    """A bias before a batch norm, and another epsilon, become statistics."""
    graph, module = block_and_module(bias=True)
    tensors = weights_of(module, graph)
    assert torch.equal(tensors["net/1.project.weight"], module[1].project[0].weight)
    torch.testing.assert_close(tensors["net/1.expand.norm.mean"], module[1].expand[1].running_mean - module[1].expand[0].bias)
    torch.testing.assert_close(tensors["net/1.expand.norm.var"], module[1].expand[1].running_var + 1e-2 - 1e-5)


def test_a_module_of_the_same_shapes_that_computes_something_else_is_refused():
    graph, module = block_and_module(nn.SiLU)
    with pytest.raises(InputError, match="all shapes agree, and the logits do not"):
        weights_of(module, graph)


def test_modules_of_other_shapes_or_parts_are_refused():
    graph, module = block_and_module(expand=24)
    with pytest.raises(
        InputError, match=r"net/1.expand has weights \(16, 8, 1, 1\) with batch norm, the module has \(24, 8, 1, 1\) with batch norm in its place"
    ):
        weights_of(module, graph)
    graph, module = block_and_module()
    module.append(nn.Linear(4, 4))
    with pytest.raises(InputError, match="the network has 6 operators with weights, the module 7"):
        weights_of(module, graph)
    module.append(nn.LayerNorm(4))
    with pytest.raises(InputError, match="weights in LayerNorm"):
        weights_of(module, graph)
