"""In which precision, and for how many images at once, the blocks of a space are deployed; spaces are written in float32 for one image.

Both are part of the operator, so a variant of a space is a space: its blocks have texts, prices and a fingerprint of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from hwnas.errors import InputError
from hwnas.graph import Block, Node
from hwnas.index import BlockIndex
from hwnas.ops.op import DTYPES
from hwnas.space import Layer, SearchSpace

#: Name of a precision, as the field writes it -> the operators' data type.
PRECISIONS = dict(zip(("fp32", "fp16", "bf16", "int8_u8s8", "int8_s8s8", "int8_fp16"), DTYPES, strict=True))
_NAMES = {dtype: name for name, dtype in PRECISIONS.items()}

MAX_BATCH = 4096


@dataclass(frozen=True, slots=True, order=True)
class Variant:
    """`precision` is a key of PRECISIONS, `batch` the images of one run. Raises InputError where they are not."""

    precision: str = "fp32"
    batch: int = 1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"there is no precision '{self.precision}': it must be one of {', '.join(PRECISIONS)}")
        if type(self.batch) is not int or not 1 <= self.batch <= MAX_BATCH:
            raise InputError(f"the batch must be from 1 to {MAX_BATCH:,} images, got {self.batch}")

    def __str__(self) -> str:
        return f"{self.precision}, batch {self.batch}"

    @property
    def options(self) -> str:
        """What a command line says to ask for it; empty for fp32 and one image."""
        return (f" --precision {self.precision}" if self.precision != "fp32" else "") + (f" --batch {self.batch}" if self.batch != 1 else "")

    def block(self, block: Block) -> Block:
        """The same block in this variant. Raises InputError where it has a precision or a batch of its own."""
        if self == Variant():
            return block
        return tuple(self._node(node) for node in block) if block else block  # ABSENT is no other empty block

    def _node(self, node: Node) -> Node:
        op = node.op
        if op.data_type != "float32" or op.input[0] != 1:
            raise InputError(f"{node.name} is '{op}': the space has a precision or a batch of its own, and takes no other")
        changed = replace(op, input=(self.batch, *op.input[1:]), dtype=PRECISIONS[self.precision])  # type: ignore[call-arg]  # all operators have one
        return replace(node, op=changed)

    def space(self, space: SearchSpace) -> SearchSpace:
        """The same choices and layers, which build blocks of this variant."""
        if self == Variant():
            return space
        layers = [replace(layer, build=_Built(self, layer)) for layer in space.layers]
        return SearchSpace(space.name, space.choices, layers, space.references)

    def index(self, index: BlockIndex) -> BlockIndex:
        """The index of the space in this variant: its blocks are those of `index` in the same order. Raises InputError."""
        return index if self == Variant() else BlockIndex(self.space(index.space))


class _Built:
    """What a layer of a variant builds; each block once, since an index knows blocks by identity first."""

    def __init__(self, variant: Variant, layer: Layer):
        self.variant, self.layer = variant, layer
        self.known: dict[Block, Block] = {}

    def __call__(self, *values: object) -> Block:
        block = self.layer.build(*values)
        if block not in self.known:
            self.known[block] = self.variant.block(block)
        return self.known[block]


def variants_of(texts: Iterable[str]) -> list[Variant]:
    """The variants that blocks, given as their texts, are in, sorted; those of mixed precision or batch are in none."""
    return sorted({variant for text in texts if (variant := _variant_of(text)) is not None})


_OPERATOR = re.compile(r" = \w+\.(\w+) (\d+)x")


def _variant_of(text: str) -> Variant | None:
    found = set(_OPERATOR.findall(text))
    if len(found) != 1:
        return None
    ((dtype, batch),) = found
    return Variant(_NAMES[dtype], int(batch)) if dtype in _NAMES and int(batch) <= MAX_BATCH else None


def has_own_variants(index: BlockIndex) -> bool:
    """Whether the space itself says in which precision or batch its blocks are, other than float32 for one image."""
    return any(node.op.data_type != "float32" or node.op.input[0] != 1 for node in _nodes(index))


def _nodes(index: BlockIndex) -> Iterator[Node]:
    return (node for block in index.blocks for node in block)
