"""What one operator is: its kind, data type, full shapes (batch included), attributes and fused activation.

An operator is a value: equal fields mean the same computation, on any device. How it was run is never part of it.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, TypeAlias

Shape: TypeAlias = tuple[int, ...]

#: Data type -> bytes of an element. The two of int8 say how activations, then weights, are quantised: unsigned and asymmetric, for
#: the dot products of CPUs, or signed and symmetric, which is all that TensorRT takes; with `int8_fp16` what is not int8 is float16.
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8_u8s8": 1, "int8_s8s8": 1, "int8_fp16": 1}
DTYPES = tuple(ITEM_BYTES)
ACTIVATIONS = ("none", "relu", "relu6", "hswish", "hsigmoid", "swish", "sigmoid")


def attribute(short: str, default: Any = MISSING) -> Any:
    """A dataclass field written as `short=value` in the text form; left out of it when it equals the default."""
    return field(default=default, metadata={"short": short})


@dataclass(frozen=True, slots=True)
class Op:
    """Base of the closed operator vocabulary. `input` is the shape of the first input, batch first."""

    kind: ClassVar[str]
    input: Shape

    def __post_init__(self) -> None:
        if not self.input or any(size < 1 for size in self.input):
            raise ValueError(f"{self.kind}: every axis of the input must be positive, got {self.input}")

    @property
    def inputs(self) -> tuple[Shape, ...]:
        """Shapes of all inputs, in order."""
        return (self.input,)

    @property
    def output(self) -> Shape:
        """Shape of the single output."""
        return self.input

    @property
    def weights(self) -> dict[str, Shape]:
        """Trained tensors of the deployed operator (batch norm folded): name to shape."""
        return {}

    @property
    def macs(self) -> int:
        """Multiply-accumulates (FLOPs = 2 x MACs); only convolutions and matrix products count, as in the literature."""
        return 0

    @property
    def data_type(self) -> str:
        """Element type of inputs, weights and output."""
        return str(getattr(self, "dtype", "float32"))

    def __str__(self) -> str:
        parts = [f"{self.kind}.{self.data_type}", "x".join(map(str, self.input))]
        for each in fields(self):
            value = getattr(self, each.name)
            if "short" in each.metadata and value != each.default:
                text = "x".join(map(str, value)) if isinstance(value, tuple) else str(int(value) if isinstance(value, bool) else value)
                parts.append(f"{each.metadata['short']}={text}")
        return " ".join(parts)
