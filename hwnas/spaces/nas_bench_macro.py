"""NAS-Bench-Macro's space (Su et al., 2021, "Prioritized architecture sampling with Monto-Carlo tree search"): 3^8 CIFAR networks.

All 6,561 were trained by its authors with three seeds each, which makes it a testbed of searchers under a budget.
"""

from __future__ import annotations

from functools import partial

from hwnas.blocks import conv_bn_act, mbconv, pooled_head
from hwnas.graph import IDENTITY, Block, Node
from hwnas.space import Choice, Layer, SearchSpace

#: out channels and number of blocks of each stage; the first block of a stage halves the resolution
STAGES = ((64, 2), (128, 3), (256, 3))
OPERATIONS = {"identity": None, "mb3_k3": (3, 3), "mb6_k5": (6, 5)}  # expand ratio and kernel of MobileNetV2's block


def nas_bench_macro(resolution: int = 32, classes: int = 10, channels: int = 3, batch: int = 1) -> SearchSpace:
    """Eight blocks in three stages, each the identity or one of two inverted residuals; the published accuracies are of CIFAR-10."""
    choices: list[Choice] = []
    layers = [Layer("stem", (), partial(conv_bn_act, (batch, channels, resolution, resolution), 32))]
    width, side = 32, resolution
    for s, (out, blocks) in enumerate(STAGES, start=1):
        for b in range(blocks):
            operation = Choice(f"stage{s}.block{b}", tuple(OPERATIONS))
            choices.append(operation)
            layers.append(Layer(operation.name, (operation,), partial(_block, (batch, width, side, side), out, 2 if b == 0 else 1)))
            width, side = out, -(-side // 2) if b == 0 else side
    layers.append(Layer("head", (), partial(pooled_head, (batch, width, side, side), 1280, classes)))
    return SearchSpace("nas_bench_macro", choices, layers)


def _block(shape: tuple[int, ...], out: int, stride: int, operation: str) -> Block:
    """Where the shape changes, the identity is a strided 1x1 convolution."""
    parameters = OPERATIONS[operation]
    if parameters is not None:
        return mbconv(shape, out, parameters[1], parameters[0], stride=stride)
    return IDENTITY if stride == 1 else tuple(Node("shortcut", node.op, node.inputs, node.norm) for node in conv_bn_act(shape, out, 1, stride, "none"))
