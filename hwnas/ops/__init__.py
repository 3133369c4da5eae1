"""The closed operator vocabulary."""

from hwnas.ops.activation import Activation
from hwnas.ops.affine import Affine
from hwnas.ops.conv import Conv2d
from hwnas.ops.elementwise import Add, Mul
from hwnas.ops.linear import Linear
from hwnas.ops.op import Op, Shape
from hwnas.ops.pool import AvgPool, GlobalPool, MaxPool
from hwnas.ops.reshape import ChannelShuffle, Flatten
from hwnas.ops.text import KINDS, parse_op
from hwnas.ops.zero import Zero

__all__ = [
    "KINDS",
    "Activation",
    "Add",
    "Affine",
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
    "Zero",
    "parse_op",
]
