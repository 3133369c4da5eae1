"""Channel sorting, on a layer of known weights."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from hwnas.blocks import chain, conv_bn_act, mbconv, pooled_head
from hwnas.errors import InputError
from hwnas.graph import Node
from hwnas.index import BlockIndex
from hwnas.ops import ChannelShuffle, Conv2d
from hwnas.space import Choice, Layer, SearchSpace
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.spaces.ofa_resnet50 import ofa_resnet50
from hwnas.supernet.sorting import permute, sort_channels
from hwnas.supernet.supernet import Supernet

KERNEL, EXPAND = Choice("kernel", (3, 5)), Choice("expand", (2, 4, 6))


def block(kernel, expand, se):
    return mbconv((1, 8, 4, 4), 8, kernel, expand, se=se)


def space(se=False):
    layers = [
        Layer("stem", (), lambda: conv_bn_act((1, 3, 4, 4), 8)),
        Layer("layer", (KERNEL, EXPAND), lambda kernel, expand: block(kernel, expand, se)),
        Layer("head", (), lambda: pooled_head((1, 8, 4, 4), 8, 3)),
    ]
    return SearchSpace("one_layer", [KERNEL, EXPAND], layers)


def ready(se=False):
    """A supernet with middle channels 0, 1, ... 47, the importance of channel c being 8 * importance[c]; that of width 4 has 32."""
    supernet = Supernet(BlockIndex(space(se)))
    generator = torch.Generator().manual_seed(0)
    importance = 1.0 + torch.randperm(48, generator=generator)
    with torch.no_grad():
        for name, tensor in supernet.tensors.items():
            if name.endswith(("norm.mean", "norm.var", "norm.weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
        signs = torch.randint(0, 2, (8, 48), generator=generator) * 2.0 - 1
        supernet.tensors["layer/project.weight"].copy_((signs * importance)[:, :, None, None])
        supernet.tensors["layer/depthwise.norm.bias"].copy_(torch.arange(48.0))
    return supernet, importance


def logits(supernet, expand, kernel=5):
    code = supernet.index.space.encode({"kernel": kernel, "expand": expand})[0]
    with torch.no_grad():
        return supernet.subnet(code).eval()(torch.rand((2, 3, 4, 4), generator=torch.Generator().manual_seed(1)))


def test_channels_are_sorted_by_the_weights_of_the_last_operator_that_reads_them():
    supernet, importance = ready()
    before = {name: tensor.detach().clone() for name, tensor in supernet.tensors.items()}
    whole = logits(supernet, 6)
    sort_channels(supernet)
    order = importance.argsort(descending=True)
    assert supernet.tensors["layer/depthwise.norm.bias"].tolist() == order.tolist()
    for name, axis in (("expand.weight", 0), ("expand.norm.mean", 0), ("depthwise.weight", 0), ("depthwise.norm.var", 0), ("project.weight", 1)):
        assert torch.equal(supernet.tensors[f"layer/{name}"], before[f"layer/{name}"].index_select(axis, order))
    for name in ("layer/project.norm.weight", "layer/depthwise.5to3", "stem/conv.weight", "head/classifier.weight", "head/conv.weight"):
        assert torch.equal(supernet.tensors[name], before[name])
    torch.testing.assert_close(logits(supernet, 6), whole)


def narrowest(supernet, expand):
    """Where training has come to: every kernel, and this expand ratio or a larger one."""
    space = supernet.index.space
    return space.encode({"kernel": space.choices[space.column["kernel"]].values[0], "expand": expand})[0]


def test_no_channel_crosses_a_width_that_is_trained():
    for least, edges in ((6, (0, 48)), (4, (0, 32, 48)), (2, (0, 16, 32, 48))):
        supernet, importance = ready()
        before = {expand: logits(supernet, expand, kernel) for expand in (2, 4, 6) for kernel in (3, 5)}
        sort_channels(supernet, trained=narrowest(supernet, least))
        order = supernet.tensors["layer/depthwise.norm.bias"].long()
        for start, end in pairwise(edges):
            assert sorted(order[start:end].tolist()) == list(range(start, end))
            assert (importance[order[start:end]].diff() < 0).all()
        for expand in (each for each in (6, 4, 2) if each >= least):
            torch.testing.assert_close(logits(supernet, expand), before[expand])


def test_the_channels_inside_of_squeeze_and_excite_are_sorted_and_protected_too():
    """Widths 48, 32 and 16 have 16, 8 and 8 of them."""
    supernet, _ = ready(se=True)
    reduce, expand = supernet.tensors["layer/se.reduce.bias"], supernet.tensors["layer/se.expand.weight"]
    with torch.no_grad():
        reduce.copy_(torch.arange(16.0))
        expand.copy_((1.0 + torch.arange(16.0)).expand(48, 16)[:, :, None, None])
    before = {ratio: logits(supernet, ratio) for ratio in (2, 4, 6)}
    sort_channels(supernet, trained=narrowest(supernet, 4))
    assert reduce.tolist() == [*range(7, -1, -1), *range(15, 7, -1)]
    torch.testing.assert_close(logits(supernet, 6), before[6])
    torch.testing.assert_close(logits(supernet, 4), before[4])
    sort_channels(supernet)
    assert reduce.tolist() == list(range(15, -1, -1))
    torch.testing.assert_close(logits(supernet, 6), before[6])
    assert not torch.allclose(logits(supernet, 4), before[4])


def test_widths_of_several_choices_are_kept_where_they_were_trained():
    """The middle of a bottleneck is as wide as a ratio of its output; between two trained ratios lie widths of narrower outputs, which are not."""
    index = BlockIndex(ofa_resnet50(resolutions=(64,), classes=5))
    supernet, space, x = Supernet(index, seed=2), index.space, torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    trained = space.largest()[0].copy()
    ratios = [column for name, column in space.column.items() if name.endswith(".expand")]
    trained[ratios] = 1
    codes = [space.largest()[0], trained]
    with torch.no_grad():
        before = [supernet.subnet(code).eval()(x) for code in codes]
        sort_channels(supernet, trained=trained)
        for code, logits_before in zip(codes, before, strict=True):
            torch.testing.assert_close(supernet.subnet(code).eval()(x), logits_before, rtol=1e-3, atol=1e-5)


def test_moments_of_an_optimiser_can_follow():
    supernet, importance = ready()
    moments = {"layer/depthwise.norm.bias": torch.arange(48.0), "head/classifier.bias": torch.arange(3.0)}
    permute(moments, sort_channels(supernet))
    assert moments["layer/depthwise.norm.bias"].tolist() == importance.argsort(descending=True).tolist()
    assert moments["head/classifier.bias"].tolist() == [0, 1, 2]


def test_channels_that_others_see_or_that_have_one_width_stay():
    """The largest network of a whole space computes what it did; a first block without expansion passes its input's channels on."""
    supernet = Supernet(BlockIndex(ofa_mini(resolutions=(24,))))
    code, x = supernet.index.space.largest()[0], torch.randn(2, 1, 24, 24)
    with torch.no_grad():
        before = supernet.subnet(code).eval()(x)
        orders = sort_channels(supernet)
        torch.testing.assert_close(supernet.subnet(code).eval()(x), before, rtol=1e-4, atol=1e-5)
    assert {name.partition("/")[0] for name in orders} == {f"stage{s}.block{b}" for s in (1, 2, 3) for b in range(3)}
    fixed = SearchSpace("fixed", [KERNEL], [Layer("net", (KERNEL,), lambda kernel: chain(block(kernel, 4, False), pooled_head((1, 8, 4, 4), 8, 3)))])
    assert sort_channels(Supernet(BlockIndex(fixed))) == {}


