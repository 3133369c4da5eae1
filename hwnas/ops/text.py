"""The text form of operators: `str(op)` and back, for table keys, logs and people."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hwnas.errors import InputError
from hwnas.ops.activation import Activation
from hwnas.ops.affine import Affine
from hwnas.ops.conv import Conv2d
from hwnas.ops.elementwise import Add, Mul
from hwnas.ops.linear import Linear
from hwnas.ops.op import DTYPES, Op
from hwnas.ops.pool import AvgPool, GlobalPool, MaxPool
from hwnas.ops.reshape import ChannelShuffle, Flatten
from hwnas.ops.zero import Zero

KINDS: dict[str, type[Op]] = {
    kind.kind: kind for kind in (Conv2d, Linear, GlobalPool, MaxPool, AvgPool, Add, Mul, Flatten, ChannelShuffle, Activation, Affine, Zero)
}


def parse_op(text: str) -> Op:
    """The operator whose `str` is `text`. Raises InputError naming the part that does not fit."""
    head, *rest = text.split() or [""]
    name, _, dtype = head.partition(".")
    if name not in KINDS or dtype not in DTYPES or not rest:
        raise InputError(f"'{text}' is no operator: it must start with kind.dtype and a shape, kinds {', '.join(KINDS)}")
    kind = KINDS[name]
    attributes = {each.metadata["short"]: each for each in fields(kind) if "short" in each.metadata}
    values: dict[str, Any] = {"dtype": dtype}
    try:
        values["input"] = tuple(int(size) for size in rest[0].split("x"))
        for part in rest[1:]:
            short, _, value = part.partition("=")
            each = attributes[short]
            values[each.name] = bool(int(value)) if each.type == "bool" else int(value) if each.type == "int" else value
        op = kind(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"'{text}' is no operator: {error}") from None
    if str(op) != text:  # one operator, one text: it is a key
        raise InputError(f"'{text}' must be written '{op}'")
    return op
