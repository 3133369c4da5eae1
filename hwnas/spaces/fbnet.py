"""FBNet (Wu et al., 2019): one of nine operations in each of 22 layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwnas.blocks import BN_EPSILON, conv_bn_act, mbconv, pooled_head
from hwnas.errors import InputError
from hwnas.graph import IDENTITY, Block, Node
from hwnas.ops import Add, ChannelShuffle, Conv2d, Shape
from hwnas.space import Choice, Published, SearchSpace, Value
from hwnas.spaces._mobile import Images

#: name -> kernel, expand ratio, groups of the two 1x1 convolutions, with channels shuffled behind the first
OPERATIONS = {
    "skip": None,
    "k3_e1_g2": (3, 1, 2),
    "k5_e1_g2": (5, 1, 2),
    "k3_e1": (3, 1, 1),
    "k5_e1": (5, 1, 1),
    "k3_e3": (3, 3, 1),
    "k5_e3": (5, 3, 1),
    "k3_e6": (3, 6, 1),
    "k5_e6": (5, 6, 1),
}
#: operations in the order in which HW-NAS-Bench (Li et al., 2021) and the data made with it number them
HW_NAS_BENCH = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
#: number of layers, stride of the first one, out channels
STAGES = ((1, 1, 16), (4, 2, 24), (4, 2, 32), (4, 2, 64), (4, 1, 112), (4, 2, 184), (1, 1, 352))
FEATURES = (1504, 1984)

_SOURCE = "model_info_fbnet.json of facebookresearch/mobile-vision: weights alone, and no first convolution at a ratio of 1"
#: the released networks, stage by stage: kernel and ratio of each layer, g for groups, "--" is skip; channels of the head; MACs and parameters
NETWORKS = {
    "fbnet_a": ("-- / 33 31 -- -- / 56 33 51 33 / 56 53 51g 56 / 36 51g 53 31g / 56 56 53 56 / 56", 1504, 244.52636e6, 4.27029e6),
    "fbnet_b": ("31 / 36 51 31 31 / 56 53 36 56 / 56 56 -- 53 / 56 31 51 53 / 56 51 56 56 / 36", 1984, 291.10164e6, 4.76667e6),
    "fbnet_c": ("31 / 36 -- 31 31 / 56 53 56 36 / 56 53 56 56 / 56 56 56 53 / 56 56 56 56 / 36", 1984, 378.23344e6, 5.52542e6),
}


def fbnet(
    features: int = 1984,
    expand_always: bool = True,
    resolutions: Sequence[int] = (224,),
    classes: int = 1000,
    channels: int = 3,
    batch: int = 1,
) -> SearchSpace:
    """9^22 = 9.8e20 networks per resolution. Where the shape changes, skip is a 1x1 convolution with batch norm and ReLU.

    features: channels of the head, 1504 of FBNet-A, 1984 of FBNet-B and C. expand_always: blocks of ratio 1 have a first convolution too, as in the
    paper, in HW-NAS-Bench and in timm; without it they have none, as in the released code, but those with groups only shuffle there.
    """
    if features not in FEATURES:
        raise InputError(f"fbnet: features must be one of {', '.join(map(str, FEATURES))}, got {features!r}")
    images = Images.checked("fbnet", resolutions, classes, channels, batch)
    choices = [images.resolution]
    layers = [images.layer("stem", channels, 1, partial(conv_bn_act, out=16, stride=2))]
    width, reduction = 16, 2
    for blocks, first_stride, out in STAGES:
        for b in range(blocks):
            stride = first_stride if b == 0 else 1
            operation = Choice(f"layer{len(choices) - 1}", tuple(OPERATIONS))
            choices.append(operation)
            layers.append(images.layer(operation.name, width, reduction, partial(_block, out, stride, bool(expand_always)), operation))
            width, reduction = out, reduction * stride
    layers.append(images.layer("head", width, reduction, partial(pooled_head, features=features, classes=classes)))
    references: dict[str, dict[str, Value]] = {}
    published: dict[str, Published] = {}
    for name, (network, head, macs, params) in NETWORKS.items():
        if head == features and 224 in resolutions:
            references[name] = {"resolution": 224} | _values(network)
            published[name] = Published(_SOURCE, macs=macs, params=params)
    return SearchSpace("fbnet", choices, layers, references, published)


def _block(out: int, stride: int, expand_always: bool, shape: Shape, operation: str) -> Block:
    parameters = OPERATIONS[operation]
    if parameters is None and stride == 1 and shape[1] == out:
        return IDENTITY
    if parameters is None:
        return tuple(Node("skip", node.op, node.inputs, node.norm) for node in conv_bn_act(shape, out, 1, stride))
    kernel, expand, groups = parameters
    if groups == 1:
        return mbconv(shape, out, kernel, expand, stride=stride, expand_always=expand_always)
    return _shuffled(shape, out, kernel, groups, stride, expand_always)


def _shuffled(shape: Shape, out: int, kernel: int, groups: int, stride: int, expand_always: bool) -> Block:
    """An inverted residual of ratio 1 whose 1x1 convolutions have groups; they share no weights with those that have none."""
    nodes: list[Node] = []
    if expand_always:
        nodes.append(Node("group_expand", Conv2d(shape, out=shape[1], groups=groups, act="relu"), ("in0",), BN_EPSILON))
    nodes.append(Node("shuffle", ChannelShuffle(shape, groups), (nodes[-1].name if nodes else "in0",)))
    depthwise = Conv2d(shape, out=shape[1], kernel=kernel, stride=stride, groups=shape[1], act="relu")
    nodes.append(Node("depthwise", depthwise, ("shuffle",), BN_EPSILON))
    project = Conv2d(depthwise.output, out=out, groups=groups)
    nodes.append(Node("group_project", project, ("depthwise",), BN_EPSILON))
    if stride == 1 and shape[1] == out:
        nodes.append(Node("add", Add(shape), ("group_project", "in0")))
    return tuple(nodes)


def _values(network: str) -> dict[str, Value]:
    layers = network.replace("/", "").split()
    return {f"layer{i}": "skip" if each == "--" else f"k{each[0]}_e{each[1]}" + "_g2" * each.endswith("g") for i, each in enumerate(layers)}