def test_sorting_where_blocks_share_no_channels_is_refused():
    with pytest.raises(InputError, match="this supernet shares paths"):
        sort_channels(Supernet(BlockIndex(space()), sharing="paths"))


def test_subnets_made_before_see_the_new_order():
    supernet, _ = ready()
    network = supernet.subnet(supernet.index.space.encode({"kernel": 3, "expand": 4})[0]).eval()
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        network(x)
        sort_channels(supernet)
        torch.testing.assert_close(network(x), supernet.subnet(np.array([0, 1], np.int16)).eval()(x))
        torch.testing.assert_close(torch.from_numpy(network.weights()["layer/project.weight"]), supernet.tensors["layer/project.weight"][:, :32].detach())


def test_channels_that_a_grouped_convolution_mixes_stay_where_they_are():
    """Its inputs cannot be permuted without its groups, nor those of a shuffle without what comes behind it."""

    def middle(width):
        return (
            *conv_bn_act((1, 8, 4, 4), width, 1),
            Node("grouped", Conv2d((1, width, 4, 4), out=width, kernel=3, groups=2), ("conv",)),
            Node("shuffle", ChannelShuffle((1, width, 4, 4), groups=2), ("grouped",)),
            Node("last", Conv2d((1, width, 4, 4), out=8, kernel=1), ("shuffle",)),
        )

    width = Choice("width", (8, 12))
    layers = [
        Layer("stem", (), lambda: conv_bn_act((1, 3, 4, 4), 8)),
        Layer("layer", (width,), middle),
        Layer("head", (), lambda: pooled_head((1, 8, 4, 4), 8, 3)),
    ]
    supernet = Supernet(BlockIndex(SearchSpace("mixing", [width], layers)), seed=3)
    code, images = supernet.index.space.largest()[0], torch.rand((2, 3, 4, 4), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = supernet.subnet(code).eval()(images)
        sort_channels(supernet)
        after = supernet.subnet(code).eval()(images)
    torch.testing.assert_close(after, before)
