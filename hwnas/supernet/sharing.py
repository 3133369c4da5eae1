"""How the tensors of a subnet are taken from a supernet's.

`slices`: one tensor for all blocks of a layer, of which a block has the leading channels and the centre of the kernel, with kernel transforms
between the sizes (Once-for-All: Cai et al., 2020, section 3.3). `kernels`: leading channels, and a depthwise kernel of its own for each
size (op collapsing of TuNAS: Bender et al., 2020). `paths`: nothing in common, each block of a layer has weights of its own (ProxylessNAS: Cai, Zhu
and Han, 2019); blocks that differ in the resolution alone are one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.ops import Shape

Sharing = Literal["slices", "kernels", "paths"]
SHARINGS: tuple[Sharing, ...] = get_args(Sharing)


def window(full: Shape, wanted: Shape) -> tuple[slice, ...]:
    """Leading entries of the first two axes (channels), the centre of the others (the kernel)."""
    centred = [(f - w) // 2 if axis >= 2 else 0 for axis, (f, w) in enumerate(zip(full, wanted, strict=True))]
    return tuple(slice(start, start + size) for start, size in zip(centred, wanted, strict=True))


def transform_names(kernels: Iterable[int]) -> list[tuple[str, int, int]]:
    """(name, larger, smaller) of the matrices between the kernel sizes of one depthwise weight, largest first: `7to5`, `5to3`."""
    sizes = sorted(set(kernels), reverse=True)
    return [(f"{large}to{small}", large, small) for large, small in pairwise(sizes)]


def transformed(weight: Tensor, kernel: int, matrices: Sequence[tuple[int, Tensor]]) -> Tensor:
    """The kernel of a smaller size: crop the centre, multiply the flattened kernel by the matrix, and on to the next size.

    weight: (channels, 1, k, k); matrices: (smaller size, (s*s, s*s)) from large to small, shared by all channels of the layer. The
    steps are multiplied together first, so that the channels, of which there are many, are multiplied once.
    """
    largest = weight.shape[-1]
    steps = [(small, matrix) for small, matrix in matrices if kernel <= small < largest]
    if not steps:
        return weight
    size, product = steps[0]
    for small, matrix in steps[1:]:
        start = (size - small) // 2
        centre = product.view(size, size, -1)[start : start + small, start : start + small].reshape(small * small, -1)
        size, product = small, matrix @ centre
    rim = (largest - steps[0][0]) // 2
    whole = F.pad(product.view(size * size, steps[0][0], steps[0][0]), (rim, rim, rim, rim)).view(size * size, -1)
    return F.linear(weight.reshape(len(weight), -1), whole).view(len(weight), 1, size, size)


def identity(small: int) -> Tensor:
    """A transform's initial value: the plain centre crop."""
    return torch.eye(small * small)
