"""The closed operator vocabulary."""

from hwnas.ops.conv import Conv2d
from hwnas.ops.elementwise import Add, Mul
from hwnas.ops.linear import Linear
from hwnas.ops.op import Op, Shape
from hwnas.ops.pool import AvgPool, GlobalPool, MaxPool
from hwnas.ops.reshape import ChannelShuffle, Flatten
from hwnas.ops.text import KINDS, parse_op

__all__ = [
    "KINDS",
    "Add",
    "AvgPool",
    "ChannelShuffle",
    "Conv2d",
    "Flatten",
    "GlobalPool",
    "Linear",
    "MaxPool",
    "Mul",
    "Op",
    "Shape",
    "parse_op",
]
