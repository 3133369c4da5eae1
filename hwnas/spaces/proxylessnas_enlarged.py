"""TuNAS' enlargement of ProxylessNAS' space (Bender et al., 2020): the same blocks, and the width of everything is a choice too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hwnas.blocks import conv_bn_act, pooled_head
from hwnas.graph import Block
from hwnas.ops import Shape
from hwnas.space import Choice, Published, SearchSpace, Value
from hwnas.spaces._mobile import Images
from hwnas.spaces._tunas import EPSILON, KERNELS, Stage, filters, separable, stages, width_before

#: base width, number of blocks, stride of the first one
STAGES = ((16, 4, 2), (32, 4, 2), (64, 4, 2), (128, 4, 1), (256, 4, 2), (512, 1, 1))

#: networks that TuNAS compares with: widths of stem, separable convolution, stages and head; expand ratio and kernel of each block, "--" is left out
NETWORKS = {
    "mobilenet_v2": ("32 16 24 32 64 96 160 320 1280", "63 63 -- -- / 63 63 63 -- / 63 63 63 63 / 63 63 63 -- / 63 63 63 -- / 63"),
    "mnasnet_b1": ("32 16 24 40 80 96 192 320 1280", "33 33 33 -- / 35 35 35 -- / 65 65 65 -- / 63 63 -- -- / 65 65 65 65 / 63"),
    "proxyless_mobile": ("32 16 32 40 80 96 192 320 1280", "35 33 -- -- / 37 33 35 35 / 67 35 35 35 / 65 35 35 35 / 67 67 37 37 / 67"),
}
PUBLISHED = {
    "mobilenet_v2": Published("README of tensorflow/models, research/slim/nets/mobilenet", macs=300e6, params=3.47e6),
    "mnasnet_b1": Published("torchvision, which rounds to a million MACs", macs=314e6, params=4_383_312),
    "proxyless_mobile": Published("README of mit-han-lab/proxylessnas, December 2018 (MACs); tables of pytorchcv (parameters)", macs=320e6, params=4_080_512),
}


def proxylessnas_enlarged(resolutions: Sequence[int] = (224,), classes: int = 1000, channels: int = 3, batch: int = 1) -> SearchSpace:
    """21 inverted residuals of kernel 3/5/7 and expand ratio 3/6, of which 15 may be left out, and nine widths; 1.4e28 codes per resolution.

    That is the number of TuNAS; 4.3e24 encodings are left where a block that is left out forgets its kernel and ratio. All activations are ReLU.
    """
    images = Images.checked("proxylessnas_enlarged", resolutions, classes, channels, batch)
    stem, first, head = filters("stem.filters", 16), filters("first.filters", 16), filters("head.filters", 1024)
    kernel = Choice("first.kernel", KERNELS)
    choices, layers, reduction = stages(images, first, [Stage(*stage, "relu") for stage in STAGES], (3, 6), (0,))
    before = [images.layer("stem", channels, 1, _stem, stem), images.layer("first", width_before, 2, _first, stem, first, kernel)]
    last = next(choice for choice in choices if choice.name == f"stage{len(STAGES)}.filters")
    behind = images.layer("head", width_before, reduction, partial(_head, classes), last, head)
    references, published = {}, {}
    if 224 in resolutions:
        references = {name: {"resolution": 224} | _values(*network) for name, network in NETWORKS.items()}
        published = PUBLISHED
    return SearchSpace("proxylessnas_enlarged", [images.resolution, stem, first, kernel, *choices, head], [*before, *layers, behind], references, published)


def _stem(shape: Shape, out: int) -> Block:
    return conv_bn_act(shape, out, stride=2, eps=EPSILON)


def _first(shape: Shape, _: int, out: int, kernel: int) -> Block:
    return separable(shape, out, kernel, shortcut=False)


def _head(classes: int, shape: Shape, _: int, features: int) -> Block:
    return pooled_head(shape, features, classes, eps=EPSILON)


def _values(widths: str, network: str) -> dict[str, Value]:
    stem, first, *outs, head = map(int, widths.split())
    values: dict[str, Value] = {"stem.filters": stem, "first.filters": first, "first.kernel": 3, "head.filters": head}
    for s, (out, stage) in enumerate(zip(outs, network.split(" / "), strict=True), start=1):
        values[f"stage{s}.filters"] = out
        for b, block in enumerate(stage.split()):
            if b:
                values[f"stage{s}.block{b}.presence"] = "skip" if block == "--" else "keep"
            values[f"stage{s}.block{b}.expand"], values[f"stage{s}.block{b}.kernel"] = (3, 3) if block == "--" else map(int, block)
    return values
